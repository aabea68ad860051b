// Megatron's `torch` format: a torch.save file per (TP, PP, EP) rank, with local names (reference target-layouts.md
// 2.1).
#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>

#include "lib/forms/megatron/megatron_store.h"
#include "lib/io/torch/item.h"
#include "lib/layout/decide.h"
#include "lib/model/family.h"

namespace mimo {
namespace {

constexpr char kFile[] = "model_optim_rng.pt";
constexpr char kRank[] = "mp_rank_";
constexpr uint64_t kTailBytes = 65536;

struct RankFile {
  std::string directory;         // "mp_rank_01_002"
  std::vector<int64_t> numbers;  // as they stand in its name
  int64_t tp = 0, pp = 0, ep = 0;
  TorchFile content;
  uint32_t file = 0;  // into Catalogue::files
};

// A part of a model that one rank holds: "model", or "model0", "model1" ... under virtual pipeline parallelism.
struct ModelPart {
  const RankFile* rank = nullptr;
  int64_t chunk = 0;
  std::string prefix;  // of array names
  const TorchValue::Dict* state = nullptr;
};

std::string_view KeyOf(const TorchValue& value) {
  const auto* text = std::get_if<std::string>(&value.data);
  return text == nullptr ? std::string_view() : std::string_view(*text);
}

// A vector along heads: of a norm over all of them, or of one.
bool IsHeadVector(const MegatronTensor& tensor) {
  return tensor.cut == Cut::kQHeads || tensor.cut == Cut::kKvHeads;
}

class LegacyReader {
 public:
  LegacyReader(FileSystem& fs, const std::string& directory, MegatronStore* store)
      : fs_(fs), directory_(directory), store_(*store), stored_(store->stored) {}

  Status Read() {
    MIMO_ASSIGN_OR_RETURN(form_, MegatronForm::Get(*stored_.config.family));
    MIMO_RETURN_IF_ERROR(ListRanks());
    for (RankFile& rank : ranks_) MIMO_RETURN_IF_ERROR(Open(&rank));
    if (!ranks_.empty()) TakeArguments(ranks_[0].content.value, ranks_[0].directory + "/" + kFile, &store_.arguments);
    MIMO_RETURN_IF_ERROR(NumberRanks());
    MIMO_RETURN_IF_ERROR(CollectParts());
    CountLayers();
    for (const ModelPart& part : parts_) MIMO_RETURN_IF_ERROR(AddPart(part));
    for (auto& [key, pieces] : pieces_) MIMO_RETURN_IF_ERROR(PutTogether(key, pieces));
    return {};
  }

 private:
  struct Piece {
    uint32_t array = 0;
    int64_t tp = 0;
  };
  // By (tensor of the form, layer, expert, half).
  using Key = std::tuple<size_t, int32_t, int32_t, char>;

  Error Bad(const std::string& where, std::string what) const {
    return BadInput(std::move(what))
        .File(JoinPath(JoinPath(stored_.root, directory_), where))
        .Advice("the save is not complete: bring the directories of all ranks together, or take another iteration");
  }

  Status ListRanks() {
    const std::string root = JoinPath(stored_.root, directory_);
    MIMO_ASSIGN_OR_RETURN(std::vector<std::string> names, fs_.List(root));
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      if (!name.starts_with(kRank)) continue;
      RankFile rank;
      rank.directory = name;
      const char* at = name.data() + sizeof kRank - 1;
      const char* const end = name.data() + name.size();
      while (at < end) {
        int64_t number = -1;
        const auto [next, problem] = std::from_chars(at, end, number);
        if (problem != std::errc() || number < 0 || (next != end && *next != '_'))
          return Bad(name, "a directory that is of no rank").Expected("mp_rank_TT[_PPP][_EEE]").Found(name);
        rank.numbers.push_back(number);
        at = next == end ? end : next + 1;
      }
      if (rank.numbers.empty() || rank.numbers.size() > 3 ||
          (!ranks_.empty() && rank.numbers.size() != ranks_[0].numbers.size()))
        return Bad(name, "directories of ranks in different schemes")
            .Expected("mp_rank_TT[_PPP][_EEE], all alike")
            .Found(name);
      ranks_.push_back(std::move(rank));
    }
    return {};
  }

