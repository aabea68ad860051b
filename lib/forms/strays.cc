#include "lib/forms/strays.h"

#include <algorithm>

#include "lib/model/strangers.h"

namespace mimo {
namespace {

Error Refusal(const Catalogue& stored, const StrayFile& stray, std::string what) {
  return BadInput(std::move(what))
      .File(JoinPath(stray.root.empty() ? stored.root : stray.root, stray.file))
      .Found(StrayEvidence(stray));
}

Status CheckUnknown(const Catalogue& stored, const StrayFile& stray, UnknownPolicy policy) {
  const bool of_run = !stray.root.empty();
  if (policy == UnknownPolicy::kDrop || (policy == UnknownPolicy::kCarry && !of_run)) return {};
  const Stranger* stranger = stray.problem.empty() ? FindStranger(stray.example) : nullptr;
  const std::string what = stranger == nullptr ? "" : " (" + stranger->name + ")";
  return Refusal(stored, stray, "a tensor file that the index does not name, of unknown content" + what)
      .Id("travel.unknown_file")
      .Expected("tensor files of this model, which the index names")
      .Advice(of_run ? "--unknown drop leaves it out: files of a run are not copied into the form of its reference"
                     : "--unknown drop leaves it out, --unknown carry copies it as it is");
}

}  // namespace

std::string StrayEvidence(const StrayFile& stray) {
  if (!stray.problem.empty()) return stray.problem;
  const std::string of = std::to_string(stray.tensors) + (stray.tensors == 1 ? " tensor" : " tensors");
  const std::string such = stray.example.empty() ? "" : ", such as " + stray.example;
  if (stray.held > 0)
    return std::to_string(stray.held) + " of " + of + " are in files of the index too" + such + " in " + stray.holder;
  if (stray.tensors == 0) return "no tensors";
  return of + (stray.unknown > 0 ? ", " + std::to_string(stray.unknown) + " of them unknown" : "") + such;
}

Status CheckStrays(const Catalogue& stored, UnknownPolicy policy) {
  for (const StrayFile& stray : stored.strays) {
    switch (stray.kind) {
      case StrayKind::kForgotten:
      case StrayKind::kStale:
        break;
      case StrayKind::kUnknown:
        MIMO_RETURN_IF_ERROR(CheckUnknown(stored, stray, policy));
        break;
      case StrayKind::kMixed:
        if (policy == UnknownPolicy::kDrop) break;
        return Refusal(stored, stray, "a tensor file that the index does not name, with tensors of files that it does")
            .Id("travel.partly_unknown_file")
            .Expected("other tensors than those of " + stray.holder)
            .Advice("--unknown drop leaves the file out: what the index names is converted");
      case StrayKind::kPartly:
        return Refusal(stored, stray,
                       "a tensor file that the index does not name holds tensors of this model, some of them a second "
                       "time")
            .Id("travel.partly_listed_file")
            .Expected("tensors that are in no other file, or all of them in " + stray.holder + " and its like")
            .Advice("write " + stray.file +
                    " again with the tensors that no other file holds, or move it elsewhere to convert what the index "
                    "names");
    }
  }
  return {};
}

bool IsDroppedStray(const Catalogue& stored, const std::string& file, UnknownPolicy policy) {
  if (policy != UnknownPolicy::kDrop) return false;
  return std::any_of(stored.strays.begin(), stored.strays.end(), [&](const StrayFile& stray) {
    return stray.root.empty() && stray.may_travel() && stray.file == file;
  });
}

}  // namespace mimo
