// The forward pass against itself: one shot, in chunks, token by token, in batches, dense and
// factored at full width, fused and unfused.
#include "runtime/transformer.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "compressed_models.h"
#include "eval/score.h"
#include "ops/frequency_split.h"

namespace palu {
namespace {

constexpr float kEps = std::numeric_limits<float>::epsilon();

std::vector<TokenId> RandomIds(int64_t n, int64_t vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<TokenId> ids(static_cast<size_t>(n));
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.Below(static_cast<uint64_t>(vocab)));
  return ids;
}

// Two float32 evaluations of the same logits in different orders of summation. Each layer's sums of
// up to k terms differ by about sqrt(k) eps of their size (roundings are independent), and the
// residual stream adds the layers' differences up.
float ReorderingTolerance(const ModelConfig& config, int64_t tokens, float largest_logit) {
  const auto k =
      static_cast<float>(std::max({config.intermediate_size, config.hidden_size, tokens}));
  return std::sqrt(k) * kEps * static_cast<float>(2 * config.num_layers) * largest_logit;
}

// Where both sides attend to stored values, an element whose two float values straddle a rounding
// boundary differs by one unit in the last place. Such elements are rare; the bound lets every
// layer move its output by one unit.
float RoundingTolerance(const ModelConfig& config, DType dtype, float largest_logit) {
  const float unit = dtype == DType::kF16 ? 0x1p-11f : dtype == DType::kBF16 ? 0x1p-8f : 0.0f;
  return unit * static_cast<float>(config.num_layers) * largest_logit;
}

float LargestAbs(const Matrix<float>& x) {
  float largest = 0;
  for (int64_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::abs(x.data()[i]));
  return largest;
}

float WorstDifference(const Matrix<float>& a, const Matrix<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  float worst = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(a.data()[i] - b.data()[i]));
  }
  return worst;
}

struct RunOptions {
  CacheFormat cache = DType::kF32;
  TransformerOptions transformer = {};
  int threads = 2;
  bool deterministic = false;
};

// Runs `ids` in the given chunks; a lone sequence.
Matrix<float> LogitsInChunks(const Model& model, const std::vector<TokenId>& ids,
                             const std::vector<int64_t>& chunks, const RunOptions& options = {}) {
  ThreadPool pool(options.threads);
  KvCache cache(model.config(), options.cache);
  Transformer transformer(model, cache.layout(),
                          {.pool = pool, .deterministic = options.deterministic},
                          options.transformer);
  CachedSequence sequence = cache.NewSequence();
  Matrix<float> logits(static_cast<int64_t>(ids.size()), model.config().vocab_size);
  int64_t row = 0;
  for (const int64_t count : chunks) {
    Batch batch;
    sequence.Reserve(count);
    batch.Add(sequence,
              std::span(ids).subspan(static_cast<size_t>(row), static_cast<size_t>(count)));
    EXPECT_EQ(transformer.Forward(batch), count);
    transformer.Logits(0, logits.View().RowRange(row, count));
    row += count;
  }
  EXPECT_EQ(row, static_cast<int64_t>(ids.size()));
  EXPECT_EQ(sequence.length(), row);
  return logits;
}

Matrix<float> OneShot(const Model& model, const std::vector<TokenId>& ids,
                      const RunOptions& options = {}) {
  return LogitsInChunks(model, ids, {static_cast<int64_t>(ids.size())}, options);
}

std::vector<int64_t> Ones(int64_t n) { return std::vector<int64_t>(static_cast<size_t>(n), 1); }

// Every family, dense and factored, with MHA-like and grouped latents.
struct Case {
  std::string model;
  int64_t group_size;  // 0: dense
};

class TransformerCase : public ::testing::TestWithParam<Case> {
 protected:
  Model Load(double ratio, bool force_factors = false) {
    const auto source = testing::Repo("tests/data/models/" + GetParam().model);
    if (GetParam().group_size == 0) return Model::Load(source);
    return testing::MakeCompressed(
        source, dir_ / "model",
        {.ratio = ratio, .group_size = GetParam().group_size, .force_factors = force_factors});
  }
  testing::TempDir dir_;
};

TEST_P(TransformerCase, TokenByTokenEqualsOneShot) {
  const Model model = Load(0.5);
  const auto ids = RandomIds(150, model.config().vocab_size, 1);  // over two block boundaries
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const RunOptions options{.cache = dtype, .transformer = {.attend_stored = true}};
    const Matrix<float> one_shot = OneShot(model, ids, options);
    const Matrix<float> decoded = LogitsInChunks(model, ids, Ones(150), options);
    const float largest = LargestAbs(one_shot);
    // Slow pairs as waves move the scores of a layer by kSplitTolerance; not from an f32 cache.
    const float waves = dtype == DType::kF32 ? 0
                                             : static_cast<float>(kSplitTolerance) * largest *
                                                   static_cast<float>(model.config().num_layers);
    EXPECT_LE(WorstDifference(one_shot, decoded),
              ReorderingTolerance(model.config(), 150, largest) +
                  RoundingTolerance(model.config(), dtype, largest) + waves)
        << Name(dtype);
  }
}

