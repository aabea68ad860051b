// What can be seen of a directory that could not be opened: its listing, the first bytes of its files, config.json as
// text, and what the headers of its tensor files say, each as far as it goes. Nothing here fails: what cannot be read
// is not seen.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/model/catalogue.h"

namespace mimo {

struct SeenFile {
  std::string name;  // relative to the root, with '/'
  uint64_t bytes = 0;
  bool dangling = false;  // a symbolic link that leads nowhere
  std::string head;       // its first bytes, up to 256
};

// Arrays whose names differ in their numbers alone, of one type and rank: a terabyte has a few hundred of these.
struct SeenArrays {
  std::string name;   // path components that are numbers replaced by '#': "model.layers.#.mlp.gate.weight"
  std::string dtype;  // as in the header
  size_t rank = 0;
  uint64_t count = 0;
  std::string example;  // the whole name of one
};

struct ForeignEvidence {
  std::string root;
  bool root_is_file = false;         // then `files` holds it alone, under its own name
  std::vector<SeenFile> files = {};  // of the root and of its subdirectories, not deeper (snapshots/ is passed through)
  std::string config = {};           // text of config.json; "" without one
  std::vector<SeenArrays> arrays = {};     // by name, dtype and rank
  std::vector<std::string> metadata = {};  // keys of __metadata__ in any header, each once
};

// Everything there is, of a checkpoint that failed to open; `opened` where its catalogue did open.
ForeignEvidence GatherForeignEvidence(FileSystem& fs, const std::string& root, const Catalogue* opened);

// What is asked of every checkpoint that did open: its config, and those of its small files that may be pointers to
// files that were never fetched. Reads no tensor file.
ForeignEvidence GatherOpenedEvidence(FileSystem& fs, const Catalogue& opened);

// Whether `text` matches `pattern` or one of several, "A|B", in which '*' stands for any characters, but not for '/'
// where `within_component`.
bool MatchesGlob(std::string_view pattern, std::string_view text, bool within_component = false);

}  // namespace mimo
