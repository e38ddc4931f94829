#include "compress/stats.h"

#include "compress/calibrate.h"
#include "linalg/random_matrix.h"
#include "testing.h"

namespace palu {
namespace {

using testing::ErrorOf;
using testing::TempDir;

Model Stories() { return Model::Load(testing::Repo("tests/data/models/stories260k")); }

CalibrationStats RandomStats(const ModelConfig& config) {
  CalibrationStats stats;
  stats.source = {"model-a", "text-a", 3, 16, 2};
  stats.files = "a.txt, b.txt";
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const auto seed = static_cast<uint32_t>(l);
    stats.grams.push_back(
        testing::RandomMatrix<double>(config.hidden_size, config.hidden_size, seed));
    std::vector<double> k, v;
    for (int64_t h = 0; h < config.num_kv_heads; ++h) {
      k.push_back(0.1 + static_cast<double>(l + h));
      v.push_back(0.2 + static_cast<double>(l * h));
    }
    stats.fisher.push_back({k, v});
  }
  return stats;
}

TEST(Stats, RoundTrip) {
  TempDir dir;
  const Model model = Stories();
  const CalibrationStats saved = RandomStats(model.config());
  SaveStats(dir / "stats", saved);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
  EXPECT_EQ(ReadStatsSource(dir / "stats"), saved.source);
  const CalibrationStats loaded = LoadStats(dir / "stats", saved.source, model.config());
  EXPECT_EQ(loaded.source, saved.source);
  EXPECT_EQ(loaded.files, saved.files);
  ASSERT_EQ(loaded.grams.size(), saved.grams.size());
  for (size_t l = 0; l < saved.grams.size(); ++l) {
    for (int64_t r = 0; r < saved.grams[l].rows(); ++r) {
      for (int64_t c = 0; c <= r; ++c) ASSERT_EQ(loaded.grams[l](r, c), saved.grams[l](r, c));
    }
    EXPECT_EQ(loaded.fisher[l].k, saved.fisher[l].k);
    EXPECT_EQ(loaded.fisher[l].v, saved.fisher[l].v);
  }
}

TEST(Stats, TwoSidedSumsRoundTrip) {
  TempDir dir;
  const Model model = Stories();
  const ModelConfig& config = model.config();
  CalibrationStats saved = RandomStats(config);
  SaveStats(dir / "older", saved);
  saved.source.two_sided = true;
  saved.source.recent = 16;
  const int64_t rows = 2 * config.kv_size();
  for (int64_t l = 0; l < config.num_layers; ++l) {
    saved.means.emplace_back(static_cast<size_t>(config.hidden_size), 0.5 + static_cast<double>(l));
    saved.output_grads.push_back(
        testing::RandomMatrix<double>(rows, rows, static_cast<uint32_t>(100 + l)));
    saved.far_squares.emplace_back(static_cast<size_t>(rows), 0.25 + static_cast<double>(l));
  }
  SaveStats(dir / "stats", saved);
  EXPECT_EQ(ReadStatsSource(dir / "stats"), saved.source);
  const CalibrationStats loaded = LoadStats(dir / "stats", saved.source, config);
  EXPECT_EQ(loaded.means, saved.means);
  EXPECT_EQ(loaded.far_squares, saved.far_squares);
  ASSERT_EQ(loaded.output_grads.size(), saved.output_grads.size());
  for (size_t l = 0; l < saved.output_grads.size(); ++l) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c <= r; ++c) {
        ASSERT_EQ(loaded.output_grads[l](r, c), saved.output_grads[l](r, c));
      }
    }
  }
  // A file with them serves who does not want them; one without them does not serve who does.
  CalibrationSource plain = saved.source;
  plain.two_sided = false;
  EXPECT_TRUE(LoadStats(dir / "stats", plain, config).means.empty());
  EXPECT_NE(ErrorOf([&] { LoadStats(dir / "older", saved.source, config); }).find("--budget"),
            std::string::npos);
  CalibrationSource wider = saved.source;
  wider.recent = 32;
  EXPECT_NE(ErrorOf([&] {
              LoadStats(dir / "stats", wider, config);
            }).find("another window of recent tokens: expected 32, found 16"),
            std::string::npos);
}

