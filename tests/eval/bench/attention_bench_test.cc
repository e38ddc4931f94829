#include "eval/bench/attention_bench.h"

#include "model/presets.h"
#include "testing.h"

namespace palu {
namespace {

using Packs = std::vector<std::vector<size_t>>;

Packs Pack(std::vector<std::optional<int64_t>> bytes, int64_t memory) {
  return PackForms(bytes, memory);
}

TEST(AttentionBench, PacksFormsBesideDense) {
  EXPECT_EQ(Pack({4, 2, 1}, 7), (Packs{{0, 1, 2}}));
  EXPECT_EQ(Pack({4, 2, 2, 1}, 6), (Packs{{0, 1}, {0, 2}, {0, 3}}));
  EXPECT_EQ(Pack({4, 2, 1, 1}, 6), (Packs{{0, 1}, {0, 2, 3}}));
  EXPECT_EQ(Pack({std::nullopt, 2, 2, 1}, 4), (Packs{{1, 2}, {3}}));
  EXPECT_EQ(Pack({4, std::nullopt}, 4), (Packs{{0}}));
  EXPECT_EQ(Pack({4, 3}, 5), (Packs{{0}, {1}}));
  EXPECT_EQ(Pack({4, 3, 1}, 5), (Packs{{0, 2}, {1}}));
  EXPECT_EQ(Pack({std::nullopt, std::nullopt}, 5), Packs{});
}

TEST(AttentionBench, Quantiles) {
  AttentionMeasurement m;
  EXPECT_EQ(m.Quantile(0.5), 0);
  m.microseconds = {30, 10, 20, 50, 40, 60};
  EXPECT_EQ(m.median(), 35);
  EXPECT_EQ(m.Quantile(0.1), 15);
  EXPECT_EQ(m.Quantile(0.9), 55);
  EXPECT_EQ(m.Quantile(1), 60);
  EXPECT_FALSE(m.speedup().has_value());
  m.dense_us = 70;
  EXPECT_EQ(m.speedup(), 2);
}

// A device where a step takes as many microseconds as a block has KiB, and which notes the order.
class FakeDevice final : public AttentionDevice {
 public:
  explicit FakeDevice(int64_t memory) : memory_(memory) {}

  int64_t l2_bytes() const override { return 1; }
  int64_t AvailableMemory() const override { return memory_; }
  bool Supports(const ModelConfig&, const CacheLayout& layout) override {
    return layout.quantization().bits != 2;
  }
  std::unique_ptr<AttentionRun> Prepare(const ModelConfig&, const CacheLayout& layout, int64_t,
                                        int64_t) override {
    if (layout.quantization().bits == 3) Fail("no room");
    return std::make_unique<Run>(layout.block_bytes() / 1024, order);
  }

  std::unique_ptr<AttentionRun> PreparePrefill(const ModelConfig&, int64_t tokens,
                                               int64_t batch) override {
    if (batch > 2) Fail("no room");
    return std::make_unique<Run>(tokens, order);
  }

  std::vector<int64_t> order;

 private:
  class Run final : public AttentionRun {
   public:
    Run(int64_t time, std::vector<int64_t>& order) : time_(time), order_(order) {}
    double Time() override {
      order_.push_back(time_);
      return static_cast<double>(time_);
    }
    AttentionMemory memory() const override { return {1, 2, 3, 4}; }

   private:
    int64_t time_;
    std::vector<int64_t>& order_;
  };

  int64_t memory_;
};

AttentionOptions Options(std::string_view forms) {
  AttentionOptions options;
  options.models = {{"seven", *Preset("llama-2-7b")}};
  options.contexts = {100};
  options.batches = {1};
  options.forms = ParseForms(forms);
  options.repetitions = 2;
  return options;
}

TEST(AttentionBench, FormsTakeTurnsWithinARound) {
  FakeDevice device(int64_t{1} << 30);
  AttentionOptions options = Options("16@50,16@25,2@50,3@50");
  options.batches = {1, 2};
  int points = 0;
  const auto rows = RunAttention(options, device, [&] { ++points; });
  EXPECT_EQ(points, 2);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].point.batch, 2);
  EXPECT_EQ(device.order, (std::vector<int64_t>{1024, 512, 256, 1024, 512, 256,  //
                                                1024, 512, 256, 1024, 512, 256}));
  const auto& forms = rows[0].forms;
  ASSERT_EQ(forms.size(), 5u);
  EXPECT_EQ(forms[0].speedup(), 1);
  EXPECT_EQ(forms[1].speedup(), 2);
  EXPECT_EQ(forms[2].speedup(), 4);
  EXPECT_EQ(forms[2].memory.device, 3);
  EXPECT_EQ(forms[3].status, AttentionStatus::kUnsupported);
  EXPECT_EQ(forms[4].status, AttentionStatus::kFailed);
  EXPECT_EQ(forms[4].note, "no room");
}

TEST(AttentionBench, WhatDoesNotFitIsReported) {
  FakeDevice device(int64_t{3} << 19);  // 1.5 MiB; two blocks of dense are 2
  const auto rows = RunAttention(Options("16@50,4@50"), device);
  const auto& forms = rows[0].forms;
  EXPECT_EQ(forms[0].status, AttentionStatus::kDoesNotFit);
  EXPECT_EQ(forms[0].memory.blocks, 2 << 20);
  EXPECT_TRUE(forms[1].measured());
  EXPECT_FALSE(forms[1].speedup().has_value());
  EXPECT_TRUE(forms[2].measured());
  EXPECT_EQ(forms[2].microseconds.size(), 2u);
}

TEST(AttentionBench, Prompts) {
  FakeDevice device(int64_t{1} << 30);
  AttentionOptions options = Options("4@50");
  options.prefill = true;
  options.batches = {1, 3};
  const auto rows = RunAttention(options, device);
  EXPECT_EQ(device.order, (std::vector<int64_t>{100, 100}));
  ASSERT_EQ(rows.size(), 2u);
  ASSERT_EQ(rows[0].forms.size(), 1u);
  EXPECT_EQ(rows[0].forms[0].form, "prefill");
  EXPECT_EQ(rows[0].forms[0].median(), 100);
  EXPECT_EQ(rows[0].forms[0].cost.flops, 100.0 * 101 / 2 * 4 * 4096);  // 32 heads of 128
  EXPECT_EQ(rows[0].forms[0].cost.bytes(), 100.0 * 3 * 4096 * 2);
  EXPECT_EQ(rows[1].forms[0].status, AttentionStatus::kFailed);
  EXPECT_EQ(rows[1].forms[0].note, "no room");
}

TEST(AttentionBench, NeedsAGpu) {
  ThreadPool pool(1);
  EXPECT_THROW(MakeAttentionDevice({.pool = pool}), Error);
}

}  // namespace
}  // namespace palu
