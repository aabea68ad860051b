#include "lib/forms/ranks/rank_view.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "lib/base/checked.h"
#include "lib/forms/ranks/rank_form.h"
#include "lib/io/dtype.h"

namespace mimo {
namespace {

class RankViewer {
 public:
  explicit RankViewer(const Catalogue& stored) : stored_(stored), config_(stored.config) {}

  Result<View> Show() {
    view_.form = FormKind::kShardedState;
    view_.catalogue = EmptyShown(stored_);
    view_.scale_of.assign(stored_.arrays.size(), kNone);
    view_.constants.assign(stored_.arrays.size(), 0);
    MIMO_ASSIGN_OR_RETURN(form_, RankForm::Load("vllm", ""));
    MIMO_RETURN_IF_ERROR(SortByRank());
    MIMO_RETURN_IF_ERROR(CheckRanks());
    view_.chunks = ranks_;
    ShowConfig();
    for (const auto& [key, arrays] : arrays_) {
      MIMO_RETURN_IF_ERROR(CheckShapes(key, arrays));
      MIMO_RETURN_IF_ERROR(ShowTensor(form_->tensors()[key.first], key.second, arrays));
    }
    PairScales();
    FinishView(&view_);
    return std::move(view_);
  }

 private:
  using Key = std::pair<size_t, int32_t>;  // tensor of the form, layer

  Error Bad(uint32_t array, std::string what) const {
    return BadInput(std::move(what))
        .File(JoinPath(stored_.root, stored_.files[stored_.arrays[array].file].name))
        .Tensor(std::string(HeaderName(stored_.arrays[array].name)));
  }

  const std::string& FileOf(uint32_t array) const { return stored_.files[stored_.arrays[array].file].name; }

