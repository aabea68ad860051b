#include "lib/forms/neuron/neuron_form.h"

#include <algorithm>

#include "lib/base/checked.h"
#include "lib/forms/fp8_scales.h"
#include "lib/forms/hf/hf_config.h"
#include "lib/forms/neuron/neuron_names.h"
#include "lib/forms/neuron/neuron_view.h"
#include "lib/forms/open_view.h"
#include "lib/forms/refusals.h"
#include "lib/model/role_groups.h"

namespace mimo {

bool NeuronForm::Recognises(const Catalogue& stored) const {
  return std::any_of(stored.arrays.begin(), stored.arrays.end(), [&](const StoredArray& array) {
    const auto stack = StackOfNeuronName(*stored.config.family, array.name);
    return stack && stack->gate_up && stack->part == Part::kWeight;
  });
}

Status NeuronForm::Open(FileSystem& fs, const std::string&, const OpenOptions& options,
                        OpenedCheckpoint* opened) const {
  MIMO_RETURN_IF_ERROR(RefuseSourceQkv(options));
  const Catalogue& stored = opened->checkpoint.stored;
  MIMO_ASSIGN_OR_RETURN(View view, ViewOfNeuron(stored));
  return OpenView(fs, std::move(view), kOwnGrids, BasisOf(stored), "a preprocessed Neuron directory", opened);
}

Status NeuronForm::Check(const Planning& p) const {
  const Family& family = *p.catalogue.config.family;
  if (!family.neuron)
    return UsageError("nothing is known of how Neuron loads models of this family")
        .Expected("--to hf, or a description of the family's Neuron names (docs/adding-a-model.md)")
        .Found("--to nxdi of " + family.title);
  MIMO_RETURN_IF_ERROR(CheckEach(p, {RefuseFormat, RefuseIteration, RefuseTemplate}));
  const bool fused = p.options.attention == AttentionStorage::kFused || p.options.qkv.kind == QkvWish::Kind::kFused;
  if (fused && !family.neuron->fuses.empty())
    return UsageError("NxDI fuses Q, K and V of this family itself, while it loads, and refuses files that are fused")
        .Expected("Q, K and V apart")
        .Found(p.options.attention == AttentionStorage::kFused ? "--attention fused" : "--qkv " + p.options.qkv.text)
        .Advice(family.neuron->fuses);
  MIMO_RETURN_IF_ERROR(RefuseEngineOptions(p, AttentionStorage::kBf16));
  MIMO_RETURN_IF_ERROR(CheckEach(p, {RefuseTrainingTopology, RefuseShardSize}));
  if (p.options.fp8_block_rows > 0)
    return UsageError("Neuron's blocks are 128 x 128")
        .Expected("no --fp8-block")
        .Found(std::to_string(p.options.fp8_block_rows) + " rows");
  if (p.options.router_bias == RouterBias::kCentred && p.view != nullptr)
    return UsageError("router biases of rank files, training saves and Neuron directories cannot be centred")
        .Expected("two runs: --to hf first, then --to nxdi --router-bias centred")
        .Found("--router-bias centred");
  return CheckEach(p, {RefuseRanks, CheckFold, RefuseQkv});
}

std::string NeuronForm::WhyDropped(const Planning&, const TensorId& id) const {
  return IsTower(id.role) ? "Neuron's form has no towers" : id.mtp ? "Neuron's form has no MTP layers" : "";
}

// A scale per row for attention and dense layers, values for the output projection.
Result<std::optional<Choice>> NeuronForm::Store(const Planning& p, const Weight& weight, const TensorId& id,
                                                const std::string& name) const {
  if (p.options.dtype != DTypeChoice::kKeep) return std::optional<Choice>();
  const bool quantized = weight.storage != Storage::kPlain;
  if (IsExpert(id.role)) {
    if (!quantized || IsReleasedFp8(p.catalogue, weight)) return std::optional(Choice());
    if (HasBlockGrid(weight.storage)) return NoPlaceFor(p.catalogue, weight, "stacked experts of Neuron");
    return UsageError("Neuron has no form for these experts")
        .Expected("block FP8 or BF16 experts")
        .Found(name)
        .Advice("--dtype bf16 writes a BF16 directory; or two runs: a recipe that makes them block FP8 first");
  }
  const bool by_rows =
      IsAttentionProjection(id.role) ? p.options.attention != AttentionStorage::kBf16 : IsDenseMlp(id.role);
  if (!by_rows) return std::optional(quantized ? Choice::Plain(Codec::kBf16) : Choice());
  Choice choice;
  choice.kind = Choice::Kind::kEncode;
  choice.encoding.codec = Codec::kFp8Block;
  choice.encoding.neuron = true;
  choice.encoding.block_rows = 1;
  choice.encoding.block_cols = static_cast<uint32_t>(CeilDiv(weight.cols, 32) * 32);
  choice.arrays.code_dtype = DType::kF8E4M3;
  choice.arrays.scales = Part::kRowScale;
  choice.arrays.scale_dtype = DType::kF32;
  return std::optional(choice);
}

void NeuronForm::Note(Planning* p) const {
  Form::Note(p);
  if (p->options.router_bias == RouterBias::kCentred)
    p->notes.push_back("router biases lack their mean, which no choice of experts depends on; it is not kept");
  const bool keeps = p->options.dtype == DTypeChoice::kKeep;
  const std::string attention = !keeps ? "values" : p->options.attention != AttentionStorage::kBf16 ? "rows" : "";
  for (const NeuronNaming::Note& note : p->catalogue.config.family->neuron->notes)
    if (note.when.empty() || note.when == attention) p->notes.push_back(note.text);
}

void NeuronForm::Amend(const Planning& p, HfDescription* description) const {
  const bool keeps = p.options.dtype == DTypeChoice::kKeep;
  if (keeps) description->marker.expert_codes = p.options.expert_codes.value_or(ExpertCodes::kHalve);
  description->marker.recoded = true;
  description->marker.centred |= p.options.router_bias == RouterBias::kCentred;
  description->architecture = p.catalogue.config.family->neuron->architecture;
  description->keeps_quantization = keeps;
  description->text_only = true;
}

}  // namespace mimo
