// Saved tensors shown as a split checkpoint, whatever rectangles they were saved in.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "lib/forms/megatron/megatron_store.h"
#include "tests/unit/forms/megatron/megatron_model.h"

namespace mimo::megatron_view_test {
namespace {

using made::Scheme;
using made::Tensor;
using made::Tensors;
using made::TinyModel;

using Cuts = std::vector<std::vector<int64_t>>;  // by axis: where it is cut, ends not included

// A store in memory.
struct Saved {
  MegatronStore store;
  std::vector<Tensor> data;  // by stored array

  explicit Saved(const TinyModel& model) {
    store.format = FormKind::kTorchDist;
    store.stored.root = "/run";
    auto config = ParseModelConfig(made::ConfigOf(model), "/run/config.json");
    EXPECT_TRUE(config.ok()) << config.error().Message();
    store.stored.config = std::move(config).value();
    store.stored.table = ModelTable::Get("mimo_v2").value();
    CatalogueFile file;
    file.name = "__0_0.distcp";
    store.stored.files.push_back(file);
  }

  uint32_t AddArray(Tensor t, const std::string& name) {
    StoredArray array;
    array.name = name;
    array.dtype = DType::kBF16;
    array.shape = t.shape;
    array.bytes = static_cast<uint64_t>(t.size()) * 2;
    store.stored.arrays.push_back(array);
    data.push_back(std::move(t));
    return static_cast<uint32_t>(data.size() - 1);
  }

  void Add(const std::string& key, const Tensor& t, const Cuts& cuts) {
    SavedTensor saved;
    saved.key = key;
    saved.name = MegatronForm::Get(*Family::Get("mimo_v2").value()).value()->Identify(key);
    saved.shape = t.shape;
    std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>> parts = {{{}, {}}};
    for (size_t axis = 0; axis < t.shape.size(); ++axis) {
      std::vector<int64_t> at = {0};
      if (axis < cuts.size()) at.insert(at.end(), cuts[axis].begin(), cuts[axis].end());
      at.push_back(t.shape[axis]);
      auto before = std::move(parts);
      parts.clear();
      for (const auto& [offsets, sizes] : before)
        for (size_t i = 0; i + 1 < at.size(); ++i) {
          parts.push_back({offsets, sizes});
          parts.back().first.push_back(at[i]);
          parts.back().second.push_back(at[i + 1] - at[i]);
        }
    }
    for (const auto& [offsets, sizes] : parts)
      saved.chunks.push_back({AddArray(made::Slice(t, offsets, sizes), ChunkName(key, offsets)), 0, offsets, sizes});
    store.tensors.push_back(std::move(saved));
  }

  SavedTensor& Find(const std::string& key) {
    return *std::find_if(store.tensors.begin(), store.tensors.end(), [&](const auto& t) { return t.key == key; });
  }

