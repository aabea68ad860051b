// From a planned Hugging Face form (split attention, plain values) to the parts of Megatron's tensors, as torch_dist
// stores them: reference target-layouts.md 2.2.
#include <algorithm>
#include <map>
#include <tuple>

#include "lib/decode/row_bytes.h"
#include "lib/draft/cut_pieces.h"
#include "lib/forms/megatron/megatron_files.h"
#include "lib/forms/megatron/megatron_form.h"
#include "lib/forms/megatron/torch_dist_form.h"
#include "lib/io/torch/dcp_metadata.h"
#include "lib/io/torch/item.h"
#include "lib/model/file_names.h"
#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr int64_t kParts = 8;  // of large dense tensors: readers load whole parts, and want a slice
constexpr int64_t kColumns = 128;

class TorchDistPlanner {
 public:
  TorchDistPlanner(Draft& draft, const MegatronForm& form, const MegatronTraits& traits, const ModelConfig& model,
                   const PlanOptions& options)
      : draft_(draft), form_(form), traits_(traits), model_(model), options_(options) {}

  Status Plan() {
    const std::vector<DraftGroup> planned = std::move(draft_.groups);
    draft_.groups.clear();
    std::map<std::tuple<bool, int32_t, size_t>, Members> members;
    for (const DraftGroup& group : planned)
      for (const DraftOutput& output : group.outputs) {
        MIMO_ASSIGN_OR_RETURN(const size_t tensor, TensorOf(output));
        members[{output.id.mtp, output.id.layer, tensor}].push_back(&output);
      }
    for (const auto& [key, of] : members) MIMO_RETURN_IF_ERROR(Make(std::get<2>(key), std::get<1>(key), of));
    return {};
  }

 private:
  using Members = std::vector<const DraftOutput*>;  // planned outputs that one tensor holds

  // A tensor of torch_dist.
  struct Tensor {
    std::string key;
    DType dtype = DType::kBF16;
    std::vector<int64_t> shape;
  };

  Result<size_t> TensorOf(const DraftOutput& output) const {
    const TensorId& id = output.id;
    const auto tensor = form_.Find(id, model_);
    const bool values = output.transform == Transform::kMove || output.transform == Transform::kConvert;
    if (tensor && id.part == Part::kWeight && values) return *tensor;
    return UsageError("Megatron has no place for a tensor")
        .Expected("the weights of the language model, as values")
        .Found(output.name)
        .Advice("--unknown drop, or --exclude");
  }

  // A part of the whole tensor as a matrix: rows of the axis before the last.
  struct Rectangle {
    Range rows, cols;
    std::vector<int64_t> offsets, sizes;
  };

  const AttentionShape& AttentionOf(bool mtp, int32_t layer) const {
    return layer < 0 && !mtp ? model_.global : model_.attention_of(layer, mtp);
  }

  // The most parts, up to `wanted`, that `units` can be cut into evenly; `asked`: a number that must divide.
  Result<int64_t> PartsOf(int64_t units, int64_t asked, const char* flag, const std::string& name) const {
    if (asked > 1 && units % asked != 0)
      return UsageError("a tensor cannot be cut into this many parts")
          .Expected("a divisor of " + std::to_string(units))
          .Found(std::string(flag) + " " + std::to_string(asked))
          .Advice(name);
    asked = std::max<int64_t>(asked, 1);
    int64_t parts = std::max<int64_t>(kParts / asked, 1);
    while (units / asked % parts != 0) --parts;
    return parts * asked;
  }

  // Linear_qkv is cut between groups; by rows where Megatron has ranks share the KV heads.
  int64_t UnitsOfHeads(const AttentionShape& shape, int64_t rows) const {
    const int64_t tp = options_.tp;
    const bool shared = tp > shape.kv_heads && tp % shape.kv_heads == 0 && shape.heads % tp == 0 && rows % tp == 0;
    return traits_.tp_beyond_kv_heads && shared ? tp : shape.kv_heads;
  }

  std::string FileOf(bool mtp, int32_t layer) const {
    const int64_t n = mtp ? model_.layers + 2 + layer : layer + 2;
    return MegatronIterationDirectory(options_.iteration) + "/__0_" + std::to_string(n) + ".distcp";
  }

