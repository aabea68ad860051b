// Gives the planned outputs their files and places: the last step of a plan under construction.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lib/draft/draft.h"

namespace mimo {

struct PlacementOptions {
  uint64_t max_shard_bytes = 0;  // 0: the source's files, but for outputs that name theirs
  const Container* container = &SafetensorsContainer();
  bool as_near = false;     // every output lies where the array near it does, in its file, under its header
  std::string layout = {};  // for the headers of written files; "" leaves it out
};
// Files, offsets, headers and file groups of the plan, whose sources, outputs and groups get their numbers: outputs by
// file and offset, groups by their first output, sources as the draft first used them. Its options, texts, notes and
// fates are the caller's.
Plan PlaceOutputs(Draft draft, const PlacementOptions& options);
// The last part of it alone, for a plan whose sources have changed.
void GroupFiles(Plan& plan);

// __metadata__ of a tensor file: the source's own keys, "format": "pt", and the layout ("" for none).
std::vector<std::pair<std::string, std::string>> FileMetadata(
    const std::vector<std::pair<std::string, std::string>>& source, const std::string& layout);

}  // namespace mimo
