// Legacy `torch` directories of many topologies, written rank by rank: what is read is the model.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>

#include "lib/base/crc32.h"
#include "lib/forms/megatron/megatron_store.h"
#include "lib/io/torch/pickle_writer.h"
#include "lib/io/torch/zip.h"
#include "tests/faults/scratch_directory.h"
#include "tests/unit/forms/megatron/megatron_model.h"

namespace mimo::megatron_legacy_test {
namespace {

using made::Scheme;
using made::Tensor;
using made::Tensors;
using made::TinyModel;

void WriteFile(const std::string& path, const std::string& content) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

struct Topology {
  int64_t tp = 1, pp = 1, ep = 1, etp = 1;
  int64_t chunks = 1;                   // per stage
  std::vector<int64_t> layers = {};     // of each (chunk, stage), in the order of the model; empty: all in one
  std::optional<int64_t> args_pp = {};  // in the saved arguments
};

// A torch.save file of {"args": Namespace, "model0": {...}, ..., "optimizer": {}}.
std::string RankFileOf(const std::vector<Tensors>& models, const Topology& t) {
  PickleWriter pickle;
  std::vector<std::string> data;
  pickle.BeginDict();
  if (t.args_pp) {
    pickle.String("args");
    pickle.NewObject(*FindTorchGlobal("argparse", "Namespace"));
    pickle.BeginDict();
    pickle.String("pipeline_model_parallel_size");
    pickle.Int(*t.args_pp);
    pickle.EndDict();
    pickle.Op(PickleOp::kBuild);
  }
  pickle.String("iteration");
  pickle.Int(7);
  for (size_t i = 0; i < models.size(); ++i) {
    pickle.String(models.size() == 1 ? "model" : "model" + std::to_string(i));
    pickle.BeginDict();
    pickle.String("decoder.layers.0.self_attention.linear_qkv._extra_state");
    pickle.None();
    for (const auto& [name, tensor] : models[i]) {
      pickle.String(name);
      pickle.Tensor(DType::kF32, tensor.shape, std::to_string(data.size()));
      std::string bytes;
      for (const int32_t v : tensor.values) {
        const auto f = static_cast<float>(v);
        bytes.append(reinterpret_cast<const char*>(&f), sizeof f);
      }
      data.push_back(bytes);
    }
    pickle.EndDict();
  }
  pickle.String("optimizer");
  pickle.Op(PickleOp::kEmptyDict);
  pickle.EndDict();
  ZipFrame zip;
  zip.Add("model_optim_rng/data.pkl", pickle.Finish());
  zip.Add("model_optim_rng/byteorder", "little");
  for (size_t i = 0; i < data.size(); ++i) zip.Add("model_optim_rng/data/" + std::to_string(i), data[i]);
  zip.Add("model_optim_rng/version", "3\n");
  return zip.Finish().head;
}

std::string Number(int64_t n, size_t digits) {
  std::string text = std::to_string(n);
  return std::string(digits - std::min(digits, text.size()), '0') + text;
}

class Legacy : public ::testing::Test {
 protected:
  // The share of rank (tp, etp) in a tensor of one expert or of none.
  Tensor Share(const std::string& name, const Tensor& t, const Topology& p, int64_t tp) const {
    const bool expert = name.find("experts") != std::string::npos;
    const int64_t parts = expert ? p.etp : p.tp, r = expert ? tp % p.etp : tp;
    const auto rows = [&](int64_t begin, int64_t n) {
      std::vector<int64_t> offsets(t.shape.size(), 0), sizes = t.shape;
      offsets[0] = begin;
      sizes[0] = n;
      return made::Slice(t, offsets, sizes);
    };
    if (name.ends_with("softmax_offset")) return rows(t.shape[0] / parts * r, t.shape[0] / parts);
    if (t.shape.size() < 2 || name.find("router") != std::string::npos) return t;
    if (name.find("linear_fc1.weight") != std::string::npos) {
      const int64_t half = t.shape[0] / 2, each = half / parts;
      return made::Joined({rows(r * each, each), rows(half + r * each, each)});
    }
    if (name.find("linear_fc2") != std::string::npos || name.ends_with("linear_proj.weight")) {
      const int64_t each = t.shape[1] / parts;
      return made::Slice(t, {0, r * each}, {t.shape[0], each});
    }
    return rows(t.shape[0] / parts * r, t.shape[0] / parts);
  }