  Status Open(RankFile* rank) {
    CatalogueFile file;
    file.name = (directory_.empty() ? "" : directory_ + "/") + rank->directory + "/" + kFile;
    const std::string path = JoinPath(stored_.root, file.name);
    MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(path));
    if (!info) return Bad(rank->directory, "a rank without its file").Expected(kFile).Found("no such file");
    MIMO_ASSIGN_OR_RETURN(const auto in, fs_.OpenForRead(path));
    MIMO_ASSIGN_OR_RETURN(rank->content, ReadTorchFile(*in, path));
    // The end of a zip names the CRC of everything in it.
    std::string tail(std::min(in->size(), kTailBytes), '\0');
    MIMO_RETURN_IF_ERROR(in->ReadAt(in->size() - tail.size(), std::as_writable_bytes(std::span(tail))));
    file.bytes = info->size;
    file.stamp = {info->mtime_ns, info->inode};
    file.header_hash = HashBytes(std::as_bytes(std::span(tail)));
    rank->file = static_cast<uint32_t>(stored_.files.size());
    stored_.files.push_back(std::move(file));
    return {};
  }

  // Two numbers are TP and PP, or TP and EP.
  bool SecondIsExpert() const {
    if (const auto pp = store_.arguments.Find("pipeline_model_parallel_size")) return *pp <= 1;
    // Every rank has the first and the last module of the model where there is no pipeline.
    const TorchValue* model = ranks_[0].content.value.Find("model");
    return model != nullptr && model->Find("embedding.word_embeddings.weight") != nullptr &&
           model->Find("decoder.final_layernorm.weight") != nullptr;
  }

  Status NumberRanks() {
    const size_t count = ranks_[0].numbers.size();
    const bool expert = count == 3 || (count == 2 && SecondIsExpert());
    std::vector<std::vector<uint8_t>> seen(3);
    for (RankFile& rank : ranks_) {
      rank.tp = rank.numbers[0];
      if (count == 3 || (count == 2 && !expert)) rank.pp = rank.numbers[1];
      if (expert) rank.ep = rank.numbers.back();
      for (const auto& [axis, number] : {std::pair(0, rank.tp), std::pair(1, rank.pp), std::pair(2, rank.ep)}) {
        std::vector<uint8_t>& numbers = seen[static_cast<size_t>(axis)];
        if (number > 65535)
          return Bad(rank.directory, "a rank beyond belief").Expected("at most 65535").Found(std::to_string(number));
        if (static_cast<size_t>(number) >= numbers.size()) numbers.resize(static_cast<size_t>(number) + 1, 0);
        numbers[static_cast<size_t>(number)] = 1;
      }
    }
    constexpr const char* kAxes[] = {"tensor", "pipeline", "expert"};
    for (size_t axis = 0; axis < seen.size(); ++axis)
      for (size_t i = 0; i < seen[axis].size(); ++i)
        if (seen[axis][i] == 0)
          return Bad("", std::string("a ") + kAxes[axis] + "-parallel rank is missing")
              .Expected("ranks 0 to " + std::to_string(seen[axis].size() - 1))
              .Found("none with number " + std::to_string(i));
    tp_ = static_cast<int64_t>(seen[0].size());
    pp_ = static_cast<int64_t>(seen[1].size());
    ep_ = static_cast<int64_t>(seen[2].size());
    if (stored_.config.experts % ep_ != 0)
      return Bad("", "expert-parallel ranks that do not divide the experts")
          .Expected("a divisor of " + std::to_string(stored_.config.experts))
          .Found(std::to_string(ep_));
    return {};
  }

