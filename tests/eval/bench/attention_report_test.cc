#include "eval/bench/attention_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "testing.h"

namespace palu {
namespace {

AttentionMeasurement Dense(double us) {
  AttentionMeasurement m;
  m.form = "dense";
  m.microseconds = {us - 1, us, us + 1};
  m.dense_us = us;
  m.cost = {32e6, 0, 1e9};
  m.memory = {32 << 20, 64 << 20, 66 << 20, 1024};
  return m;
}

AttentionMeasurement Latent(double us, double dense_us) {
  AttentionMeasurement m;
  m.form = "4@50";
  m.microseconds = {us};
  m.dense_us = dense_us;
  m.cost = {4e6, 4e6, 8e9};
  m.memory = {4 << 20, 64 << 20, 66 << 20, 2048};
  return m;
}

AttentionMeasurement Missing(std::string form, AttentionStatus status, std::string note = "") {
  AttentionMeasurement m;
  m.form = std::move(form);
  m.status = status;
  m.note = std::move(note);
  m.cost = {64e6, 0, 2e9};
  m.memory.blocks = 64 << 20;
  return m;
}

AttentionReport Example() {
  AttentionReport report;
  report.machine = {"Some GPU", 132, 4e12, 8e14};
  report.l2_bytes = 50 << 20;
  report.group_size = 4;
  report.repetitions = 3;
  report.rows = {
      {{"seven", 32, 32, 128, 4096, 1}, {Dense(16), Latent(8, 16)}},
      {{"seven", 32, 32, 128, 65536, 1},
       {Missing("dense", AttentionStatus::kDoesNotFit), Latent(10, 0)}},
      {{"eight", 32, 8, 128, 100, 4},
       {Missing("dense", AttentionStatus::kUnsupported),
        Missing("4@50", AttentionStatus::kFailed, "lost")}},
  };
  return report;
}

TEST(AttentionReport, Markdown) {
  EXPECT_EQ(
      Format(Example(), ReportFormat::kMarkdown),
      R"(Decode attention of one layer on Some GPU, 132 multiprocessors; read bandwidth 4000 GB/s, bf16 products 800 Tflop/s

Microseconds: median (tenth..ninetieth percentile) of 3, twice the L2 cache of 50 MiB overwritten before each. MB: what must be read, and its share of the read bandwidth. cache: blocks in use; device: by which cudaMemGetInfo shrank. Groups of 4 KV heads.

seven: 32 heads, 32 KV heads of 128

| context | batch |  form |                us | over dense |    MB | of read | Gflop | Tflop/s | cache MiB | device MiB |
|--------:|------:|------:|------------------:|-----------:|------:|--------:|------:|--------:|----------:|-----------:|
|    4096 |     1 | dense | 16.0 (15.2..16.8) |       1.00 | 32.00 |    50 % |  1.00 |    62.5 |      32.0 |         66 |
|    4096 |     1 |  4@50 |    8.0 (8.0..8.0) |       2.00 |  8.00 |    25 % |  8.00 |  1000.0 |       4.0 |         66 |
|   65536 |     1 | dense |      does not fit |            | 64.00 |         |  2.00 |         |      64.0 |            |
|   65536 |     1 |  4@50 | 10.0 (10.0..10.0) |            |  8.00 |    20 % |  8.00 |   800.0 |       4.0 |         66 |

eight: 32 heads, 8 KV heads of 128

| context | batch |  form |          us | over dense |    MB | of read | Gflop | Tflop/s | cache MiB | device MiB |
|--------:|------:|------:|------------:|-----------:|------:|--------:|------:|--------:|----------:|-----------:|
|     100 |     4 | dense | unsupported |            | 64.00 |         |  2.00 |         |      64.0 |            |
|     100 |     4 |  4@50 |      failed |            | 64.00 |         |  2.00 |         |      64.0 |            |

Failed:

- eight, 100 tokens, batch 4, 4@50: lost
)");
}

TEST(AttentionReport, MarkdownOfPrompts) {
  AttentionReport report = Example();
  report.prefill = true;
  report.rows = {{{"seven", 32, 32, 128, 4096, 1}, {Dense(16)}}};
  report.rows[0].forms[0].form = "prefill";
  report.rows[0].forms[0].dense_us = 0;
  report.rows[0].forms[0].memory.device = 0;
  EXPECT_EQ(
      Format(report, ReportFormat::kMarkdown),
      R"(Prefill attention of one layer on Some GPU, 132 multiprocessors; read bandwidth 4000 GB/s, bf16 products 800 Tflop/s

Microseconds: median (tenth..ninetieth percentile) of 3, twice the L2 cache of 50 MiB overwritten before each. MB: what must be read, and its share of the read bandwidth. Prompts of that many tokens, causal; cache: dense fp16 queries, keys, values and results.

seven: 32 heads, 32 KV heads of 128

| context | batch |    form |                us | over dense |    MB | of read | Gflop | Tflop/s | cache MiB | device MiB |
|--------:|------:|--------:|------------------:|-----------:|------:|--------:|------:|--------:|----------:|-----------:|
|    4096 |     1 | prefill | 16.0 (15.2..16.8) |            | 32.00 |    50 % |  1.00 |    62.5 |      32.0 |            |
)");
  EXPECT_TRUE(nlohmann::json::parse(Format(report, ReportFormat::kJson))["prefill"]);
}

TEST(AttentionReport, Csv) {
  const std::string text = Format(Example(), ReportFormat::kCsv);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 7);
  EXPECT_NE(text.find("\nseven,32,32,128,4096,1,4@50,ok,,8.0,8.0,8.0,2.0,4000000.0,4000000.0,"
                      "8000000000.0,0.25,1e+15,4194304,67108864,69206016,2048\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("\neight,32,8,128,100,4,4@50,failed,lost,,,,,64000000.0,0.0,2000000000.0,,,"
                      "67108864,,,\n"),
            std::string::npos)
      << text;
}

TEST(AttentionReport, Json) {
  const auto json = nlohmann::json::parse(Format(Example(), ReportFormat::kJson));
  EXPECT_EQ(json["benchmark"], "attention");
  EXPECT_EQ(json["device"]["name"], "Some GPU");
  EXPECT_EQ(json["repetitions"], 3);
  ASSERT_EQ(json["rows"].size(), 6u);
  EXPECT_EQ(json["rows"][0]["of_read_bandwidth"], 0.5);  // 8 us for 32 MB at 4 TB/s
  EXPECT_EQ(json["rows"][2]["status"], "does not fit");
  EXPECT_TRUE(json["rows"][2]["microseconds"].is_null());
  EXPECT_TRUE(json["rows"][3]["over_dense"].is_null());
}

TEST(AttentionReport, Charts) {
  const auto charts = SpeedUpCharts(Example());
  ASSERT_EQ(charts.size(), 1u);  // nothing of "eight" was timed beside dense
  EXPECT_EQ(charts[0].name, "seven-b1");
  const LineChart& chart = charts[0].chart;
  ASSERT_EQ(chart.series.size(), 2u);
  EXPECT_TRUE(chart.series[0].reference);
  EXPECT_EQ(chart.series[1].name, "4@50");
  EXPECT_EQ(chart.series[1].x, std::vector<double>{0});
  EXPECT_EQ(chart.series[1].y, std::vector<double>{2});
  EXPECT_EQ(chart.x.format(1), "64K");
  EXPECT_TRUE(Render(chart, ImageFormat::kSvg).starts_with("<?xml"));
}

}  // namespace
}  // namespace palu
