// Scalars and vectors written here, one fault each: what is said of them.
#include "lib/judge/health.h"

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cmath>

#include "lib/base/durable_file.h"
#include "lib/io/safetensors/safetensors.h"
#include "tests/faults/forwarding_file_system.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::health_test {
namespace {

// Counts what is read.
class CountingFileSystem final : public ForwardingFileSystem {
 public:
  CountingFileSystem() : ForwardingFileSystem(PosixFileSystem()) {}
  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    auto opened = ForwardingFileSystem::OpenForRead(path);
    if (!opened.ok()) return opened;
    return std::unique_ptr<ReadableFile>(std::make_unique<File>(std::move(*opened), requests));
  }
  std::atomic<int> requests = 0;

 private:
  class File final : public ReadableFile {
   public:
    File(std::unique_ptr<ReadableFile> base, std::atomic<int>& requests)
        : base_(std::move(base)), requests_(requests) {}
    uint64_t size() const override { return base_->size(); }
    Status ReadAt(uint64_t offset, std::span<std::byte> buffer) const override {
      ++requests_;
      return base_->ReadAt(offset, buffer);
    }

   private:
    std::unique_ptr<ReadableFile> base_;
    std::atomic<int>& requests_;
  };
};

class HealthTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto table = ModelTable::Get("mimo_v2");
    ASSERT_TRUE(table.ok());
    catalogue_.table = table.value();
  }
  void Add(const std::string& name, const std::vector<float>& values, DType dtype = DType::kF32,
           std::vector<int64_t> shape = {-1}) {
    TensorInfo info;
    info.name = name;
    info.dtype = dtype;
    info.shape = shape == std::vector<int64_t>{-1} ? std::vector<int64_t>{static_cast<int64_t>(values.size())} : shape;
    tensors_.push_back(info);
    std::string bytes;
    for (float v : values) {
      const auto bits = std::bit_cast<uint32_t>(v);
      const size_t skip = dtype == DType::kF32 ? 0 : 2;
      bytes.append(reinterpret_cast<const char*>(&bits) + skip, 4 - skip);
    }
    data_.push_back(bytes);
  }
  Verdict Judge(const Inventory* inventory = nullptr, bool allow = false,
                const std::vector<uint8_t>* unread = nullptr) {
    std::string file = LayOutSafetensors(tensors_, {});
    const uint64_t begin = file.size();
    for (const std::string& bytes : data_) file += bytes;
    EXPECT_TRUE(WriteNewFile(PosixFileSystem(), scratch_.File("a.safetensors"), file).ok());
    catalogue_.root = scratch_.path();
    catalogue_.files = {{"a.safetensors", file.size(), begin, {}, {}}};
    catalogue_.arrays.clear();
    for (const TensorInfo& t : tensors_) {
      StoredArray a;
      a.name = t.name;
      a.dtype = t.dtype;
      a.shape = t.shape;
      a.begin = t.begin;
      a.bytes = t.end - t.begin;
      a.id = catalogue_.table->Identify(t.name);
      catalogue_.arrays.push_back(a);
    }
    Result<Verdict> verdict =
        JudgeHealth(files_, catalogue_, inventory, {.threads = 2, .allow_anomalies = allow, .unread = unread});
    EXPECT_TRUE(verdict.ok());
    return verdict.ok() ? std::move(*verdict) : Verdict();
  }

  // How often is read for these, each a vector of so many floats, or a matrix (which nothing is said about) where < 0.
  int RequestsFor(const std::vector<int64_t>& sizes) {
    tensors_.clear();
    data_.clear();
    for (size_t i = 0; i < sizes.size(); ++i) {
      const auto count = std::abs(sizes[i]);
      Add("model.layers." + std::to_string(i + 1) + kNorm, std::vector<float>(static_cast<size_t>(count), 1.0f),
          DType::kF32, sizes[i] < 0 ? std::vector<int64_t>{1, count} : std::vector<int64_t>{-1});
    }
    files_.requests = 0;
    EXPECT_TRUE(Judge().findings().empty());
    return files_.requests;
  }

  const std::string kBias = ".mlp.gate.e_score_correction_bias";
  const std::string kNorm = ".input_layernorm.weight";
  ScratchDirectory scratch_;
  CountingFileSystem files_;
  Catalogue catalogue_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::string> data_;
};