  Status CollectParts() {
    for (const RankFile& rank : ranks_) {
      const size_t before = parts_.size();
      const auto* entries = std::get_if<TorchValue::Dict>(&rank.content.value.data);
      for (const auto& [key, value] : entries == nullptr ? TorchValue::Dict() : *entries) {
        const std::string_view name = KeyOf(key);
        if (!name.starts_with("model")) {
          if (&rank == &ranks_[0]) store_.skipped.emplace_back(name);
          continue;
        }
        int64_t chunk = 0;
        const std::string_view digits = name.substr(5);
        const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), chunk);
        if (!digits.empty() && (problem != std::errc() || end != digits.data() + digits.size())) continue;
        const auto* state = rank.content.value.Find<TorchValue::Dict>(name);
        if (state == nullptr)
          return Bad(rank.directory, "a model that is no dict of tensors")
              .Expected("a state dict")
              .Found(std::string(name));
        parts_.push_back({&rank, chunk, rank.directory + "/" + (digits.empty() ? "" : std::string(name) + "/"), state});
      }
      if (parts_.size() == before)
        return Bad(rank.directory, "a rank without a model").Expected("\"model\"").Found("none");
    }
    return {};
  }

  // Layers are numbered from 0 in every part; parts follow each other by chunk, then stage.
  void CountLayers() {
    std::map<std::pair<int64_t, int64_t>, int32_t> count;
    for (const ModelPart& part : parts_) {
      int32_t& layers = count[{part.chunk, part.rank->pp}];
      for (const auto& [key, value] : *part.state) {
        const auto name = form_->Identify(KeyOf(key));
        if (!name || form_->tensors()[name->tensor].mtp || name->layer >= stored_.config.layers) continue;  // AddPart
        layers = std::max(layers, name->layer + 1);
      }
    }
    int32_t at = 0;
    for (const auto& [place, layers] : count) {
      first_layer_[place] = at;
      at += layers;
    }
  }

  Status AddPart(const ModelPart& part) {
    const std::string path = JoinPath(stored_.root, stored_.files[part.rank->file].name);
    for (const auto& [key_value, value] : *part.state) {
      const std::string key(KeyOf(key_value));
      if (IsTrainingState(key)) continue;
      const auto* tensor = std::get_if<TorchTensor>(&value.data);
      if (const TorchRecord* inert = tensor == nullptr ? FindInert(value) : nullptr)
        return Bad(part.prefix + key, "a value of the model of a class that is not known; nothing was run")
            .Expected("tensors")
            .Found(inert->name)
            .Advice("save it with --ckpt-format torch_dist");
      if (tensor == nullptr) continue;  // None, where a module has nothing to save
      auto name = form_->Identify(key);
      if (!name || name->stacked_layers)
        return Bad(part.prefix + key, "a tensor that no model table knows")
            .Expected("the tensors of a " + stored_.config.family->title + " language model")
            .Found(key);
      MIMO_ASSIGN_OR_RETURN(const TensorPlace place, PlaceOf(part.rank->content, *tensor, path));
      const bool decoder = !form_->tensors()[name->tensor].mtp && name->layer >= 0;
      const int32_t first = decoder ? first_layer_.at({part.chunk, part.rank->pp}) : 0;
      if (decoder && int64_t{name->layer} + first >= stored_.config.layers)
        return Bad(part.prefix + key, "more layers than the config says")
            .Expected(std::to_string(stored_.config.layers))
            .Found("layer " + std::to_string(int64_t{name->layer} + first));
      name->layer += first;
      const int64_t experts = stored_.config.experts / ep_;  // of a rank
      if (name->expert >= experts)
        return Bad(part.prefix + key, "more experts than the config and the number of ranks say")
            .Expected(std::to_string(experts) + " in a rank")
            .Found("expert " + std::to_string(name->expert));
      if (name->expert >= 0) name->expert += static_cast<int32_t>(part.rank->ep * experts);
      pieces_[{name->tensor, name->layer, name->expert, name->half}].push_back(
          {AddStored(part.prefix + key, part.rank->file, place, &stored_), part.rank->tp});
    }
    return {};
  }

  // How many ranks share out a tensor: --tp of them, or those inside an expert, or those that share the heads of a
  // vector, which its shape tells.
  Result<int64_t> PartsOf(const MegatronTensor& tensor, int32_t layer, char half, const StoredArray& first) const {
    if (tensor.cut == Cut::kReplicated) return 1;
    if (IsHeadVector(tensor)) return PartsOfVector(tensor, layer, first);
    if (!tensor.experts()) return tp_;
    const bool by_rows = tensor.cut == Cut::kExpertRows;
    const int64_t whole = stored_.config.moe_intermediate * (by_rows && half == 0 ? 2 : 1);
    const int64_t part = by_rows ? first.rows() : first.shape.empty() ? 0 : first.shape.back();
    const int64_t parts = part > 0 ? whole / part : 0;
    if (parts < 1 || parts * part != whole || tp_ % parts != 0)
      return Bad(first.name, "an expert whose shape does not fit config.json")
          .Expected(std::to_string(whole) + " rows or columns over a divisor of " + std::to_string(tp_) + " ranks")
          .Found(std::to_string(part));
    return parts;
  }

  // Of a vector along heads: fewer than the ranks where these share KV heads, one where it is of one head.
  Result<int64_t> PartsOfVector(const MegatronTensor& tensor, int32_t layer, const StoredArray& first) const {
    ModelConfig model = stored_.config;
    model.global = LogicalShape(stored_.config, false);
    model.window = LogicalShape(stored_.config, true);
    const TensorRule* rule = stored_.table->RuleOf({tensor.of[0], Part::kWeight, tensor.mtp, layer, -1});
    int64_t whole = 0;
    if (rule != nullptr && rule->shape.size() == 1) {
      MIMO_ASSIGN_OR_RETURN(whole, Dimension(rule->shape[0], model, layer, tensor.mtp));
    }
    const int64_t part = first.shape.size() == 1 ? first.shape[0] : 0, parts = part > 0 ? whole / part : 0;
    if (parts < 1 || parts * part != whole || tp_ % parts != 0)
      return Bad(first.name, "a vector whose length does not fit config.json")
          .Expected(std::to_string(whole) + " elements over a divisor of " + std::to_string(tp_) + " ranks")
          .Found(std::to_string(part));
    return parts;
  }

  Status PutTogether(const Key& key, const std::vector<Piece>& pieces) {
    const auto [index, layer, expert, half] = key;
    const MegatronTensor& tensor = form_->tensors()[index];
    const StoredArray first = stored_.arrays[pieces[0].array];
    MIMO_ASSIGN_OR_RETURN(const int64_t parts, PartsOf(tensor, layer, half, first));
    std::vector<uint32_t> holder(static_cast<size_t>(parts), kNone);
    for (const Piece& piece : pieces) {
      const StoredArray& array = stored_.arrays[piece.array];
      if (array.shape != first.shape || array.dtype != first.dtype)
        return Bad(array.name, "ranks disagree about a tensor")
            .Expected("the shape and dtype of " + first.name)
            .Found("others");
      // Ranks that share KV heads follow each other; those of an expert are dealt out in turns.
      const int64_t part = IsHeadVector(tensor) ? piece.tp / (tp_ / parts) : piece.tp % parts;
      uint32_t& held = holder[static_cast<size_t>(part)];
      if (held == kNone)
        held = piece.array;
      else
        store_.replicas.push_back({held, piece.array, 0, 0, array.rows()});
    }
    SavedTensor saved{SavedKey(tensor, layer, expert, half),
                      MegatronName{index, layer, false, expert, half},
                      first.dtype,
                      first.shape,
                      {}};
    const bool columns = tensor.cut == Cut::kColumns || tensor.cut == Cut::kExpertColumns || first.shape.size() < 2;
    const bool both = tensor.of.size() == 2 && half == 0 && tensor.cut != Cut::kHeads;
    const size_t axis = columns ? first.shape.size() - 1 : 0;
    if (first.shape.empty() || (both && first.shape[0] % 2 != 0))
      return Bad(first.name, "a tensor of the wrong shape").Expected("rows of gate and up").Found("an odd number");
    saved.shape[axis] *= parts;
    for (int64_t p = 0; p < parts; ++p) {
      const uint32_t array = holder[static_cast<size_t>(p)];
      if (array == kNone)
        return Bad(first.name, "the part of a rank is missing")
            .Expected(std::to_string(parts) + " parts")
            .Found("none of rank " + std::to_string(p));
      std::vector<int64_t> offsets(first.shape.size(), 0), sizes = first.shape;
      if (!both) {
        offsets[axis] = p * sizes[axis];
        saved.chunks.push_back({array, 0, offsets, sizes});
        continue;
      }
      const int64_t each = first.shape[0] / 2;  // [gate_r ; up_r]
      sizes[0] = each;
      for (int64_t member = 0; member < 2; ++member) {
        offsets[0] = (member * parts + p) * each;
        saved.chunks.push_back({array, member * each, offsets, sizes});
      }
    }
    store_.tensors.push_back(std::move(saved));
    return {};
  }

  static std::string SavedKey(const MegatronTensor& tensor, int32_t layer, int32_t expert, char half) {
    std::string name = NameInLayer(tensor.pattern, layer);
    if (expert >= 0) name += std::to_string(expert);
    if (half != 0) name += std::string("_") + half;
    return name;
  }

  FileSystem& fs_;
  const std::string directory_;
  MegatronStore& store_;
  Catalogue& stored_;
  const MegatronForm* form_ = nullptr;
  std::vector<RankFile> ranks_;
  std::vector<ModelPart> parts_;
  std::map<std::pair<int64_t, int64_t>, int32_t> first_layer_;  // by (chunk, stage)
  std::map<Key, std::vector<Piece>> pieces_;
  int64_t tp_ = 1, pp_ = 1, ep_ = 1;
};

}  // namespace

Status ReadLegacy(FileSystem& fs, const std::string& directory, MegatronStore* store) {
  return LegacyReader(fs, directory, store).Read();
}

}  // namespace mimo