  Status SortByRank() {
    for (uint32_t i = 0; i < stored_.arrays.size(); ++i) {
      const std::string& name = stored_.arrays[i].name;
      const std::string_view bare = HeaderName(name);
      if (bare.size() == name.size()) {  // hf-rest.safetensors
        StoredArray array = stored_.arrays[i];
        const int64_t rows = array.rows(), cols = array.shape.empty() ? 1 : array.shape.back();
        ShowArray(&view_, std::move(array), stored_.files[stored_.arrays[i].file].name, {{i, 0, 0, rows, cols, 0, 0}},
                  false);
        continue;
      }
      int64_t rank = 0;
      std::from_chars(name.data() + 4, name.data() + name.size(), rank);
      ranks_ = std::max(ranks_, rank + 1);
      if (form_->IsConstant(bare)) {
        view_.constants[i] = 1;
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
            .Advice("remove what is left of an earlier conversion");
      slot = i;
    }
    return {};
  }

  Status CheckRanks() {
    const int64_t marked = config_.marker ? config_.marker->tp : 0;
    std::vector<uint8_t> seen(static_cast<size_t>(std::max(ranks_, marked)), 0);
    for (const auto& [key, arrays] : arrays_)
      for (size_t r = 0; r < arrays.size(); ++r) seen[r] |= arrays[r] != kNone;
    std::string missing;
    for (size_t r = 0; r < seen.size(); ++r)
      if (seen[r] == 0) missing += (missing.empty() ? "" : ", ") + std::to_string(r);
    Error e;
    e.file = stored_.root;
    e.expected = "files of ranks 0 to " + std::to_string(seen.size() - 1);
    if (!missing.empty()) {
      e.what = "files of ranks are missing";
      e.found = "none of rank " + missing;
      e.advice = "bring the files of all ranks together in one directory";
      return e;
    }
    ranks_ = static_cast<int64_t>(seen.size());
    for (auto& [key, arrays] : arrays_) {
      arrays.resize(seen.size(), kNone);
      const auto gap = std::find(arrays.begin(), arrays.end(), kNone);
      if (gap == arrays.end()) continue;
      e.what = "an array is missing in the files of a rank";
      e.tensor = NameInLayer(form_->tensors()[key.first].pattern, key.second);
      e.found = "none in those of rank " + std::to_string(gap - arrays.begin());
      e.advice = "bring all files of all ranks together in one directory";
      return e;
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
    const size_t rank = tensor.experts ? 3 : tensor.cut == Cut::kSinks ? 1 : first.shape.size();
    const auto members = static_cast<int64_t>(tensor.cut == Cut::kHeads ? 1 : tensor.of.size());
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

  std::string FallbackFile(bool mtp, int32_t layer) const {
    if (mtp) return "model_mtp.safetensors";
    return layer < 0 ? "model_extras.safetensors" : "model_layer" + std::to_string(layer) + ".safetensors";
  }

  Status ShowTensor(const RankTensor& tensor, int32_t layer, const std::vector<uint32_t>& arrays) {
    const bool heads = tensor.cut == Cut::kHeads;
    const size_t members = heads ? 1 : tensor.of.size();
    for (size_t member = 0; member < members; ++member) {
      TensorId id;
      id.role = heads ? Role::kAttnQkv : tensor.of[member];
      id.part = tensor.part;
      id.mtp = tensor.mtp;
      id.layer = layer;
      if (!tensor.experts) {
        ShowPart(tensor, id, static_cast<int64_t>(member), arrays);
        continue;
      }
      for (int64_t expert = 0; expert < config_.experts; ++expert) {
        id.expert = static_cast<int32_t>(expert);
        ShowPart(tensor, id, static_cast<int64_t>(member), arrays);
      }
    }
    if (tensor.cut == Cut::kReplicated)
      for (size_t r = 1; r < arrays.size(); ++r)
        view_.replicas.push_back({arrays[0], arrays[r], 0, 0, stored_.arrays[arrays[0]].rows()});
    if (heads) CompareHeads(tensor, layer, arrays);
    return {};
  }

  void ShowPart(const RankTensor& tensor, const TensorId& id, int64_t member, const std::vector<uint32_t>& arrays) {
    const StoredArray& first = stored_.arrays[arrays[0]];
    const int64_t cols = first.shape.back();
    const auto members = static_cast<int64_t>(tensor.cut == Cut::kHeads ? 1 : tensor.of.size());
    StoredArray shown;
    shown.id = id;
    shown.name = stored_.table->NameOf(id);
    shown.dtype = first.dtype;
    shown.shape = first.shape;
    std::vector<Fragment> fragments;
    const auto add = [&](size_t rank, int64_t row, int64_t col, int64_t rows, int64_t width, int64_t stored_row) {
      if (rows > 0) fragments.push_back({arrays[rank], row, col, rows, width, stored_row, 0});
    };
    switch (tensor.cut) {
      case Cut::kReplicated:
        add(0, 0, 0, first.rows(), cols, 0);
        break;
      case Cut::kRows:
      case Cut::kHeads: {
        const int64_t each = first.shape[0] / members;
        shown.shape[0] = each * ranks_;
        for (int64_t r = 0; r < ranks_; ++r) add(static_cast<size_t>(r), r * each, 0, each, cols, member * each);
        break;
      }
      case Cut::kColumns:
      case Cut::kSinks:
        shown.shape.back() = cols * ranks_;
        for (int64_t r = 0; r < ranks_; ++r) add(static_cast<size_t>(r), 0, r * cols, first.rows(), cols, 0);
        break;
      case Cut::kVocab: {
        const int64_t each = first.shape[0];
        shown.shape[0] = std::min(config_.vocab, each * ranks_);  // the tail is padding
        for (int64_t r = 0; r < ranks_; ++r)
          add(static_cast<size_t>(r), r * each, 0, std::min(each, shown.shape[0] - r * each), cols, 0);
        break;
      }
      case Cut::kExpertRows:
      case Cut::kExpertColumns: {
        const int64_t local_experts = first.shape[0], each = first.shape[1] / members;
        const bool rows = tensor.cut == Cut::kExpertRows;
        const int64_t local = id.expert % local_experts, holder = id.expert / local_experts;
        const int64_t stored_row = (local * members + member) * each;
        const int64_t parts = ep_ > 1 ? 1 : ranks_;
        shown.shape = rows ? std::vector<int64_t>{each * parts, cols} : std::vector<int64_t>{each, cols * parts};
        for (int64_t p = 0; p < parts; ++p) {
          const auto rank = static_cast<size_t>(ep_ > 1 ? holder : p);
          add(rank, rows ? p * each : 0, rows ? 0 : p * cols, each, cols, stored_row);
        }
        break;
      }
    }
    ShowArray(&view_, std::move(shown), FallbackFile(id.mtp, id.layer), std::move(fragments), false);
  }

  // Ranks that share a KV head hold the same rows of K and V, as long as these begin a block: else their codes depend
  // on the Q rows that share it.
  void CompareHeads(const RankTensor& tensor, int32_t layer, const std::vector<uint32_t>& arrays) {
    const LayoutMarker& marker = *view_.catalogue.config.marker;
    const bool windowed = tensor.mtp || config_.windowed[static_cast<size_t>(layer)] != 0;
    const AttentionShape& shape = config_.attention(windowed);
    const int64_t kv_heads = windowed ? marker.swa_kv_heads : marker.kv_heads;
    if (ranks_ <= kv_heads || shape.heads % ranks_ != 0) return;
    int64_t begin = shape.q_rows() / ranks_;
    const StoredArray& first = stored_.arrays[arrays[0]];
    const bool scales = tensor.part != Part::kWeight;
    const bool quantized = scales || first.dtype == DType::kF8E4M3;
    if (quantized && begin % config_.block_rows != 0) return;
    if (scales) begin /= config_.block_rows;
    for (int64_t r = 1; r < ranks_; ++r) {
      const int64_t head = r * kv_heads / ranks_;
      const int64_t holder = CeilDiv(head * ranks_, kv_heads);  // the first rank with this head
      if (holder == r) continue;
      view_.replicas.push_back(
          {arrays[static_cast<size_t>(holder)], arrays[static_cast<size_t>(r)], begin, begin, first.rows() - begin});
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
  std::optional<RankForm> form_;
  std::map<Key, std::vector<uint32_t>> arrays_;  // by rank
  int64_t ranks_ = 0;
  int64_t ep_ = 1;
  View view_;
};

}  // namespace

Result<View> ViewOfRanks(const Catalogue& stored) {
  return RankViewer(stored).Show();
}

}  // namespace mimo