TEST_F(HealthTest, WhatIsRightIsNotMentioned) {
  Add("model.layers.1" + kBias, {70.9f, 70.91f, 71});
  Add("model.layers.1" + kNorm, {1, -0.5f, 0}, DType::kBF16);
  Add("model.layers.2" + kBias, {0, 0, 0});  // of a model that was trained without
  EXPECT_TRUE(Judge().findings().empty());
}

TEST_F(HealthTest, NansAreErrorsUnlessAllowed) {
  Add("model.layers.1" + kNorm, {1, NAN}, DType::kBF16);
  Add("model.layers.2" + kNorm, {INFINITY, 1});
  Add("model.layers.3" + kNorm, {1, 1});
  Verdict verdict = Judge();
  ASSERT_EQ(verdict.findings().size(), 1u);
  const Finding& finding = verdict.findings()[0];
  EXPECT_EQ(finding.id, "health.non_finite");
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_EQ(finding.place, "model.layers.*" + kNorm);
  EXPECT_EQ(finding.count, 2u);
  EXPECT_NE(finding.evidence.find("model.layers.1" + kNorm + ", model.layers.2" + kNorm), std::string::npos);
  EXPECT_EQ(Judge(nullptr, true).CountOf(Severity::kError), 0u);
}

TEST_F(HealthTest, ConstantRouterBiasesAndTheirTypeAreWarned) {
  Add("model.layers.1" + kBias, {71, 71, 71}, DType::kBF16);
  Add("model.layers.2" + kBias, {71, 71, 71});
  const Verdict verdict = Judge();
  EXPECT_EQ(verdict.CountOf(Severity::kError), 0u);
  EXPECT_TRUE(verdict.Has("health.storage"));
  ASSERT_EQ(verdict.findings().size(), 3u);
  EXPECT_EQ(verdict.findings()[0].evidence, "BF16, all experts alike: model.layers.1" + kBias + " (71.0)");
  EXPECT_EQ(verdict.findings()[1].evidence, "F32, all experts alike: model.layers.2" + kBias + " (71.0)");
}

TEST_F(HealthTest, ScalesArePositive) {
  const std::string module = "model.layers.1.mlp.experts.0.up_proj.";
  Add(module + "weight_scale_2", {0}, DType::kF32, {});
  Add(module + "input_scale", {-1}, DType::kF32, {});
  const Verdict verdict = Judge();
  ASSERT_EQ(verdict.findings().size(), 2u);
  for (const Finding& finding : verdict.findings()) EXPECT_EQ(finding.id, "health.scale");
}

TEST_F(HealthTest, NormsOfZerosAreWarned) {
  Add("model.norm.weight", {0, 0});
  EXPECT_TRUE(Judge().Has("health.zero_norm"));
}

TEST_F(HealthTest, EveryTypeIsRead) {
  for (const uint32_t bits : {0x3C003C00u, 0x7E003C00u}) {  // in F16: 1, 1; 1, NaN
    tensors_.clear();
    data_.clear();
    Add("model.norm.weight", {std::bit_cast<float>(bits)});
    tensors_[0].dtype = DType::kF16;
    tensors_[0].shape = {2};
    EXPECT_EQ(Judge().Has("health.non_finite"), bits == 0x7E003C00u);
  }
}

TEST_F(HealthTest, OneExpertIsLikeItself) {
  Add("model.layers.1" + kBias, {71});
  EXPECT_TRUE(Judge().findings().empty());
}

TEST_F(HealthTest, WhatNoEngineReadsIsNotJudged) {
  Add("model.layers.1" + kNorm, {1, NAN});
  Add("model.layers.2" + kNorm, {1, NAN});
  const std::vector<uint8_t> first{1, 0}, both{1, 1};
  ASSERT_EQ(Judge(nullptr, false, &first).findings().size(), 1u);
  EXPECT_EQ(Judge(nullptr, false, &first).findings()[0].count, 1u);
  EXPECT_TRUE(Judge(nullptr, false, &both).findings().empty());
}

