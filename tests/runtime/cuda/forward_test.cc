// The forward pass on the device against the CPU's, for every family, dense, factored and
// quantised.
#include <cmath>

#include "compressed_models.h"
#include "ops/log_softmax.h"
#include "runtime/fill_cache.h"
#include "runtime/transformer.h"

namespace palu {
namespace {

std::vector<TokenId> RandomIds(int64_t n, int64_t vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<TokenId> ids(static_cast<size_t>(n));
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.Below(static_cast<uint64_t>(vocab)));
  return ids;
}

struct Configuration {
  Device device = kCpu;
  CacheFormat cache = DType::kF32;
  bool deterministic = false;
  std::optional<DType> weights = {};
};

// Log-probabilities of every token that follows, with the ids cut into the given chunks.
Matrix<float> Logits(const Model& model, const std::vector<TokenId>& ids,
                     const std::vector<int64_t>& chunks, const Configuration& setup) {
  ThreadPool pool(2);
  KvCache cache(model.config(), setup.cache, 0, setup.device);
  Transformer transformer(
      model, cache.layout(),
      {.pool = pool, .device = setup.device, .deterministic = setup.deterministic},
      {.fusion = ValueFusion::kOff, .attend_stored = true, .weight_dtype = setup.weights});
  CachedSequence sequence = cache.NewSequence();
  Matrix<float> logits(std::ssize(ids), model.config().vocab_size);
  int64_t row = 0;
  for (const int64_t count : chunks) {
    Batch batch;
    sequence.Reserve(count);
    batch.Add(sequence,
              std::span(ids).subspan(static_cast<size_t>(row), static_cast<size_t>(count)));
    transformer.Forward(batch);
    transformer.Logits(0, logits.View().RowRange(row, count));
    row += count;
  }
  return logits;
}

// Largest difference of two log-probabilities of the token that follows.
double WorstLogProb(const Matrix<float>& a, const Matrix<float>& b,
                    const std::vector<TokenId>& ids) {
  double worst = 0;
  for (int64_t i = 0; i + 1 < a.rows(); ++i) {
    const TokenId next = ids[static_cast<size_t>(i + 1)];
    const double difference =
        std::fabs(LogProb(a.View().RowSpan(i), next) - LogProb(b.View().RowSpan(i), next));
    if (!(difference <= worst)) worst = difference;  // NaN stays
  }
  return worst;
}

constexpr Device kCuda{Device::Kind::kCuda};

class CudaForward : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!HasCudaBackend() || CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  }
  std::filesystem::path Source() const {
    const std::string folder = GetParam() == "wiki-7m-mha" ? "models/" : "tests/data/models/";
    return testing::Repo(folder + GetParam());
  }
};

double UnitRoundoff(DType dtype) {
  return dtype == DType::kF16 ? 0x1p-11 : dtype == DType::kBF16 ? 0x1p-8 : 0;
}

// What the device may differ by from the CPU, whose rows are float. The device rounds the rows that
// enter four products a layer and the last one, and with 16-bit caches its queries, rebuilt keys,
// values and probabilities; each moves a layer's contribution by a unit roundoff at most, and the
// contributions add up to the logits. float32 sums in another order stay within 1e-3.
double Tolerance(const Model& model, DType weights, DType cache, const Matrix<float>& logits) {
  double largest = 0;
  for (int64_t i = 0; i < logits.size(); ++i) {
    largest = std::max(largest, std::fabs(double{logits.data()[i]}));
  }
  const auto layers = static_cast<double>(model.config().num_layers);
  return 1e-3 +
         (UnitRoundoff(weights) * (4 * layers + 1) + UnitRoundoff(cache) * 4 * layers) * largest;
}

std::vector<int64_t> Steps(int64_t prompt, int64_t decoded) {
  std::vector<int64_t> chunks = {prompt};
  chunks.insert(chunks.end(), static_cast<size_t>(decoded), 1);
  return chunks;
}

