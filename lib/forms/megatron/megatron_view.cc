// A Megatron checkpoint shown as a split Hugging Face checkpoint of plain values: every weight is rectangles of the
// parts that were saved, whatever the topology.
#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "lib/forms/megatron/megatron_store.h"
#include "lib/layout/decide.h"
#include "lib/model/family.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr char kInterleave[] = "moe_mlp_glu_interleave_size";

class MegatronViewer {
 public:
  MegatronViewer(const MegatronStore& store, const MegatronForm& form, const GateUpWish& wish)
      : store_(store), form_(form), wish_(wish), model_(store.stored.config) {
    model_.global = LogicalShape(store.stored.config, false);
    model_.window = LogicalShape(store.stored.config, true);
    if (const auto& marker = store.stored.config.marker; marker && marker->unpadded)
      model_.vocab = marker->unpadded->vocab;
  }

  Result<View> Show() {
    view_ = EmptyView(store_.stored, store_.format);
    view_.trained = true;
    view_.replicas = store_.replicas;
    ShowConfig();
    MIMO_RETURN_IF_ERROR(CheckArguments(store_.arguments, store_.stored.config, store_.stored.root));
    MIMO_RETURN_IF_ERROR(OrderGateUp());
    found_.assign(store_.tensors.size(), 0);
    MIMO_RETURN_IF_ERROR(Sort());
    MIMO_RETURN_IF_ERROR(ForEachExpected(*store_.stored.table, model_, {false, mtp_layers_},
                                         [this](const ExpectedTensor& tensor) { return ShowTensor(tensor); }));
    for (size_t i = 0; i < store_.tensors.size(); ++i)  // nothing of a model is left out in silence
      if (store_.tensors[i].name && found_[i] == 0)
        return Bad(store_.tensors[i].key, "a tensor that the config has no place for")
            .Expected("a layer, an expert or a part of it")
            .Found("this one");
    FinishView(std::move(shown_), &view_);
    return std::move(view_);
  }

 private:
  // By (tensor of the form, layer, expert, half).
  using Key = std::tuple<size_t, int32_t, int32_t, char>;

  // What is shown is the model without quantization; its config text is left to the planner.
  void ShowConfig() {
    ModelConfig& config = view_.catalogue.config;
    config.global = model_.global;
    config.window = model_.window;
    config.vocab = model_.vocab;
    config.projection_layout.clear();
    config.quant_method.clear();
    config.store_dtype.clear();
    config.scale_fmt.clear();
    if (!config.marker) return;
    config.marker->fused = false;
    config.marker->chunks = 1;
    config.marker->independent = true;
    config.marker->form = FormKind::kHf;
  }

  // How gate and up lie. Megatron-LM saves experts as they are in memory, in turns where its arguments say so, each
  // rank of an expert for itself; Megatron-Bridge puts them in their places first (lib/layout/gate_up.h).
  Status OrderGateUp() {
    if (wish_.dense) dense_ = *wish_.dense;
    const SavedArguments& arguments = store_.arguments;
    if (!arguments.unread.empty())
      view_.notes.push_back("nothing is known of the arguments of the run: " + arguments.unread);
    const auto said = arguments.values.find(kInterleave);
    int64_t ranks = 1;
    for (const char* name : {"tensor_model_parallel_size", "expert_tensor_parallel_size"})
      if (const auto given = arguments.Find(name); given && *given > 0) ranks = *given;
    if (said != arguments.values.end() && said->second.number > 0) {
      view_.said_gate_up = GateUpOrder{GateUpOrder::Kind::kTurns, said->second.number, ranks};
      const std::string what =
          std::string(kInterleave) + " " + std::to_string(said->second.number) + " of " + said->second.place;
      if (!wish_.experts && !arguments.bridge) {
        experts_ = *view_.said_gate_up;
        view_.notes.push_back("gate and up of experts were saved in turns (" + what + ") and are put in their places");
      } else if (!wish_.experts) {
        view_.notes.push_back(
            "gate and up of experts are read as they lie, for Megatron-Bridge saves them in their "
            "places whatever " +
            what + " says; --source-gate-up says otherwise");
      }
    }
    if (wish_.experts) {
      experts_ = *wish_.experts;
      if (experts_.kind == GateUpOrder::Kind::kTurns) experts_.ranks = ranks;
    }
    view_.experts_order = experts_;
    view_.dense_order = dense_;
    for (const auto& [order, rows, whose] : {std::tuple(experts_, model_.moe_intermediate, "experts"),
                                             std::tuple(dense_, model_.intermediate, "the dense MLP")}) {
      if (!GateUpFits(order, rows))
        return UsageError("gate and up cannot lie so")
            .File(store_.stored.root)
            .Expected("an order of the " + std::to_string(rows) + " rows that each of them has in " + whose)
            .Found(order.ToString());
    }
    return {};
  }

