// Hostile and honest safetensors files.
#include "io/safetensors.h"

#include <sys/resource.h>

#include <csignal>
#include <cstring>

#include "base/file.h"
#include "io/expect_has.h"
#include "io/safetensors_header.h"
#include "testing.h"

namespace palu {
namespace {

namespace fs = std::filesystem;
using testing::ErrorOf;
using testing::ExpectHas;
using testing::TempDir;

std::string FileBytes(const std::string& header, const std::string& buffer) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + buffer;
}

SafetensorsHeader Parse(const std::string& bytes) {
  return ParseSafetensorsHeader(std::as_bytes(std::span(bytes)), "f");
}

std::string Error(const std::string& header, const std::string& buffer = "") {
  return ErrorOf([&] { Parse(FileBytes(header, buffer)); });
}

std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

const std::string kGood = "{\"__metadata__\":{\"format\":\"pt\"}," +
                          Entry("b", "F16", "[2]", "[8,12]") + "," +
                          Entry("a", "F32", "[1,2]", "[0,8]") + "}";

TEST(SafetensorsHeader, ReadsEntriesByPosition) {
  const SafetensorsHeader header = Parse(FileBytes(kGood, std::string(12, 'x')));
  ASSERT_EQ(header.entries.size(), 2u);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[0].shape, (Shape{1, 2}));
  EXPECT_EQ(header.entries[1].begin, 8);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.buffer_offset, 8 + kGood.size());
}

TEST(SafetensorsHeader, EveryTruncationIsAnError) {
  const std::string whole = FileBytes(kGood, std::string(12, 'x'));
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_THROW(Parse(whole.substr(0, size)), palu::Error) << size;
  }
  EXPECT_NO_THROW(Parse(whole));
  EXPECT_THROW(Parse(whole + "x"), palu::Error);
}

// Errors are the only thing that a damaged byte may cause.
TEST(SafetensorsHeader, EveryChangedByteIsHarmless) {
  const std::string whole = FileBytes(kGood, std::string(12, 'x'));
  for (size_t i = 0; i < 8 + kGood.size(); ++i) {
    for (const int bit : {0, 1, 4, 7}) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      try {
        Parse(damaged);
      } catch (const palu::Error&) {
      }
    }
  }
}

TEST(SafetensorsHeader, Length) {
  std::string bytes(16, '\0');
  const uint64_t huge = 100'000'001;
  std::memcpy(bytes.data(), &huge, 8);
  EXPECT_EQ(ErrorOf([&] { Parse(bytes); }),
            "f: header: expected at most 100000000 bytes, found 100000001");
  const uint64_t longer = 9;
  std::memcpy(bytes.data(), &longer, 8);
  EXPECT_EQ(ErrorOf([&] { Parse(bytes); }), "f: truncated: expected a header of 9 bytes, found 8");
  EXPECT_EQ(ErrorOf([&] { Parse("abc"); }),
            "f: truncated: expected at least 8 bytes of safetensors, found 3");
  ExpectHas(Error("[]"), "f: not a safetensors file");
  ExpectHas(Error(""), "f: not a safetensors file");
}

TEST(SafetensorsHeader, Ranges) {
  const auto two = [](const std::string& first, const std::string& second) {
    return "{" + Entry("a", "F32", "[2]", first) + "," + Entry("b", "F32", "[2]", second) + "}";
  };
  ExpectHas(Error(two("[0,8]", "[4,12]"), std::string(16, 'x')),
            "f: tensor b: overlaps the tensor before it at byte 4");
  ExpectHas(Error(two("[0,8]", "[0,8]"), std::string(8, 'x')), "overlaps");
  ExpectHas(Error(two("[0,8]", "[12,20]"), std::string(20, 'x')),
            "f: tensor b: a hole of 4 bytes lies before it");
  ExpectHas(Error(two("[4,12]", "[12,20]"), std::string(20, 'x')),
            "f: tensor a: a hole of 4 bytes lies before it");
  ExpectHas(Error(two("[0,8]", "[8,16]"), std::string(17, 'x')),
            "f: expected 16 bytes of tensors as the header says, found 17");
  ExpectHas(Error(two("[0,8]", "[8,16]"), std::string(15, 'x')),
            "f: tensor b: field data_offsets: expected a range within 15 bytes, found [8, 16]");
  ExpectHas(Error(two("[8,0]", "[8,16]"), std::string(16, 'x')), "expected a range within");
  ExpectHas(Error(two("[0,4]", "[4,12]"), std::string(12, 'x')),
            "f: tensor a: expected 8 bytes for F32 [2], found a range of 4");
}