void ExpectTheCpusLogits(const Model& model, const std::vector<std::vector<int64_t>>& cuts) {
  const auto ids = RandomIds(150, model.config().vocab_size, 1);
  for (const DType cache : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Matrix<float> expected = Logits(model, ids, {150}, {kCpu, cache});
    for (const DType weights : {DType::kF32, DType::kBF16}) {
      for (const auto& chunks : cuts) {
        const Matrix<float> actual = Logits(model, ids, chunks, {kCuda, cache, false, weights});
        EXPECT_LT(WorstLogProb(actual, expected, ids), Tolerance(model, weights, cache, expected))
            << Name(weights) << " weights, " << Name(cache) << " cache, " << chunks.size()
            << " chunks";
      }
    }
  }
}

TEST_P(CudaForward, DenseLogitsAreTheCpus) {
  // The last cut goes back and forth between few rows and many, whose types differ.
  ExpectTheCpusLogits(Model::Load(Source()),
                      {{150}, {100, 50}, Steps(70, 80), {5, 4, 3, 7, 2, 6, 123}});
}

TEST_P(CudaForward, LatentsGiveTheCpusLogits) {
  testing::TempDir dir;
  for (const int64_t group : {1, 2}) {
    ExpectTheCpusLogits(
        testing::MakeCompressed(
            Source(), dir / std::to_string(group),
            {.ratio = 0.5, .group_size = group, .force_factors = true, .dtype = DType::kF32}),
        {{150}, Steps(70, 80)});
  }
}

// Codes of a latent that lies next to a boundary may differ by one between the two, so token by
// token on the device is held against one shot on the device: both attend to the same codes, up to
// latents that another order of sums has moved over a boundary.
TEST_P(CudaForward, QuantisedTokenByTokenEqualsOneShot) {
  testing::TempDir dir;
  const Model model = testing::MakeCompressed(
      Source(), dir / "m",
      {.ratio = 0.5, .group_size = 2, .force_factors = true, .quantization = {.bits = 8}});
  const auto ids = RandomIds(100, model.config().vocab_size, 3);
  for (const DType cache : {DType::kF32, DType::kF16}) {
    const Configuration setup{kCuda, cache, false, DType::kF32};
    const Matrix<float> one_shot = Logits(model, ids, {100}, setup);
    // One step of an 8-bit code is a 255th of a latent's range.
    const double bound = Tolerance(model, DType::kF32, DType::kBF16, one_shot);
    EXPECT_LT(WorstLogProb(Logits(model, ids, Steps(40, 60), setup), one_shot, ids), bound)
        << Name(cache);
    EXPECT_LT(WorstLogProb(Logits(model, ids, {100}, {kCpu, cache}), one_shot, ids), bound);
  }
}

// Random factors in tiers that differ from group to group; keys and values of every other layer
// share their latents. With `bits` every tier has as many; with `recent` as many of a sequence's
// last tokens are kept as they were.
KvCompression InTiers(const ModelConfig& config, std::optional<int> bits, int64_t recent = 0) {
  const auto tier = [bits](int64_t width, int own) {
    return LatentTier{width, bits.value_or(own)};
  };
  KvCompression kv;
  kv.version = recent > 0 ? 4 : 3;
  kv.recent = recent;
  kv.tiered = kv.centered = true;
  kv.budget = 2;
  kv.layers.resize(static_cast<size_t>(config.num_layers));
  for (size_t l = 0; l < kv.layers.size(); ++l) {
    LayerRanks& layer = kv.layers[l];
    layer.k = {{64, 32}, {{tier(16, 8), tier(32, 3), tier(16, 2)}, {tier(16, 8), tier(16, 4)}}};
    layer.v = {{16, 48}, {{tier(16, 4)}, {tier(48, 3)}}};
    layer.shared = l % 2 == 0;
    if (layer.shared) layer.v = layer.k;
  }
  return kv;
}

