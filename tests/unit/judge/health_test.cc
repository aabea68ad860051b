// Scalars and vectors written here, one fault each: what is said of them.
#include "lib/judge/health.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "lib/base/durable_file.h"
#include "lib/io/safetensors/safetensors.h"
#include "tests/faults/scratch_directory.h"

namespace mimo {
namespace {

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
  Verdict Judge(const Inventory* inventory = nullptr, bool allow = false) {
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
        JudgeHealth(PosixFileSystem(), catalogue_, inventory, {.threads = 2, .allow_anomalies = allow});
    EXPECT_TRUE(verdict.ok());
    return verdict.ok() ? std::move(*verdict) : Verdict();
  }

  ScratchDirectory scratch_;
  Catalogue catalogue_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::string> data_;
};

const std::string kBias = ".mlp.gate.e_score_correction_bias";
const std::string kNorm = ".input_layernorm.weight";

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
}  // namespace mimo
