// A manifest reads back as it was written, and a directory that is not what it says is found out.
#include "lib/verify/check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "lib/results/manifest.h"
#include "lib/results/manifest_hash.h"
#include "tests/unit/run/lab.h"

namespace mimo::check_test {
namespace {

namespace stdfs = std::filesystem;

// An output made without the executor: two files, a text, a carried file, an index, the manifest.
class Check : public ::testing::Test {
 protected:
  void SetUp() override {
    lab::Random random(1);
    source_.AddFile("a.safetensors",
                    {{"a \"quoted\"", DType::kBF16, {6, 5}, random.Any(60)}, {"s", DType::kF32, {}, random.Any(4)}});
    source_.AddFile("b.safetensors", {{"b", DType::kF8E4M3, {9, 4}, random.Any(36)}, {"none", DType::kF32, {0}, {}}});
    source_.AddCarried("sub/tokenizer.json", random.Any(100));
    builder_.UnchangedFile("a.safetensors", 0);
    builder_.UnchangedFile("b.safetensors", 1);
    builder_.Text("config.json", "{}\n");
    builder_.Text("model.safetensors.index.json",
                  R"({"metadata":{"total_size":100},"weight_map":{"a \"quoted\"":"a.safetensors","s":"a.safetensors",)"
                  R"("b":"b.safetensors","none":"b.safetensors"}})");
    builder_.plan.carried = {"sub/tokenizer.json"};
    builder_.Finish();
    stdfs::copy(source_.catalogue.root, out_, stdfs::copy_options::recursive);
    for (const TextFile& text : builder_.plan.texts) Write(text.name, text.content);
    for (const OutputArray& output : builder_.plan.outputs) {
      const lab::Bytes bytes = lab::Tensor(out_ + "/" + builder_.plan.files[output.file].name, output.name);
      // By the definition: the sum of the rows' hashes, each seeded with its number.
      Hash128 hash;
      for (int64_t r = 0; r < output.rows() && output.row_bytes() > 0; ++r) {
        hash += HashBytes(
            std::as_bytes(std::span(bytes)).subspan(static_cast<size_t>(r) * output.row_bytes(), output.row_bytes()),
            static_cast<uint64_t>(r));
      }
      results_.tensors.push_back({hash, {}});
    }
    results_.groups.resize(builder_.plan.groups.size());
    results_.linked = {0, 0};
    const lab::Bytes carried = lab::ReadFile(out_ + "/sub/tokenizer.json");
    results_.carried = {{"sub/tokenizer.json", carried.size(), HashBytes(std::as_bytes(std::span(carried))), false}};
    WriteManifestFile();
  }

  void Write(const std::string& name, const std::string& content) {
    lab::WriteFile(out_ + "/" + name, lab::Bytes(content.begin(), content.end()));
  }
  std::string ManifestText() {
    std::string text;
    const Status written = WriteManifest(source_.catalogue, builder_.plan, results_, [&](std::string_view part) {
      text += part;
      return Status();
    });
    EXPECT_TRUE(written.ok());
    return text;
  }
  void WriteManifestFile() { Write(kManifestName, ManifestText()); }
  CheckReport MustCheck() {
    auto report = CheckDirectory(PosixFileSystem(), out_);
    EXPECT_TRUE(report.ok()) << report.error().Message();
    return report.ok() ? *report : CheckReport();
  }

