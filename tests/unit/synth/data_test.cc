// What mimo-synth writes: reproducible data, saturated cells, scaled configs, refusals.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "lib/base/file_system.h"
#include "lib/io/safetensors/safetensors.h"
#include "lib/synth/synth.h"

namespace mimo::data_test {
namespace {

namespace fs = std::filesystem;

class SynthData : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("mimo_synth_test_" + std::to_string(std::random_device()()));
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  static SynthOptions Small(const std::string& preset) {
    SynthOptions options;
    options.preset = preset;
    options.layers = 2;
    options.experts = 2;
    options.hidden = 160;  // a whole cell and a cut one
    options.vocab = 100;
    options.intermediate = 192;
    options.moe_intermediate = 96;
    options.towers = false;
    options.threads = 1;
    return options;
  }

  std::string Write(const std::string& name, const SynthOptions& options) {
    const std::string directory = (root_ / name).string();
    Result<SynthPlan> plan = PlanSynthetic(options);
    EXPECT_TRUE(plan.ok()) << plan.error().Message();
    Result<SynthReport> report = WriteSynthetic(PosixFileSystem(), plan.value(), directory);
    EXPECT_TRUE(report.ok()) << report.error().Message();
    return directory;
  }

  static std::map<std::string, std::string> Content(const std::string& directory) {
    std::map<std::string, std::string> content;
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
      if (!entry.is_regular_file()) continue;
      std::string bytes(entry.file_size(), '\0');
      std::ifstream(entry.path(), std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      content[fs::relative(entry.path(), directory).string()] = std::move(bytes);
    }
    return content;
  }

  struct Array {
    std::vector<int64_t> shape;
    std::string bytes;
    uint8_t at(int64_t row, int64_t col) const {
      return static_cast<uint8_t>(bytes[static_cast<size_t>(row * shape[1] + col)]);
    }
  };
  static std::map<std::string, Array> Arrays(const std::string& directory) {
    std::map<std::string, Array> arrays;
    for (const auto& [name, content] : Content(directory)) {
      if (!name.ends_with(".safetensors") || name.find('/') != std::string::npos) continue;
      Result<SafetensorsHeader> header = ReadSafetensorsHeader(PosixFileSystem(), directory + "/" + name);
      EXPECT_TRUE(header.ok()) << header.error().Message();
      for (const TensorInfo& info : header.value().tensors) {
        arrays[info.name] = {info.shape, content.substr(info.begin, info.bytes())};
      }
    }
    return arrays;
  }