  Error Bad(const std::string& key, std::string what) const {
    return BadInput(std::move(what))
        .File(store_.stored.root)
        .Tensor(key)
        .Advice("the config is of another model; --like names one of this");
  }

  Status Sort() {
    std::set<int32_t> mtp;
    for (size_t i = 0; i < store_.tensors.size(); ++i) {
      const SavedTensor& tensor = store_.tensors[i];
      if (!tensor.name) {
        MIMO_RETURN_IF_ERROR(ShowUnknown(tensor));
        continue;
      }
      const MegatronName& name = *tensor.name;
      const int32_t layer = name.stacked_layers ? -1 : name.layer;
      const auto [known, fresh] = by_key_.emplace(Key{name.tensor, layer, name.expert, name.half}, i);
      if (!fresh) MIMO_RETURN_IF_ERROR(TakeAgain(known->second, i));
      if (form_.tensors()[name.tensor].mtp) mtp.insert(name.layer);
    }
    mtp_layers_ = static_cast<int>(mtp.size());
    if (!mtp.empty() && *mtp.rbegin() >= mtp_layers_)
      return Bad("mtp.layers." + std::to_string(*mtp.rbegin()), "an MTP layer is missing")
          .Expected("MTP layers from 0 on")
          .Found(std::to_string(mtp.size()) + " of them");
    return {};
  }

  // A tensor that two keys name. Parts of a model under virtual pipeline stages may each have a copy of what lies
  // outside of layers (the embedding, for MTP); a layer is one part's, under its number in the model (reference
  // target-layouts.md 1.6).
  Status TakeAgain(size_t first, size_t second) {
    const SavedTensor &a = store_.tensors[first], &b = store_.tensors[second];
    if (a.name->part < 0 || b.name->part < 0 || a.name->part == b.name->part)
      return Bad(b.key, "two tensors that are one to us")
          .Expected("each tensor once")
          .Found("another spelling of its name");
    if (a.name->layer >= 0)
      return BadInput("parts of a model that each count their layers from 0")
          .File(store_.stored.root)
          .Tensor(b.key)
          .Expected("numbers of layers in the whole model, as torch_dist has them")
          .Found(a.key + " too")
          .Advice("save it with --ckpt-format torch_dist");
    const auto alike = [](const MegatronChunk& x, const MegatronChunk& y) {
      return x.offsets == y.offsets && x.sizes == y.sizes;
    };
    if (a.dtype != b.dtype || !std::equal(a.chunks.begin(), a.chunks.end(), b.chunks.begin(), b.chunks.end(), alike))
      return Bad(b.key, "parts of a model disagree about a tensor")
          .Expected("the type, shape and chunks of " + a.key)
          .Found("others");
    for (size_t i = 0; i < a.chunks.size(); ++i) {
      const MegatronChunk &x = a.chunks[i], &y = b.chunks[i];
      const int64_t rows = MatrixRows(x.sizes);
      view_.replicas.push_back({x.array, y.array, x.array_row, y.array_row, rows});
    }
    found_[second] = 1;
    return {};
  }

  // Under its own name: it is for the planner to refuse, carry or drop it.
  Status ShowUnknown(const SavedTensor& tensor) {
    if (tensor.chunks.empty())
      return Bad(tensor.key, "a tensor that no model table knows")
          .Expected("the tensors of a " + store_.stored.config.family->title + " language model")
          .Found("this one, without parts");
    Shown shown;
    shown.array.name = tensor.key;
    shown.array.dtype = tensor.dtype;
    shown.array.shape = tensor.shape;
    for (const MegatronChunk& chunk : tensor.chunks) AddUnknownChunk(tensor.shape, chunk, &shown.fragments);
    shown.file = FileOfLayer(false, -1);
    shown_.push_back(std::move(shown));
    return {};
  }

