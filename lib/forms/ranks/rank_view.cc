#include "lib/forms/ranks/rank_view.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "lib/base/checked.h"
#include "lib/forms/ranks/rank_cache_scales.h"
#include "lib/forms/ranks/rank_form.h"
#include "lib/io/dtype.h"
#include "lib/json/parse.h"
#include "lib/layout/decide.h"
#include "lib/model/family.h"
#include "lib/model/file_names.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

// Whether the engine quantizes the inputs of a module of ModelOpt's: by config.json, for its classes have input scales
// in any case.
class QuantizesInputs {
 public:
  explicit QuantizesInputs(const std::string& config) {
    const Result<nlohmann::json> parsed = ParseJson<nlohmann::json>(config, kConfigName);
    if (!parsed.ok()) return;  // it was read before
    const nlohmann::json& root = parsed.value();
    const auto quantization = root.find("quantization_config");
    if (quantization == root.end() || !quantization->is_object()) return;
    all_ = AlgorithmOf(*quantization);
    const auto layers = quantization->find("quantized_layers");
    if (layers == quantization->end() || !layers->is_object()) return;
    for (const auto& [module, entry] : layers->items()) by_module_[module] = AlgorithmOf(entry);
  }
  // `array` is one of the module's. Experts are listed together or one by one.
  bool operator()(std::string_view array) const {
    for (std::string_view module = array; !module.empty();) {
      const size_t dot = module.rfind('.');
      module = dot == std::string_view::npos ? std::string_view() : module.substr(0, dot);
      if (const auto found = by_module_.find(std::string(module)); found != by_module_.end())
        return found->second != kWeightsOnly;
    }
    return all_ != kWeightsOnly;
  }

 private:
  static constexpr std::string_view kWeightsOnly = "W4A16_NVFP4";
  static std::string AlgorithmOf(const nlohmann::json& entry) {
    const auto algorithm = entry.is_object() ? entry.find("quant_algo") : entry.end();
    return algorithm != entry.end() && algorithm->is_string() ? algorithm->get<std::string>() : "";
  }
  std::string all_;
  std::unordered_map<std::string, std::string> by_module_;
};

class RankViewer {
 public:
  RankViewer(const Catalogue& stored, const std::set<std::string>& cache_scales)
      : stored_(stored), config_(stored.config), cache_scales_(cache_scales), quantizes_inputs_(stored.config.text) {}

  Result<View> Show() {
    view_ = EmptyView(stored_, FormKind::kShardedState);
    MIMO_ASSIGN_OR_RETURN(form_, RankForm::Load("vllm", config_.family->name, ""));
    MIMO_RETURN_IF_ERROR(SortByRank());
    MIMO_RETURN_IF_ERROR(CheckRanks());
    view_.chunks = ranks_;
    ShowConfig();
    for (const auto& [key, arrays] : arrays_) {
      MIMO_RETURN_IF_ERROR(CheckShapes(key, arrays));
      ShowTensor(form_->tensors()[key.first], key.second, arrays);
    }
    ShowCacheScales();
    PairScales();
    FinishView(std::move(shown_), &view_);
    return std::move(view_);
  }

 private:
  using Key = std::pair<size_t, int32_t>;  // tensor of the form, layer

  Error Bad(uint32_t array, std::string what) const {
    return BadInput(std::move(what))
        .File(JoinPath(stored_.root, FileOf(array)))
        .Tensor(std::string(HeaderName(stored_.arrays[array].name)));
  }

  const std::string& FileOf(uint32_t array) const { return stored_.files[stored_.arrays[array].file].name; }

  // Up to `count`, and that there are more. "" where all are there.
  static std::string Absent(const std::set<int64_t>& present, int64_t count) {
    constexpr size_t kNamed = 16;
    std::vector<int64_t> absent;
    for (int64_t rank = 0; rank < count && absent.size() <= kNamed; ++rank)
      if (!present.contains(rank)) absent.push_back(rank);
    std::string text;
    for (size_t i = 0; i < absent.size() && i < kNamed; ++i)
      text += (text.empty() ? "" : ", ") + std::to_string(absent[i]);
    return absent.size() > kNamed ? text + ", ..." : text;
  }