TEST(SafetensorsHeader, Shapes) {
  const auto error = [](const std::string& dtype, const std::string& shape) {
    return Error("{" + Entry("a", dtype, shape, "[0,8]") + "}", std::string(8, 'x'));
  };
  ExpectHas(error("F32", "[4294967296,4294967296]"),
            "f: tensor a: shape [4294967296, 4294967296] of F32 does not fit in 63 bits");
  ExpectHas(error("F32", "[9223372036854775807]"), "does not fit in 63 bits");
  ExpectHas(error("F32", "[9223372036854775808]"), "expected an integer from 0 to 2^63-1");
  ExpectHas(error("F32", "[-1]"), "field shape: expected an integer from 0 to 2^63-1, found -1");
  ExpectHas(error("F32", "[1.5]"), "found 1.5");
  ExpectHas(error("F32", "[[2]]"),
            "field shape: expected an integer from 0 to 2^63-1, found a list");
  ExpectHas(error("F32", "2"), "field shape: expected a list of integers, found 2");
  ExpectHas(error("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]"), "expected at most 16 numbers");
  ExpectHas(error("F12", "[2]"), "expected a dtype such as F32, F16 or BF16, found \"F12\"");
  ExpectHas(error("F4", "[3]"), "expected whole bytes, found 12 bits");
}

TEST(SafetensorsHeader, Json) {
  const std::string a = Entry("a", "F32", "[2]", "[0,8]");
  const std::string data(8, 'x');
  ExpectHas(Error("{" + a + "," + a + "}", data), "f: tensor a appears twice");
  ExpectHas(Error("{" + a + ",}", data), "f: header is not valid JSON at byte");
  ExpectHas(Error("{" + a + "} x", data), "f: header is not valid JSON at byte");
  ExpectHas(Error("{\"a\":3}", data), "f: tensor a: expected an object, found 3");
  ExpectHas(Error("{\"a\":{}}", data), "f: tensor a: expected dtype, shape and data_offsets");
  ExpectHas(Error("{\"a\":{\"size\":1}}", data), "found field size");
  ExpectHas(Error("{\"a\":{\"shape\":[],\"shape\":[]}}", data), "field shape appears twice");
  ExpectHas(Error("{\"a\":{\"dtype\":4}}", data), "field dtype: expected a string, found 4");
  ExpectHas(Error("{\"a\":{\"dtype\":{}}}", data), "found an object");
  ExpectHas(Error("{" + Entry("a", "F32", "[2]", "[0,8,9]") + "}", data),
            "field data_offsets: expected 2 numbers, found 3");
  ExpectHas(Error("{\"__metadata__\":{\"a\":1}}"), "metadata field a: expected a string, found 1");
  ExpectHas(Error(std::string("{\"\xff\":1}")), "not valid JSON");
  EXPECT_NO_THROW(Parse(FileBytes("{}   ", "")));
}

std::vector<NamedTensor> MixedTensors(std::vector<float>& f32, std::vector<BFloat16>& bf16) {
  f32 = {1.5f, -2.5f};
  bf16 = {ToBFloat16(1), ToBFloat16(2), ToBFloat16(3)};
  return {{"odd", {bf16.data(), DType::kBF16, {3}, kCpu}},
          {"wide", {f32.data(), DType::kF32, {2, 1}, kCpu}},
          {"empty", {bf16.data(), DType::kBF16, {0, 4}, kCpu}}};
}

TEST(Safetensors, RoundTrip) {
  TempDir dir;
  std::vector<float> f32;
  std::vector<BFloat16> bf16;
  WriteSafetensors(dir / "m", MixedTensors(f32, bf16), {{"quote\"", "line\nbreak"}});
  const SafetensorsFile file = SafetensorsFile::Open(dir / "m");
  EXPECT_EQ(file.metadata().at("quote\""), "line\nbreak");
  const TensorView& wide = file.tensors().at("wide");
  EXPECT_EQ(wide.shape, (Shape{2, 1}));
  EXPECT_EQ(wide.As<float>()[1], -2.5f);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(wide.data) % 64, 0u);  // the larger type comes first
  EXPECT_EQ(file.tensors().at("odd").As<BFloat16>()[2].bits, bf16[2].bits);
  EXPECT_EQ(file.tensors().at("empty").size(), 0);
}