// Quantised latents: both sides read the same codes, except where a latent lies so near the middle
// of a step that the other order of summation rounds it the other way. With float errors of 1e-6 of
// the range that happens to about 1e-6 (2^b - 1) of the latents: at up to 4 bits to none or a few
// of this test's, and all rows before the first such latent agree; at 8 bits to several. Such a
// step is 1 / (2^b - 1) of the range, the range some 4 times the rms of r latents, so it moves a
// layer's keys or values by 4 / ((2^b - 1) sqrt(r)) of their size. Slow pairs as waves, which
// the second pass allows, move keys by kSplitTolerance and by the rounding of W, whose largest
// entry is some 4 times their rms; with them go weights of values in 15 bits of the largest in a
// block of 64, independent roundings, five standard deviations.
TEST_P(TransformerCase, QuantisedTokenByTokenEqualsOneShot) {
  if (GetParam().group_size == 0) GTEST_SKIP() << "a dense model has no latents";
  const Model model = Load(0.5, /*force_factors=*/true);
  const auto ids = RandomIds(150, model.config().vocab_size, 1);
  const auto layers = static_cast<float>(model.config().num_layers);
  const float weights = 5 * std::sqrt(64.0f / 12) / 32639 * layers;
  const float waves = (static_cast<float>(kSplitTolerance) + 4 / (127 * std::sqrt(12.0f))) * layers;
  for (const auto& [bits, split] : std::vector<std::pair<int, bool>>{
           {2, false}, {3, false}, {4, false}, {8, false}, {2, true}, {4, true}}) {
    const RunOptions options{.cache = {DType::kF32, bits},
                             .transformer = {.frequency_split = split}};
    const Matrix<float> one_shot = OneShot(model, ids, options);
    const Matrix<float> decoded = LogitsInChunks(model, ids, Ones(150), options);
    const float largest = LargestAbs(one_shot);
    const float rounding = ReorderingTolerance(model.config(), 150, largest);
    const auto rank = static_cast<float>(model.config().Ranks(0).k.ranks[0]);
    const float step = 4 / (static_cast<float>((1 << bits) - 1) * std::sqrt(rank));
    EXPECT_LE(WorstDifference(one_shot, decoded),
              rounding + (step * layers + (split ? waves + weights : 0)) * largest)
        << bits;
    if (bits == 8 || split) continue;
    int64_t same = 0;
    for (int64_t r = 0; r < one_shot.rows(); ++r) {
      float worst = 0;
      for (int64_t c = 0; c < one_shot.cols(); ++c) {
        worst = std::max(worst, std::abs(one_shot(r, c) - decoded(r, c)));
      }
      same += worst <= rounding;
    }
    EXPECT_GE(same, 150 / 4) << bits;  // the first such latent lies anywhere: by luck early
  }
}

TEST_P(TransformerCase, ChunkedPrefillEqualsOneShot) {
  const Model model = Load(0.5);
  const auto ids = RandomIds(150, model.config().vocab_size, 2);
  const Matrix<float> one_shot = OneShot(model, ids);
  for (const std::vector<int64_t>& chunks :
       {std::vector<int64_t>{64, 64, 22}, {1, 63, 65, 21}, {100, 3, 47}, {37, 1, 1, 111}}) {
    EXPECT_LE(WorstDifference(one_shot, LogitsInChunks(model, ids, chunks)),
              ReorderingTolerance(model.config(), 150, LargestAbs(one_shot)));
  }
}

TEST_P(TransformerCase, FullWidthFactorsEqualDense) {
  const Model dense = Model::Load(testing::Repo("tests/data/models/" + GetParam().model));
  const Model factored = Load(1.0, /*force_factors=*/true);
  if (GetParam().group_size > 0) {
    ASSERT_TRUE(factored.weights().layers[0].k.factored());
  }
  const auto ids = RandomIds(100, dense.config().vocab_size, 3);
  const RunOptions unfused{.transformer = {.fusion = ValueFusion::kOff}};
  const Matrix<float> expected = OneShot(dense, ids);
  // The promise is 1e-4. The random Qwen2's biases make logits of several hundred, of which a float
  // has no such digits: there, one sum more per projection than in a reordering.
  const float tolerance = GetParam().model == "family-qwen2"
                              ? 2 * ReorderingTolerance(dense.config(), 100, LargestAbs(expected))
                              : 1e-4f;
  EXPECT_LE(WorstDifference(expected, OneShot(factored, ids, unfused)), tolerance);
  EXPECT_LE(WorstDifference(expected, LogitsInChunks(factored, ids, Ones(100), unfused)),
            tolerance);
}