  // What model chunk `chunk` of stage `stage` holds on a rank, under local numbers.
  Tensors Part(const Tensors& all, const Topology& p, int64_t chunk, int64_t stage, int64_t tp, int64_t ep) const {
    const bool first = chunk == 0 && stage == 0, last = chunk == p.chunks - 1 && stage == p.pp - 1;
    const auto index = static_cast<size_t>(chunk * p.pp + stage);
    int64_t begin = 0, count = static_cast<int64_t>(model_.windowed.size());
    if (!p.layers.empty()) {
      for (size_t i = 0; i < index; ++i) begin += p.layers[i];
      count = p.layers[index];
    }
    Tensors part;
    for (const auto& [name, tensor] : all) {
      std::string local = name;
      constexpr std::string_view kDecoder = "decoder.layers.";
      if (name.starts_with(kDecoder)) {
        const int64_t layer = std::stoll(name.substr(kDecoder.size()));
        if (layer < begin || layer >= begin + count) continue;
        local.replace(kDecoder.size(), std::to_string(layer).size(), std::to_string(layer - begin));
      } else if (name.starts_with("embedding")) {
        if (!first && !(last && model_.mtp > 0)) continue;  // MTP has a copy
      } else if (!last) {
        continue;
      }
      if (const size_t at = local.find(".weight"); name.find("experts.") != std::string::npos) {
        const int64_t e = std::stoll(local.substr(at + 7)), each = made::kExperts / p.ep;
        if (e / each != ep) continue;
        local.replace(at + 7, std::string::npos, std::to_string(e % each));
      }
      part[local] = Share(name, tensor, p, tp);
    }
    return part;
  }

  // ranks of one stage: tp = etp-major as in target-layouts.md 1.6 (g counts over max of both groups).
  void Write(const Topology& p) {
    std::filesystem::remove_all(directory_.path());
    WriteFile(File("config.json"), made::ConfigOf(model_));
    WriteFile(File("latest_checkpointed_iteration.txt"), "7\n");
    const Tensors all = made::Megatron(model_, Scheme{.inner = "mtp_model_layer", .experts = "experts.FC.weight{e}"});
    const int64_t ranks = std::max(p.tp, p.etp * p.ep);
    for (int64_t stage = 0; stage < p.pp; ++stage)
      for (int64_t g = 0; g < ranks; ++g) {
        const int64_t tp = g % p.tp, ep = g / p.etp % p.ep;
        std::vector<Tensors> models;
        for (int64_t chunk = 0; chunk < p.chunks; ++chunk) models.push_back(Part(all, p, chunk, stage, tp, ep));
        std::string name = "mp_rank_" + Number(tp, 2);
        if (p.pp > 1) name += "_" + Number(stage, 3);
        if (p.ep > 1) name += "_" + Number(ep, 3);
        WriteFile(File("iter_0000007/" + name + "/model_optim_rng.pt"), RankFileOf(models, p));
      }
  }

  std::string File(const std::string& name) const { return directory_.File(name); }

  Result<MegatronStore> Open() const {
    FileSystem& fs = PosixFileSystem();
    MIMO_ASSIGN_OR_RETURN(const auto place, FindMegatron(fs, directory_.path()));
    EXPECT_TRUE(place.has_value());
    EXPECT_EQ(place->format, FormKind::kTorch);
    EXPECT_EQ(place->directory, "iter_0000007");
    return OpenMegatron(fs, directory_.path(), *place, nullptr);
  }

  int32_t ValueAt(const MegatronStore& store, uint32_t array, int64_t row, int64_t col) const {
    const StoredArray& a = store.stored.arrays[array];
    const std::string path = JoinPath(store.stored.root, store.stored.files[a.file].name);
    std::ifstream file(path, std::ios::binary);
    float value = -1;
    file.seekg(static_cast<std::streamoff>(a.begin) + (row * a.shape.back() + col) * 4);
    file.read(reinterpret_cast<char*>(&value), sizeof value);
    return static_cast<int32_t>(value);
  }

  void ExpectModel(const Topology& p) {
    Write(p);
    auto store = Open();
    ASSERT_TRUE(store.ok()) << store.error().Message();
    auto view = ViewOfMegatron(*store);
    ASSERT_TRUE(view.ok()) << view.error().Message();
    // Whole arrays, once each.
    std::map<uint32_t, std::vector<int32_t>> values;
    for (uint32_t i = 0; i < store->stored.arrays.size(); ++i) {
      const StoredArray& a = store->stored.arrays[i];
      std::ifstream file(JoinPath(store->stored.root, store->stored.files[a.file].name), std::ios::binary);
      std::vector<float> read(a.bytes / 4);
      file.seekg(static_cast<std::streamoff>(a.begin));
      file.read(reinterpret_cast<char*>(read.data()), static_cast<std::streamsize>(a.bytes));
      values[i].assign(read.begin(), read.end());
    }
    const auto value = [&](uint32_t array, int64_t row, int64_t col) {
      const int64_t cols = store->stored.arrays[array].shape.back();
      return values.at(array).at(static_cast<size_t>(row * cols + col));
    };
    made::ExpectShown(*view, model_, value);
    // Replicas hold the same, and are parts that the view does not read.
    for (const Replica& r : view->replicas) {
      EXPECT_EQ(values.at(r.first), values.at(r.second));
      EXPECT_NE(r.first, r.second);
    }
    replicas_ = view->replicas.size();
    size_t read = 0;
    for (const auto& tensor : store->tensors) {
      std::vector<uint32_t> arrays;
      for (const MegatronChunk& chunk : tensor.chunks) arrays.push_back(chunk.array);
      std::sort(arrays.begin(), arrays.end());
      read += static_cast<size_t>(std::unique(arrays.begin(), arrays.end()) - arrays.begin());
    }
    EXPECT_EQ(read + replicas_, store->stored.arrays.size());
    EXPECT_EQ(std::count(store->skipped.begin(), store->skipped.end(), "optimizer"), 1);
  }

