#include <fmt/format.h>

#include <algorithm>

#include "eval/plot/charts.h"
#include "eval/report/report.h"

namespace palu {
namespace {

constexpr double kGiB = 1 << 30;

// A series for every compressed model, in the same colour in all plots, then the dense one.
template <class Compressed>
std::vector<Series> SeriesByModel(const Report& report, Compressed&& compressed, Series dense) {
  std::vector<Series> series;
  for (const ReportModel& model : report.models) {
    series.push_back(compressed(model));
    series.back().name = model.name;
  }
  dense.name = DenseTitle(report);
  dense.reference = true;
  dense.markers = false;
  series.push_back(std::move(dense));
  return series;
}

Series Point(double x, double y) { return {.name = {}, .x = {x}, .y = {y}, .line = false}; }

Axis BitsAxis(const Report& report) {
  return {.label = "bits per element, everything counted",
          .low = 0.0,
          .high = report.dense_layout.bits_per_element() + 1};
}

LineChart PerplexityChart(const Report& report) {
  LineChart chart;
  chart.title = "Perplexity by size of the KV cache";
  chart.x = BitsAxis(report);
  chart.y = {.label = "perplexity"};
  const double dense = report.dense_perplexity;
  chart.series =
      SeriesByModel(report,
                    [](const ReportModel& m) {
                      return Point(m.layout.bits_per_element(), m.divergence.compressed_perplexity);
                    },
                    {.name = {}, .x = {0, *chart.x.high}, .y = {dense, dense}});
  const bool far = std::any_of(
      report.models.begin(), report.models.end(),
      [&](const ReportModel& m) { return m.divergence.compressed_perplexity > 10 * dense; });
  if (far) chart.y.scale = Scale::kLog10;
  return chart;
}

LineChart DivergenceChart(const Report& report) {
  LineChart chart;
  chart.title = "Divergence from the dense model by size of the KV cache";
  chart.x = BitsAxis(report);
  chart.y = {.label = "mean KL divergence per token (nats)", .scale = Scale::kLog10};
  chart.series = SeriesByModel(
      report,
      [](const ReportModel& m) { return Point(m.layout.bits_per_element(), m.divergence.kl_mean); },
      {});
  chart.series.pop_back();  // the dense model's is 0
  // A model that loses nothing has no logarithm.
  const bool zero = std::any_of(report.models.begin(), report.models.end(),
                                [](const ReportModel& m) { return m.divergence.kl_mean <= 0; });
  if (zero) chart.y.scale = Scale::kLinear;
  return chart;
}

LineChart MemoryChart(const Report& report) {
  const double last = static_cast<double>(std::end(kReportContexts)[-1]);
  const bool small = DenseBytesPerToken(report.dense_config) * last < 2 * kGiB;
  const double unit = small ? kGiB / 1024 : kGiB;
  const auto line = [&](const CacheLayout& layout) {
    Series series;
    for (const int64_t tokens : kReportContexts) {
      series.x.push_back(static_cast<double>(tokens));
      series.y.push_back(static_cast<double>(CacheBytes(layout, tokens)) / unit);
    }
    return series;
  };
  LineChart chart;
  chart.title = "Memory of the KV cache by context length";
  chart.x = {.label = "tokens", .low = 0.0, .high = last * 1.02, .tick = 16384};
  chart.x.format = [](double tokens) {
    return tokens > 0 ? fmt::format("{:.0f}K", tokens / 1024) : std::string("0");
  };
  chart.y = {.label = fmt::format("KV cache of one sequence ({})", small ? "MiB" : "GiB"),
             .low = 0.0};
  chart.series = SeriesByModel(
      report, [&](const ReportModel& m) { return line(m.layout); }, line(report.dense_layout));
  return chart;
}

BarChart RanksChart(const ReportModel& model) {
  const ModelConfig& config = model.config;
  BarChart chart;
  chart.title = fmt::format("Ranks by layer: {}", model.name);
  chart.x_label = "layer";
  chart.y = {.label = fmt::format("rank, all groups (full: {})", config.kv_size()),
             .high = static_cast<double>(config.kv_size())};
  if (config.kv_size() % 8 == 0) chart.y.tick = static_cast<double>(config.kv_size()) / 8;
  chart.series = {{"keys", {}}, {"values", {}}};
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const LayerRanks ranks = config.Ranks(l);
    const auto rank = [&](const ProjectionRanks& projection) {
      return static_cast<double>(projection.factored() ? projection.total() : config.kv_size());
    };
    chart.categories.push_back(std::to_string(l));
    chart.series[0].values.push_back(rank(ranks.k));
    chart.series[1].values.push_back(ranks.shared ? 0 : rank(ranks.v));  // in the keys' bar
  }
  return chart;
}

}  // namespace

std::vector<ReportPlot> ReportPlots(const Report& report) {
  const auto svg = [](const auto& chart) { return Render(chart, ImageFormat::kSvg); };
  std::vector<ReportPlot> plots = {{"memory.svg", svg(MemoryChart(report))}};
  if (!report.models.empty()) {
    plots.push_back({"perplexity.svg", svg(PerplexityChart(report))});
    plots.push_back({"kl.svg", svg(DivergenceChart(report))});
  }
  for (size_t i = 0; i < report.models.size(); ++i) {
    plots.push_back({fmt::format("ranks-{}.svg", i + 1), svg(RanksChart(report.models[i]))});
  }
  return plots;
}

}  // namespace palu