  void ExpectShown(const TinyModel& model) const {
    auto view = ViewOfMegatron(store);
    ASSERT_TRUE(view.ok()) << view.error().Message();
    made::ExpectShown(*view, model, [&](uint32_t array, int64_t row, int64_t col) {
      return data.at(array).values.at(static_cast<size_t>(row * data[array].shape.back() + col));
    });
  }
  std::string Refused() const {
    const auto view = ViewOfMegatron(store);
    EXPECT_FALSE(view.ok());
    return view.ok() ? "" : view.error().Message();
  }
};

Cuts Even(const std::vector<int64_t>& shape, size_t axis, int64_t parts) {
  Cuts cuts(shape.size());
  for (int64_t i = 1; i < parts; ++i) cuts[axis].push_back(shape[axis] * i / parts);
  return cuts;
}

TEST(MegatronView, WholeTensors) {
  const TinyModel model;
  Saved saved(model);
  for (const auto& [key, t] : made::Megatron(model, {})) saved.Add(key, t, {});
  saved.ExpectShown(model);
}

// Which of two parts of the model a key lies in, layers by turns as interleaved stages have them.
std::string InPart(const std::string& key) {
  const size_t at = key.find("layers.");
  const bool second = at == std::string::npos ? key.starts_with("output") || key.starts_with("decoder.final")
                                              : key.starts_with("mtp") || (key[at + 7] - '0') % 2 == 1;
  return std::string(second ? "model1." : "model0.") + key;
}

TEST(MegatronView, PartsOfVirtualStages) {
  const TinyModel model;
  constexpr char kEmbedding[] = "embedding.word_embeddings.weight";
  Saved saved(model);
  for (const auto& [key, t] : made::Megatron(model, {})) {
    saved.Add(InPart(key), t, {{1}});
    if (key == kEmbedding) saved.Add("model1." + key, t, {{1}});  // beside the MTP layers
  }
  saved.ExpectShown(model);
  const auto view = ViewOfMegatron(saved.store);
  ASSERT_EQ(view.value().replicas.size(), 2u);  // compared bit for bit before anything is written
  for (const Replica& r : view.value().replicas) {
    EXPECT_EQ(saved.data[r.first].values, saved.data[r.second].values);
    EXPECT_NE(r.first, r.second);
    EXPECT_EQ(r.rows, saved.store.stored.arrays[r.first].rows());
  }
  Saved cut = saved, shaped = saved, mixed = saved;
  std::erase_if(cut.store.tensors, [&](const SavedTensor& t) { return t.key == std::string("model1.") + kEmbedding; });
  cut.Add(std::string("model1.") + kEmbedding, made::Megatron(model, {}).at(kEmbedding), {{2}});
  EXPECT_NE(cut.Refused().find("disagree about a tensor"), std::string::npos);
  shaped.Find(std::string("model1.") + kEmbedding).dtype = DType::kF32;
  EXPECT_NE(shaped.Refused().find("disagree about a tensor"), std::string::npos);
  mixed.Add(kEmbedding, made::Megatron(model, {}).at(kEmbedding), {{1}});
  EXPECT_NE(mixed.Refused().find("another spelling"), std::string::npos);
}

TEST(MegatronView, PartsThatCountTheirOwnLayersAreRefused) {
  const TinyModel model;
  Saved saved(model);
  for (const auto& [key, t] : made::Megatron(model, {})) {
    std::string local = InPart(key);
    if (const size_t at = local.find(".layers.1."); at != std::string::npos && !key.starts_with("mtp"))
      local.replace(at, 10, ".layers.0.");
    saved.Add(local, t, {});
  }
  EXPECT_NE(saved.Refused().find("count their layers from 0"), std::string::npos) << saved.Refused();
}

TEST(MegatronView, UnknownTensorsAreShownWholeWhateverTheirParts) {
  const TinyModel model;
  Saved saved(model);
  for (const auto& [key, t] : made::Megatron(model, {})) saved.Add(InPart(key), t, {});
  const std::string key = "model1.decoder.layers.0.adapter.weight";
  Tensor odd{{2, 4, 6}, std::vector<decltype(Tensor::values)::value_type>(48)};
  saved.Add(key, odd, {{1}, {2}, {4}});
  auto view = ViewOfMegatron(saved.store);
  ASSERT_TRUE(view.ok()) << view.error().Message();
  const StoredArray* shown = view->catalogue.Find(key);
  ASSERT_NE(shown, nullptr);
  EXPECT_EQ(shown->shape, (std::vector<int64_t>{2, 4, 6}));
  std::vector<int> covered(8 * 6);  // a matrix of rows of the last axis
  const SavedTensor& tensor = saved.Find(key);
  for (const Fragment& f : view->fragments[view->catalogue.by_name.at(key)]) {
    const auto chunk = std::find_if(tensor.chunks.begin(), tensor.chunks.end(),
                                    [&](const MegatronChunk& c) { return c.array == f.array; });
    ASSERT_NE(chunk, tensor.chunks.end());
    for (int64_t row = 0; row < f.rows; ++row)
      for (int64_t col = 0; col < f.cols; ++col) {
        ++covered[static_cast<size_t>((f.row + row) * 6 + f.col + col)];
        // Where the element lies in its chunk is where its offsets say.
        const int64_t a = (f.row + row) / 4 - chunk->offsets[0], b = (f.row + row) % 4 - chunk->offsets[1];
        EXPECT_EQ(f.stored_row + row, chunk->array_row + a * chunk->sizes[1] + b);
        EXPECT_EQ(f.stored_col + col, f.col + col - chunk->offsets[2]);
      }
  }
  EXPECT_EQ(covered, std::vector<int>(48, 1));
}

// As native savers cut: linear_fc1 of T ranks is 2T chunks.
TEST(MegatronView, CutsOfTensorAndExpertRanks) {
  const TinyModel model;
  for (const int64_t tp : {1, 2}) {
    for (const int64_t ep : {1, 2, 4}) {
      for (const int64_t etp : {1, 2, 4}) {
        SCOPED_TRACE(testing::Message() << tp << " " << ep << " " << etp);
        Saved saved(model);
        for (const auto& [key, t] : made::Megatron(model, {})) {
          const size_t dims = t.shape.size();
          if (dims == 3) {
            const bool fc1 = key.find("linear_fc1") != std::string::npos;
            Cuts cuts = Even(t.shape, fc1 ? 1 : 2, fc1 ? 2 * etp : etp);
            cuts[0] = Even(t.shape, 0, ep)[0];  // several experts in a chunk
            saved.Add(key, t, cuts);
          } else if (dims == 2 && key.find("router") == std::string::npos) {
            const bool columns = key.ends_with("linear_proj.weight") || key.ends_with("linear_fc2.weight");
            const bool gated = key.ends_with("linear_fc1.weight");
            saved.Add(key, t, Even(t.shape, columns ? 1 : 0, gated ? 2 * tp : tp));
          } else {
            saved.Add(key, t, {});
          }
        }
        saved.ExpectShown(model);
      }
    }
  }
}

TEST(MegatronView, AnyRectangles) {
  const TinyModel model;
  const std::vector<Scheme> schemes = {
      {},
      {.prefix = "model.module.", .inner = "mtp_model_layer", .halves = true, .experts = "experts.FC.weight{e}"},
      {.halves = true, .experts = "experts.experts.{e}.FC.weight"},
      {.halves = true},
      {.experts = "experts.local_experts.{e}.FC.weight", .vocab = 16}};
  for (uint32_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 engine(seed);
    Saved saved(model);
    for (const auto& [key, t] : made::Megatron(model, schemes[seed % schemes.size()])) {
      Cuts cuts(t.shape.size());
      for (size_t axis = 0; axis < cuts.size(); ++axis) {
        for (auto n = engine() % 3; n > 0 && t.shape[axis] > 1; --n)
          cuts[axis].push_back(1 + static_cast<int64_t>(engine() % static_cast<uint64_t>(t.shape[axis] - 1)));
        std::sort(cuts[axis].begin(), cuts[axis].end());
        cuts[axis].erase(std::unique(cuts[axis].begin(), cuts[axis].end()), cuts[axis].end());
      }
      saved.Add(key, t, cuts);
    }
    for (SavedTensor& t : saved.store.tensors) std::shuffle(t.chunks.begin(), t.chunks.end(), engine);
    saved.ExpectShown(model);
  }
}

TEST(MegatronView, HomogeneousLayers) {
  const TinyModel model{.windowed = {1, 1, 1}, .moe = {1, 1, 1}, .mtp = 1};
  const TinyModel dense{.windowed = {0, 0}, .moe = {0, 0}, .mtp = 0};
  for (const int64_t parts : {1, 3}) {
    Saved saved(model);
    for (const auto& [key, t] : made::Megatron(model, {.stacked = true}))
      saved.Add(key, t, key.find("decoder.layers.") == 0 ? Even(t.shape, 0, parts) : Cuts());
    saved.ExpectShown(model);
    Saved each(model);
    for (const auto& [key, t] :
         made::Megatron(model, {.halves = true, .stacked = true, .experts = "experts.experts.{e}.FC.weight"}))
      each.Add(key, t, Even(t.shape, t.shape.size() - 1, 2));
    each.ExpectShown(model);
  }
  Saved saved(dense);
  for (const auto& [key, t] : made::Megatron(dense, {.stacked = true})) saved.Add(key, t, Even(t.shape, 0, 2));
  saved.ExpectShown(dense);
}

// What several ranks' pieces in one array are: linear_fc1 of a legacy rank is [gate_r ; up_r].
TEST(MegatronView, ChunksInsideAnArray) {
  const TinyModel model;
  Saved saved(model);
  const std::string key = "decoder.layers.0.mlp.linear_fc1.weight";
  for (const auto& [name, t] : made::Megatron(model, {})) {
    if (name != key) {
      saved.Add(name, t, {});
      continue;
    }
    SavedTensor tensor;
    tensor.key = key;
    tensor.name = MegatronForm::Get(*Family::Get("mimo_v2").value()).value()->Identify(key);
    tensor.shape = t.shape;
    const int64_t each = made::kDense / 2, cols = made::kHidden;
    for (int64_t r = 0; r < 2; ++r) {
      const uint32_t array = saved.AddArray(made::Joined({made::Slice(t, {r * each, 0}, {each, cols}),
                                                          made::Slice(t, {made::kDense + r * each, 0}, {each, cols})}),
                                            "rank" + std::to_string(r));
      tensor.chunks.push_back({array, 0, {r * each, 0}, {each, cols}});
      tensor.chunks.push_back({array, each, {made::kDense + r * each, 0}, {each, cols}});
    }
    saved.store.tensors.push_back(tensor);
  }
  saved.ExpectShown(model);
}

class Broken : public ::testing::Test {
 protected:
  Broken() {
    for (const auto& [key, t] : made::Megatron(model_, {})) saved_.Add(key, t, Even(t.shape, 0, 2));
  }
  const TinyModel model_{};
  Saved saved_{model_};
};

TEST_F(Broken, AMissingPart) {
  for (const char* key : {"output_layer.weight", "decoder.layers.1.mlp.experts.experts.linear_fc1.weight",
                          "mtp.layers.0.eh_proj.weight", "decoder.layers.1.self_attention.linear_qkv.weight"}) {
    SavedTensor& tensor = saved_.Find(key);
    const MegatronChunk chunk = tensor.chunks.back();
    tensor.chunks.pop_back();
    const std::string message = saved_.Refused();
    EXPECT_NE(message.find("missing"), std::string::npos) << message;
    EXPECT_NE(message.find(key), std::string::npos) << message;
    tensor.chunks.push_back(chunk);
  }
  saved_.ExpectShown(model_);
}

TEST_F(Broken, AMissingTensorIsMissedByTheInventory) {
  saved_.Find("decoder.final_layernorm.weight").name.reset();
  saved_.Find("decoder.final_layernorm.weight").key = "something.else";
  saved_.Find("something.else").chunks = {saved_.Find("output_layer.weight").chunks[0]};
  auto view = ViewOfMegatron(saved_.store);
  ASSERT_TRUE(view.ok()) << view.error().Message();
  EXPECT_TRUE(view->catalogue.by_name.contains("something.else"));
  EXPECT_FALSE(TakeInventory(view->catalogue).ok());
}

TEST_F(Broken, OtherShapes) {
  for (const auto& [key, shape] : std::map<std::string, std::vector<int64_t>>{
           {"output_layer.weight", {9, 8}},
           {"embedding.word_embeddings.weight", {10, 9}},
           {"decoder.final_layernorm.weight", {8, 1}},
           {"decoder.layers.0.self_attention.linear_qkv.weight", {36, 8}},
           {"decoder.layers.1.mlp.experts.experts.linear_fc1.weight", {3, 8, 8}},
           {"decoder.layers.1.mlp.experts.experts.linear_fc2.weight", {4, 8, 5}},
           {"decoder.layers.1.mlp.router.expert_bias", {}},
           {"mtp.layers.1.eh_proj.weight", {8, 8}}}) {
    const std::vector<int64_t> before = saved_.Find(key).shape;
    saved_.Find(key).shape = shape;
    const std::string message = saved_.Refused();
    EXPECT_NE(message.find("another shape"), std::string::npos) << message;
    EXPECT_NE(message.find(key), std::string::npos) << message;
    saved_.Find(key).shape = before;
  }
}

TEST_F(Broken, TwoSpellingsOfOneTensor) {
  for (const char* key :
       {"model.module.output_layer.weight", "module.decoder.layers.1.mlp.router.weight",
        "mtp.layers.0.mtp_model_layer.self_attention.linear_qkv.weight",
        // Another way to say what is there, in part or in whole.
        "decoder.layers.0.mlp.linear_fc1.weight_w", "decoder.layers.1.mlp.experts.experts.0.linear_fc1.weight",
        "decoder.layers.self_attention.linear_proj.weight"}) {
    SavedTensor tensor = saved_.Find("decoder.final_layernorm.weight");
    tensor.key = key;
    tensor.name = MegatronForm::Get(*Family::Get("mimo_v2").value()).value()->Identify(key);
    ASSERT_TRUE(tensor.name);
    saved_.store.tensors.push_back(tensor);
    saved_.Refused();
    saved_.store.tensors.pop_back();
  }
  saved_.ExpectShown(model_);
}

// A model of more layers or experts than the config has must not lose them in silence.
TEST_F(Broken, TensorsBeyondTheConfig) {
  for (const char* key :
       {"decoder.layers.4.mlp.router.weight", "decoder.layers.2147483647.mlp.router.weight",
        "mtp.layers.3.enorm.weight", "mtp.layers.2147483647.enorm.weight",
        "decoder.layers.0.mlp.router.weight",  // a dense layer has none
        "decoder.layers.0.self_attention.core_attention.softmax_offset", "decoder.layers.1.mlp.linear_fc1.weight"}) {
    SavedTensor tensor = saved_.Find("decoder.final_layernorm.weight");
    tensor.key = key;
    tensor.name = MegatronForm::Get(*Family::Get("mimo_v2").value()).value()->Identify(key);
    ASSERT_TRUE(tensor.name);
    saved_.store.tensors.push_back(tensor);
    const std::string message = saved_.Refused();
    EXPECT_NE(message.find(std::string(key).substr(0, 12)), std::string::npos) << message;
    saved_.store.tensors.pop_back();
  }
}

TEST_F(Broken, UnknownTensorsAreShownUnderTheirName) {
  saved_.Add("decoder.layers.1.mlp.shared_experts.linear_fc1.weight", {{2, 3}, {1, 2, 3, 4, 5, 6}}, {});
  auto view = ViewOfMegatron(saved_.store);
  ASSERT_TRUE(view.ok()) << view.error().Message();
  auto inventory = TakeInventory(view->catalogue);
  ASSERT_TRUE(inventory.ok()) << inventory.error().Message();
  EXPECT_EQ(inventory->unknown.size(), 1u);
  saved_.Add("decoder.layers.1.mlp.shared_experts.linear_fc2.weight", {{2, 3}, {1, 2, 3, 4, 5, 6}}, {{1}});
  view = ViewOfMegatron(saved_.store);
  ASSERT_TRUE(view.ok()) << view.error().Message();
  EXPECT_NE(view->catalogue.Find("decoder.layers.1.mlp.shared_experts.linear_fc2.weight"), nullptr);
}

// Routers may be F32 beside BF16, or BF16 throughout; each tensor keeps its type.
TEST_F(Broken, TypesAreThoseOfTheTensors) {
  saved_.Find("decoder.layers.1.mlp.router.weight").dtype = DType::kF32;
  auto view = ViewOfMegatron(saved_.store);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->catalogue.Find("model.layers.1.mlp.gate.weight")->dtype, DType::kF32);
  EXPECT_EQ(view->catalogue.Find("model.layers.2.mlp.gate.weight")->dtype, DType::kBF16);
  EXPECT_TRUE(view->trained);
  EXPECT_EQ(view->form, FormKind::kTorchDist);
}

}  // namespace
}  // namespace mimo::megatron_view_test