  lab::Checkpoint source_;
  lab::PlanBuilder builder_{source_};
  RunResults results_;
  std::string out_ = source_.output();
};

TEST_F(Check, AnIntactOutputHasNoDifference) {
  const CheckReport report = MustCheck();
  EXPECT_TRUE(report.ToStatus().ok()) << report.ToStatus().error().Message();
  EXPECT_EQ(report.tensors, 4u);
  EXPECT_EQ(report.files, 5u);
}

TEST_F(Check, EveryFlippedByteIsFound) {
  for (const auto& [name, content] : lab::Tree(out_)) {
    if (name == kManifestName) continue;
    const size_t stride = std::max<size_t>(1, content.size() / 40);
    for (size_t i = 0; i < content.size(); i += stride) {
      lab::Bytes damaged = content;
      damaged[i] ^= 0x10;
      lab::WriteFile(out_ + "/" + name, damaged);
      const CheckReport report = MustCheck();
      EXPECT_EQ(report.ToStatus().ok() ? ErrorCode(0) : report.ToStatus().error().code, ErrorCode::kCheckFailed)
          << name << " " << i;
      for (const Difference& d : report.differences) EXPECT_EQ(d.file, name);
    }
    lab::WriteFile(out_ + "/" + name, content);
  }
  EXPECT_TRUE(MustCheck().differences.empty());
}

TEST_F(Check, ADataErrorNamesItsTensor) {
  lab::Bytes bytes = lab::ReadFile(out_ + "/b.safetensors");
  bytes.back() ^= 1;
  lab::WriteFile(out_ + "/b.safetensors", bytes);
  const CheckReport report = MustCheck();
  ASSERT_EQ(report.differences.size(), 1u);
  EXPECT_EQ(report.differences[0].tensor, "b");
  EXPECT_EQ(report.differences[0].what, "hash");
}

TEST_F(Check, SwappedRowsAreNoticed) {
  lab::Bytes bytes = lab::ReadFile(out_ + "/b.safetensors");
  std::swap_ranges(bytes.end() - 8, bytes.end() - 4, bytes.end() - 4);
  lab::WriteFile(out_ + "/b.safetensors", bytes);
  EXPECT_EQ(MustCheck().differences.size(), 1u);
}

TEST_F(Check, MissingExtraAndShortFilesAreNoticed) {
  Write("extra.bin", "x");
  stdfs::remove(out_ + "/config.json");
  stdfs::resize_file(out_ + "/a.safetensors", 50);
  const CheckReport report = MustCheck();
  std::set<std::string> files;
  for (const Difference& d : report.differences) files.insert(d.file);
  EXPECT_TRUE(files.contains("extra.bin") && files.contains("config.json") && files.contains("a.safetensors"));
}

TEST_F(Check, TheIndexMustSayWhereTensorsAre) {
  const auto index = [&](const std::string& text) {
    builder_.plan.texts[1].content = text;
    Write("model.safetensors.index.json", text);
    WriteManifestFile();  // the hash is right: only the content is wrong
    return MustCheck().differences.size();
  };
  EXPECT_EQ(
      index(
          R"({"metadata":{"total_size":101},"weight_map":{"a \"quoted\"":"a.safetensors","s":"a.safetensors","b":"b.safetensors","none":"b.safetensors"}})"),
      1u);
  EXPECT_EQ(
      index(
          R"({"weight_map":{"a \"quoted\"":"a.safetensors","s":"b.safetensors","b":"b.safetensors","none":"b.safetensors"}})"),
      1u);
  EXPECT_EQ(index(R"({"weight_map":{"a \"quoted\"":"a.safetensors","s":"a.safetensors","b":"b.safetensors"}})"), 1u);
  EXPECT_EQ(
      index(
          R"({"weight_map":{"a \"quoted\"":"a.safetensors","s":"a.safetensors","b":"b.safetensors","none":"b.safetensors","x":"y"}})"),
      1u);
  EXPECT_EQ(index("[]"), 1u);
}

TEST_F(Check, NoManifestIsNoOutput) {
  stdfs::remove(out_ + "/" + kManifestName);
  const auto report = CheckDirectory(PosixFileSystem(), out_);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kBadInput);
}

