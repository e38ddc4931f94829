// What `palu bench attention` prints and draws.
#pragma once

#include <string>
#include <vector>

#include "eval/bench/attention_bench.h"
#include "eval/bench/machine.h"
#include "eval/bench/report.h"
#include "eval/plot/charts.h"

namespace palu {

struct AttentionReport {
  Machine machine;  // the device
  int64_t l2_bytes = 0;
  int64_t group_size = 0, repetitions = 0;
  bool prefill = false;
  std::vector<AttentionRow> rows;
};

// Markdown: a table per model, one line per context, batch and form. CSV and JSON: one record for
// each of those, without times where the status is not "ok"; bench/baselines.py reads the JSON.
std::string Format(const AttentionReport& report, ReportFormat format);

// Speed-up over the dense form against the context's length, a chart per model and batch that has
// any; `name` tells them apart in file names.
struct NamedChart {
  std::string name;
  LineChart chart;
};
std::vector<NamedChart> SpeedUpCharts(const AttentionReport& report);

}  // namespace palu