  const TinyModel model_{};
  ScratchDirectory directory_;
  size_t replicas_ = 0;
};

TEST_F(Legacy, OneRank) {
  ExpectModel({});
  EXPECT_EQ(replicas_, 0u);
}

TEST_F(Legacy, TensorRanks) {
  ExpectModel({.tp = 2, .etp = 2});
  EXPECT_GT(replicas_, 0u);
}

TEST_F(Legacy, ExpertRanks) {
  ExpectModel({.ep = 2, .args_pp = 1});
  ExpectModel({.ep = 4});
  ExpectModel({.tp = 2, .ep = 2, .etp = 2, .args_pp = 1});
}

TEST_F(Legacy, StoragesHaveTheirChecksumsAndPicklesAreCompared) {
  Write({.tp = 2, .etp = 2});
  auto store = Open();
  ASSERT_TRUE(store.ok()) << store.error().Message();
  EXPECT_EQ(store->stored.items.size(), store->stored.arrays.size());
  for (const StoredArray& a : store->stored.arrays) {
    const StoredItem& item = store->stored.items.at(a.item);
    std::ifstream file(JoinPath(store->stored.root, store->stored.files[a.file].name), std::ios::binary);
    std::string bytes(a.bytes, '\0');
    file.seekg(static_cast<std::streamoff>(a.begin));
    file.read(bytes.data(), static_cast<std::streamsize>(a.bytes));
    EXPECT_EQ(item.begin, a.begin);
    EXPECT_EQ(item.crc, Crc32(std::as_bytes(std::span(bytes)))) << a.name;
  }
  const std::string path = File("iter_0000007/mp_rank_01/model_optim_rng.pt");
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  std::string start(4096, '\0');
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  const size_t name = start.find("linear_qkv.weight");  // in the pickle: another weight would be missing, or unknown
  ASSERT_NE(name, std::string::npos);
  file.seekp(static_cast<std::streamoff>(name));
  file.put('m');
  file.close();
  auto damaged = Open();
  ASSERT_FALSE(damaged.ok());
  EXPECT_NE(damaged.error().Message().find("data.pkl is damaged"), std::string::npos) << damaged.error().Message();
}

// ETP below TP: not every pair of numbers has a rank, and experts have replicas.
TEST_F(Legacy, ExpertTensorRanksBelowTensorRanks) {
  ExpectModel({.tp = 2, .ep = 2, .etp = 1});
  ExpectModel({.tp = 2, .ep = 1, .etp = 1});
  ExpectModel({.tp = 2, .ep = 4, .etp = 1, .args_pp = 1});
}

// Two numbers are of pipeline stages or of experts.
TEST_F(Legacy, Stages) {
  ExpectModel({.pp = 2, .layers = {1, 3}, .args_pp = 2});
  ExpectModel({.pp = 2, .layers = {3, 1}});
  ExpectModel({.pp = 3, .layers = {2, 2, 0}});  // a last stage of MTP and the loss alone
  EXPECT_GT(replicas_, 0u);                     // the embedding of the last stage
  ExpectModel({.tp = 2, .pp = 2, .ep = 2, .etp = 2, .layers = {2, 2}, .args_pp = 2});
}

TEST_F(Legacy, VirtualStagesFollowByChunkThenStage) {
  ExpectModel({.pp = 2, .chunks = 2, .layers = {1, 1, 1, 1}});
  ExpectModel({.pp = 2, .chunks = 2, .layers = {0, 2, 1, 1}, .args_pp = 2});
  ExpectModel({.tp = 2, .pp = 2, .ep = 2, .etp = 1, .chunks = 2, .layers = {2, 1, 0, 1}, .args_pp = 2});
}

TEST_F(Legacy, MissingRanks) {
  struct Case {
    Topology topology;
    const char* missing;
  };
  for (const Case& c :
       {Case{{.tp = 2, .etp = 2}, "mp_rank_00"}, Case{{.tp = 2, .etp = 2}, "mp_rank_01"},
        Case{{.pp = 2, .layers = {2, 2}, .args_pp = 2}, "mp_rank_00_000"},
        Case{{.pp = 2, .layers = {2, 2}, .args_pp = 2}, "mp_rank_00_001"},
        Case{{.ep = 4, .args_pp = 1}, "mp_rank_00_002"}, Case{{.ep = 4, .args_pp = 1}, "mp_rank_00_003"},
        Case{{.tp = 2, .ep = 2, .etp = 2, .args_pp = 1}, "mp_rank_01_001"}}) {
    Write(c.topology);
    SCOPED_TRACE(c.missing);
    ASSERT_GT(std::filesystem::remove_all(File(std::string("iter_0000007/") + c.missing)), 0u);
    auto store = Open();
    if (!store.ok()) continue;
    auto view = ViewOfMegatron(*store);
    EXPECT_FALSE(view.ok() && TakeInventory(view->catalogue).ok());
  }
}

TEST_F(Legacy, DirectoriesOfOtherNames) {
  for (const char* name : {"mp_rank_x", "mp_rank_", "mp_rank_00_000", "mp_rank_-1", "mp_rank_00x", "mp_rank_99999999",
                           "mp_rank_01_002_003_004"}) {
    Write({});
    std::filesystem::copy(File("iter_0000007/mp_rank_00"), File(std::string("iter_0000007/") + name));
    EXPECT_FALSE(Open().ok()) << name;
  }
  Write({});
  std::filesystem::remove(File("iter_0000007/mp_rank_00/model_optim_rng.pt"));
  EXPECT_FALSE(Open().ok());
}

TEST_F(Legacy, RanksThatDisagree) {
  Write({.tp = 2, .etp = 2});
  const Tensors all = made::Megatron(model_, Scheme{.experts = "experts.FC.weight{e}"});
  Tensors part = Part(all, {.tp = 2, .etp = 2}, 0, 0, 1, 0);
  const auto refused = [&](const Tensors& tensors) {
    WriteFile(File("iter_0000007/mp_rank_01/model_optim_rng.pt"), RankFileOf({tensors}, {}));
    EXPECT_FALSE(Open().ok());
  };
  Tensors changed = part;
  changed["decoder.layers.0.self_attention.linear_proj.weight"] = {{8, 4}, std::vector<int32_t>(32, 1)};
  refused(changed);
  changed = part;
  changed.erase("output_layer.weight");
  refused(changed);
  changed = part;
  changed["decoder.layers.0.self_attention.linear_proj.bias"] = {{8}, std::vector<int32_t>(8, 1)};
  refused(changed);
}

// Numbers beyond the model are refused, however large.
TEST_F(Legacy, NumbersBeyondTheConfig) {
  for (const char* name : {"decoder.layers.4.mlp.router.weight", "decoder.layers.2147483647.mlp.router.weight",
                           "decoder.layers.1.mlp.experts.linear_fc2.weight4",
                           "decoder.layers.1.mlp.experts.linear_fc2.weight2147483647"}) {
    Write({});
    Tensors all = made::Megatron(model_, Scheme{.experts = "experts.FC.weight{e}"});
    const bool router = std::string(name).find("router") != std::string::npos;
    all[name] = router ? Tensor{{4, 8}, std::vector<int32_t>(32, 1)} : Tensor{{8, 4}, std::vector<int32_t>(32, 1)};
    WriteFile(File("iter_0000007/mp_rank_00/model_optim_rng.pt"), RankFileOf({all}, {}));
    EXPECT_FALSE(Open().ok()) << name;
  }
}

// A sequential MoE names each of its experts.
TEST_F(Legacy, LocalExperts) {
  Write({});
  const Tensors all = made::Megatron(model_, Scheme{.experts = "experts.local_experts.{e}.FC.weight"});
  WriteFile(File("iter_0000007/mp_rank_00/model_optim_rng.pt"), RankFileOf({all}, {}));
  auto store = Open();
  ASSERT_TRUE(store.ok()) << store.error().Message();
  auto view = ViewOfMegatron(*store);
  ASSERT_TRUE(view.ok()) << view.error().Message();
  EXPECT_TRUE(TakeInventory(view->catalogue).ok());
  const uint32_t up = view->catalogue.by_name.at("model.layers.2.mlp.experts.3.up_proj.weight");
  const Fragment& f = view->fragments[up].at(0);
  EXPECT_EQ(ValueAt(*store, f.array, f.stored_row, 0),
            made::HuggingFace(model_).at("model.layers.2.mlp.experts.3.up_proj.weight").values[0]);
}

}  // namespace
}  // namespace mimo::megatron_legacy_test
