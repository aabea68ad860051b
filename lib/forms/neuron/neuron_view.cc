#include "lib/forms/neuron/neuron_view.h"

#include "lib/forms/neuron/neuron_names.h"
#include "lib/io/dtype.h"

namespace mimo {
namespace {

class NeuronViewer {
 public:
  explicit NeuronViewer(const Catalogue& stored) : stored_(stored) {}

  Result<View> Show() {
    view_ = EmptyView(stored_, FormKind::kNxdi);
    ModelConfig& config = view_.catalogue.config;
    view_.halved_codes = config.marker && config.marker->expert_codes == ExpertCodes::kHalve;
    config.projection_layout.clear();
    for (uint32_t i = 0; i < stored_.arrays.size(); ++i) MIMO_RETURN_IF_ERROR(ShowStored(i));
    FinishView(std::move(shown_), &view_);
    return std::move(view_);
  }

 private:
  const Family& family() const { return *stored_.config.family; }

  Error Bad(const StoredArray& array, std::string what) const {
    return BadInput(std::move(what))
        .File(JoinPath(stored_.root, stored_.files[array.file].name))
        .Tensor(array.name)
        .Found("another")
        .Advice("config.json and tensors are of different models, or the directory is not Neuron's");
  }

  Status ShowStored(uint32_t index) {
    const StoredArray& array = stored_.arrays[index];
    if (const auto stack = StackOfNeuronName(family(), array.name)) return ShowStack(index, *stack);
    const auto id = IdOfNeuronName(family(), array.name);
    if (!id)
      return Bad(array, "an array that a Neuron directory does not have")
          .Expected("names of layers.N, embed_tokens, norm, lm_head");
    StoredArray shown = array;
    shown.id = *id;
    shown.name = stored_.table->NameOf(shown.id);
    if (const StoredArray* scale = stored_.Find(NameOfPart(array.name, Part::kRowScale));
        id->part == Part::kWeight && scale)
      view_.scale_of[index] = stored_.by_name.at(scale->name);
    shown_.push_back({std::move(shown), {WholeOf(array, index)}, FileOfLayer(false, id->layer)});
    return {};
  }

  // [E, rows, columns]: each expert's projections, turned over; gate before up.
  Status ShowStack(uint32_t index, const NeuronStack& stack) {
    const StoredArray& array = stored_.arrays[index];
    const int64_t members = stack.gate_up ? 2 : 1, experts = stored_.config.experts;
    if (array.shape.size() != 3 || array.shape[0] != experts || array.shape[2] % members != 0)
      return Bad(array, "a stack of experts of the wrong shape")
          .Expected(std::to_string(experts) + " experts in three dimensions");
    if (const StoredArray* scale = stored_.Find(NeuronStackName(family(), stack.gate_up, stack.layer, Part::kRowScale));
        stack.part == Part::kWeight && scale)
      view_.scale_of[index] = stored_.by_name.at(scale->name);
    const int64_t rows = array.shape[1], each = array.shape[2] / members;
    for (int64_t expert = 0; expert < experts; ++expert) {
      for (int64_t member = 0; member < members; ++member) {
        StoredArray shown;
        const Role role = !stack.gate_up ? Role::kExpertDown : member == 0 ? Role::kExpertGate : Role::kExpertUp;
        const Part part = stack.part == Part::kWeight ? Part::kWeight : Part::kScaleInv;
        shown.id = {role, part, false, stack.layer, static_cast<int32_t>(expert)};
        shown.name = stored_.table->NameOf(shown.id);
        shown.dtype = array.dtype;
        shown.shape = {each, rows};
        const Fragment turned{index, 0, 0, each, rows, expert * rows, member * each};
        shown_.push_back({std::move(shown), {turned}, FileOfLayer(false, stack.layer), true});
      }
    }
    return {};
  }

  const Catalogue& stored_;
  View view_;
  std::vector<Shown> shown_;
};

}  // namespace

Result<View> ViewOfNeuron(const Catalogue& stored) {
  return NeuronViewer(stored).Show();
}

}  // namespace mimo
