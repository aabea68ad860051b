// A plan's output is itself a catalogue: it is judged as any other before it exists.
#include <algorithm>

#include "lib/forms/registry/registry.h"
#include "lib/judge/judge.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

const TextFile* TextOf(const Plan& plan, std::string_view name) {
  for (const TextFile& text : plan.texts)
    if (text.name == name) return &text;
  return nullptr;
}

// Fused attention under one scale whose rows had several: scales per tensor that differ (those that are equal are
// moved).
void JudgeJoinedScales(const Plan& plan, Verdict* verdict) {
  std::vector<std::string> layers;
  for (const FuseGroup& group : plan.groups) {
    const bool joins = std::any_of(group.cells.begin(), group.cells.end(), [&](const CellRow& cell) {
      const std::vector<int64_t>& shape = plan.outputs[cell.scale_output].shape;
      return !cell.moved && std::all_of(shape.begin(), shape.end(), [](int64_t n) { return n == 1; });
    });
    if (joins && group.straddling_blocks > 0) layers.push_back(group.label);
  }
  if (!layers.empty())
    verdict->Add("fp8.joined_scales", Examples(layers),
                 "one scale for all rows in place of those of q, k and v, in " + Counted(layers.size(), "layer"),
                 layers.size());
}

}  // namespace

Result<Catalogue> CatalogueOfPlan(const Catalogue& stored, const Plan& plan) {
  Catalogue catalogue;
  catalogue.root = "the planned output";
  const TextFile* config = TextOf(plan, kConfigName);
  const std::string& text = config == nullptr ? stored.config.text : config->content;
  MIMO_ASSIGN_OR_RETURN(catalogue.config, ParseModelConfig(text, kConfigName));
  catalogue.table = stored.table;
  if (const TextFile* index = TextOf(plan, kIndexName)) {
    MIMO_ASSIGN_OR_RETURN(ParsedIndex parsed, ParseIndex(index->content, kIndexName));
    catalogue.index = std::move(parsed.info);
  }
  for (const PlanFile& file : plan.files) catalogue.files.push_back({file.name, file.bytes, 0, {}, {}});
  for (const OutputArray& output : plan.outputs) {
    StoredArray& array = catalogue.arrays.emplace_back();
    array.name = output.name;
    array.dtype = output.dtype;
    array.shape = output.shape;
    array.file = output.file;
    array.begin = output.begin;
    array.bytes = output.end - output.begin;
    if (HeaderName(array.name) == array.name) array.id = catalogue.table->Identify(array.name);
  }
  for (const CarriedFile& file : stored.carried)
    for (const std::string& name : plan.carried)
      if (file.name == name) catalogue.carried.push_back(file);
  MIMO_RETURN_IF_ERROR(SortArrays(&catalogue));
  return catalogue;
}

Result<Verdict> JudgePlan(const Checkpoint& checkpoint, const Plan& plan) {
  Verdict verdict;
  JudgeJoinedScales(plan, &verdict);
  const bool filtered = !plan.options.include.empty() || !plan.options.exclude.empty() || !plan.options.ranks.empty();
  const bool tensor_files = std::all_of(plan.files.begin(), plan.files.end(),
                                        [](const PlanFile& file) { return file.container == &SafetensorsContainer(); });
  if (filtered || !tensor_files) return verdict;
  MIMO_ASSIGN_OR_RETURN(Catalogue catalogue, CatalogueOfPlan(checkpoint.stored, plan));
  const Form& form = FormOfStored(catalogue);
  if (!form.traits().declares) return verdict;
  MIMO_ASSIGN_OR_RETURN(const std::optional<View> view, form.Show(catalogue));
  const Catalogue& shown = view ? view->catalogue : catalogue;
  MIMO_ASSIGN_OR_RETURN(const Inventory inventory, TakeInventory(shown));
  verdict.Append(view ? JudgeDeclaredModules(shown, inventory, Subject::kOutput)
                      : JudgeDeclared(shown, inventory, {}, Subject::kOutput));
  return verdict;
}

}  // namespace mimo
