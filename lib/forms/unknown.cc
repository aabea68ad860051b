#include "lib/forms/unknown.h"

#include "lib/model/strangers.h"

namespace mimo {

Error RefuseUnknown(const std::string& title, const std::vector<std::string>& names, const std::string& place) {
  const std::vector<StrangerCount> counts = CountStrangers(names);
  Error error = BadInput("tensors that no model table knows")
                    .File(place)
                    .Tensor(counts.empty() ? names.front() : counts.front().example)
                    .Expected("tensors of the " + title + " family only");
  for (const StrangerCount& count : counts)
    error.found += (error.found.empty() ? "" : "; ") + std::to_string(count.count) + " unknown: " + count.kind->name +
                   ", such as " + count.example;
  if (counts.empty()) return error;
  error.id = counts.front().kind->id;
  error.advice = counts.front().kind->advice;
  return error;
}

}  // namespace mimo
