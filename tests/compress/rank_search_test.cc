#include "compress/rank_search.h"

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "testing.h"

namespace palu {
namespace {

using Json = nlohmann::json;
using testing::ErrorOf;

ModelConfig Shape(int64_t layers, int64_t kv_heads, int64_t head_dim) {
  ModelConfig model;
  model.num_layers = layers;
  model.num_kv_heads = model.num_heads = kv_heads;
  model.head_dim = head_dim;
  return model;
}

class Reference : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::ifstream in(
        testing::Repo("tests/data/golden/reference_palu_" + std::string(GetParam()) + ".json"));
    json_ = Json::parse(in);
    for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
      const auto mean = [&](const char* projection) {
        return std::vector<double>(4, json_["fisher_mean_per_projection"][Key(layer, projection)]);
      };
      fisher_.push_back({mean("k_proj"), mean("v_proj")});
    }
  }
  static std::string Key(int64_t layer, const char* projection) {
    return "model.layers." + std::to_string(layer) + ".self_attn." + projection;
  }

  Json json_;
  ModelConfig model_ = Shape(6, 4, 64);  // both trained models cache 4 heads of 64
  std::vector<LayerFisher> fisher_;
};

TEST_P(Reference, RanksAtHalfMatchThePublishedCode) {
  const auto layers = SearchRanks(model_, {.ratio = 0.5, .group_size = 4}, fisher_);
  for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
    const Json& expected = json_["ranks_fisher_uniform_0.5"];
    EXPECT_EQ(layers[layer].k.ranks, expected[Key(layer, "k_proj")].get<std::vector<int64_t>>());
    EXPECT_EQ(layers[layer].v.ranks, expected[Key(layer, "v_proj")].get<std::vector<int64_t>>());
  }
}

TEST_P(Reference, KeptFractionsMatchThePublishedCode) {
  int compared = 0;
  for (const Json& row : json_["rows"]) {
    if (!row.contains("ratio") || row["bits"] != 16) continue;
    const std::string tag = row["tag"];
    const auto search = tag.find(" uniform ") != std::string::npos  ? RankSearch::kUniform
                        : tag.find(" fisher ") != std::string::npos ? RankSearch::kFisher
                                                                    : RankSearch::kFisherUniform;
    const int64_t group_size = row["gs"];
    const int64_t multiple = group_size * model_.head_dim < 128 ? 16 : 32;
    const RankSearchOptions options{search, row["ratio"], group_size, multiple};
    // The file has one mean per projection; finer groups have their own in a `fisher` search.
    if (search == RankSearch::kFisher && options.group_size != model_.num_kv_heads) continue;
    EXPECT_NEAR(KeptFraction(model_, SearchRanks(model_, options, fisher_)), row["kept"], 5e-5)
        << tag;  // the file keeps four decimals
    ++compared;
  }
  EXPECT_GE(compared, 12);
}

INSTANTIATE_TEST_SUITE_P(RankSearch, Reference, ::testing::Values("wiki-7m-mha", "wiki-18m-gqa"));

// One head of 100 per group; means 6:3:1 of a budget of 100 leave floors 60, 30, 10 exactly.
TEST(RankSearch, FisherIsProportional) {
  const auto layers = SearchRanks(
      Shape(1, 2, 100),
      {.search = RankSearch::kFisher, .ratio = 0.25, .group_size = 1, .rank_multiple = 1},
      std::vector<LayerFisher>{{{6, 3}, {1, 0}}});
  EXPECT_EQ(layers[0].k.ranks, (std::vector<int64_t>{60, 30}));
  EXPECT_EQ(layers[0].v.ranks, (std::vector<int64_t>{10, 1}));  // at least one multiple
}

TEST(RankSearch, CapsAndDealsTheRestByIncreasingRemainder) {
  // Budget 20 over means 8:1:0.6:0.4 -> exact 16, 2, 1.2, 0.8; floors 10 (cap), 2, 1, 0; 7 left.
  // Order by exact - floored: 0 (second), 0.2 (third), 0.8 (fourth); the first is full.
  const auto layers = SearchRanks(
      Shape(1, 2, 10),
      {.search = RankSearch::kFisher, .ratio = 0.5, .group_size = 1, .rank_multiple = 1},
      std::vector<LayerFisher>{{{8, 1}, {0.6, 0.4}}});
  EXPECT_EQ(layers[0].k.ranks, (std::vector<int64_t>{10, 5}));
  EXPECT_EQ(layers[0].v.ranks, (std::vector<int64_t>{3, 2}));
}