  fs::path root_;
};

TEST_F(SynthData, BytesDependOnTheSeedAndNotOnThreads) {
  SynthOptions options = Small("mimo-v2.6-flash");
  const auto one = Content(Write("one", options));
  EXPECT_GT(one.at("model_mtp.safetensors").size(), 8u << 20);  // more than one piece of work
  options.threads = 3;
  EXPECT_TRUE(one == Content(Write("three", options)));
  options.seed = 1;
  options.threads = 1;
  const auto other = Content(Write("other", options));
  EXPECT_TRUE(one.at("model_mtp.safetensors") != other.at("model_mtp.safetensors"));
  EXPECT_EQ(one.at("config.json"), other.at("config.json"));
}

// Rows of one chunk, as the quantizer saw them: one code of magnitude 448 per 128 x 128 cell, no NaN.
void ExpectOneSaturatedCodePerCell(const std::vector<std::vector<uint8_t>>& rows) {
  for (size_t top = 0; top < rows.size(); top += 128) {
    for (size_t left = 0; left < rows[0].size(); left += 128) {
      int saturated = 0;
      int nans = 0;
      for (size_t r = top; r < std::min(top + 128, rows.size()); ++r) {
        for (size_t c = left; c < std::min(left + 128, rows[0].size()); ++c) {
          nans += (rows[r][c] & 0x7F) == 0x7F ? 1 : 0;
          saturated += (rows[r][c] & 0x7F) == 0x7E ? 1 : 0;
        }
      }
      EXPECT_EQ(nans, 0);
      EXPECT_EQ(saturated, 1) << "cell at " << top << ", " << left;
    }
  }
}

TEST_F(SynthData, EveryCellOfTheChunkGridIsSaturatedOnce) {
  const auto arrays = Arrays(Write("split", Small("mimo-v2-flash")));
  for (int layer : {0, 1}) {
    const std::string stem = "model.layers." + std::to_string(layer) + ".self_attn.";
    std::vector<const Array*> parts;
    for (const char* part : {"q_proj", "k_proj", "v_proj"}) parts.push_back(&arrays.at(stem + part + ".weight"));
    for (int64_t chunk = 0; chunk < 4; ++chunk) {
      std::vector<std::vector<uint8_t>> rows;
      for (const Array* part : parts) {
        const int64_t per_chunk = part->shape[0] / 4;
        for (int64_t row = chunk * per_chunk; row < (chunk + 1) * per_chunk; ++row) {
          rows.emplace_back();
          for (int64_t col = 0; col < part->shape[1]; ++col) rows.back().push_back(part->at(row, col));
        }
      }
      EXPECT_EQ(rows.size(), layer == 0 ? 3392u : 3712u);
      ExpectOneSaturatedCodePerCell(rows);
    }
  }
  const auto fused_arrays = Arrays(Write("fused", Small("mimo-v2.5")));
  const Array& fused = fused_arrays.at("model.layers.0.self_attn.qkv_proj.weight");
  for (int64_t chunk = 0; chunk < 4; ++chunk) {
    std::vector<std::vector<uint8_t>> rows;
    for (int64_t row = chunk * 3392; row < (chunk + 1) * 3392; ++row) {
      rows.emplace_back();
      for (int64_t col = 0; col < fused.shape[1]; ++col) rows.back().push_back(fused.at(row, col));
    }
    ExpectOneSaturatedCodePerCell(rows);
  }
}

TEST_F(SynthData, ScalesOfQueryKeyAndValueDifferInMagnitudeAndPerCell) {
  const auto arrays = Arrays(Write("split", Small("mimo-v2-flash")));
  auto scales = [&](const std::string& part) {
    const std::string& bytes = arrays.at("model.layers.0.self_attn." + part + ".weight_scale_inv").bytes;
    std::vector<float> values(bytes.size() / 4);
    std::memcpy(values.data(), bytes.data(), bytes.size());
    std::sort(values.begin(), values.end());
    EXPECT_EQ(std::adjacent_find(values.begin(), values.end()), values.end()) << part;
    return values;
  };
  const auto q = scales("q_proj");
  const auto k = scales("k_proj");
  const auto v = scales("v_proj");
  EXPECT_GT(v.front(), 0.0f);
  EXPECT_LE(v.back(), q.front());
  EXPECT_LE(q.back(), k.front());
}

TEST_F(SynthData, SparseFilesHaveTheSameHeadersAndIndex) {
  SynthOptions options = Small("mimo-v2.5");
  const auto full = Content(Write("full", options));
  options.sparse = true;
  const auto sparse = Content(Write("sparse", options));
  ASSERT_EQ(full.size(), sparse.size());
  for (const auto& [name, content] : full) {
    ASSERT_EQ(content.size(), sparse.at(name).size()) << name;
    if (!name.ends_with(".safetensors")) {
      EXPECT_EQ(content, sparse.at(name));
      continue;
    }
    uint64_t length = 0;
    std::memcpy(&length, content.data(), 8);
    EXPECT_EQ(content.substr(0, 8 + length), sparse.at(name).substr(0, 8 + length));
    EXPECT_EQ(sparse.at(name).find_first_not_of('\0', 8 + length), std::string::npos);
  }
}

TEST_F(SynthData, IndexAndConfigDescribeWhatIsThere) {
  SynthOptions options = Small("mimo-v2.6-flash");
  options.layers = 6;
  options.mtp = false;
  const std::string directory = Write("out", options);
  const auto content = Content(directory);
  const auto arrays = Arrays(directory);
  const auto index = nlohmann::json::parse(content.at("model.safetensors.index.json"));
  uint64_t total = 0;
  for (const auto& [name, array] : arrays) {
    total += array.bytes.size();
    EXPECT_TRUE(index["weight_map"].contains(name)) << name;
  }
  EXPECT_EQ(index["weight_map"].size(), arrays.size());
  EXPECT_EQ(index["metadata"]["total_size"], total);
  EXPECT_EQ(index["metadata"]["tp_size"], 4);
  const auto config = nlohmann::json::parse(content.at("config.json"));
  EXPECT_EQ(config["hybrid_layer_pattern"], nlohmann::json({0, 1, 1, 1, 1, 0}));
  EXPECT_EQ(config["moe_layer_freq"], nlohmann::json({0, 1, 1, 1, 1, 1}));
  EXPECT_EQ(config["num_experts_per_tok"], 2);
  EXPECT_EQ(config["num_nextn_predict_layers"], 0);
  EXPECT_EQ(config["num_attention_heads"], 64);
  EXPECT_FALSE(config.contains("vision_config"));
  EXPECT_EQ(config["quantization_config"]["ignored_layers"].size(), 7u);
  EXPECT_EQ(config["quantization_config"]["ignored_layers"][5], "model.layers.5.self_attn.o_proj");
  EXPECT_FALSE(nlohmann::json::accept(content.at("dflash/config.json")));  // as released: a trailing comma
  EXPECT_TRUE(content.contains("modeling_mimo_v2.py"));
  EXPECT_TRUE(content.contains("model_pp0_ep1_shard0.safetensors"));
  EXPECT_FALSE(content.contains("model_pp0_ep2_shard0.safetensors"));  // two experts, 64 ranks
}

TEST_F(SynthData, NothingIsOverwrittenUnasked) {
  SynthOptions options = Small("mimo-v2.5");
  const std::string directory = Write("out", options);
  Result<SynthPlan> plan = PlanSynthetic(options);
  Result<SynthReport> refused = WriteSynthetic(PosixFileSystem(), plan.value(), directory);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
  options.overwrite = true;
  std::ofstream(directory + "/stale.safetensors") << "x";
  EXPECT_FALSE(Content(Write("out", options)).contains("stale.safetensors"));

  const std::string precious = (root_ / "precious").string();
  fs::create_directories(precious);
  std::ofstream(precious + "/thesis.txt") << "x";
  plan = PlanSynthetic(options);
  EXPECT_FALSE(WriteSynthetic(PosixFileSystem(), plan.value(), precious).ok());
  EXPECT_TRUE(fs::exists(precious + "/thesis.txt"));
  std::ofstream(precious + "/config.json") << "{}";  // a checkpoint that somebody else made
  EXPECT_FALSE(WriteSynthetic(PosixFileSystem(), plan.value(), precious).ok());
  EXPECT_TRUE(fs::exists(precious + "/thesis.txt"));
  EXPECT_TRUE(fs::exists(precious + "/config.json"));
}

TEST_F(SynthData, OptionsThatThePresetCannotFollowAreUsageErrors) {
  auto refused = [](auto&& change) {
    SynthOptions options = Small("mimo-v2.6-flash");
    change(options);
    Result<SynthPlan> plan = PlanSynthetic(options);
    return !plan.ok() && plan.error().code == ErrorCode::kUsage;
  };
  EXPECT_TRUE(refused([](SynthOptions& o) { o.preset = "mimo-v9"; }));
  EXPECT_TRUE(refused([](SynthOptions& o) { o.layers = 0; }));
  EXPECT_TRUE(refused([](SynthOptions& o) { o.layers = 49; }));
  EXPECT_TRUE(refused([](SynthOptions& o) { o.experts = 257; }));
  EXPECT_TRUE(refused([](SynthOptions& o) { o.hidden = 100; }));  // no whole MXFP4 block
  EXPECT_TRUE(refused([](SynthOptions& o) { o.vocab = -1; }));
  EXPECT_FALSE(refused([](SynthOptions&) {}));
}

}  // namespace
}  // namespace mimo::data_test