  // Whether a weight is read under scales of groups of columns.
  bool InGroups(const OutputArray& output) {
    return std::any_of(output.pieces.begin(), output.pieces.end(), [&](const Piece& piece) {
      if (piece.source == kNone) return false;
      const SourceArray& source = draft_.sources[piece.source];
      return source.quantized && ScaleKindOf(source.codec) == kernels::ScaleKind::kGroups;
    });
  }

  Status Make(size_t index, int32_t layer, const Members& members) {
    const MegatronTensor& tensor = form_.tensors()[index];
    const DraftOutput& first = *members[0];
    for (const DraftOutput* output : members)
      if (output->dtype != first.dtype)
        return UsageError("weights that Megatron holds in one tensor are stored differently")
            .Expected(first.name)
            .Found(output->name)
            .Advice("store them alike first");
    Tensor made;
    made.key = NameInLayer(tensor.pattern, layer);
    made.dtype = tensor.f32 ? DType::kF32 : first.dtype;
    if (tensor.experts()) return MakeExperts(tensor, layer, members, made);
    if (members.size() != tensor.of.size())
      return UsageError("a part of what Megatron holds in one tensor is left out")
          .Tensor(made.key)
          .Expected(std::to_string(tensor.of.size()) + " weights")
          .Found(std::to_string(members.size()))
          .Advice("all or none of them, with --include and --exclude");
    const AttentionShape& shape = AttentionOf(tensor.mtp, layer);
    made.shape = first.shape;
    if (tensor.cut == Cut::kVocab && options_.pad)
      made.shape[0] = RoundUp(made.shape[0], 128 * std::max<int64_t>(options_.tp, 1));
    if (tensor.of.size() > 1) made.shape[0] = MegatronRows(tensor, shape, first.shape[0]);
    MIMO_ASSIGN_OR_RETURN(const std::vector<Rectangle> parts, CutWhole(tensor, shape, made));
    draft_.BeginGroup(made.key);
    for (const Rectangle& part : parts) Add(tensor, layer, members, part, made);
    return {};
  }

  Result<std::vector<Rectangle>> CutWhole(const MegatronTensor& tensor, const AttentionShape& shape,
                                          const Tensor& made) const {
    const int64_t rows = MatrixRows(made.shape), cols = RowElements(made.shape);
    int64_t row_parts = 1, col_parts = 1;
    if (tensor.cut == Cut::kHeads) {
      MIMO_ASSIGN_OR_RETURN(row_parts, PartsOf(UnitsOfHeads(shape, rows), options_.tp, "--tp", made.key));
    } else if (tensor.cut == Cut::kRows || tensor.cut == Cut::kVocab) {
      const auto halves = static_cast<int64_t>(tensor.of.size());
      MIMO_ASSIGN_OR_RETURN(row_parts, PartsOf(rows / halves, options_.tp, "--tp", made.key));
      row_parts *= halves;
    } else if (tensor.cut == Cut::kColumns) {
      // Whole blocks of the usual codecs where they are as many as is asked.
      const int64_t units = cols % (kColumns * std::max<int64_t>(options_.tp, 1)) == 0 ? cols / kColumns : cols;
      MIMO_ASSIGN_OR_RETURN(col_parts, PartsOf(units, options_.tp, "--tp", made.key));
    }
    std::vector<Rectangle> parts;
    for (int64_t r = 0; r < row_parts; ++r) {
      for (int64_t c = 0; c < col_parts; ++c) {
        const Range in_rows = EvenPart(rows, row_parts, r), in_cols = EvenPart(cols, col_parts, c);
        if (made.shape.size() > 1)
          parts.push_back({in_rows, in_cols, {in_rows.begin, in_cols.begin}, {in_rows.size(), in_cols.size()}});
        else
          parts.push_back({in_rows, in_cols, {in_cols.begin}, {in_cols.size()}});
      }
    }
    return parts;
  }

