// A model compressed to a budget of bits predicts on the device as on the CPU.
#include "compress/budget_pipeline.h"

#include <cmath>

#include "compress/calibrate.h"
#include "eval/perplexity.h"
#include "golden.h"
#include "tokenizer/tokenizer.h"

namespace palu {
namespace {

std::vector<TokenId> SomeIds(const Model& model, size_t bytes) {
  const auto tokenizer = LoadTokenizer(model.path(), model.config().bos_token_id);
  return tokenizer->Encode(testing::ReadAll(testing::Repo("data/calib_mix.txt")).substr(0, bytes));
}

// Little calibration, since only the two devices are compared. What they differ by: rows, keys and
// queries rounded to fp16 (2^-11), and codes that those roundings move over a boundary, which no
// direction prefers.
TEST(CudaBudget, PerplexityIsTheCpus) {
  if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  const Model dense = Model::Load(testing::Repo("models/wiki-7m-mha"));
  const std::vector<TokenId> ids = SomeIds(dense, 60000);
  ASSERT_GE(ids.size(), 8192u);
  ThreadPool pool(8);
  const Exec cpu{.pool = pool}, cuda{.pool = pool, .device = {Device::Kind::kCuda}};
  const CalibrationStats stats =
      Calibrate(dense, ids, PlanCalibration(dense, ids, 8, 256, 2, true), cpu);
  const TensorStore store = TensorStore::OpenDirectory(dense.path());
  for (const bool shared : {false, true}) {
    for (const double bits : {1.5, 4.0}) {
      const CompressionResult made = CompressToBudget(
          dense, stats,
          {.bits_per_element = bits, .allow_shared = shared, .allow_separate = !shared}, cpu);
      testing::TempDir dir;
      WriteCompressedModel(
          {dense.path(), store, dense.config(), made.compression, made.factors, "card"},
          dir.path());
      const Model model = Model::Load(dir.path());
      // Of the text's last tokens, so many in a forward pass; a pass of one decodes.
      const auto perplexity = [&](const Exec& exec, int64_t pass, size_t tokens) {
        ScoreOptions options;
        options.chunk_tokens = pass;
        Scorer scorer(model, exec, options);
        return Perplexity(scorer, std::span(ids).last(tokens), 1024).perplexity;
      };
      for (const auto& [pass, tokens] : {std::pair{2048, 6144}, {1, 2048}}) {
        const double expected = perplexity(cpu, 2048, static_cast<size_t>(tokens));
        const double actual = perplexity(cuda, pass, static_cast<size_t>(tokens));
        EXPECT_NEAR(actual / expected, 1, 0.002);
        std::printf("%.1f bits%s, %d tokens at once: perplexity %.4f on the CPU, %.4f here\n", bits,
                    shared ? ", shared" : "", pass, expected, actual);
      }
    }
  }
}

}  // namespace
}  // namespace palu
