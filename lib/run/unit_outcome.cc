#include "lib/run/unit_outcome.h"

namespace mimo {

void MergeInto(const UnitOutcome& unit, RunResults* results) {
  for (size_t i = 0; i < unit.results.outputs.size(); ++i) {
    TensorResult& total = results->tensors[unit.results.outputs[i]];
    const TensorResult& part = unit.results.tensors[i];
    if (part.hash) {
      if (!total.hash) total.hash = Hash128();
      *total.hash += *part.hash;
    }
    total.anomalies += part.anomalies;
    total.counts += part.counts;
    if (part.error) total.error = part.error;
  }
  for (const auto& [group, counts] : unit.results.grids) results->groups[group] = counts;
}

}  // namespace mimo