  // [E, rows, columns]: a part per expert, half and expert-tensor rank.
  Status MakeExperts(const MegatronTensor& tensor, int32_t layer, const Members& members, const Tensor& made) {
    const DraftOutput& first = *members[0];
    const int64_t rows = first.shape[0], cols = first.shape[1], etp = std::max<int64_t>(options_.etp, 1);
    const auto halves = static_cast<int64_t>(tensor.of.size());
    const bool by_rows = tensor.cut == Cut::kExpertRows;
    const int64_t units = by_rows ? rows : cols;
    if (units % etp != 0)
      return UsageError("experts cannot be cut into this many parts")
          .Expected("a divisor of " + std::to_string(units))
          .Found("--etp " + std::to_string(etp))
          .Advice(made.key);
    Members sorted = members;
    const auto order = [&](const DraftOutput* output) {
      return std::pair(output->id.expert, output->id.role == tensor.of[0] ? 0 : 1);
    };
    std::sort(sorted.begin(), sorted.end(),
              [&](const DraftOutput* a, const DraftOutput* b) { return order(a) < order(b); });
    if (static_cast<int64_t>(sorted.size()) != model_.experts * halves)
      return UsageError("experts of a layer are left out")
          .Expected(std::to_string(model_.experts) + " experts")
          .Found(made.key)
          .Advice("all or none of them, with --include and --exclude");
    for (const DraftOutput* output : sorted) {
      if (!by_rows && cols / etp % 32 != 0 && InGroups(*output))
        return UsageError("experts under scales of 32 columns cannot be cut inside them")
            .Expected("a multiple of 32 columns")
            .Found(std::to_string(cols / etp) + " (--etp " + std::to_string(etp) + ")")
            .Advice(output->name);
      const int64_t base = output->id.role == tensor.of[0] ? 0 : rows;
      draft_.BeginGroup(output->name);
      for (int64_t r = 0; r < etp; ++r) {
        const Range in_rows = EvenPart(rows, by_rows ? etp : 1, by_rows ? r : 0);
        const Range in_cols = EvenPart(cols, by_rows ? 1 : etp, by_rows ? 0 : r);
        const Range of_both{base + in_rows.begin, base + in_rows.end};
        Add(tensor, layer, {output},
            {of_both, in_cols, {output->id.expert, of_both.begin, in_cols.begin}, {1, of_both.size(), in_cols.size()}},
            made);
      }
    }
    return {};
  }

  void Add(const MegatronTensor& tensor, int32_t layer, const Members& members, const Rectangle& part,
           const Tensor& made) {
    const DraftOutput& first = *members[0];
    OutputArray output = OutputLike(first);
    output.name = ChunkName(made.key, part.offsets);
    output.dtype = made.dtype;
    output.shape = part.sizes;
    for (const DraftOutput* from : members) {
      if (from->transform != Transform::kConvert) continue;
      output.transform = Transform::kConvert;
      output.target_codec = from->target_codec;
    }
    if (output.dtype != first.dtype) {
      output.transform = Transform::kConvert;
      output.target_codec = *ValueCodecOf(output.dtype);
    }
    for (const DraftOutput* from : members) {
      for (const MegatronRun& run : RunsOf(from->id.role, AttentionOf(tensor.mtp, layer), from->rows())) {
        const int64_t begin = std::max(run.megatron_row, part.rows.begin);
        const int64_t end = std::min(run.megatron_row + run.rows, part.rows.end);
        if (begin >= end) continue;
        Placed placed;
        placed.rows = {run.row + begin - run.megatron_row, run.row + end - run.megatron_row};
        placed.cols = part.cols;
        placed.target_row = begin - part.rows.begin;
        const size_t before = output.pieces.size();
        CutPieces(*from, placed, &output.pieces);
        // Values that were only moved are read as values now.
        if (output.transform == Transform::kConvert && from->transform == Transform::kMove)
          for (size_t k = before; k < output.pieces.size(); ++k)
            if (output.pieces[k].source != kNone)
              draft_.sources[output.pieces[k].source].codec = *ValueCodecOf(from->dtype);
      }
    }
    JoinPieces(&output.pieces);
    PadRows(output.rows(), &output.pieces);
    draft_.AddOutput(std::move(output), first.near, FileOf(tensor.mtp, layer));
  }

  Draft& draft_;
  const MegatronForm& form_;
  const MegatronTraits& traits_;
  const ModelConfig& model_;
  const PlanOptions& options_;
};

