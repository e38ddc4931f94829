// A model compressed to a budget of bits predicts on the device as on the CPU.
#include "compress/budget_pipeline.h"

#include <fmt/format.h>

#include <cmath>
#include <map>

#include "compress/calibrate.h"
#include "eval/score.h"
#include "golden.h"
#include "tokenizer/tokenizer.h"

namespace palu {
namespace {

std::vector<TokenId> SomeIds(const Model& model, size_t bytes) {
  const auto tokenizer = LoadTokenizer(model.path(), model.config().bos_token_id);
  return tokenizer->Encode(testing::ReadAll(testing::Repo("data/calib_mix.txt")).substr(0, bytes));
}

// Log-probabilities of windows of 1024 tokens, `pass` tokens in a forward pass.
std::vector<double> LogProbs(const Model& model, const Exec& exec, std::span<const TokenId> ids,
                             int64_t pass) {
  constexpr size_t kWindow = 1024;
  ScoreOptions options;
  options.chunk_tokens = pass;
  Scorer scorer(model, exec, options);
  std::vector<double> all;
  for (size_t at = 0; at + kWindow <= ids.size(); at += kWindow) {
    const TokenScores scores = scorer.Score(ids.subspan(at, kWindow));
    all.insert(all.end(), scores.logprobs.begin(), scores.logprobs.end());
  }
  return all;
}

struct Differences {
  double mean = 0, error = 0;  // standard error of the mean
};

// Of neighbours in runs of 64, since tokens that follow see the same cache.
Differences Compare(const std::vector<double>& a, const std::vector<double>& b) {
  constexpr size_t kRun = 64;
  std::vector<double> runs;
  for (size_t i = 0; i + kRun <= a.size(); i += kRun) {
    double sum = 0;
    for (size_t k = i; k < i + kRun; ++k) sum += a[k] - b[k];
    runs.push_back(sum / kRun);
  }
  const auto n = static_cast<double>(runs.size());
  double mean = 0, spread = 0;
  for (const double x : runs) mean += x / n;
  for (const double x : runs) spread += (x - mean) * (x - mean) / (n - 1);
  return {mean, std::sqrt(spread / n)};
}

// Little calibration, since only the two devices are compared. What they differ by: rows, keys and
// queries rounded to fp16 (2^-11), and codes that those roundings move over a boundary. Both prefer
// no direction, so the mean difference of log-probabilities is zero within four standard errors
// beside what the first alone allows a product of two such numbers (2^-10 of a nat).
TEST(CudaBudget, LogProbabilitiesAreTheCpus) {
  if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  const Model dense = Model::Load(testing::Repo("models/wiki-7m-mha"));
  const std::vector<TokenId> ids = SomeIds(dense, 60000);
  ASSERT_GE(ids.size(), 8192u);
  ThreadPool pool(8);
  const Exec cpu{.pool = pool}, cuda{.pool = pool, .device = {Device::Kind::kCuda}};
  std::map<int64_t, CalibrationStats> stats;
  for (const int64_t recent : {0, 16}) {
    stats[recent] =
        Calibrate(dense, ids, PlanCalibration(dense, ids, 8, 256, 2, true, recent), cpu);
  }
  const TensorStore store = TensorStore::OpenDirectory(dense.path());
  for (const auto& [shared, recent] : {std::pair{false, 0}, {true, 0}, {false, 16}, {true, 16}}) {
    for (const double bits : {1.5, 4.0}) {
      const CompressionResult made = CompressToBudget(dense, stats.at(recent),
                                                      {.bits_per_element = bits,
                                                       .recent = recent,
                                                       .allow_shared = shared,
                                                       .allow_separate = !shared},
                                                      cpu);
      testing::TempDir dir;
      WriteCompressedModel(
          {dense.path(), store, dense.config(), made.compression, made.factors, "card"},
          dir.path());
      const Model model = Model::Load(dir.path());
      // Of the text's last tokens, so many in a forward pass; a pass of one decodes.
      for (const auto& [pass, tokens] : {std::pair{2048, 6144}, {1, 2048}}) {
        SCOPED_TRACE(fmt::format("{} bits, shared {}, window of {}, {} tokens at once", bits,
                                 shared, recent, pass));
        const auto part = std::span(ids).last(static_cast<size_t>(tokens));
        const std::vector<double> expected = LogProbs(model, cpu, part, 2048);
        const Differences here = Compare(LogProbs(model, cuda, part, pass), expected);
        EXPECT_NEAR(here.mean, 0, 4 * here.error + 0x1p-10);
      }
    }
  }
}

}  // namespace
}  // namespace palu