TEST_F(Check, ManifestsReadBackAndDamagedOnesAreRefused) {
  builder_.plan.digest = {5, 6};
  results_.tensors[1].anomalies.nan_codes = 3;
  results_.groups[0] = {1, 2, 3, 4, 5, 0.1, std::numeric_limits<double>::infinity(), 1e-300};
  results_.linked[1] = 1;
  results_.tensors[2].hash.reset();
  const std::string text = ManifestText();
  EXPECT_EQ(text, ManifestText());
  const auto manifest = ParseManifest(text, "m");
  ASSERT_TRUE(manifest.ok()) << manifest.error().Message();
  EXPECT_EQ(manifest.value().plan_digest, builder_.plan.digest);
  EXPECT_EQ(manifest.value().anomalies.nan_codes, 3u);
  EXPECT_EQ(manifest.value().blocks.requantized_blocks, 3u);
  EXPECT_EQ(manifest.value().blocks.squared_error, 0.1);
  EXPECT_TRUE(std::isnan(manifest.value().blocks.squared_sum));
  ASSERT_EQ(manifest.value().tensors.size(), 4u);
  EXPECT_EQ(manifest.value().tensors[0].name, "a \"quoted\"");
  EXPECT_EQ(manifest.value().tensors[0].hash, results_.tensors[0].hash);
  EXPECT_FALSE(manifest.value().tensors[2].hash.has_value());
  EXPECT_TRUE(manifest.value().files[1].linked);
  EXPECT_EQ(manifest.value().other_files.size(), 3u);
  for (size_t cut = 0; cut < text.size() - 2; cut += 37) {
    EXPECT_FALSE(ParseManifest(text.substr(0, cut), "m").ok()) << cut;
  }
  for (const auto& [from, to] :
       std::vector<std::pair<std::string, std::string>>{{"\"file\":0", "\"file\":9"},
                                                        {"\"dtype\":\"BF16\"", "\"dtype\":\"BF17\""},
                                                        {"\"version\":2", "\"version\":3"},
                                                        {"\"version\":2", "\"version\":1"},
                                                        {"\"shape\":[6,5]", "\"shape\":[6,-5]"},
                                                        {"\"tensors\":[", "\"tensor\":["},
                                                        {"\"payload_bytes\":", "\"payload_bytes\":-"}}) {
    std::string damaged = text;
    damaged.replace(damaged.find(from), from.size(), to);
    damaged.resize(damaged.rfind(",\n\"manifest_hash\""));
    damaged += EndOfManifest(HashBytes(std::as_bytes(std::span(damaged))));  // only the content is wrong
    const auto refused = ParseManifest(damaged, "m");
    ASSERT_FALSE(refused.ok()) << to;
    EXPECT_NE(refused.error().what, ChangedManifest("m").what) << to;
  }
}

TEST_F(Check, EveryFlippedBitOfTheManifestIsFound) {
  const lab::Bytes content = lab::ReadFile(out_ + "/" + kManifestName);
  size_t differences = 0;
  for (size_t bit = 0; bit < 8 * content.size(); ++bit) {
    lab::Bytes damaged = content;
    damaged[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    EXPECT_FALSE(ParseManifest(std::string(damaged.begin(), damaged.end()), "m").ok()) << bit;
    lab::WriteFile(out_ + "/" + kManifestName, damaged);
    auto report = CheckDirectory(PosixFileSystem(), out_);
    if (!report.ok()) {
      EXPECT_EQ(report.error().code, ErrorCode::kBadInput) << bit;
      continue;
    }
    EXPECT_FALSE(report->ToStatus().ok()) << bit;
    ASSERT_EQ(report->differences.size(), 1u) << bit;
    EXPECT_EQ(report->differences[0].what, "the manifest has been changed");
    ++differences;
  }
  EXPECT_GT(differences, 8 * (content.size() - 60));  // all but those in the last line
}

// Outputs of earlier versions of the tool are as good as they were.
TEST_F(Check, AManifestOfVersion1HasNoHashOfItself) {
  std::string text = ManifestText();
  text.resize(text.rfind(",\n\"manifest_hash\""));
  text.replace(text.find("\"version\":2"), 11, "\"version\":1");
  Write(kManifestName, text + "\n}\n");
  const CheckReport report = MustCheck();
  EXPECT_TRUE(report.ToStatus().ok()) << report.ToStatus().error().Message();
  EXPECT_FALSE(report.manifest_holds_hash);
  Write(kManifestName, text + EndOfManifest(HashBytes(std::as_bytes(std::span(text)))));
  EXPECT_FALSE(CheckDirectory(PosixFileSystem(), out_).ok());
}

}  // namespace
}  // namespace mimo::check_test