  Error RanksMissing(const std::string& absent, int64_t count) const {
    return BadInput("files of ranks are missing")
        .File(stored_.root)
        .Expected("files of ranks 0 to " + std::to_string(count - 1))
        .Found("none of rank " + absent)
        .Advice("bring the files of all ranks together in one directory");
  }

  static int64_t RankOf(const std::string& name) {
    int64_t rank = 0;
    std::from_chars(name.data() + 4, name.data() + name.size(), rank);
    return rank;
  }

  // Before anything has a place for every rank: a file may claim to be of any.
  Status CountRanks() {
    std::set<int64_t> present;
    for (const StoredArray& array : stored_.arrays)
      if (HeaderName(array.name).size() != array.name.size()) present.insert(RankOf(array.name));
    const int64_t marked = config_.marker ? config_.marker->tp : 0;
    const int64_t count = std::max(marked, present.empty() ? 0 : *present.rbegin() + 1);
    if (const std::string absent = Absent(present, count); !absent.empty()) return RanksMissing(absent, count);
    ranks_ = count;
    return {};
  }

  Status SortByRank() {
    MIMO_RETURN_IF_ERROR(CountRanks());
    for (uint32_t i = 0; i < stored_.arrays.size(); ++i) {
      const std::string& name = stored_.arrays[i].name;
      const std::string_view bare = HeaderName(name);
      if (bare.size() == name.size()) {  // hf-rest.safetensors
        shown_.push_back({stored_.arrays[i], {WholeOf(stored_.arrays[i], i)}, FileOf(i)});
        continue;
      }
      const int64_t rank = RankOf(name);
      if (const auto constant = form_->FindConstant(bare)) {
        view_.constants[i] = 1;
        if (cache_scales_.contains(std::string(bare))) cache_arrays_[{constant->tensor, constant->layer}].push_back(i);
        continue;
      }
      const auto match = form_->Identify(bare);
      if (!match)
        return Bad(i, "an array that no rank of this form has")
            .Expected("arrays of schemas/forms/" + form_->name() + ".json")
            .Found("this name")
            .Advice("files of another engine or of the omni model cannot be read back");
      auto& of_ranks = arrays_[{match->tensor, match->layer}];
      if (of_ranks.size() <= static_cast<size_t>(rank)) of_ranks.resize(static_cast<size_t>(rank) + 1, kNone);
      uint32_t& slot = of_ranks[static_cast<size_t>(rank)];
      if (slot != kNone)
        return Bad(i, "an array that another file of the rank holds too")
            .Expected("each array once")
            .Found("also in " + FileOf(slot))
            .Advice("move what is left of an earlier conversion to another directory");
      slot = i;
    }
    return {};
  }

  Status CheckRanks() {
    std::set<int64_t> seen;
    for (const auto& [key, arrays] : arrays_)
      for (size_t r = 0; r < arrays.size(); ++r)
        if (arrays[r] != kNone) seen.insert(static_cast<int64_t>(r));
    if (const std::string absent = Absent(seen, ranks_); !absent.empty()) return RanksMissing(absent, ranks_);
    const std::string expected = "files of ranks 0 to " + std::to_string(ranks_ - 1);
    for (auto& [key, arrays] : arrays_) {
      arrays.resize(static_cast<size_t>(ranks_), kNone);
      const auto gap = std::find(arrays.begin(), arrays.end(), kNone);
      if (gap == arrays.end()) continue;
      return BadInput("an array is missing in the files of a rank")
          .File(stored_.root)
          .Tensor(NameInLayer(form_->tensors()[key.first].pattern, key.second))
          .Expected(expected)
          .Found("none in those of rank " + std::to_string(gap - arrays.begin()))
          .Advice("bring all files of all ranks together in one directory");
    }
    ep_ = config_.marker && config_.marker->ep > 0 ? config_.marker->ep : 1;
    if (!config_.marker)
      for (const auto& [key, arrays] : arrays_)
        if (form_->tensors()[key.first].experts && stored_.arrays[arrays[0]].shape[0] < config_.experts) ep_ = ranks_;
    return {};
  }

