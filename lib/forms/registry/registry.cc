#include "lib/forms/registry/registry.h"

#include <algorithm>

#include "lib/forms/engine/engine_form.h"
#include "lib/forms/megatron/torch_dist_form.h"
#include "lib/forms/merge/merge_form.h"
#include "lib/forms/neuron/neuron_form.h"
#include "lib/forms/ranks/sharded_state_form.h"

namespace mimo {

const std::vector<const Form*>& Forms() {
  static const TorchDistForm megatron;
  static const ShardedStateForm ranks;
  static const NeuronForm neuron;
  static const EngineForm engine;
  static const Form hf;
  static const std::vector<const Form*> forms = {&megatron, &ranks, &neuron, &engine, &hf};
  return forms;
}

const Form& FormOfStored(const Catalogue& stored) {
  const std::optional<LayoutMarker>& marker = stored.config.marker;
  for (const Form* form : Forms())
    if (marker ? form->kind() == marker->form : form->Recognises(stored)) return *form;
  return *Forms().back();
}

const Form& FormOf(const Checkpoint& checkpoint) {
  if (!checkpoint.view) return FormOfStored(checkpoint.stored);
  for (const Form* form : Forms())
    if (form->kind() == ReaderOf(checkpoint.view->form)) return *form;
  return *Forms().back();
}

const Form& FormOfOutput(bool merged, PlanOptions* options) {
  static const MergeForm merge;
  const auto asked =
      std::find_if(Forms().begin(), Forms().end(), [&](const Form* form) { return form->IsAskedFor(*options); });
  const Form& form = asked == Forms().end() ? *Forms().back() : **asked;
  form.Complete(options);
  // Whoever asks for other codecs wants the merged checkpoint in a form, not the reference's files again.
  return merged && options->dtype == DTypeChoice::kKeep && !options->recipe ? merge : form;
}

}  // namespace mimo