// The keys that loaders ask for: all modules of all layers, one empty state for all.
void AddExtraStates(const MegatronForm& form, const ModelConfig& model, int mtp_layers, const DcpRange& state,
                    std::vector<DcpBytes>* bytes) {
  for (const MegatronModule& module : form.modules()) {
    const bool layered = module.pattern.find(kLayerSlot) != std::string::npos;
    const int64_t layers = !layered ? 1 : module.mtp ? mtp_layers : model.layers;
    for (int64_t layer = 0; layer < layers; ++layer) {
      const auto at = static_cast<size_t>(layer);
      const bool moe = layered && !module.mtp && model.moe[at] != 0;
      const bool windowed = module.mtp || (layered && model.windowed[at] != 0);
      if (module.when == "moe" && !moe) continue;
      if (module.when == "dense" && moe) continue;
      if (module.when == "sinks" && !(windowed ? model.window_sinks : model.global_sinks)) continue;
      const std::string key = NameInLayer(module.pattern, static_cast<int32_t>(layer)) + "._extra_state/shard_";
      const int64_t count = module.experts ? model.experts : 1;
      for (int64_t e = 0; e < count; ++e)
        bytes->push_back({key + std::to_string(e) + "_" + std::to_string(count), state});
    }
  }
}

}  // namespace

Status TorchDistForm::Arrange(Planning* p) const {
  MIMO_ASSIGN_OR_RETURN(const MegatronForm* form, MegatronForm::Get(*p->target.model.family));
  MIMO_ASSIGN_OR_RETURN(const MegatronTraits traits, MegatronTraitsOf(*p->target.model.family));
  return TorchDistPlanner(p->draft, *form, traits, p->target.model, p->options).Plan();
}

Status TorchDistForm::Describe(const Planning& p, Plan* plan) const {
  const ModelConfig& model = p.target.model;
  const std::string directory = MegatronIterationDirectory(plan->options.iteration) + "/";
  std::map<std::string, DcpTensor> tensors;  // by key
  int mtp_layers = 0;
  int64_t vocab = model.vocab;
  for (const OutputArray& output : plan->outputs) {
    const auto [key, offsets] = ParseChunkName(output.name);
    DcpTensor& tensor = tensors[key];
    tensor.key = key;
    tensor.dtype = output.dtype;
    tensor.shape.resize(offsets.size());
    for (size_t d = 0; d < offsets.size(); ++d)  // chunks tile it
      tensor.shape[d] = std::max(tensor.shape[d], offsets[d] + output.shape[d]);
    const TorchItemSize size = SizeOfTorchItem(output.dtype, output.shape);
    const std::string& file = plan->files[output.file].name;
    tensor.chunks.push_back(
        {offsets, output.shape, {file.substr(directory.size()), output.begin - size.head, size.total()}});
    if (output.id.mtp) mtp_layers = std::max(mtp_layers, output.id.layer + 1);
    if (output.id.role == Role::kEmbed) vocab = tensor.shape[0];
  }
  DcpMetadata metadata;
  for (auto& [key, tensor] : tensors) metadata.tensors.push_back(std::move(tensor));
  MIMO_ASSIGN_OR_RETURN(const MegatronForm* form, MegatronForm::Get(*model.family));
  const std::string state = EmptyExtraStateItem();
  constexpr char kStates[] = "__0_0.distcp";
  AddExtraStates(*form, model, mtp_layers, {kStates, 0, state.size()}, &metadata.bytes);
  std::sort(metadata.bytes.begin(), metadata.bytes.end(),
            [](const DcpBytes& a, const DcpBytes& b) { return a.key < b.key; });
  plan->texts.push_back({directory + kStates, state});
  plan->texts.push_back({directory + kDcpMetadataName, WriteDcpMetadata(metadata)});
  MIMO_ASSIGN_OR_RETURN(std::vector<TextFile> files, MegatronFiles({model, mtp_layers, vocab, plan->options}));
  // Trackers say that the iteration is there: after all that it consists of.
  std::stable_partition(files.begin(), files.end(), [](const TextFile& f) { return f.name.starts_with("iter_"); });
  std::move(files.begin(), files.end(), std::back_inserter(plan->texts));
  return Form::Describe(p, plan);
}

}  // namespace mimo
