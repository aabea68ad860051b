// Tensor files in a checkpoint's directory that its index does not name, and what becomes of each: weights that lie
// about must neither be lost nor travel into an output beside those that replaced them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/words.h"
#include "lib/model/carried_files.h"
#include "lib/model/names.h"

namespace mimo {

enum class StrayKind : uint8_t {
  kForgotten,  // tensors of this model that nothing else holds: the file is read as if the index named it
  kStale,      // files of the index hold every tensor of it (or it has none): it is left out
  kPartly,     // tensors of this model, some of which files of the index hold as well: nothing is made of it
  kMixed,      // tensors that files of the index hold, and others that no table knows
  kUnknown,    // nothing that the table knows, or no tensors that can be read: carried or left out when told
};
inline constexpr Words<StrayKind, 5> kStrayKinds{{{StrayKind::kForgotten, "forgotten"},
                                                  {StrayKind::kStale, "stale"},
                                                  {StrayKind::kPartly, "partly-listed"},
                                                  {StrayKind::kMixed, "partly-unknown"},
                                                  {StrayKind::kUnknown, "unknown"}}};

struct StrayFile {
  std::string file = {};  // relative to the root of its checkpoint
  StrayKind kind = StrayKind::kUnknown;
  uint64_t tensors = 0;      // that its header names
  uint64_t held = 0;         // of these, in files of the index too
  uint64_t unknown = 0;      // of these, that no table knows
  std::string example = {};  // a tensor: one that is held where some are, else one that is unknown where some are
  std::string holder = {};   // the file of the index that holds the example as well
  std::string problem = {};  // why there is no header to read
  std::string root = {};     // of a run that is merged with its reference: the run's directory
  // Whether it stays among what may travel along.
  bool may_travel() const { return kind == StrayKind::kUnknown; }
};

// The file of the index that holds a tensor; "" when none does.
using TensorHolder = std::function<std::string(std::string_view tensor)>;

// The name that the release has for a tensor whose name is under a prefix, and the same name where it has none.
using ReleasedName = std::function<std::string(const std::string& name)>;

// What `file` of the directory `root` is, by its header alone. `released`: as the tensors of the index are called,
// which `holder` is asked for. kIo.
Result<StrayFile> ClassifyStray(FileSystem& fs, const std::string& root, const std::string& file,
                                const ModelTable& table, const ReleasedName& released, const TensorHolder& holder);

// Names of files at the top of a directory that hold weights in another format: pytorch_model*.bin, consolidated*.pth,
// *.gguf and their like. Nobody reads their headers.
bool IsForeignTensorFile(std::string_view name);

// Tensor files in subdirectories that may be copies of what files of the index hold: those of directories without a
// config.json of their own, which would make them models.
std::vector<std::string> NestedTensorFiles(const std::vector<CarriedFile>& carried);

}  // namespace mimo