  // A fragment for each run of rows of the chunk that lie together in the tensor: those along its last axis but one.
  static void AddUnknownChunk(const std::vector<int64_t>& shape, const MegatronChunk& chunk,
                              std::vector<Fragment>* fragments) {
    const size_t axes = shape.size();
    const int64_t cols = axes == 0 ? 1 : chunk.sizes[axes - 1], col = axes == 0 ? 0 : chunk.offsets[axes - 1];
    const int64_t run = axes < 2 ? 1 : chunk.sizes[axes - 2], rows = MatrixRows(chunk.sizes);
    if (cols == 0 || run == 0) return;
    for (int64_t begin = 0; begin < rows; begin += run) {
      int64_t left = begin / run, row = 0, stride = 1;  // of the tensor, from its last axis but one on
      if (axes >= 2) {
        row = chunk.offsets[axes - 2];
        stride = shape[axes - 2];
      }
      for (size_t axis = axes < 2 ? 0 : axes - 2; axis-- > 0;) {
        row += (chunk.offsets[axis] + left % chunk.sizes[axis]) * stride;
        left /= chunk.sizes[axis];
        stride *= shape[axis];
      }
      fragments->push_back({chunk.array, row, col, run, cols, chunk.array_row + begin, 0});
    }
  }

  const SavedTensor* Find(size_t tensor, int32_t layer, int32_t expert, char half) {
    for (const int32_t l : {layer, -1}) {
      for (const int32_t e : {expert, -1}) {
        for (const char h : {half, '\0'}) {
          const auto found = by_key_.find(Key{tensor, l, e, h});
          if (found == by_key_.end()) continue;
          found_[found->second] = 1;
          return &store_.tensors[found->second];
        }
      }
    }
    return nullptr;
  }

  Status ShowTensor(const ExpectedTensor& expected) {
    const TensorId& id = expected.id;
    const auto index = form_.Find(id, model_);
    if (!index) return {};
    const MegatronTensor& tensor = form_.tensors()[*index];
    const bool up = id.role == Role::kMlpUp || id.role == Role::kExpertUp;
    const bool gate = id.role == Role::kMlpGate || id.role == Role::kExpertGate;
    const SavedTensor* saved = Find(*index, id.layer, id.expert, up ? 'v' : gate ? 'w' : '\0');
    if (saved == nullptr) return {};  // TakeInventory says what is missing
    const MegatronName& name = *saved->name;

    // The axes in front: layer, expert.
    std::vector<int64_t> lead;
    if (name.stacked_layers) lead.push_back(id.layer);
    if (tensor.experts() && name.expert < 0) lead.push_back(id.expert);
    const bool matrix = expected.shape.size() > 1;
    const int64_t rows = matrix ? expected.shape[0] : 1, cols = expected.shape.back();
    const AttentionShape& shape = id.layer < 0 ? model_.global : model_.attention_of(id.layer, id.mtp);
    const bool alone = name.half != 0;
    const GateUpOrder& order = tensor.experts() ? experts_ : dense_;
    if ((gate || up) && order.kind != GateUpOrder::Kind::kPlain && alone)
      return Bad(saved->key, "gate and up in tensors of their own, in another order than [gate ; up]")
          .Expected("linear_fc1 whole")
          .Found(order.ToString());
    MIMO_RETURN_IF_ERROR(
        CheckShape(*saved, tensor, lead, matrix, alone ? rows : MegatronRows(tensor, shape, rows), cols));
    std::vector<MegatronRun> runs = alone ? std::vector<MegatronRun>{{0, 0, rows}} : RunsOf(id.role, shape, rows);
    if ((gate || up) && order.kind != GateUpOrder::Kind::kPlain) {
      runs.clear();
      for (const GateUpRun& run : GateUpRuns(order, rows, up)) runs.push_back({run.row, run.stored_row, run.rows});
    }
    Shown shown;
    int64_t covered = 0;
    for (const MegatronChunk& chunk : saved->chunks)
      covered += AddFragments(chunk, lead, matrix, runs, cols, &shown.fragments);
    if (covered != rows * cols)
      return Bad(saved->key, "parts of a tensor are missing")
          .Expected(std::to_string(rows * cols) + " elements of " + expected.name)
          .Found(std::to_string(covered));
    if (tensor.cut == Cut::kVocab) CutBeyond(expected.name, *saved, rows);
    shown.array.name = expected.name;
    shown.array.id = id;
    shown.array.dtype = saved->dtype;
    shown.array.shape = expected.shape;
    shown.file = FileOfLayer(id.mtp, id.layer);
    shown_.push_back(std::move(shown));
    return {};
  }

