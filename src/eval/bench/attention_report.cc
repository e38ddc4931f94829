#include "eval/bench/attention_report.h"

#include <fmt/format.h>

#include "eval/bench/records.h"
#include "eval/bench/table.h"

namespace palu {
namespace {

constexpr double kMiB = 1 << 20;

// Share of the measured read bandwidth: the time that the bytes take at least, over the median.
double OfRead(const AttentionReport& report, const AttentionMeasurement& m) {
  return m.cost.bytes() / report.machine.read_bytes_per_second * 1e6 / m.median();
}

double TeraflopsPerSecond(const AttentionMeasurement& m) { return m.cost.flops / m.median() / 1e6; }

// ---- Markdown

std::vector<std::string> Cells(const AttentionReport& report, const AttentionRow& row,
                               const AttentionMeasurement& m) {
  std::vector<std::string> cells = {std::to_string(row.point.context),
                                    std::to_string(row.point.batch), m.form};
  if (m.measured()) {
    cells.push_back(
        fmt::format("{:.1f} ({:.1f}..{:.1f})", m.median(), m.Quantile(0.1), m.Quantile(0.9)));
  } else {
    cells.emplace_back(Name(m.status));
  }
  const auto speedup = m.speedup();
  cells.push_back(speedup ? fmt::format("{:.2f}", *speedup) : "");
  cells.push_back(fmt::format("{:.2f}", m.cost.bytes() / 1e6));
  cells.push_back(m.measured() ? fmt::format("{:.0f} %", 100 * OfRead(report, m)) : "");
  cells.push_back(fmt::format("{:.2f}", m.cost.flops / 1e9));
  cells.push_back(m.measured() ? fmt::format("{:.1f}", TeraflopsPerSecond(m)) : "");
  cells.push_back(fmt::format("{:.1f}", static_cast<double>(m.memory.blocks) / kMiB));
  cells.push_back(m.measured() && m.memory.device > 0
                      ? fmt::format("{:.0f}", static_cast<double>(m.memory.device) / kMiB)
                      : "");
  return cells;
}

std::string Markdown(const AttentionReport& report) {
  const std::string cache =
      report.prefill ? "Prompts of that many tokens, causal; cache: dense fp16 queries, keys, "
                       "values and results."
                     : fmt::format(
                           "cache: blocks in use; device: by which cudaMemGetInfo shrank. "
                           "Groups of {} KV heads.",
                           report.group_size);
  std::string text = fmt::format(
      "{} attention of one layer on {}, {} multiprocessors; read bandwidth {:.0f} GB/s, bf16 "
      "products {:.0f} Tflop/s\n\nMicroseconds: median (tenth..ninetieth percentile) of {}, twice "
      "the L2 cache of {:.0f} MiB overwritten before each. MB: what must be read, and its share of "
      "the read bandwidth. {}\n",
      report.prefill ? "Prefill" : "Decode", report.machine.cpu, report.machine.threads,
      report.machine.read_bytes_per_second / 1e9, report.machine.gemm_flops / 1e12,
      report.repetitions, static_cast<double>(report.l2_bytes) / kMiB, cache);
  std::string failures;
  for (size_t begin = 0; begin < report.rows.size();) {
    const AttentionPoint& point = report.rows[begin].point;
    std::vector<std::vector<std::string>> lines = {{"context", "batch", "form", "us", "over dense",
                                                    "MB", "of read", "Gflop", "Tflop/s",
                                                    "cache MiB", "device MiB"}};
    size_t end = begin;
    for (; end < report.rows.size() && report.rows[end].point.model == point.model; ++end) {
      for (const AttentionMeasurement& m : report.rows[end].forms) {
        lines.push_back(Cells(report, report.rows[end], m));
        if (m.note.empty()) continue;
        failures += fmt::format("- {}, {} tokens, batch {}, {}: {}\n", point.model,
                                report.rows[end].point.context, report.rows[end].point.batch,
                                m.form, m.note);
      }
    }
    text += fmt::format("\n{}: {} heads, {} KV heads of {}\n\n{}", point.model, point.heads,
                        point.kv_heads, point.head_dim, MarkdownTable(lines));
    begin = end;
  }
  return failures.empty() ? text : fmt::format("{}\nFailed:\n\n{}", text, failures);
}

// ---- CSV and JSON

nlohmann::ordered_json Record(const AttentionReport& report, const AttentionPoint& point,
                              const AttentionMeasurement& m) {
  nlohmann::ordered_json record = {{"model", point.model},
                                   {"heads", point.heads},
                                   {"kv_heads", point.kv_heads},
                                   {"head_dim", point.head_dim},
                                   {"context", point.context},
                                   {"batch", point.batch},
                                   {"form", m.form},
                                   {"status", Name(m.status)},
                                   {"note", m.note},
                                   {"microseconds", nullptr},
                                   {"p10", nullptr},
                                   {"p90", nullptr},
                                   {"over_dense", nullptr},
                                   {"cache_bytes", m.cost.cache_bytes},
                                   {"up_bytes", m.cost.up_bytes},
                                   {"flops", m.cost.flops},
                                   {"of_read_bandwidth", nullptr},
                                   {"flops_per_second", nullptr},
                                   {"pool_bytes", m.memory.blocks},
                                   {"mapped_bytes", nullptr},
                                   {"device_bytes", nullptr},
                                   {"workspace_bytes", nullptr}};
  if (!m.measured()) return record;
  record["microseconds"] = m.median();
  record["p10"] = m.Quantile(0.1);
  record["p90"] = m.Quantile(0.9);
  if (const auto speedup = m.speedup()) record["over_dense"] = *speedup;
  record["of_read_bandwidth"] = OfRead(report, m);
  record["flops_per_second"] = TeraflopsPerSecond(m) * 1e12;
  record["mapped_bytes"] = m.memory.mapped;
  record["device_bytes"] = m.memory.device;
  record["workspace_bytes"] = m.memory.workspace;
  return record;
}

nlohmann::ordered_json Records(const AttentionReport& report) {
  auto records = nlohmann::ordered_json::array();
  for (const AttentionRow& row : report.rows) {
    for (const AttentionMeasurement& m : row.forms) records.push_back(Record(report, row.point, m));
  }
  return records;
}

std::string Json(const AttentionReport& report) {
  const nlohmann::ordered_json json = {
      {"benchmark", "attention"},
      {"device",
       {{"name", report.machine.cpu},
        {"multiprocessors", report.machine.threads},
        {"read_bytes_per_second", report.machine.read_bytes_per_second},
        {"bf16_flops_per_second", report.machine.gemm_flops},
        {"l2_bytes", report.l2_bytes}}},
      {"prefill", report.prefill},
      {"group_size", report.group_size},
      {"repetitions", report.repetitions},
      {"rows", Records(report)}};
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string Format(const AttentionReport& report, ReportFormat format) {
  switch (format) {
    case ReportFormat::kMarkdown:
      return Markdown(report);
    case ReportFormat::kCsv:
      return CsvRecords(Records(report));
    case ReportFormat::kJson:
      return Json(report);
  }
  return "";
}

}  // namespace palu
