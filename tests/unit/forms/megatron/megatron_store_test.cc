// Directories that Megatron saved: found, refused while they are half-written, and read whatever their chunks.
#include "lib/forms/megatron/megatron_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/io/torch/dcp_metadata.h"
#include "lib/io/torch/item.h"
#include "lib/model/family.h"
#include "tests/faults/scratch_directory.h"
#include "tests/unit/forms/megatron/megatron_model.h"

namespace mimo::megatron_store_test {
namespace {

using made::Scheme;
using made::Tensor;
using made::Tensors;
using made::TinyModel;

constexpr char kJson[] = R"({"sharded_backend": "torch_dist", "sharded_backend_version": 1})";

FileSystem& Disk() {
  return PosixFileSystem();
}

class Store : public ::testing::Test {
 protected:
  std::string File(const std::string& name) const { return directory_.File(name); }
  void Write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories(std::filesystem::path(File(name)).parent_path());
    std::ofstream(File(name), std::ios::binary) << content;
  }
  void Remove(const std::string& name) const { EXPECT_GT(std::filesystem::remove_all(File(name)), 0u) << name; }

  // Every tensor in two chunks along its first axis, in two files, with an optimizer and extra states.
  void Save(const std::string& directory, const Scheme& scheme, bool json = true) {
    std::string files[2];
    DcpMetadata metadata;
    const auto add = [&](const std::string& key, const Tensor& t) {
      DcpTensor tensor{key, DType::kF32, t.shape, {}};
      const int64_t half = (t.shape[0] + 1) / 2;
      for (int64_t part = 0; part < (t.shape[0] > 1 ? 2 : 1); ++part) {
        std::vector<int64_t> offsets(t.shape.size(), 0), sizes = t.shape;
        offsets[0] = part * half;
        sizes[0] = part == 0 ? half : t.shape[0] - half;
        const Tensor slice = made::Slice(t, offsets, sizes);
        std::string& file = files[part];
        const TorchItemFrame frame = FrameOfTorchItem(DType::kF32, sizes, 0);
        const uint64_t begin = file.size();
        file += frame.head;
        for (const int32_t v : slice.values) {
          const auto f = static_cast<float>(v);
          file.append(reinterpret_cast<const char*>(&f), sizeof f);
        }
        file += frame.tail;
        tensor.chunks.push_back(
            {offsets, sizes, {part == 0 ? "__0_0.distcp" : "__1_0.distcp", begin, file.size() - begin}});
      }
      metadata.tensors.push_back(tensor);
    };
    for (const auto& [key, t] : made::Megatron(model_, scheme)) add(key, t);
    add("optimizer.state.exp_avg." + scheme.prefix + "output_layer.weight", {{2, 3}, {1, 2, 3, 4, 5, 6}});
    const std::string state = EmptyExtraStateItem();
    metadata.bytes.push_back({"decoder.layers.0.self_attention.linear_qkv._extra_state/shard_0_1",
                              {"__0_0.distcp", files[0].size(), state.size()}});
    files[0] += state;
    metadata.bytes.push_back({"rng_state/shard_0_1", {"__0_0.distcp", files[0].size() - state.size(), state.size()}});
    Write(directory + "/__0_0.distcp", files[0]);
    Write(directory + "/__1_0.distcp", files[1]);
    Write(directory + "/.metadata", WriteDcpMetadata(metadata));
    if (json) Write(directory + "/metadata.json", kJson);
    Write(directory + "/common.pt", "x");
  }
  void SaveRoot() {
    Write("config.json", made::ConfigOf(model_));
    Write("tokenizer.json", "{}");
    Write("latest_checkpointed_iteration.txt", "5");
    Save("iter_0000005", {});
  }

