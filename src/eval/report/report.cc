#include "eval/report/report.h"

#include <fmt/format.h>

#include <cmath>

#include "base/file.h"
#include "eval/bench/table.h"

namespace palu {
namespace {

using Rows = std::vector<std::vector<std::string>>;

constexpr double kMiB = 1 << 20;

// A name as Markdown shows it, in a table too.
std::string Escaped(const std::string& text) {
  std::string shown;
  for (const char c : text) {
    if (std::string_view("\\`*_[]<>|#").find(c) != std::string_view::npos) shown += '\\';
    shown += c == '\n' ? ' ' : c;
  }
  return shown;
}

std::string Figures(const Report& report) {
  Rows rows = {{"model", "bits per element", "KV bytes per token", "of dense fp16", "perplexity",
                "rise", "KL mean", "KL median", "KL 99 %", "KL max", "log-probability",
                "same argmax"}};
  const double dense_bytes = static_cast<double>(DenseBytesPerToken(report.dense_config));
  const auto size = [&](const std::string& name, const CacheLayout& layout) {
    return std::vector<std::string>{Escaped(name), fmt::format("{:.3f}", layout.bits_per_element()),
                                    fmt::format("{:.6g}", layout.bytes_per_token()),
                                    fmt::format("{:.3f}", layout.bytes_per_token() / dense_bytes)};
  };
  rows.push_back(size(DenseTitle(report), report.dense_layout));
  rows.back().push_back(fmt::format("{:.4f}", report.dense_perplexity));
  rows.back().resize(rows[0].size());
  for (const ReportModel& model : report.models) {
    const DivergenceResult& d = model.divergence;
    rows.push_back(size(model.name, model.layout));
    const double rise = d.compressed_perplexity / d.dense_perplexity - 1;
    for (std::string& cell : std::vector<std::string>{
             fmt::format("{:.4f}", d.compressed_perplexity), fmt::format("{:+.2f} %", 100 * rise),
             fmt::format("{:.5f}", d.kl_mean), fmt::format("{:.5f}", d.kl_median),
             fmt::format("{:.4f}", d.kl_p99), fmt::format("{:.3f}", d.kl_max),
             fmt::format("{:+.5f}", d.logprob_change),
             fmt::format("{:.2f} %", 100 * d.same_argmax)}) {
      rows.back().push_back(std::move(cell));
    }
  }
  return MarkdownTable(rows);
}

std::string Memory(const Report& report) {
  Rows rows = {{"tokens", Escaped(DenseTitle(report))}};
  for (const ReportModel& model : report.models) rows[0].push_back(Escaped(model.name));
  for (const int64_t tokens : kReportContexts) {
    const auto mib = [&](const CacheLayout& layout) {
      return fmt::format("{:.1f}", static_cast<double>(CacheBytes(layout, tokens)) / kMiB);
    };
    rows.push_back({fmt::format("{}K", tokens / 1024), mib(report.dense_layout)});
    for (const ReportModel& model : report.models) rows.back().push_back(mib(model.layout));
  }
  return MarkdownTable(rows);
}

std::string Ranks(const Report& report) {
  Rows rows = {{"layer"}};
  for (const ReportModel& model : report.models) {
    rows[0].push_back(Escaped(model.name) + " K");
    rows[0].push_back(Escaped(model.name) + " V");
  }
  for (int64_t l = 0; l < report.dense_config.num_layers; ++l) {
    rows.push_back({std::to_string(l)});
    for (const ReportModel& model : report.models) {
      const LayerRanks ranks = model.config.Ranks(l);
      const auto cell = [](const ProjectionRanks& projection) {
        return projection.factored() ? std::to_string(projection.total()) : "dense";
      };
      rows.back().push_back(cell(ranks.k));
      rows.back().push_back(ranks.shared ? "with K" : cell(ranks.v));
    }
  }
  return MarkdownTable(rows);
}

// What the search for a budget foresaw beside what came of it; empty without such models.
std::string Predictions(const Report& report) {
  Rows rows = {{"model", "bits asked for", "bits stored", "predicted rise of the loss",
                "measured rise", "measured KL"}};
  for (const ReportModel& model : report.models) {
    if (!model.config.compression || !model.config.compression->tiered) continue;
    const KvCompression& c = *model.config.compression;
    rows.push_back({Escaped(model.name), fmt::format("{:.4g}", c.budget),
                    fmt::format("{:.3f}", model.layout.bits_per_element()),
                    fmt::format("{:.5f}", c.predicted_loss),
                    fmt::format("{:+.5f}", -model.divergence.logprob_change),
                    fmt::format("{:.5f}", model.divergence.kl_mean)});
  }
  if (rows.size() == 1) return "";
  return "\n## Predicted and measured\n\nNats per token. The prediction is of the calibration "
         "text, to second order.\n\n" +
         MarkdownTable(rows);
}

// How each model was made.
std::string Models(const Report& report) {
  const ModelConfig& dense = report.dense_config;
  std::string text =
      fmt::format("- {}: {} layers, {} heads, {} KV heads of {}\n", Escaped(DenseTitle(report)),
                  dense.num_layers, dense.num_heads, dense.num_kv_heads, dense.head_dim);
  for (const ReportModel& model : report.models) {
    if (!model.config.compression) continue;
    const KvCompression& c = *model.config.compression;
    text += c.tiered ? fmt::format("- {}: asked for {:.4g} bits per element, groups of {} KV heads",
                                   Escaped(model.name), c.budget, c.group_size)
                     : fmt::format("- {}: asked for {:.4g} of the rank, groups of {} KV heads",
                                   Escaped(model.name), c.ratio, c.group_size);
    if (!c.search.empty()) text += fmt::format(", ranks by {}", Escaped(c.search));
    if (!c.decompose.empty()) text += fmt::format(", decomposed by {}", Escaped(c.decompose));
    if (!c.calibration.empty()) text += fmt::format("; calibration: {}", Escaped(c.calibration));
    text += "\n";
  }
  return text;
}

}  // namespace

int64_t CacheBytes(const CacheLayout& layout, int64_t tokens) { return layout.BytesFor(tokens); }

std::string DenseTitle(const Report& report) {
  return fmt::format("{} (dense {})", report.dense_name, Name(report.dense_layout.dtype()));
}

std::string ReportMarkdown(const Report& report) {
  std::string text = fmt::format(
      "# KV cache of {}, compressed\n\n```sh\n{}\n```\n\n{} windows of {} tokens of {}.\n\n{}\n",
      Escaped(report.dense_name), report.command, report.windows, report.seqlen,
      Escaped(report.text), Models(report));
  text += "## Figures\n\n" + Figures(report);
  text +=
      "\nBits per element count everything that the cache stores, over the keys and values of a "
      "token. KL is\nKL(dense || compressed) of the next-token distributions, per token, in nats; "
      "log-probability is the mean\nchange for the true next token; rise is over the dense "
      "model.\n";
  text += Predictions(report);
  if (!report.models.empty()) {
    text += "\n![Perplexity against bits per element](perplexity.svg)\n";
    text += "\n![KL divergence against bits per element](kl.svg)\n";
  }
  text += "\n## Memory\n\nMiB of one sequence, in whole blocks.\n\n" + Memory(report);
  text += "\n![Memory against context length](memory.svg)\n";
  if (report.models.empty()) return text;
  text += "\n## Ranks\n\nOf all groups together.\n\n" + Ranks(report);
  for (size_t i = 0; i < report.models.size(); ++i) {
    text += fmt::format("\n![Ranks of {} by layer](ranks-{}.svg)\n", Escaped(report.models[i].name),
                        i + 1);
  }
  return text;
}

nlohmann::ordered_json ReportJson(const Report& report) {
  nlohmann::ordered_json json = {{"text", report.text},
                                 {"seqlen", report.seqlen},
                                 {"windows", report.windows},
                                 {"dense",
                                  {{"name", report.dense_name},
                                   {"bits_per_element", report.dense_layout.bits_per_element()},
                                   {"bytes_per_token", report.dense_layout.bytes_per_token()},
                                   {"perplexity", report.dense_perplexity}}},
                                 {"models", nlohmann::ordered_json::array()}};
  for (const ReportModel& model : report.models) {
    const DivergenceResult& d = model.divergence;
    json["models"].push_back({{"name", model.name},
                              {"bits_per_element", model.layout.bits_per_element()},
                              {"bytes_per_token", model.layout.bytes_per_token()},
                              {"perplexity", d.compressed_perplexity},
                              {"kl_mean", d.kl_mean},
                              {"kl_median", d.kl_median},
                              {"kl_p99", d.kl_p99},
                              {"kl_max", d.kl_max},
                              {"logprob_change", d.logprob_change},
                              {"same_argmax", d.same_argmax}});
  }
  return json;
}

void WriteReport(const Report& report, const std::filesystem::path& directory) {
  WriteFileAtomically(directory / "report.md", ReportMarkdown(report));
  for (const ReportPlot& plot : ReportPlots(report)) {
    WriteFileAtomically(directory / plot.file, plot.bytes);
  }
}

}  // namespace palu
