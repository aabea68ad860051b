// The MTP layers of a checkpoint: which there are, whole or not, in the index or not, under which names; what
// config.json announces; what engines do with them; and the command that repairs what is wrong. Works by headers,
// config and index, and so on checkpoints that do not open, too. Reference mimo-checkpoints.md, sections 2.4 and 6.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/base/words.h"
#include "lib/judge/finding.h"
#include "lib/model/forms.h"
#include "lib/model/mtp_layers.h"
#include "lib/verify/mtp_engines.h"

namespace mimo {

enum class MtpListed : uint8_t {
  kAll,      // the index names every tensor of the layer
  kSome,     // of the layer's tensors
  kUnnamed,  // it names none of them
  kNoIndex,  // the directory has no index, or its form has none
};
inline constexpr Words<MtpListed, 4> kMtpListed{{{MtpListed::kAll, "all"},
                                                 {MtpListed::kSome, "some"},
                                                 {MtpListed::kUnnamed, "none"},
                                                 {MtpListed::kNoIndex, "no-index"}}};

struct MtpLayerReport {
  int32_t number = 0;
  std::string name;                // of its tensors in the files, without the rest: "model.layers.48"
  std::string convention;          // an id of MtpNaming::conventions
  bool whole = false;              // every tensor is there, and as the model has it
  uint64_t tensors = 0;            // stored arrays, scales among them
  uint64_t bytes = 0;              // of these
  std::vector<std::string> files;  // that hold them, by name; empty for forms whose files are not cut by tensor
  MtpListed listed = MtpListed::kNoIndex;
  bool fused = false;
  Storage attention = Storage::kPlain;
  std::vector<std::string> quantized;  // o_proj, eh_proj: tensors as stored
  std::vector<std::string> unknown;    // tensors that are no part of an MTP layer
  std::vector<MtpProblem> problems;
};

struct MtpRepair {
  std::string command;
  std::string does;
};

struct MtpReport {
  FormKind form = FormKind::kHf;
  std::optional<int64_t> announced;    // num_nextn_predict_layers; nullopt: config.json is silent
  int64_t released = 0;                // layers that every release has
  int64_t wanted = 0;                  // what is announced, else what releases have
  int64_t whole = 0;                   // layers under released names that are whole
  std::vector<MtpLayerReport> layers;  // by number
  std::vector<MtpEngine> engines;
  Verdict findings;                // of schemas/findings/mtp.json
  std::vector<MtpRepair> repairs;  // each by itself, best first; empty where nothing is wrong or nothing known helps
  // Every layer that is wanted is whole and can be found, and there are no others.
  bool ok() const { return findings.CountOf(Severity::kError) == 0; }
};

struct MtpOptions {
  std::string reference = {};  // a checkpoint that has the layers: stands in the commands, and lends a training
                               // checkpoint without config.json its own
};

// kBadInput: the directory cannot be read as a checkpoint at all (no config.json, another model, another form that is
// damaged); kIo: the system refused.
Result<MtpReport> VerifyMtp(FileSystem& fs, const std::string& root, const MtpOptions& options = {});

}  // namespace mimo