  MegatronPlace Found(const std::string& root) {
    const auto place = FindMegatron(Disk(), root);
    EXPECT_TRUE(place.ok()) << place.error().Message();
    EXPECT_TRUE(place.ok() && place.value());
    return place.ok() && place.value() ? *place.value() : MegatronPlace();
  }
  std::string Refused(const std::string& root) {
    const auto place = FindMegatron(Disk(), root);
    EXPECT_FALSE(place.ok());
    if (place.ok()) return "";
    EXPECT_EQ(place.error().code, ErrorCode::kBadInput);
    return place.error().Message();
  }
  bool Nothing(const std::string& root) {
    const auto place = FindMegatron(Disk(), root);
    return place.ok() && !place.value();
  }

  void ExpectModel(const std::string& root, const Catalogue* like = nullptr) {
    const MegatronPlace place = Found(root);
    auto store = OpenMegatron(Disk(), root, place, like);
    ASSERT_TRUE(store.ok()) << store.error().Message();
    auto view = ViewOfMegatron(*store);
    ASSERT_TRUE(view.ok()) << view.error().Message();
    std::vector<std::vector<float>> values;
    for (const StoredArray& a : store->stored.arrays) {
      std::ifstream file(store->stored.PathOf(store->stored.files[a.file]), std::ios::binary);
      values.emplace_back(a.bytes / 4);
      file.seekg(static_cast<std::streamoff>(a.begin));
      file.read(reinterpret_cast<char*>(values.back().data()), static_cast<std::streamsize>(a.bytes));
    }
    made::ExpectShown(*view, model_, [&](uint32_t array, int64_t row, int64_t col) {
      const int64_t cols = store->stored.arrays[array].shape.back();
      return static_cast<int32_t>(values.at(array).at(static_cast<size_t>(row * cols + col)));
    });
    // Skipped are training states, and they alone.
    for (const std::string& key : store->skipped) EXPECT_TRUE(IsTrainingState(key)) << key;
    EXPECT_FALSE(store->skipped.empty());
    carried_.clear();
    for (const CarriedFile& file : store->stored.carried) carried_.push_back(file.name);
  }