  // Vocabulary may be padded; everything else is as the config says.
  Status CheckShape(const SavedTensor& saved, const MegatronTensor& tensor, const std::vector<int64_t>& lead,
                    bool matrix, int64_t rows, int64_t cols) const {
    std::vector<int64_t> wanted;
    if (saved.name->stacked_layers) wanted.push_back(model_.layers);
    if (tensor.experts() && saved.name->expert < 0) wanted.push_back(model_.experts);
    if (matrix) wanted.push_back(rows);
    wanted.push_back(cols);
    std::vector<int64_t> found = saved.shape;
    if (tensor.cut == Cut::kVocab && found.size() == wanted.size() && found[lead.size()] > rows)
      found[lead.size()] = rows;
    if (found == wanted) return {};
    const auto text = [](const std::vector<int64_t>& dimensions) {
      std::string s;
      for (const int64_t d : dimensions) s += (s.empty() ? "[" : ", ") + std::to_string(d);
      return s + "]";
    };
    return Bad(saved.key, "a tensor of another shape than the config says")
        .Expected(text(wanted))
        .Found(text(saved.shape));
  }

  // Rows beyond the vocabulary, which no token has.
  void CutBeyond(const std::string& name, const SavedTensor& saved, int64_t rows) {
    for (const MegatronChunk& chunk : saved.chunks) {
      const int64_t begin = std::max(rows, chunk.offsets[0]), end = chunk.offsets[0] + chunk.sizes[0];
      if (begin < end)
        view_.cut_rows.push_back({name, chunk.array, chunk.array_row + begin - chunk.offsets[0], end - begin});
    }
  }

  // Elements of the weight that the chunk holds.
  static int64_t AddFragments(const MegatronChunk& chunk, const std::vector<int64_t>& lead, bool matrix,
                              const std::vector<MegatronRun>& runs, int64_t cols, std::vector<Fragment>* fragments) {
    int64_t before = 0;  // matrices of the chunk in front of this one
    for (size_t d = 0; d < lead.size(); ++d) {
      const int64_t at = lead[d] - chunk.offsets[d];
      if (at < 0 || at >= chunk.sizes[d]) return 0;
      before = before * chunk.sizes[d] + at;
    }
    const int64_t row0 = matrix ? chunk.offsets[lead.size()] : 0, chunk_rows = matrix ? chunk.sizes[lead.size()] : 1;
    const int64_t col0 = chunk.offsets.back(), col_end = std::min(col0 + chunk.sizes.back(), cols);
    int64_t covered = 0;
    for (const MegatronRun& run : runs) {
      const int64_t begin = std::max(run.megatron_row, row0);
      const int64_t end = std::min(run.megatron_row + run.rows, row0 + chunk_rows);
      if (begin >= end || col0 >= col_end) continue;
      fragments->push_back({chunk.array, run.row + begin - run.megatron_row, col0, end - begin, col_end - col0,
                            chunk.array_row + before * chunk_rows + begin - row0, 0});
      covered += (end - begin) * (col_end - col0);
    }
    return covered;
  }

  const MegatronStore& store_;
  const MegatronForm& form_;
  const GateUpWish& wish_;
  GateUpOrder experts_, dense_;
  ModelConfig model_;
  std::map<Key, size_t> by_key_;
  std::vector<uint8_t> found_;  // by tensor of the store: its values are in the view
  int mtp_layers_ = 0;
  View view_;
  std::vector<Shown> shown_;
};

}  // namespace

Result<View> ViewOfMegatron(const MegatronStore& store, const GateUpWish& order) {
  MIMO_ASSIGN_OR_RETURN(const MegatronForm* form, MegatronForm::Get(*store.stored.config.family));
  return MegatronViewer(store, *form, order).Show();
}

}  // namespace mimo