  Status CheckShapes(const Key& key, const std::vector<uint32_t>& arrays) const {
    const StoredArray& first = stored_.arrays[arrays[0]];
    for (const uint32_t i : arrays) {
      const StoredArray& array = stored_.arrays[i];
      if (array.shape != first.shape || array.dtype != first.dtype)
        return Bad(i, "ranks disagree about an array")
            .Expected("the shape and dtype that rank 0 has")
            .Found("others")
            .Advice("the files are not of one checkpoint: write them again");
    }
    const RankTensor& tensor = form_->tensors()[key.first];
    if (tensor.cut == Cut::kScalars) {
      std::vector<int64_t> expected;
      if (tensor.experts) expected.push_back(config_.experts / ep_);
      if (tensor.of.size() > 1 || !tensor.experts) expected.push_back(static_cast<int64_t>(tensor.of.size()));
      const Role role = IsAttentionProjection(tensor.of[0]) ? Role::kAttnQkv : tensor.of[0];
      const TensorId id{role, tensor.part, tensor.mtp, key.second, tensor.experts ? 0 : -1};
      if (first.shape == expected && (first.dtype == DType::kF32 || IsUnused(id))) return {};
      return Bad(arrays[0], "scales of whole matrices of a shape that does not fit config.json")
          .Expected("F32, one for each of " + std::to_string(tensor.of.size()) + " matrices" +
                    (tensor.experts ? " of " + std::to_string(config_.experts / ep_) + " experts" : ""))
          .Found("another shape or type")
          .Advice("config.json and tensors are of different models");
    }
    if (const int64_t kv = KvHeads(tensor, key.second);
        tensor.cut == Cut::kKvHeads && (kv < 1 || (kv % ranks_ != 0 && ranks_ % kv != 0)))
      return Bad(arrays[0], "KV heads that so many ranks cannot share")
          .Expected("a number of ranks that divides " + std::to_string(kv) + " KV heads, or that they divide")
          .Found(std::to_string(ranks_) + " ranks")
          .Advice("config.json and tensors are of different models");
    const size_t rank = tensor.experts ? 3 : tensor.by_heads() ? 1 : first.shape.size();
    const int64_t members = tensor.members();
    const bool divides = first.shape.size() != rank || first.shape.empty() ? false
                         : tensor.experts ? first.shape[0] * ep_ == config_.experts && first.shape[1] % members == 0
                                          : first.shape[0] % members == 0;
    if (first.shape.size() != rank || first.shape.empty() || !divides)
      return Bad(arrays[0], "an array whose shape does not fit config.json")
          .Expected(std::to_string(config_.experts) + " experts over " + std::to_string(ep_) + " ranks")
          .Found("another shape")
          .Advice("config.json and tensors are of different models");
    return {};
  }

  // Before ranks repeated any.
  int64_t KvHeads(const RankTensor& tensor, int32_t layer) const {
    return layer < 0 ? 0 : LogicalShape(config_, config_.windowed_at(layer, tensor.mtp)).kv_heads;
  }

  // An input scale that the engine's class has and nothing reads: of whatever type.
  bool IsUnused(const TensorId& id) const {
    return id.part == Part::kInputScale && !quantizes_inputs_(stored_.table->NameOf(id));
  }

  // The attention of the shown checkpoint is fused(ranks): its config has KV heads for them.
  void ShowConfig() {
    ModelConfig& config = view_.catalogue.config;
    LayoutMarker marker = config.marker.value_or(LayoutMarker());
    if (!config.marker) {
      marker.kv_heads = config.global.kv_heads;
      marker.swa_kv_heads = config.window.kv_heads;
    }
    marker.fused = true;
    marker.chunks = ranks_;
    marker.form = FormKind::kHf;
    config.global.kv_heads = std::max(marker.kv_heads, ranks_);
    config.window.kv_heads = std::max(marker.swa_kv_heads, ranks_);
    config.marker = marker;
    config.projection_layout = "fused_qkv";
    view_.catalogue.index.tp_size = ranks_;
  }