TEST(RankSearch, FisherUniformDividesAProjectionEvenly) {
  // Projection widths 40, budget 40: keys 31, values 9; over two groups 15 and 4.
  const auto layers =
      SearchRanks(Shape(1, 4, 10), {.ratio = 0.5, .group_size = 2, .rank_multiple = 1},
                  std::vector<LayerFisher>{{{31, 31, 31, 31}, {18, 0, 9, 9}}});
  EXPECT_EQ(layers[0].k.ranks, (std::vector<int64_t>{15, 15}));
  EXPECT_EQ(layers[0].v.ranks, (std::vector<int64_t>{4, 4}));
}

TEST(RankSearch, RoundsHalvesToTheEvenMultipleWithinOneMultipleAndFullWidth) {
  const auto uniform = [](int64_t width, double ratio, int64_t multiple) {
    return SearchRanks(Shape(1, 1, width),
                       {.search = RankSearch::kUniform,
                        .ratio = ratio,
                        .group_size = 1,
                        .rank_multiple = multiple},
                       {})[0]
        .k.ranks[0];
  };
  EXPECT_EQ(uniform(160, 0.5, 32), 64);   // 2.5 -> 2
  EXPECT_EQ(uniform(224, 0.5, 32), 128);  // 3.5 -> 4
  EXPECT_EQ(uniform(128, 0.01, 32), 32);  // at least one
  EXPECT_EQ(uniform(80, 1.0, 32), 64);    // 2.5 -> 2
  EXPECT_EQ(uniform(120, 1.0, 32), 120);  // 3.75 -> 128, capped
  EXPECT_EQ(uniform(16, 0.5, 32), 16);    // a multiple wider than the group
}

TEST(RankSearch, EverythingIsKeptAtRatioOne) {
  const ModelConfig model = Shape(2, 4, 32);
  for (auto search : {RankSearch::kUniform, RankSearch::kFisher, RankSearch::kFisherUniform}) {
    auto layers = SearchRanks(
        model, {.search = search, .ratio = 1.0, .group_size = 2},
        std::vector<LayerFisher>{{{1, 2, 3, 4}, {0, 0, 0, 9}}, {{1, 1, 1, 1}, {5, 5, 5, 5}}});
    EXPECT_EQ(KeptFraction(model, layers), 1.0);
    MakeFullWidthDense(model, 2, layers);
    EXPECT_FALSE(layers[0].k.factored());
    EXPECT_FALSE(layers[1].v.factored());
    EXPECT_EQ(KeptFraction(model, layers), 1.0);
  }
}

TEST(RankSearch, OnlyAWhollyFullProjectionBecomesDense) {
  const ModelConfig model = Shape(1, 4, 32);
  std::vector<LayerRanks> layers{{{{64, 32}}, {{64, 64}}}};
  MakeFullWidthDense(model, 2, layers);
  EXPECT_EQ(layers[0].k.ranks, (std::vector<int64_t>{64, 32}));
  EXPECT_FALSE(layers[0].v.factored());
  EXPECT_DOUBLE_EQ(KeptFraction(model, layers), 224.0 / 256.0);
}

TEST(RankSearch, NamesWhatIsWrong) {
  const ModelConfig model = Shape(1, 4, 32);
  const std::vector<LayerFisher> good{{{1, 1, 1, 1}, {1, 1, 1, 1}}};
  const auto error = [&](RankSearchOptions options, std::vector<LayerFisher> fisher) {
    return ErrorOf([&] { SearchRanks(model, options, fisher); });
  };
  EXPECT_NE(error({.ratio = 0.0}, good).find("found 0"), std::string::npos);
  EXPECT_NE(error({.ratio = 1.5}, good).find("1.5"), std::string::npos);
  EXPECT_NE(error({.ratio = std::numeric_limits<double>::quiet_NaN()}, good), "");
  EXPECT_NE(error({.group_size = 3}, good).find("4 KV heads"), std::string::npos);
  EXPECT_NE(error({.group_size = 0}, good), "");
  EXPECT_NE(error({.rank_multiple = 0}, good), "");
  EXPECT_NE(error({}, {}).find("found 0"), std::string::npos);
  EXPECT_NE(error({}, {{{1, 1}, {1, 1, 1, 1}}}).find("found 2"), std::string::npos);
  EXPECT_NE(error({}, {{{1, 1, 1, NAN}, {1, 1, 1, 1}}}), "");
  EXPECT_NE(error({}, {{{0, 0, 0, 0}, {0, 0, 0, 0}}}).find("zero"), std::string::npos);
}

TEST(RankSearch, NamesRoundTrip) {
  for (auto search : {RankSearch::kUniform, RankSearch::kFisher, RankSearch::kFisherUniform}) {
    EXPECT_EQ(ParseRankSearch(Name(search)), search);
  }
  EXPECT_EQ(ParseRankSearch("best"), std::nullopt);
}

}  // namespace
}  // namespace palu
