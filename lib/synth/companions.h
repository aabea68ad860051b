// What lies beside the shards of a released checkpoint: index, tokenizer and generation config, code named by auto_map,
// the drafter (dflash/) and the audio tokenizer. Small stand-ins with the real names.
#pragma once

#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/synth/synth.h"

namespace mimo {

struct SmallFile {
  std::string name;  // relative to the checkpoint, with '/'
  std::string content;
};

// Everything but shards, index and config.json.
Result<std::vector<SmallFile>> Companions(const SynthPlan& plan);

// Whether a directory (FileSystem::Beneath) holds one of them that nothing else writes.
Result<bool> HoldsCompanions(FileSystem& files);

// model.safetensors.index.json.
std::string IndexText(const SynthPlan& plan);

}  // namespace mimo
