#include "base/log.h"

#include "testing.h"

namespace palu {
namespace {

TEST(Log, WritesToStderrWithItsLevel) {
  ::testing::internal::CaptureStderr();
  Info("{} layers", 32);
  Warn("no {}", "tokenizer");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("info: 32 layers\n"), std::string::npos) << text;
  EXPECT_NE(text.find("warning: no tokenizer\n"), std::string::npos) << text;
}

TEST(Log, QuietKeepsOnlyWarnings) {
  SetQuiet(true);
  ::testing::internal::CaptureStderr();
  Info("chatter");
  Warn("trouble");
  const std::string text = ::testing::internal::GetCapturedStderr();
  SetQuiet(false);
  EXPECT_EQ(text.find("chatter"), std::string::npos) << text;
  EXPECT_NE(text.find("trouble"), std::string::npos) << text;
}

TEST(Log, LinesGoAboveTheStatusLine) {
  ::testing::internal::CaptureStderr();
  SetStatusLine("50 %");
  Info("hello");
  SetStatusLine("");
  SetStatusLine("");  // nothing left to erase
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(text.starts_with("\r\x1b[K50 %\r\x1b[K[")) << text;
  EXPECT_TRUE(text.ends_with("info: hello\n50 %\r\x1b[K")) << text;
}

}  // namespace
}  // namespace palu