  const TinyModel model_{};
  ScratchDirectory directory_;
  std::vector<std::string> carried_;
};

TEST_F(Store, RootsIterationsAndReleases) {
  SaveRoot();
  const std::string root = directory_.path();
  EXPECT_EQ(Found(root).directory, "iter_0000005");
  EXPECT_EQ(Found(root).format, FormKind::kTorchDist);
  ExpectModel(root);
  EXPECT_EQ(carried_, std::vector<std::string>{"tokenizer.json"});
  // The iteration itself, however it is spelled.
  for (const char* name : {"iter_0000005", "iter_0000005/", "iter_0000005//", "iter_0000005/."}) {
    SCOPED_TRACE(name);
    EXPECT_EQ(Found(File(name)).directory, "");
    ExpectModel(File(name));
    EXPECT_EQ(carried_, std::vector<std::string>{"tokenizer.json"});
  }
  const auto here = std::filesystem::current_path();
  std::filesystem::current_path(File("iter_0000005"));
  ExpectModel(".");
  std::filesystem::current_path(root);
  ExpectModel(".");
  ExpectModel("iter_0000005");
  ExpectModel("./iter_0000005");
  std::filesystem::current_path(here);
  // A link beside it.
  std::filesystem::create_symlink("iter_0000005", File("newest"));
  ExpectModel(File("newest"));
  Remove("newest");
  Write("latest_checkpointed_iteration.txt", "release\n");
  std::filesystem::rename(File("iter_0000005"), File("release"));
  EXPECT_EQ(Found(root).directory, "release");
  ExpectModel(root);
}

TEST_F(Store, TheTrackerChoosesAmongIterations) {
  SaveRoot();
  Save("iter_0000010", {});
  EXPECT_EQ(Found(directory_.path()).directory, "iter_0000005");
  for (const char* text : {"10", "10\n", "10\r\n", "0000010"}) {
    Write("latest_checkpointed_iteration.txt", text);
    EXPECT_EQ(Found(directory_.path()).directory, "iter_0000010");
  }
  std::filesystem::create_directories(File("iter_12345678"));
  Write("iter_12345678/mp_rank_00/x", "");
  Write("latest_checkpointed_iteration.txt", "12345678");
  EXPECT_EQ(Found(directory_.path()).directory, "iter_12345678");
  EXPECT_EQ(Found(directory_.path()).format, FormKind::kTorch);
}

TEST_F(Store, TheTrackerOfBridge) {
  SaveRoot();
  Remove("latest_checkpointed_iteration.txt");
  TorchTensor step;
  step.dtype = DType::kI64;
  step.storage = "0";
  const auto state = [&](const char* key, std::string bytes) {
    const TorchValue::Dict dict = {{TorchValue{std::string(key)}, TorchValue{step}}};
    Write("latest_train_state.pt", TorchSaveFile(TorchValue{dict}, "latest_train_state", {std::move(bytes)}));
  };
  state("step", std::string("\5\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(Found(directory_.path()).directory, "iter_0000005");
  ExpectModel(directory_.path());
  state("step", std::string("\6\0\0\0\0\0\0\0", 8));
  Refused(directory_.path());
  state("step", std::string(8, '\xFF'));
  Refused(directory_.path());
  state("steps", std::string("\5\0\0\0\0\0\0\0", 8));
  Refused(directory_.path());
  Write("latest_train_state.pt", "");
  Refused(directory_.path());
}

TEST_F(Store, TrackersThatNameNothing) {
  SaveRoot();
  for (const char* text : {"", "\n", "x", "-1", "5 6", "5.0", "iter_0000005", "99999999999999999999", "6", "release",
                           "../iter_0000005", "+5"}) {
    Write("latest_checkpointed_iteration.txt", text);
    EXPECT_FALSE(FindMegatron(Disk(), directory_.path()).ok()) << text;
  }
}

TEST_F(Store, HalfWrittenSaves) {
  SaveRoot();
  const std::string root = directory_.path(), iteration = File("iter_0000005");
  // metadata.json is the last of an iteration, the tracker the last of all.
  Remove("latest_checkpointed_iteration.txt");
  EXPECT_NE(Refused(root).find("tracker"), std::string::npos);
  Write("latest_checkpointed_iteration.txt", "5");
  Remove("iter_0000005/metadata.json");
  EXPECT_EQ(Found(root).format, FormKind::kDcp);
  const auto opened = OpenMegatron(Disk(), root, Found(root), nullptr);
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().Message().find("metadata.json"), std::string::npos);
  Write("iter_0000005/metadata.json", kJson);
  Remove("iter_0000005/.metadata");
  Refused(root);
  Refused(iteration);
  Remove("iter_0000005/metadata.json");
  Refused(root);
  Refused(iteration);
  Remove("iter_0000005/__0_0.distcp");
  Refused(root);
  Remove("iter_0000005/__1_0.distcp");
  EXPECT_NE(Refused(root).find("not complete"), std::string::npos);
  EXPECT_TRUE(Nothing(iteration));
  Remove("iter_0000005");
  EXPECT_NE(Refused(root).find("not there"), std::string::npos);
  Write("iter_0000005", "a file");
  EXPECT_FALSE(FindMegatron(Disk(), root).ok());
}

TEST_F(Store, BackEndsOfOtherKinds) {
  SaveRoot();
  Write("iter_0000005/metadata.json", R"({"sharded_backend": "zarr", "sharded_backend_version": 1})");
  EXPECT_NE(Refused(directory_.path()).find("zarr"), std::string::npos);
  for (const char* text : {"", "{}", "[1]", R"({"sharded_backend": )"}) {  // cut off, or of another tool
    Write("iter_0000005/metadata.json", text);
    EXPECT_FALSE(OpenMegatron(Disk(), directory_.path(), Found(directory_.path()), nullptr).ok()) << text;
  }
}

TEST_F(Store, OtherDirectoriesAreNone) {
  EXPECT_TRUE(Nothing(directory_.path()));
  EXPECT_TRUE(Nothing(File("absent")));
  Write("config.json", "{}");
  Write("model.safetensors", "");
  EXPECT_TRUE(Nothing(directory_.path()));
  EXPECT_TRUE(Nothing(File("config.json")));
}

TEST_F(Store, FsdpDirectories) {
  Write("config.json", made::ConfigOf(model_));
  const Scheme scheme{
      .prefix = "model.module.", .inner = "mtp_model_layer", .halves = true, .experts = "experts.FC.weight{e}"};
  Save(".", scheme, false);
  EXPECT_EQ(Found(directory_.path()).format, FormKind::kDcp);
  ExpectModel(directory_.path());
  EXPECT_TRUE(carried_.empty());
}

TEST_F(Store, ConfigOfAnother) {
  SaveRoot();
  Catalogue like;
  like.config.family = Family::Get("mimo_v2").value();
  auto config = ParseModelConfig(made::ConfigOf(model_), "/elsewhere/config.json");
  ASSERT_TRUE(config.ok());
  like.config = *config;
  like.table = ModelTable::Get("mimo_v2").value();
  Remove("config.json");
  const MegatronPlace place = Found(directory_.path());
  const auto without = OpenMegatron(Disk(), directory_.path(), place, nullptr);
  ASSERT_FALSE(without.ok());
  EXPECT_NE(without.error().Message().find("--like"), std::string::npos);
  ExpectModel(directory_.path(), &like);
  EXPECT_TRUE(carried_.empty());
  ExpectModel(File("iter_0000005"), &like);
}

TEST_F(Store, FilesThatAreNotWhatTheMetadataSays) {
  SaveRoot();
  const auto opens = [&] {
    return OpenMegatron(Disk(), directory_.path(), {"iter_0000005", FormKind::kTorchDist}, nullptr).ok();
  };
  ASSERT_TRUE(opens());
  const std::string path = File("iter_0000005/__1_0.distcp");
  std::string bytes;
  {
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }
  Write("iter_0000005/__1_0.distcp", bytes.substr(0, bytes.size() / 2));
  EXPECT_FALSE(opens());
  Write("iter_0000005/__1_0.distcp", bytes.substr(1) + "x");
  EXPECT_FALSE(opens());
  Write("iter_0000005/__1_0.distcp", bytes + "more");
  EXPECT_TRUE(opens());
  Remove("iter_0000005/__1_0.distcp");
  EXPECT_FALSE(opens());
  // An item of another dtype or shape.
  for (const bool dtype : {false, true}) {
    DcpMetadata metadata;
    const std::vector<int64_t> shape = {2, 4};
    const TorchItemFrame frame =
        FrameOfTorchItem(dtype ? DType::kBF16 : DType::kF32, dtype ? shape : std::vector<int64_t>{4, 2}, 0);
    const std::string item = frame.head + std::string(dtype ? 16 : 32, '\0') + frame.tail;
    metadata.tensors.push_back(
        {"output_layer.weight", DType::kF32, shape, {{{0, 0}, shape, {"__0_0.distcp", 0, item.size()}}}});
    Write("iter_0000005/__0_0.distcp", item);
    Write("iter_0000005/.metadata", WriteDcpMetadata(metadata));
    const auto opened = OpenMegatron(Disk(), directory_.path(), {"iter_0000005", FormKind::kTorchDist}, nullptr);
    ASSERT_FALSE(opened.ok());
    EXPECT_NE(opened.error().Message().find("another tensor"), std::string::npos);
  }
}

// .metadata has no checksum: a part that was moved to another's place is found by that.
TEST_F(Store, PartsThatShareAnItem) {
  SaveRoot();
  const std::string path = File("iter_0000005/.metadata");
  std::string pickle;
  {
    std::ifstream file(path, std::ios::binary);
    pickle.assign(std::istreambuf_iterator<char>(file), {});
  }
  auto metadata = ReadDcpMetadata(pickle, path);
  ASSERT_TRUE(metadata.ok());
  DcpTensor& a = metadata->tensors[0];
  for (DcpTensor& b : metadata->tensors) {
    if (b.key == a.key || b.shape != a.shape) continue;
    b.chunks[0].range = a.chunks[0].range;
    Write("iter_0000005/.metadata", WriteDcpMetadata(*metadata));
    const auto opened = OpenMegatron(Disk(), directory_.path(), {"iter_0000005", FormKind::kTorchDist}, nullptr);
    ASSERT_FALSE(opened.ok());
    EXPECT_NE(opened.error().Message().find("overlap"), std::string::npos) << opened.error().Message();
    return;
  }
  FAIL() << "no two tensors of one shape";
}

TEST_F(Store, EveryArrayHasItsItem) {
  SaveRoot();
  auto store = OpenMegatron(Disk(), directory_.path(), {"iter_0000005", FormKind::kTorchDist}, nullptr);
  ASSERT_TRUE(store.ok()) << store.error().Message();
  const Catalogue& stored = store->stored;
  EXPECT_EQ(stored.items.size(), stored.arrays.size());
  for (size_t i = 1; i < stored.items.size(); ++i)
    EXPECT_LT(std::tie(stored.items[i - 1].file, stored.items[i - 1].begin),
              std::tie(stored.items[i].file, stored.items[i].begin));
  for (const StoredArray& array : stored.arrays) {
    ASSERT_LT(array.item, stored.items.size());
    const StoredItem& item = stored.items[array.item];
    EXPECT_EQ(std::tie(item.file, item.begin, item.bytes), std::tie(array.file, array.begin, array.bytes));
  }
}

TEST_F(Store, NoModelInIt) {
  Write("config.json", made::ConfigOf(model_));
  const TorchItemFrame frame = FrameOfTorchItem(DType::kF32, {2}, 0);
  const std::string item = frame.head + std::string(8, '\0') + frame.tail;
  for (const char* key : {"optimizer.state.exp_avg.output_layer.weight", "visual.patch_embed.weight"}) {
    DcpMetadata metadata;
    metadata.tensors.push_back({key, DType::kF32, {2}, {{{0}, {2}, {"__0_0.distcp", 0, item.size()}}}});
    Write("__0_0.distcp", item);
    Write(".metadata", WriteDcpMetadata(metadata));
    Write("metadata.json", kJson);
    const auto opened = OpenMegatron(Disk(), directory_.path(), Found(directory_.path()), nullptr);
    ASSERT_FALSE(opened.ok());
    EXPECT_NE(opened.error().Message().find("language model"), std::string::npos);
  }
}

// The whole way that tools take.
TEST_F(Store, OpenCheckpointUnderstandsIt) {
  SaveRoot();
  auto checkpoint = OpenCheckpoint(Disk(), directory_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().Message();
  EXPECT_EQ(checkpoint->view->form, FormKind::kTorchDist);
  EXPECT_EQ(checkpoint->inventory.mtp_layers, model_.mtp);
  EXPECT_NE(checkpoint->view->skipped.find("optimizer"), std::string::npos);
  EXPECT_EQ(OpenCheckpoint(Disk(), directory_.path(), {.source_qkv = QkvWish("fused:4")}).error().code,
            ErrorCode::kUsage);
}

// A view is understood as a whole or not at all.
TEST_F(Store, OpeningSaysHowFarItCame) {
  SaveRoot();
  const OpenedCheckpoint whole = OpenAsFarAsPossible(Disk(), directory_.path());
  EXPECT_EQ(whole.reached, OpenedCheckpoint::Reached::kLayout);
  EXPECT_TRUE(whole.status.ok());
  EXPECT_NE(whole.checkpoint.view, nullptr);
  const OpenedCheckpoint refused = OpenAsFarAsPossible(Disk(), directory_.path(), {.source_qkv = QkvWish("fused:4")});
  EXPECT_EQ(refused.reached, OpenedCheckpoint::Reached::kNothing);
  ASSERT_FALSE(refused.status.ok());
  EXPECT_EQ(refused.status.error().code, ErrorCode::kUsage);
  const OpenedCheckpoint absent = OpenAsFarAsPossible(Disk(), directory_.path() + "/none");
  EXPECT_EQ(absent.reached, OpenedCheckpoint::Reached::kNothing);
  EXPECT_FALSE(absent.status.ok());
}

}  // namespace
}  // namespace mimo::megatron_store_test
