#include "lib/plan/output_names.h"

#include <algorithm>
#include <unordered_map>

#include "lib/io/torch/text.h"
#include "lib/json/bytes.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

std::string Describe(OutputNames::Use use) {
  switch (use) {
    case OutputNames::Use::kTensors:
      return "a tensor file of the output";
    case OutputNames::Use::kText:
      return "a file that the conversion writes";
    case OutputNames::Use::kCarried:
      return "a file of the checkpoint that travels along";
  }
  return "";
}

// What is wrong with a name by itself; "" when nothing is.
std::string FaultOf(const std::string& name, OutputNames::Use use) {
  if (!StaysBelow(name)) return "a path that leaves the output";
  if (!IsUtf8(name)) return "a name that is not UTF-8";
  if (use != OutputNames::Use::kCarried && !IsInnerPath(name)) return "a name with a backslash or a control character";
  if (name.size() > OutputNames::kMaxBytes) return "a path of " + std::to_string(name.size()) + " bytes";
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    if (end - begin > OutputNames::kMaxComponentBytes) return "a name of " + std::to_string(end - begin) + " bytes";
    begin = end + 1;
  }
  const std::string top = name.substr(0, name.find('/'));
  if (top == kManifestName || top.starts_with(kOwnPrefix)) return "a name that mimo-convert keeps for itself";
  return "";
}

}  // namespace

Status OutputNames::CheckFree(const std::string& name, Use use) const {
  // `other` has the name, or one that leaves no room for it.
  const auto clash = [&](const std::string& other, Use other_use) {
    Error error =
        BadInput(other == name ? "two files of the output would have one name"
                               : "a file of the output would lie where another is a directory")
            .File(Printable(name))
            .Expected("each name once, and none a directory of another")
            .Found(Describe(use) + ", and " + Describe(other_use) + (other == name ? "" : ": " + Printable(other)));
    const bool stray = use == Use::kCarried || other_use == Use::kCarried;
    if (stray) {
      error.advice = "rename the file in the checkpoint";
      if (use == Use::kTensors || other_use == Use::kTensors)
        error.advice += ", or let tensor files have other names (--max-shard-size)";
    }
    return error;
  };
  if (const auto file = files_.find(name); file != files_.end()) return clash(name, file->second);
  if (const auto below = directories_.find(name); below != directories_.end())
    return clash(below->second, files_.find(below->second)->second);
  for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    const auto above = files_.find(std::string_view(name).substr(0, slash));
    if (above != files_.end()) return clash(above->first, above->second);
  }
  return {};
}

Status OutputNames::Add(const std::string& name, Use use) {
  if (const std::string fault = FaultOf(name, use); !fault.empty())
    return BadInput("the output cannot have a file of this name")
        .File(Printable(name))
        .Expected("a name below the output, in UTF-8, of at most " + std::to_string(kMaxComponentBytes) +
                  " bytes in each part and " + std::to_string(kMaxBytes) + " in all, that is free")
        .Found(fault)
        .Advice(use == Use::kCarried ? "rename the file, or move it out of the checkpoint" : "");
  MIMO_RETURN_IF_ERROR(CheckFree(name, use));
  files_.emplace(name, use);
  for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
    directories_.emplace(name.substr(0, slash), name);
  return {};
}

Status CheckOutputNames(const Catalogue& catalogue, const Plan& plan) {
  OutputNames names;
  for (const PlanFile& file : plan.files) MIMO_RETURN_IF_ERROR(names.Add(file.name, OutputNames::Use::kTensors));
  for (const TextFile& text : plan.texts) MIMO_RETURN_IF_ERROR(names.Add(text.name, OutputNames::Use::kText));
  std::unordered_map<std::string_view, const CarriedFile*> known;
  for (const CarriedFile& file : catalogue.carried) known.emplace(file.name, &file);
  for (const std::string& name : plan.carried) {
    const auto found = known.find(name);
    if (found == known.end())
      return BadInput("the plan carries a file that the checkpoint does not have")
          .File(Printable(name))
          .Expected("a file of the checkpoint")
          .Found("none");
    const CarriedFile& file = *found->second;
    if (!file.outside.empty()) return LeavesCheckpoint(JoinPath(catalogue.root, name), file.outside);
    MIMO_RETURN_IF_ERROR(names.Add(name, OutputNames::Use::kCarried));
  }
  return {};
}

}  // namespace mimo