// As QuantisedTokenByTokenEqualsOneShot, for the same number of bits, without a window and with
// windows shorter and longer than chunks.
TEST_P(CudaForward, TiersGiveTheCpusLogits) {
  const Model dense = Model::Load(Source());
  for (const int64_t recent : {0, 5, 16}) {
    const Model model = Model::RandomCompressed(dense, InTiers(dense.config(), 8, recent), 7);
    const auto ids = RandomIds(100, model.config().vocab_size, 3);
    for (const DType cache : {DType::kF32, DType::kF16, DType::kBF16}) {
      const Matrix<float> expected = Logits(model, ids, {100}, {kCpu, cache});
      const double bound = Tolerance(model, DType::kF32, DType::kBF16, expected);
      for (const auto& chunks :
           {std::vector<int64_t>{100}, {7, 3, 64, 2, 1, 1, 22}, Steps(40, 60), Steps(1, 99)}) {
        const Matrix<float> actual = Logits(model, ids, chunks, {kCuda, cache, false, DType::kF32});
        EXPECT_LT(WorstLogProb(actual, expected, ids), bound)
            << Name(cache) << " cache, " << chunks.size() << " chunks, window of " << recent;
      }
    }
  }
}

// A window as long as the text hides the codes: the CPU's logits come back, which tiers of 2 bits
// are further from than four times what the two differ by.
TEST_P(CudaForward, AWindowOfTheWholeTextHidesTheCodes) {
  const Model dense = Model::Load(Source());
  const auto ids = RandomIds(40, dense.config().vocab_size, 3);
  const auto logits = [&](Device device, int64_t recent, const std::vector<int64_t>& chunks) {
    return Logits(Model::RandomCompressed(dense, InTiers(dense.config(), 2, recent), 7), ids,
                  chunks, {device, DType::kF32, false, DType::kF32});
  };
  const Matrix<float> expected = logits(kCpu, 64, {40});
  for (const auto& chunks : {std::vector<int64_t>{40}, Steps(10, 30)}) {
    const double difference = WorstLogProb(logits(kCuda, 64, chunks), expected, ids);
    EXPECT_LT(difference, Tolerance(dense, DType::kF32, DType::kF16, expected));
    EXPECT_GT(WorstLogProb(logits(kCuda, 0, chunks), expected, ids), 4 * difference);
  }
}

// Forked and truncated sequences go on as on the CPU, and take as many bytes.
TEST_P(CudaForward, ForksAndTruncationsKeepTheCpusWindows) {
  const Model dense = Model::Load(Source());
  const Model model = Model::RandomCompressed(dense, InTiers(dense.config(), 8, 16), 7);
  const auto ids = RandomIds(60, model.config().vocab_size, 3);
  const auto run = [&](Device device, int64_t& bytes) {
    ThreadPool pool(2);
    KvCache cache(model.config(), DType::kF32, 0, device);
    Transformer transformer(model, cache.layout(), {.pool = pool, .device = device},
                            {.attend_stored = true, .weight_dtype = DType::kF32});
    const auto step = [&](CachedSequence& sequence, int64_t begin, int64_t count) {
      Batch batch;
      sequence.Reserve(count);
      batch.Add(sequence,
                std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)));
      Matrix<float> logits(transformer.Forward(batch), model.config().vocab_size);
      transformer.Logits(0, logits);
      return logits;
    };
    CachedSequence first = cache.NewSequence();
    step(first, 0, 30);
    CachedSequence second = first.Fork();
    step(first, 30, 1);  // writes to a ring that the fork must not see
    first.Truncate(25);  // whose window has lost tokens 9 to 14
    step(first, 25, 1);
    std::vector<Matrix<float>> logits;
    logits.push_back(step(second, 30, 1));
    logits.push_back(step(second, 31, 9));
    logits.push_back(step(first, 26, 1));
    logits.push_back(step(first, 27, 13));
    bytes = cache.bytes_in_use();
    return logits;
  };
  int64_t expected_bytes = 0, actual_bytes = 0;
  const auto expected = run(kCpu, expected_bytes), actual = run(kCuda, actual_bytes);
  EXPECT_EQ(actual_bytes, expected_bytes);
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto rows = std::span(ids).first(static_cast<size_t>(expected[i].rows()));
    EXPECT_LT(WorstLogProb(actual[i], expected[i], {rows.begin(), rows.end()}),
              Tolerance(model, DType::kF32, DType::kBF16, expected[i]))
        << i;
  }
}