TEST_P(TransformerCase, FusedValuesEqualUnfused) {
  if (GetParam().group_size == 0) return;
  const Model model = Load(0.5);
  const auto ids = RandomIds(90, model.config().vocab_size, 4);
  const RunOptions fused{.transformer = {.fusion = ValueFusion::kOn}};
  const RunOptions unfused{.transformer = {.fusion = ValueFusion::kOff}};
  const Matrix<float> expected = OneShot(model, ids, unfused);
  const float largest = LargestAbs(expected);
  // The fused weight is rounded to F16 where W_o has 16 bits.
  const float tolerance = ReorderingTolerance(model.config(), 90, largest) +
                          RoundingTolerance(model.config(), DType::kF16, largest);
  EXPECT_LE(WorstDifference(expected, OneShot(model, ids, fused)), tolerance);
  EXPECT_LE(WorstDifference(LogitsInChunks(model, ids, Ones(90), unfused),
                            LogitsInChunks(model, ids, Ones(90), fused)),
            tolerance);
}

// Sequences of different lengths, one decoding while others prefill, against each one alone.
void ExpectBatchEqualsAlone(const Model& model, bool deterministic) {
  const std::vector<int64_t> lengths = {130, 1, 64, 77};
  const int64_t prefix = 100;  // of sequence 0, stored before the batch: it decodes
  ThreadPool pool(2);
  KvCache cache(model.config(), DType::kF16);
  Transformer transformer(model, cache.layout(), {.pool = pool, .deterministic = deterministic});
  std::vector<std::vector<TokenId>> ids;
  std::vector<CachedSequence> sequences;
  for (size_t s = 0; s < lengths.size(); ++s) {
    ids.push_back(RandomIds(lengths[s], model.config().vocab_size, 10 + s));
    sequences.push_back(cache.NewSequence());
  }
  const auto run = [&](const std::vector<std::pair<size_t, std::pair<int64_t, int64_t>>>& parts) {
    Batch batch;
    for (const auto& [s, range] : parts) {
      sequences[s].Reserve(range.second);
      batch.Add(sequences[s], std::span(ids[s]).subspan(static_cast<size_t>(range.first),
                                                        static_cast<size_t>(range.second)));
    }
    Matrix<float> logits(static_cast<int64_t>(batch.tokens.size()), model.config().vocab_size);
    transformer.Forward(batch);
    transformer.Logits(0, logits);
    return logits;
  };
  run({{0, {0, prefix}}});
  const Matrix<float> batch = run({{2, {0, 64}}, {0, {prefix, 1}}, {1, {0, 1}}, {3, {0, 77}}});

  int64_t row = 0;
  const auto expect_alone = [&](size_t s, const std::vector<int64_t>& chunks, int64_t count) {
    const std::vector<TokenId> head(
        ids[s].begin(), ids[s].begin() + std::accumulate(chunks.begin(), chunks.end(), int64_t{0}));
    const Matrix<float> alone = LogitsInChunks(
        model, head, chunks, {.cache = DType::kF16, .threads = 1, .deterministic = deterministic});
    const float largest = LargestAbs(alone);
    const float tolerance = deterministic
                                ? 0.0f
                                : ReorderingTolerance(model.config(), 130, largest) +
                                      RoundingTolerance(model.config(), DType::kF16, largest);
    for (int64_t i = 0; i < count; ++i, ++row) {
      for (int64_t c = 0; c < alone.cols(); ++c) {
        ASSERT_NEAR(batch(row, c), alone(alone.rows() - count + i, c), tolerance)
            << "sequence " << s << " token " << i;
      }
    }
  };
  expect_alone(2, {64}, 64);
  expect_alone(0, {prefix, 1}, 1);
  expect_alone(1, {1}, 1);
  expect_alone(3, {77}, 77);
}

TEST_P(TransformerCase, ABatchGivesEachSequenceWhatItGetsAlone) {
  ExpectBatchEqualsAlone(Load(0.5), /*deterministic=*/false);
}

TEST_P(TransformerCase, DeterministicBatchesAgreeBitForBit) {
  ExpectBatchEqualsAlone(Load(0.5), /*deterministic=*/true);
}

