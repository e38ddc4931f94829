#include "eval/bench/report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "eval/bench/table.h"
#include "testing.h"

namespace palu {
namespace {

BenchReport Example() {
  BenchReport report;
  report.title = "toy";
  report.machine = {"Some CPU", 2, 20e9, 100e9};
  report.generate = 16;
  report.repetitions = 3;
  report.models = {{"dense", "2 layers", DType::kBF16, int64_t{3} << 29, 4096},
                   {"palu", "half", DType::kBF16, int64_t{1} << 30, 2048}};
  const Measurement dense{{10, 12, 11}, 1e9, 2e9, 4 << 20}, palu{{22, 20, 24}, 5e8, 1e9, 2 << 20};
  const Measurement too_big{{}, 1e9, 2e9, int64_t{100} << 30};
  report.rows = {{PrefillWorkload(512), {dense, palu}},
                 {DecodeWorkload(4096, 16, 1), {dense, palu}},
                 {DecodeWorkload(65536, 16, 4), {too_big, palu}}};
  return report;
}

TEST(BenchReport, Markdown) {
  EXPECT_EQ(Format(Example(), ReportFormat::kMarkdown), R"(toy

Some CPU, 2 threads; read bandwidth 20.0 GB/s, float GEMM 100 Gflop/s

- dense: 2 layers, BF16 weights of 1536.0 MiB, F16 cache of 4.0 KiB per token
- palu: half, BF16 weights of 1024.0 MiB, F16 cache of 2.0 KiB per token

Median (lowest..highest) of 3; decoding generates 16 tokens.

| prefill |       dense tok/s | of GEMM | KV MiB |        palu tok/s | of GEMM | KV MiB | palu/dense |
|--------:|------------------:|--------:|-------:|------------------:|--------:|-------:|-----------:|
|     512 | 11.0 (10.0..12.0) |    22 % |    4.0 | 22.0 (20.0..24.0) |    22 % |    2.0 |       2.00 |

| depth | batch |       dense tok/s | MB/tok | of read | of GEMM |   KV MiB |        palu tok/s | MB/tok | of read | of GEMM | KV MiB | palu/dense |
|------:|------:|------------------:|-------:|--------:|--------:|---------:|------------------:|-------:|--------:|--------:|-------:|-----------:|
|  4096 |     1 | 11.0 (10.0..12.0) | 1000.0 |    55 % |    22 % |      4.0 | 22.0 (20.0..24.0) |  500.0 |    55 % |    22 % |    2.0 |       2.00 |
| 65536 |     4 |      does not fit | 1000.0 |         |         | 102400.0 | 22.0 (20.0..24.0) |  500.0 |    55 % |    22 % |    2.0 |            |
)");
}

TEST(BenchReport, Csv) {
  const std::string text = Format(Example(), ReportFormat::kCsv);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 7);
  EXPECT_EQ(text.substr(0, text.find('\n')),
            "phase,model,prompt,depth,batch,generate,tokens_per_second,min,max,ratio_to_first,"
            "bytes_per_token,flops_per_token,of_read_bandwidth,of_gemm_peak,kv_bytes");
  EXPECT_NE(text.find("\ndecode,palu,0,4096,1,16,22.0,20.0,24.0,2.0,500000000.0,1000000000.0,"
                      "0.55,0.22,2097152\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("\ndecode,dense,0,65536,4,16,,,,,1000000000.0,2000000000.0,,,107374182400\n"),
            std::string::npos)
      << text;
}

TEST(BenchReport, Json) {
  const auto json = nlohmann::json::parse(Format(Example(), ReportFormat::kJson));
  EXPECT_EQ(json["machine"]["cpu"], "Some CPU");
  EXPECT_EQ(json["machine"]["threads"], 2);
  EXPECT_EQ(json["models"].size(), 2u);
  ASSERT_EQ(json["rows"].size(), 6u);
  EXPECT_EQ(json["rows"][3]["model"], "palu");
  EXPECT_EQ(json["rows"][3]["depth"], 4096);
  EXPECT_EQ(json["rows"][3]["ratio_to_first"], 2.0);
  EXPECT_TRUE(json["rows"][4]["tokens_per_second"].is_null());
  EXPECT_TRUE(json["rows"][5]["ratio_to_first"].is_null());
}

TEST(BenchTable, PadsAndQuotes) {
  EXPECT_EQ(MarkdownTable({{"a", "long"}, {"1234", "5"}}),
            "|    a | long |\n|-----:|-----:|\n| 1234 |    5 |\n");
  EXPECT_EQ(MarkdownTable({}), "");
  EXPECT_EQ(CsvCell("plain"), "plain");
  EXPECT_EQ(CsvCell("a,\"b\""), "\"a,\"\"b\"\"\"");
}

}  // namespace
}  // namespace palu