TEST_F(HealthTest, TowersAndLargeArraysAreNotRead) {
  Add("visual.blocks.0.norm1.weight", {1, NAN});
  Add("audio_encoder.projection.0.bias", {1, NAN});
  EXPECT_TRUE(Judge().findings().empty());
  constexpr size_t kMost = (4u << 20) / sizeof(float);
  Add("model.layers.1" + kNorm, std::vector<float>(kMost + 1, NAN));
  EXPECT_TRUE(Judge().findings().empty());
  EXPECT_EQ(files_.requests, 0);
  Add("model.layers.2" + kNorm, std::vector<float>(kMost, NAN));
  EXPECT_EQ(Judge().findings().size(), 1u);
}

// 16 KiB between two arrays are read along, and a request has at most 1 MiB.
TEST_F(HealthTest, WhatLiesTogetherIsReadAtOnce) {
  constexpr int64_t kGap = (16 << 10) / sizeof(float), kHalf = (512 << 10) / sizeof(float);
  EXPECT_EQ(RequestsFor({4, 4, 4}), 1);
  EXPECT_EQ(RequestsFor({4, -kGap, 4}), 1);
  EXPECT_EQ(RequestsFor({4, -kGap - 1, 4}), 2);
  EXPECT_EQ(RequestsFor({kHalf, kHalf}), 1);
  EXPECT_EQ(RequestsFor({kHalf, kHalf, 1}), 2);
}

TEST_F(HealthTest, WithoutAnyInputScaleNoneIsMissing) {
  Inventory inventory;
  for (const char* name : {"gate_proj", "up_proj"}) {
    Weight w;
    const std::string weight = std::string("model.layers.1.mlp.experts.0.") + name + ".weight";
    w.id = catalogue_.table->Identify(weight);
    w.storage = Storage::kNvfp4;
    w.array = static_cast<uint32_t>(tensors_.size());
    Add(weight, {1, 1}, DType::kF32, {1, 2});
    inventory.weights.push_back(w);
  }
  EXPECT_TRUE(Judge(&inventory).findings().empty());
}

TEST_F(HealthTest, GapsAndDisagreementsOfInputScales) {
  Inventory inventory;
  const auto weight = [&](const std::string& name, std::optional<float> input) {
    Weight w;
    w.id = catalogue_.table->Identify(name + ".weight");
    w.storage = Storage::kNvfp4;
    w.array = static_cast<uint32_t>(tensors_.size());
    Add(name + ".weight", {1, 1}, DType::kF32, {1, 2});
    if (input) {
      w.input = static_cast<uint32_t>(tensors_.size());
      Add(name + ".input_scale", {*input}, DType::kF32, {});
    }
    inventory.weights.push_back(w);
  };
  for (int expert : {0, 1, 2}) {
    const std::string base = "model.layers.1.mlp.experts." + std::to_string(expert) + ".";
    weight(base + "gate_proj", 0.5f);
    weight(base + "up_proj", expert == 2 ? 0.25f : 0.5f);
    weight(base + "down_proj", expert == 1 ? std::nullopt : std::optional(0.5f));
  }
  const Verdict verdict = Judge(&inventory);
  ASSERT_EQ(verdict.findings().size(), 2u);
  EXPECT_EQ(verdict.findings()[0].id, "health.input_scale_differs");
  EXPECT_NE(verdict.findings()[0].evidence.find("experts.2."), std::string::npos);
  EXPECT_EQ(verdict.findings()[1].id, "health.input_scale_gaps");
  EXPECT_EQ(verdict.findings()[1].place, "model.layers.*.mlp.experts.*.down_proj.weight");
  EXPECT_NE(verdict.findings()[1].evidence.find("though 2 of"), std::string::npos);
  EXPECT_EQ(verdict.findings()[1].count, 1u);
}

}  // namespace
}  // namespace mimo::health_test
