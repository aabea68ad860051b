// MTP layers of small directories that are written here: the verdict, and the command that repairs each.
#include "lib/verify/mtp.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/base/durable_file.h"
#include "lib/io/safetensors/safetensors.h"
#include "lib/model/names.h"
#include "lib/verify/mtp_repair.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::mtp_test {
namespace {

using Tensors = std::vector<TensorInfo>;

class Mtp : public ::testing::Test {
 protected:
  void SetUp() override {
    config_ = {{"model_type", "mimo_v2"},  {"hidden_size", 128},
               {"num_hidden_layers", 1},   {"vocab_size", 4},
               {"intermediate_size", 128}, {"num_attention_heads", 2},
               {"num_key_value_heads", 1}, {"head_dim", 192},
               {"v_head_dim", 128},        {"hybrid_layer_pattern", {0}},
               {"moe_layer_freq", {0}},    {"torch_dtype", "bfloat16"}};
    const ModelConfig config = ParseModelConfig(config_.dump(), "c").value();
    const std::vector<ExpectedTensor> expected =
        ExpectedTensors(*ModelTable::Get("mimo_v2").value(), config, false, 3).value();
    for (const ExpectedTensor& one : expected) {
      TensorInfo tensor;
      tensor.name = one.name;
      tensor.dtype = DType::kBF16;
      tensor.shape = one.shape;
      (one.id.mtp ? mtp_ : model_).push_back(std::move(tensor));
    }
  }

  void Write(const std::string& name, const std::string& content) {
    ASSERT_TRUE(WriteNewFile(PosixFileSystem(), JoinPath(scratch_.path(), name), content).ok());
  }
  void WriteShard(const std::string& name, Tensors tensors) {
    std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    std::string file = LayOutSafetensors(tensors, {});
    if (!tensors.empty()) file.resize(tensors.back().end, '\0');
    Write(name, file);
  }
  // Everything that there is, under an index that names all but `unlisted`.
  MtpReport Verify(const std::string& unlisted = "#", const MtpOptions& options = {}) {
    Write("config.json", config_.dump());
    WriteShard("model.safetensors", model_);
    if (!mtp_.empty()) WriteShard("model_mtp.safetensors", mtp_);
    nlohmann::json map = nlohmann::json::object();
    for (const TensorInfo& tensor : model_) map[tensor.name] = "model.safetensors";
    for (const TensorInfo& tensor : mtp_)
      if (tensor.name.find(unlisted) == std::string::npos) map[tensor.name] = "model_mtp.safetensors";
    Write("model.safetensors.index.json",
          nlohmann::json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
    Result<MtpReport> report = VerifyMtp(PosixFileSystem(), scratch_.path(), options);
    EXPECT_TRUE(report.ok()) << report.error().Message();
    return report.ok() ? std::move(*report) : MtpReport();
  }
  static std::vector<std::string> Errors(const MtpReport& report) {
    std::vector<std::string> ids;
    for (const Finding& finding : report.findings.findings())
      if (finding.severity == Severity::kError) ids.push_back(finding.id);
    return ids;
  }

  using Ids = std::vector<std::string>;
  nlohmann::json config_;
  Tensors model_, mtp_;
  ScratchDirectory scratch_;
};

TEST_F(Mtp, Complete) {
  const MtpReport report = Verify();
  EXPECT_TRUE(report.ok());
  EXPECT_EQ(report.whole, 3);
  EXPECT_EQ(report.wanted, 3);
  EXPECT_FALSE(report.announced);
  EXPECT_TRUE(report.repairs.empty());
  ASSERT_EQ(report.layers.size(), 3u);
  EXPECT_EQ(report.layers[2].name, "model.mtp.layers.2");
  EXPECT_EQ(report.layers[2].files, Ids{"model_mtp.safetensors"});
  EXPECT_EQ(report.layers[2].listed, MtpListed::kAll);
  EXPECT_GT(report.engines.size(), 10u);
}

TEST_F(Mtp, NoneAndNoneAnnounced) {
  mtp_.clear();
  config_["num_nextn_predict_layers"] = 0;
  EXPECT_TRUE(Verify().ok());
}

TEST_F(Mtp, NoneAndASilentConfig) {
  mtp_.clear();
  const MtpReport report = Verify();
  EXPECT_EQ(Errors(report), Ids{"mtp.absent"});
  ASSERT_EQ(report.repairs.size(), 1u);
  EXPECT_EQ(report.repairs[0].command, "mimo-convert " + scratch_.path() + " OUT --to hf --like REF");
}

TEST_F(Mtp, MoreThanAnnounced) {
  config_["num_nextn_predict_layers"] = 2;
  EXPECT_EQ(Errors(Verify()), Ids{"mtp.unannounced"});
}

TEST_F(Mtp, AReferenceStandsInTheCommand) {
  std::erase_if(mtp_, [](const TensorInfo& tensor) { return tensor.name.find("layers.1.") != std::string::npos; });
  const MtpReport report = Verify("#", {.reference = "the release"});
  EXPECT_EQ(Errors(report), Ids{"mtp.absent"});
  EXPECT_TRUE(report.repairs.at(0).command.ends_with(" OUT --to hf --like 'the release'"));
}

TEST_F(Mtp, AnIndexThatForgetsSome) {
  const MtpReport report = Verify("layers.1.");
  EXPECT_EQ(Errors(report), Ids{"mtp.unindexed"});
  EXPECT_EQ(report.layers[1].listed, MtpListed::kUnnamed);
  EXPECT_TRUE(report.repairs.at(0).command.ends_with(" OUT --copy"));
}

TEST_F(Mtp, NoConfigIsNoCheckpoint) {
  WriteShard("model_mtp.safetensors", mtp_);
  const Result<MtpReport> report = VerifyMtp(PosixFileSystem(), scratch_.path());
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kBadInput);
}

TEST(MtpRepair, WordsOfAShell) {
  EXPECT_EQ(ShellWord("/data/MiMo-V2.5"), "/data/MiMo-V2.5");
  EXPECT_EQ(ShellWord("it's"), "'it'\\''s'");
  EXPECT_EQ(ShellWord("a b"), "'a b'");
  EXPECT_EQ(ShellWord(""), "''");
}

}  // namespace
}  // namespace mimo::mtp_test