  void ShowTensor(const RankTensor& tensor, int32_t layer, const std::vector<uint32_t>& arrays) {
    if (tensor.cut == Cut::kScalars) return ShowScalars(tensor, layer, arrays);
    const bool heads = tensor.cut == Cut::kHeads;
    const auto experts = static_cast<int32_t>(tensor.experts ? config_.experts : 1);
    for (int64_t member = 0; member < tensor.members(); ++member)
      for (int32_t expert = 0; expert < experts; ++expert) {
        const Role role = heads ? Role::kAttnQkv : tensor.of[static_cast<size_t>(member)];
        ShowPart(tensor, {role, tensor.part, tensor.mtp, layer, tensor.experts ? expert : -1}, member, arrays);
      }
    const int64_t parts = tensor.parts(ranks_, 1, KvHeads(tensor, layer));
    if (tensor.cut == Cut::kReplicated || tensor.cut == Cut::kKvHeads)
      for (int64_t r = 0; r < ranks_; ++r) {
        const int64_t holder = r - r % (ranks_ / parts);  // the first rank with this part
        if (holder == r) continue;
        view_.replicas.push_back({arrays[static_cast<size_t>(holder)], arrays[static_cast<size_t>(r)], 0, 0,
                                  stored_.arrays[arrays[0]].rows()});
      }
    if (heads) CompareHeads(tensor, layer, arrays);
  }

  // One of each matrix, but for attention, whose matrices are one.
  void ShowScalars(const RankTensor& tensor, int32_t layer, const std::vector<uint32_t>& arrays) {
    const bool attention = IsAttentionProjection(tensor.of[0]);
    const auto each = static_cast<int64_t>(tensor.of.size());
    for (int32_t expert = 0; expert < (tensor.experts ? config_.experts : 1); ++expert)
      for (int64_t member = 0; member < (attention ? 1 : each); ++member) {
        const Role role = attention ? Role::kAttnQkv : tensor.of[static_cast<size_t>(member)];
        Shown shown;
        shown.array.id = {role, tensor.part, tensor.mtp, layer, tensor.experts ? expert : -1};
        shown.array.name = stored_.table->NameOf(shown.array.id);
        shown.array.dtype = DType::kF32;
        const int64_t local = config_.experts / ep_;
        const uint32_t array = arrays[static_cast<size_t>(tensor.experts ? expert / local : 0)];
        const int64_t element = (tensor.experts ? expert % local * each : 0) + member;
        const int64_t columns = stored_.arrays[array].shape.back();
        shown.fragments.push_back({array, 0, 0, 1, 1, element / columns, element % columns});
        shown.file = FileOfLayer(tensor.mtp, layer);
        if (IsUnused(shown.array.id)) {
          for (const uint32_t stored : arrays) view_.constants[stored] = 1;
          continue;
        }
        shown_.push_back(std::move(shown));
      }
    if (!tensor.experts || ep_ == 1)
      for (size_t r = 1; r < arrays.size(); ++r)
        view_.replicas.push_back({arrays[0], arrays[r], 0, 0, stored_.arrays[arrays[0]].rows()});
  }

