// Reading headers from files, and what the writer lays out.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "lib/io/safetensors/safetensors.h"
#include "tests/faults/faulty_file_system.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::file_test {
namespace {

using Metadata = std::vector<std::pair<std::string, std::string>>;

std::string Prefix(uint64_t n) {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(n >> (8 * i));
  return out;
}

TensorInfo Tensor(std::string name, DType dtype, std::vector<int64_t> shape) {
  TensorInfo tensor;
  tensor.name = std::move(name);
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  return tensor;
}

class SafetensorsFile : public testing::Test {
 protected:
  std::string Path() const { return scratch_.File("model.safetensors"); }
  Result<SafetensorsHeader> Read(const std::string& content) {
    std::ofstream(Path(), std::ios::binary) << content;
    return ReadSafetensorsHeader(fs_, Path());
  }

  ScratchDirectory scratch_;
  FaultyFileSystem fs_{PosixFileSystem()};
};

// The bytes are written by hand here; nothing of the writer is involved.
TEST_F(SafetensorsFile, ReadsAHandMadeFile) {
  const std::string json =
      R"({"__metadata__":{"format":"pt","a":"\u00e9"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"z":{"dtype":"I64","shape":[0,7],"data_offsets":[4,4]}})";
  auto result = Read(Prefix(json.size() + 3) + json + "   " + std::string(16, 'd'));
  ASSERT_TRUE(result.ok()) << result.error().Message();
  const SafetensorsHeader& header = result.value();
  const uint64_t data = 8 + json.size() + 3;
  EXPECT_EQ(header.data_begin, data);
  EXPECT_EQ(header.file_bytes, data + 16);
  EXPECT_EQ(header.metadata, (Metadata{{"format", "pt"}, {"a", "\xc3\xa9"}}));
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name, "b");
  EXPECT_EQ(header.tensors[0].begin, data);
  EXPECT_EQ(header.tensors[0].end, data + 4);
  EXPECT_EQ(header.tensors[1].name, "z");
  EXPECT_EQ(header.tensors[1].bytes(), 0u);
  EXPECT_EQ(header.tensors[1].shape, (std::vector<int64_t>{0, 7}));
  EXPECT_EQ(header.tensors[2].name, "w");
  EXPECT_EQ(header.tensors[2].dtype, DType::kBF16);
  EXPECT_EQ(header.tensors[2].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(header.tensors[2].begin, data + 4);
  EXPECT_EQ(header.tensors[2].end, data + 16);
  // Only the header is read.
  uint64_t read = 0;
  for (const LogEntry& entry : fs_.Log()) read += entry.operation == Operation::kRead ? entry.bytes : 0;
  EXPECT_EQ(read, data);
}

TEST_F(SafetensorsFile, EmptyTensorsAreOrderedByNameAmongEquals) {
  const auto empty = [](const char* name) {
    return '"' + std::string(name) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  };
  const std::string json = "{" + empty("c") + "," + empty("a") +
                           R"(,"B":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)" + empty("b") + "}";
  auto result = Read(Prefix(json.size()) + json + "x");
  ASSERT_TRUE(result.ok()) << result.error().Message();
  std::string names;
  for (const TensorInfo& tensor : result->tensors) names += tensor.name;
  EXPECT_EQ(names, "abcB");
}

TEST_F(SafetensorsFile, BrokenPrefixes) {
  const struct {
    std::string content;
    const char* what;
    const char* expected;
    const char* found;
  } kCases[] = {
      {"", "file is too short for safetensors", "at least 8 bytes", "0 bytes"},
      {Prefix(0).substr(0, 7), "file is too short for safetensors", "at least 8 bytes", "7 bytes"},
      {Prefix(0), "header does not start with '{'", "a JSON object", "an empty header"},
      {Prefix(3) + "{}", "header is longer than the file", "at least 11 bytes", "10 bytes"},
      {Prefix(100'000'000) + "{}", "header is longer than the file", "at least 100000008 bytes", "10 bytes"},
      {Prefix(100'000'001) + "{}", "header length is out of range", "at most 100000000 bytes", "100000001 bytes"},
      {Prefix(UINT64_MAX) + "{}", "header length is out of range", "at most 100000000 bytes",
       "18446744073709551615 bytes"},
      {Prefix(UINT64_MAX - 7) + "{}", "header length is out of range", "at most 100000000 bytes",
       "18446744073709551608 bytes"},
  };
  for (const auto& c : kCases) {
    const auto result = Read(c.content);
    ASSERT_FALSE(result.ok()) << c.what;
    EXPECT_EQ(result.error().code, ErrorCode::kBadInput);
    EXPECT_EQ(result.error().file, Path());
    EXPECT_EQ(result.error().tensor, "");
    EXPECT_EQ(result.error().what, c.what);
    EXPECT_EQ(result.error().expected, c.expected);
    EXPECT_EQ(result.error().found, c.found);
    EXPECT_FALSE(result.error().advice.empty());
  }
}

TEST_F(SafetensorsFile, LongestHeaderIsAllowed) {
  // Sparse beyond the braces would be zeros, so the padding is written; 100 MB in one go is quick enough.
  std::string content = Prefix(kMaxSafetensorsHeaderBytes) + "{}";
  content.resize(8 + kMaxSafetensorsHeaderBytes, ' ');
  auto result = Read(content);
  ASSERT_TRUE(result.ok()) << result.error().Message();
  EXPECT_EQ(result->data_begin, 8 + kMaxSafetensorsHeaderBytes);
}

TEST_F(SafetensorsFile, GitLfsPointerIsRecognised) {
  const auto result = Read("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kBadInput);
  EXPECT_NE(result.error().advice.find("git lfs pull"), std::string::npos);
}

TEST_F(SafetensorsFile, MissingIsIoAndSpecialFilesAreBadInput) {
  EXPECT_EQ(ReadSafetensorsHeader(fs_, Path()).error().code, ErrorCode::kIo);
  EXPECT_EQ(ReadSafetensorsHeader(fs_, scratch_.path()).error().code, ErrorCode::kBadInput);
  ASSERT_EQ(::mkfifo(Path().c_str(), 0600), 0);
  EXPECT_EQ(ReadSafetensorsHeader(fs_, Path()).error().code, ErrorCode::kBadInput);
}

TEST_F(SafetensorsFile, EveryFailingCallIsReported) {
  ASSERT_TRUE(Read(Prefix(2) + "{}").ok());
  for (uint64_t n = 1; n <= 3; ++n) {  // open, prefix, header
    fs_.SetFault({.at = n});
    const auto result = ReadSafetensorsHeader(fs_, Path());
    ASSERT_FALSE(result.ok()) << n;
    EXPECT_EQ(result.error().code, ErrorCode::kIo);
    EXPECT_EQ(result.error().file, Path());
  }
  fs_.SetFault({.at = 4});
  EXPECT_TRUE(ReadSafetensorsHeader(fs_, Path()).ok());
}

TEST(SafetensorsWriter, ExactBytes) {
  std::vector<TensorInfo> tensors = {Tensor("a", DType::kF32, {2}), Tensor("b\"\\\n\x01\xc3\xa9", DType::kU8, {}),
                                     Tensor("c", DType::kF4, {0, 3})};
  const Metadata metadata = {{"z", "1"}, {"a", "\t"}};
  const std::string json =
      "{\"__metadata__\":{\"z\":\"1\",\"a\":\"\\t\"},"
      "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
      "\"b\\\"\\\\\\n\\u0001\xc3\xa9\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]},"
      "\"c\":{\"dtype\":\"F4\",\"shape\":[0,3],\"data_offsets\":[9,9]}}";
  const uint64_t padded = (json.size() + 7) / 8 * 8;
  EXPECT_EQ(LayOutSafetensors(tensors, metadata), Prefix(padded) + json + std::string(padded - json.size(), ' '));
  EXPECT_EQ(tensors[0].begin, 8 + padded);
  EXPECT_EQ(tensors[0].end, 8 + padded + 8);
  EXPECT_EQ(tensors[1].begin, tensors[0].end);
  EXPECT_EQ(tensors[1].end, tensors[0].end + 1);
  EXPECT_EQ(tensors[2].begin, tensors[2].end);
}

TEST(SafetensorsWriter, EveryAsciiCharacterInANameIsWrittenAsJsonThatMeansIt) {
  for (char c = 0; c < 0x7f; ++c) {
    std::vector<TensorInfo> tensors = {Tensor(std::string(1, c), DType::kU8, {})};
    const auto dom = nlohmann::json::parse(LayOutSafetensors(tensors, {}).substr(8));
    EXPECT_EQ(dom.begin().key(), std::string(1, c)) << static_cast<int>(c);
  }
}

TEST(SafetensorsWriter, NothingToWrite) {
  EXPECT_EQ(LayOutSafetensors({}, {}), Prefix(8) + "{}      ");
}

// The header of the writer, judged by a JSON parser in DOM form, and read back by the reader.
TEST(SafetensorsWriter, RandomRoundTrips) {
  std::mt19937 random(1);
  const std::string alphabet = "abz.019_\"\\/\b\f\n\r\t\x01\x1f\x7f ";
  for (int round = 0; round < 300; ++round) {
    std::vector<TensorInfo> tensors;
    const size_t count = random() % 12;
    for (size_t i = 0; i < count; ++i) {
      std::string name = std::to_string(i) + '/';
      for (size_t k = random() % 8; k > 0; --k) name += alphabet[random() % alphabet.size()];
      if (random() % 3 == 0) name += "\xe6\xbc\xa2\xf0\x9f\x98\x80";
      std::vector<int64_t> shape(random() % 4);
      for (int64_t& size : shape) size = random() % 5;
      auto dtype = static_cast<DType>(random() % (static_cast<uint32_t>(DType::kU64) + 1));
      if (!TensorBytes(dtype, shape)) dtype = DType::kI8;
      tensors.push_back(Tensor(name, dtype, shape));
    }
    Metadata metadata;
    for (size_t i = random() % 3; i > 0; --i) metadata.emplace_back(std::to_string(i) + alphabet, alphabet);
    const std::string bytes = LayOutSafetensors(tensors, metadata);
    ASSERT_EQ(bytes.size() % 8, 0u);
    const uint64_t file_bytes = tensors.empty() ? bytes.size() : tensors.back().end;

    const auto dom = nlohmann::json::parse(bytes.substr(8));
    ASSERT_EQ(dom.size(), tensors.size() + (metadata.empty() ? 0 : 1));
    for (const TensorInfo& tensor : tensors) {
      const auto& entry = dom.at(tensor.name);
      EXPECT_EQ(entry.at("dtype"), std::string(DTypeName(tensor.dtype)));
      EXPECT_EQ(entry.at("shape"), nlohmann::json(tensor.shape));
      EXPECT_EQ(entry.at("data_offsets")[0].get<uint64_t>() + bytes.size(), tensor.begin);
      EXPECT_EQ(entry.at("data_offsets")[1].get<uint64_t>() + bytes.size(), tensor.end);
    }

    auto header = ParseSafetensorsHeader(std::string_view(bytes).substr(8), file_bytes, "f");
    ASSERT_TRUE(header.ok()) << header.error().Message();
    EXPECT_EQ(header->metadata, metadata);
    EXPECT_EQ(header->data_begin, bytes.size());
    // The reader orders empty tensors by name, the writer kept the order given.
    std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    ASSERT_EQ(header->tensors.size(), tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(header->tensors[i].name, tensors[i].name);
      EXPECT_EQ(header->tensors[i].dtype, tensors[i].dtype);
      EXPECT_EQ(header->tensors[i].shape, tensors[i].shape);
      EXPECT_EQ(header->tensors[i].begin, tensors[i].begin);
      EXPECT_EQ(header->tensors[i].end, tensors[i].end);
    }
    // Deterministic.
    std::vector<TensorInfo> again;
    for (const TensorInfo& tensor : tensors) again.push_back(Tensor(tensor.name, tensor.dtype, tensor.shape));
    std::vector<TensorInfo> once_more = again;
    EXPECT_EQ(LayOutSafetensors(again, metadata), LayOutSafetensors(once_more, metadata));
  }
}

TEST(SafetensorsWriter, LargeHeaderComesBack) {
  std::vector<TensorInfo> tensors;
  for (int layer = 0; layer < 70; ++layer) {
    for (int expert = 0; expert < 570; ++expert) {
      tensors.push_back(Tensor(
          "model.layers." + std::to_string(layer) + ".mlp.experts." + std::to_string(expert) + ".gate_proj.weight",
          DType::kF8E4M3, {2048, 4096}));
    }
  }
  const std::string bytes = LayOutSafetensors(tensors, {});
  EXPECT_GT(bytes.size(), 4'000'000u);
  auto header = ParseSafetensorsHeader(std::string_view(bytes).substr(8), tensors.back().end, "f");
  ASSERT_TRUE(header.ok());
  ASSERT_EQ(header->tensors.size(), tensors.size());
  EXPECT_EQ(header->tensors.back().name, tensors.back().name);
}

}  // namespace
}  // namespace mimo::file_test