// The same logits bit for bit, run again.
void ExpectRepeats(const Model& model, const std::vector<TokenId>& ids,
                   const std::vector<int64_t>& steps) {
  for (const bool deterministic : {false, true}) {
    const Configuration setup{kCuda, DType::kF16, deterministic};
    const Matrix<float> a = Logits(model, ids, steps, setup);
    const Matrix<float> b = Logits(model, ids, steps, setup);
    EXPECT_EQ(std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * 4), 0);
  }
}

// Codes of few bits that fall on the other side of a boundary move later ones, so the CPU's logits
// are no measure (tests/eval/cuda/budget_test.cc has one); the device's own are.
TEST_P(CudaForward, TiersOfFewBitsRepeatBitForBit) {
  const Model dense = Model::Load(Source());
  const auto ids = RandomIds(150, dense.config().vocab_size, 1);
  for (const int64_t recent : {0, 16}) {
    ExpectRepeats(Model::RandomCompressed(dense, InTiers(dense.config(), {}, recent), 7), ids,
                  Steps(64, 86));
  }
}

TEST_P(CudaForward, RepeatsBitForBitAndDeterministicBatchesAgree) {
  const Model model = Model::Load(Source());
  const auto ids = RandomIds(90, model.config().vocab_size, 4);
  ExpectRepeats(model, ids, Steps(64, 26));
  // Two sequences in one batch, deterministic: the first has the bits it has alone.
  ThreadPool pool(1);
  KvCache cache(model.config(), DType::kF16, 0, kCuda);
  Transformer transformer(model, cache.layout(),
                          {.pool = pool, .device = kCuda, .deterministic = true});
  CachedSequence first = cache.NewSequence(), second = cache.NewSequence();
  const Matrix<float> alone = Logits(model, ids, Steps(64, 26), {kCuda, DType::kF16, true});
  int64_t row = 0;
  for (const int64_t count : Steps(64, 26)) {
    Batch batch;
    first.Reserve(count);
    second.Reserve(1);
    const auto part = std::span(ids).subspan(static_cast<size_t>(row), static_cast<size_t>(count));
    batch.Add(first, part);
    batch.Add(second, part.first(1));
    Matrix<float> logits(transformer.Forward(batch), model.config().vocab_size);
    transformer.Logits(0, logits);
    EXPECT_EQ(
        std::memcmp(logits.data(), alone.Row(row), static_cast<size_t>(count * alone.cols()) * 4),
        0)
        << row;
    row += count;
  }
}

void ExpectFilledCacheDecodes(const Model& model) {
  ThreadPool pool(1);
  KvCache cache(model.config(), DType::kF16, 0, kCuda);
  Transformer transformer(model, cache.layout(), {.pool = pool, .device = kCuda});
  CachedSequence sequence = cache.NewSequence();
  FillRandom(cache.layout(), sequence, 3000, 1, pool);
  EXPECT_EQ(cache.pool().bytes_in_use(), 47 * cache.layout().block_bytes());
  sequence.Reserve(1);
  Batch batch;
  batch.Add(sequence, std::vector<TokenId>{1});
  Matrix<float> logits(transformer.Forward(batch), model.config().vocab_size);
  transformer.Logits(0, logits);
  for (const float x : logits.View().RowSpan(0)) ASSERT_TRUE(std::isfinite(x));
}