  void ShowPart(const RankTensor& tensor, const TensorId& id, int64_t member, const std::vector<uint32_t>& arrays) {
    const StoredArray& first = stored_.arrays[arrays[0]];
    const int64_t parts = tensor.parts(ranks_, ep_, KvHeads(tensor, id.layer)), members = tensor.members();
    Shown shown;
    shown.array.id = id;
    shown.array.name = stored_.table->NameOf(id);
    shown.array.dtype = first.dtype;
    std::vector<int64_t>& shape = shown.array.shape;
    shape = first.shape;
    int64_t holder = 0, before = member;  // the first rank with a part; matrices of the stored array in front of this
    if (tensor.experts) {
      holder = id.expert / first.shape[0];
      before += id.expert % first.shape[0] * members;
      shape.erase(shape.begin());
    }
    const int64_t rows = MatrixRows(shape) / members, cols = shape.back();  // of a part
    if (tensor.by_columns())
      shape.back() *= parts;
    else
      shape[0] = shape[0] / members * parts;
    if (tensor.cut == Cut::kVocab) shape[0] = std::min(config_.vocab, shape[0]);  // the tail is padding, or is cut
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t row = tensor.by_columns() ? 0 : part * rows, col = tensor.by_columns() ? part * cols : 0;
      const int64_t kept = std::min(rows, MatrixRows(shape) - row);
      const uint32_t array = arrays[static_cast<size_t>(holder + part * (parts > 1 ? ranks_ / parts : 0))];
      if (kept > 0) shown.fragments.push_back({array, row, col, kept, cols, before * rows, 0});
      if (tensor.cut == Cut::kVocab && kept < rows)
        view_.cut_rows.push_back(
            {shown.array.name, array, std::max<int64_t>(kept, 0), rows - std::max<int64_t>(kept, 0)});
    }
    shown.file = FileOfLayer(id.mtp, id.layer);
    shown_.push_back(std::move(shown));
  }

  // Ranks that share a KV head hold the same rows of K and V, as long as these begin a block: else their codes depend
  // on the Q rows that share it.
  void CompareHeads(const RankTensor& tensor, int32_t layer, const std::vector<uint32_t>& arrays) {
    const LayoutMarker& marker = *view_.catalogue.config.marker;
    const bool windowed = config_.windowed_at(layer, tensor.mtp);
    const AttentionShape& shape = config_.attention(windowed);
    const int64_t kv_heads = windowed ? marker.swa_kv_heads : marker.kv_heads;
    if (ranks_ <= kv_heads || shape.heads % ranks_ != 0) return;
    int64_t begin = shape.q_rows() / ranks_;
    const StoredArray& first = stored_.arrays[arrays[0]];
    const bool scales = tensor.part != Part::kWeight;
    const bool of_rows = scales && first.rows() == begin + shape.head_dim + shape.v_head_dim;  // MXFP8, NVFP4
    const bool quantized = !of_rows && (scales || first.dtype == DType::kF8E4M3);
    if (quantized && begin % config_.block_rows != 0) return;
    if (scales && !of_rows) begin /= config_.block_rows;
    for (int64_t r = 1; r < ranks_; ++r) {
      const int64_t head = r * kv_heads / ranks_;
      const int64_t holder = CeilDiv(head * ranks_, kv_heads);  // the first rank with this head
      if (holder == r) continue;
      view_.replicas.push_back(
          {arrays[static_cast<size_t>(holder)], arrays[static_cast<size_t>(r)], begin, begin, first.rows() - begin});
    }
  }

  // The number of one rank, which all others must have too.
  void ShowCacheScales() {
    if (cache_arrays_.empty()) return;
    const ShownCacheScales names(stored_);
    for (const auto& [key, arrays] : cache_arrays_) {
      std::optional<StoredArray> array = names.Show(form_->constants()[key.first], key.second);
      if (!array) continue;
      const StoredArray& first = stored_.arrays[arrays[0]];
      array->dtype = first.dtype;
      array->shape = first.shape;
      if (array->shape.empty() && names.WasVector(array->id)) array->shape = {1};
      for (const uint32_t i : arrays) view_.constants[i] = 0;
      for (size_t r = 1; r < arrays.size(); ++r) view_.replicas.push_back({arrays[0], arrays[r], 0, 0, 1});
      const Fragment whole = WholeOf(*array, arrays[0]);
      const TensorId& id = array->id;
      shown_.push_back({*std::move(array), {whole}, FileOfLayer(id.mtp, id.layer)});
    }
  }

  void PairScales() {
    for (const auto& [key, arrays] : arrays_) {
      const RankTensor& tensor = form_->tensors()[key.first];
      if (tensor.part != Part::kWeight) continue;
      for (const Part part : {Part::kScaleInv, Part::kScale}) {
        const auto scale = form_->Find(tensor.of[0], part, tensor.mtp);
        if (!scale) continue;
        const auto found = arrays_.find({*scale, key.second});
        if (found == arrays_.end()) continue;
        for (size_t r = 0; r < arrays.size(); ++r) view_.scale_of[arrays[r]] = found->second[r];
      }
    }
  }

  const Catalogue& stored_;
  const ModelConfig& config_;
  const std::set<std::string>& cache_scales_;  // names of constants that hold one
  const QuantizesInputs quantizes_inputs_;
  std::optional<RankForm> form_;
  std::map<Key, std::vector<uint32_t>> arrays_;        // by rank
  std::map<Key, std::vector<uint32_t>> cache_arrays_;  // scales of the KV cache, by constant of the form and layer
  int64_t ranks_ = 0;
  int64_t ep_ = 1;
  View view_;
  std::vector<Shown> shown_;
};

}  // namespace

Result<View> ViewOfRanks(const Catalogue& stored, const std::set<std::string>& cache_scales) {
  return RankViewer(stored, cache_scales).Show();
}

}  // namespace mimo