INSTANTIATE_TEST_SUITE_P(
    Models, TransformerCase,
    ::testing::Values(Case{"stories260k", 0}, Case{"family-llama31", 0}, Case{"family-mistral", 0},
                      Case{"family-qwen2", 0}, Case{"family-qwen3", 0}, Case{"stories260k", 1},
                      Case{"stories260k", 4}, Case{"family-llama31", 2}, Case{"family-mistral", 4},
                      Case{"family-qwen2", 1}, Case{"family-qwen2", 2}, Case{"family-qwen3", 2},
                      Case{"family-qwen3", 4}),
    [](const auto& case_info) {
      std::string name = case_info.param.model + "_g" + std::to_string(case_info.param.group_size);
      for (char& c : name) {
        if (c == '-') c = '_';
      }
      return name;
    });

TEST(Transformer, RejectsUnknownTokensBeforeWriting) {
  const Model model = Model::Load(testing::Repo("tests/data/models/stories260k"));
  ThreadPool pool(1);
  KvCache cache(model.config(), DType::kF16);
  Transformer transformer(model, cache.layout(), {.pool = pool});
  CachedSequence sequence = cache.NewSequence();
  sequence.Reserve(2);
  Batch batch;
  batch.Add(sequence, std::vector<TokenId>{1, 512});
  EXPECT_NE(testing::ErrorOf([&] { transformer.Forward(batch); }).find("512"), std::string::npos);
  EXPECT_EQ(sequence.length(), 0);
}

// stories260k with random factors in tiers: layer 0 with one latent for keys and values.
KvCompression InTiers(const ModelConfig& config) {
  KvCompression kv;
  kv.version = 3;
  kv.tiered = true;
  kv.centered = true;
  kv.budget = 2;
  kv.layers.resize(static_cast<size_t>(config.num_layers));
  for (LayerRanks& layer : kv.layers) {
    layer.k = {{32}, {{{16, 4}, {16, 2}}}};
    layer.v = {{16}, {{{16, 3}}}};
  }
  kv.layers[0].k = {{48}, {{{16, 4}, {32, 2}}}};
  kv.layers[0].v = kv.layers[0].k;
  kv.layers[0].shared = true;
  return kv;
}

// As QuantisedTokenByTokenEqualsOneShot: the same codes, but for the rare latent on a boundary.
TEST(Transformer, TieredTokenByTokenEqualsOneShot) {
  const Model dense = Model::Load(testing::Repo("tests/data/models/stories260k"));
  const Model model = Model::RandomCompressed(dense, InTiers(dense.config()), 7);
  const auto ids = RandomIds(150, model.config().vocab_size, 1);
  const RunOptions options{.cache = DType::kF16};
  const Matrix<float> one_shot = OneShot(model, ids, options);
  const Matrix<float> decoded = LogitsInChunks(model, ids, Ones(150), options);
  const float rounding = ReorderingTolerance(model.config(), 150, LargestAbs(one_shot));
  int64_t same = 0;
  for (int64_t r = 0; r < one_shot.rows(); ++r) {
    float worst = 0;
    for (int64_t c = 0; c < one_shot.cols(); ++c) {
      worst = std::max(worst, std::abs(one_shot(r, c) - decoded(r, c)));
    }
    same += worst <= rounding;
  }
  EXPECT_GE(same, 75);
}

TEST(Transformer, FusesWhereThatReadsFewerBytes) {
  testing::TempDir dir;
  const auto source = testing::Repo("tests/data/models/family-mistral");  // head_dim 32, GQA 8/4
  const Model per_head = testing::MakeCompressed(
      source, dir / "m", {.ratio = 0.5, .group_size = 1, .dtype = DType::kBF16});
  const Model joint = testing::MakeCompressed(
      source, dir / "j", {.ratio = 0.5, .group_size = 4, .dtype = DType::kBF16});
  const LayerWeights& m = per_head.weights().layers[0];
  const LayerWeights& j = joint.weights().layers[0];
  const ModelConfig& c = per_head.config();
  // Rank 16 per head of 32: W_o' has half the columns. Rank 64 for four heads: twice as many.
  EXPECT_EQ(FusedOutputBytes(c, m), c.hidden_size * 8 * 16 * 2);
  EXPECT_EQ(UnfusedOutputBytes(c, m), c.hidden_size * 8 * 32 * 2 + 4 * 32 * 16 * 2);
  EXPECT_TRUE(ShouldFuse(c, m, ValueFusion::kAuto));
  EXPECT_EQ(FusedOutputBytes(c, j), c.hidden_size * 8 * 64 * 2);
  EXPECT_FALSE(ShouldFuse(c, j, ValueFusion::kAuto));
  EXPECT_FALSE(ShouldFuse(c, m, ValueFusion::kOff));
  EXPECT_TRUE(ShouldFuse(c, j, ValueFusion::kOn));
}

}  // namespace
}  // namespace palu