TEST_P(CudaForward, AFilledCacheDecodesToFiniteLogits) {
  const Model dense = Model::Load(Source());
  ExpectFilledCacheDecodes(dense);
  ExpectFilledCacheDecodes(Model::RandomCompressed(dense, InTiers(dense.config(), {}, 16), 7));
}

// One layer with ranks that the decode kernel refuses is rebuilt densely, the others are not.
TEST_P(CudaForward, TheDecodeKernelIsChosenPerLayer) {
  const Model dense = Model::Load(Source());
  if (dense.config().head_dim < 64) GTEST_SKIP() << "no layer of this model suits the kernel";
  testing::TempDir dir;
  const Model model = testing::MakeCompressed(
      Source(), dir / "m",
      {.ratio = 0.5,
       .group_size = 1,
       .rank_multiple = 32,
       .force_factors = true,
       .edit_ranks = [](std::vector<LayerRanks>& ranks) { ranks[1].k.ranks[0] = 24; }});
  const auto ids = RandomIds(100, model.config().vocab_size, 7);
  const Matrix<float> expected = Logits(model, ids, {100}, {kCpu, DType::kF16});
  const Matrix<float> actual =
      Logits(model, ids, Steps(60, 40), {kCuda, DType::kF16, false, DType::kF32});
  EXPECT_LT(WorstLogProb(actual, expected, ids),
            Tolerance(model, DType::kF32, DType::kF16, expected));
  ThreadPool pool(1);
  KvCache cache(model.config(), DType::kF16, 0, kCuda);
  const Transformer transformer(model, cache.layout(), {.pool = pool, .device = kCuda});
  EXPECT_NE(transformer.kernel().find("in 1 of "), std::string::npos) << transformer.kernel();
}

// What the device makes of its own logits is what the CPU makes of them.
TEST_P(CudaForward, ScoresAndSamplesAreTheCpusOfTheSameLogits) {
  const Model model = Model::Load(Source());
  const auto ids = RandomIds(20, model.config().vocab_size, 6);
  ThreadPool pool(1);
  KvCache cache(model.config(), DType::kF16, 0, kCuda);
  Transformer transformer(model, cache.layout(), {.pool = pool, .device = kCuda});
  CachedSequence sequence = cache.NewSequence();
  sequence.Reserve(20);
  Batch batch;
  batch.Add(sequence, ids);
  transformer.Forward(batch);
  for (const std::vector<int64_t>& rows : {std::vector<int64_t>{19}, {3, 1, 19, 7, 0, 11}}) {
    Matrix<float> logits(std::ssize(rows), model.config().vocab_size);
    transformer.Logits(rows, logits);
    std::vector<TokenId> targets(rows.size(), 2), argmax(rows.size()), tokens(rows.size());
    targets.back() = -1;
    std::vector<double> logprobs(rows.size());
    transformer.LogProbs(rows, targets, logprobs, argmax);
    Sampler sampler({.temperature = 0.8, .top_k = 50, .top_p = 0.95, .seed = 3});
    std::vector<Draw> draws;
    for (size_t i = 0; i < rows.size(); ++i) draws.push_back(i == 1 ? Draw{} : sampler.NextDraw());
    transformer.Sample(rows, draws, tokens);
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto row = logits.View().RowSpan(static_cast<int64_t>(i));
      EXPECT_EQ(argmax[i], ArgMax(row));
      double largest = 0;
      for (const float x : row) largest = std::max(largest, std::fabs(double{x}));
      const double expected = targets[i] < 0 ? 0 : LogProb(row, targets[i]);
      EXPECT_NEAR(logprobs[i], expected, 0x1p-21 * std::max(largest, 1.0));  // 4 eps each
      EXPECT_EQ(tokens[i], Sampler::Sample(row, draws[i]));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaForward,
                         ::testing::Values("stories260k", "family-llama31", "family-mistral",
                                           "family-qwen2", "family-qwen3", "wiki-7m-mha"),
                         [](const auto& case_info) {
                           std::string name = case_info.param;
                           for (char& c : name) {
                             if (c == '-') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace palu