TEST(Stats, EveryMismatchIsNamed) {
  TempDir dir;
  const Model model = Stories();
  const CalibrationStats saved = RandomStats(model.config());
  const std::string path = dir / "stats";
  SaveStats(path, saved);
  const auto message = [&](auto&& change) {
    CalibrationSource expected = saved.source;
    change(expected);
    return ErrorOf([&] { LoadStats(path, expected, model.config()); });
  };
  const auto sentence = [&](const std::string& what, const std::string& numbers) {
    return path + ": statistics of another " + what + ": expected " + numbers +
           "; name another file or delete this one";
  };
  EXPECT_EQ(message([](auto& s) { s.model = "model-b"; }),
            sentence("model", "model-b, found model-a"));
  EXPECT_EQ(message([](auto& s) { s.text = "text-b"; }), sentence("text", "text-b, found text-a"));
  EXPECT_EQ(message([](auto& s) { s.windows = 4; }), sentence("number of windows", "4, found 3"));
  EXPECT_EQ(message([](auto& s) { s.seqlen = 8; }), sentence("window length", "8, found 16"));
  EXPECT_EQ(message([](auto& s) { s.fisher_windows = 1; }),
            sentence("number of Fisher windows", "1, found 2"));
  // Who needs no Fisher information does not care how much there is.
  CalibrationSource without = saved.source;
  without.fisher_windows = 0;
  EXPECT_TRUE(LoadStats(path, without, model.config()).fisher.empty());
  ModelConfig wider = model.config();
  wider.hidden_size = 65;
  EXPECT_EQ(ErrorOf([&] { LoadStats(path, saved.source, wider); }),
            path + ": tensor layers.0.gram: expected [2145], found [2080]");
}

TEST(Stats, OtherFilesAreRefused) {
  TempDir dir;
  const std::string path = dir / "other";
  WriteSafetensors(path, std::vector<NamedTensor>{}, {{"format", "pt"}, {"version", "1"}});
  EXPECT_EQ(ErrorOf([&] { ReadStatsSource(path); }),
            path + ": metadata field format: expected palu-stats, found 'pt'");
  WriteSafetensors(path, std::vector<NamedTensor>{}, {{"format", "palu-stats"}, {"version", "9"}});
  EXPECT_EQ(ErrorOf([&] { ReadStatsSource(path); }),
            path + ": metadata field version: expected 1, found '9'");
  WriteSafetensors(path, std::vector<NamedTensor>{},
                   {{"format", "palu-stats"},
                    {"version", "1"},
                    {"model", "a"},
                    {"text", "b"},
                    {"windows", "many"}});
  EXPECT_EQ(ErrorOf([&] { ReadStatsSource(path); }),
            path + ": metadata field windows: expected a number, found 'many'");
}

TEST(Stats, Fingerprints) {
  const Model model = Stories();
  EXPECT_EQ(Fingerprint(model), Fingerprint(Stories()));
  const Model a = Model::Random(model.config(), DType::kF32, 1);
  EXPECT_NE(Fingerprint(a), Fingerprint(Model::Random(model.config(), DType::kF32, 2)));
  const std::vector<TokenId> ids{1, 2, 3}, other{1, 3, 2};
  EXPECT_NE(Fingerprint(std::span(ids)), Fingerprint(std::span(other)));
}

TEST(PlanCalibration, Refusals) {
  const Model model = Stories();
  const std::vector<TokenId> ids(100, 1);
  const auto plan = [&](int64_t windows, int64_t seqlen, int64_t fisher) {
    return ErrorOf([&] { PlanCalibration(model, ids, windows, seqlen, fisher); });
  };
  EXPECT_EQ(plan(0, 10, 0), "calib-windows: expected 1 or more, found 0");
  EXPECT_EQ(plan(1, 1, 0), "calib-seqlen: expected 2 or more, found 1");
  EXPECT_EQ(plan(2, 10, 3),
            "fisher-windows: expected a number from 0 to the 2 calibration windows, found 3");
  EXPECT_EQ(plan(11, 10, 0),
            "the calibration text has 100 tokens, BOS included: expected 11 windows of 10, found "
            "10");
}

}  // namespace
}  // namespace palu
