// schemas/foreign.json: what people have that is no checkpoint of this family as it was released, by signs, with its
// true name. docs/sources.md and docs/findings.md are made of the same table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

// One thing that is looked for. Patterns are those of MatchesGlob; array names have '#' for numbers, and file names are
// relative to the root.
struct ForeignCondition {
  enum class Kind : uint8_t {
    kArrays,      // arrays of this name, of one of `values` as types and of `rank`, where these are given
    kNoArrays,    // none of this name
    kOnlyArrays,  // there are arrays, and all match one of `values`
    kPrefixed,    // names that the model's table knows, once the components that all have in front are taken off
    kConfig,      // a key of config.json, by its path ("a.b"); its value, in lower case, matches one of `values`
    kNotConfig,   // there is a config.json whose key is absent or matches none of `values`
    kNotFamily,   // config.json is there, and of no family that is known
    kFile,        // a file of this name
    kNoFile,      // none
    kBegins,      // a file of this name that begins with one of `values`
    kHolds,       // a file of this name that holds one of `values` anywhere
    kDangling,    // a symbolic link of this name that leads nowhere
    kMetadata,    // this key in the header of a tensor file
    kRootIsFile,  // the path that was named is a file
  };
  Kind kind = Kind::kFile;
  std::string pattern;
  std::vector<std::string> values = {};
  size_t rank = 0;  // 0: any
};

struct ForeignKind {
  std::string id;      // "foreign.gptq"
  std::string name;    // "GPTQ"
  std::string means;   // what it is
  std::string advice;  // what can be done with it
  // Asked of checkpoints that open, too: a dense model of another family has all names that a config can ask for.
  bool always = false;
  std::vector<std::vector<ForeignCondition>> signs;  // any of these, of which all must hold
};

// In the order in which they are asked. Empty when the embedded table is malformed, which tests find.
const std::vector<ForeignKind>& ForeignKinds();

// The table from text: for tests.
Result<std::vector<ForeignKind>> ParseForeignKinds(std::string_view json);

}  // namespace mimo