TEST(Safetensors, ShardsRoundTrip) {
  TempDir dir;
  std::vector<float> f32;
  std::vector<BFloat16> bf16;
  WriteShardedSafetensors(dir.path(), MixedTensors(f32, bf16), {}, 8);
  EXPECT_TRUE(fs::exists(dir / "model-00002-of-00002.safetensors"));
  EXPECT_FALSE(fs::exists(dir / "model.safetensors"));
  const TensorStore store = TensorStore::OpenDirectory(dir.path());
  EXPECT_EQ(store.tensors().size(), 3u);
  EXPECT_EQ(store.Get("wide", {2, 1}).As<float>()[0], 1.5f);
}

TEST(Safetensors, UnalignedTensorsAreCopied) {
  TempDir dir;
  const std::vector<float> values{3.5f, 4.5f};
  std::string buffer(8, '\0');
  std::memcpy(buffer.data(), values.data(), 8);
  std::string header = "{" + Entry("a", "F32", "[2]", "[0,8]") + "}";
  while ((8 + header.size()) % 4 != 1) header += ' ';
  std::ofstream(dir / "m", std::ios::binary) << FileBytes(header, buffer);
  SafetensorsFile file = SafetensorsFile::Open(dir / "m");
  const SafetensorsFile moved = std::move(file);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(moved.tensors().at("a").data) % 4, 0u);
  EXPECT_EQ(moved.tensors().at("a").As<float>()[1], 4.5f);
}

TEST(Safetensors, OtherTypesAreKeptAside) {
  TempDir dir;
  const std::string header = "{" + Entry("ids", "I64", "[1]", "[0,8]") + "}";
  std::ofstream(dir / "m", std::ios::binary) << FileBytes(header, std::string(8, 'x'));
  const TensorStore store = TensorStore::OpenFile(dir / "m");
  EXPECT_TRUE(store.tensors().empty());
  EXPECT_EQ(store.stored().at("ids").bytes.size(), 8u);
  ExpectHas(ErrorOf([&] { store.Get("ids", {1}); }),
            "tensor ids: expected F32, F16 or BF16, found I64");
}

TEST(Safetensors, FilesThatCannotBeRead) {
  TempDir dir;
  ExpectHas(ErrorOf([&] { SafetensorsFile::Open(dir / "none"); }),
            "none: cannot open: No such file");
  ExpectHas(ErrorOf([&] { SafetensorsFile::Open(dir.path()); }), "not a regular file");
  std::ofstream(dir / "empty").flush();
  ExpectHas(ErrorOf([&] { SafetensorsFile::Open(dir / "empty"); }), "empty: truncated");
}

TEST(SafetensorsWriter, RefusesRepeatedNamesAndWrongSizes) {
  TempDir dir;
  const float one = 1;
  const NamedTensor tensor{"a", {&one, DType::kF32, {1}, kCpu}};
  const auto error = [&](const std::vector<StoredTensor>& tensors) {
    return ErrorOf([&] { WriteSafetensors(dir / "m", tensors, {}); });
  };
  ExpectHas(error({Stored(tensor), Stored(tensor)}), "m: tensor a would be written twice");
  StoredTensor short_one = Stored(tensor);
  short_one.shape = {2};
  ExpectHas(error({short_one}), "m: tensor a: expected 8 bytes, found 4");
  short_one.dtype = "X";
  ExpectHas(error({short_one}), "expected a dtype such as");
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(SafetensorsWriter, AFullDiskLeavesNothing) {
  TempDir dir;
  const std::vector<float> data(10000);
  const std::vector<NamedTensor> tensors{{"a", {data.data(), DType::kF32, {10000}, kCpu}}};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit limit{8192, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  const std::string error = ErrorOf([&] { WriteSafetensors(dir / "m", tensors, {}); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  ExpectHas(error, "m: cannot write");
  ExpectHas(error, "File too large");
  EXPECT_TRUE(fs::is_empty(dir.path()));

  fs::create_symlink("/dev/full", dir / "full");
  ExpectHas(ErrorOf([&] { WriteSafetensors(dir / "full", tensors, {}); }), "full: disk full: ");

  // More than any disk holds: refused before anything is written.
  StoredTensor vast{"v", "F32", {int64_t{1} << 57}, {}, nullptr};
  ExpectHas(ErrorOf([&] { WriteSafetensors(dir / "v", std::vector{vast}, {}); }),
            "v: disk full: 5764607523034");
  EXPECT_FALSE(fs::exists(dir / "v"));
}

}  // namespace
}  // namespace palu
