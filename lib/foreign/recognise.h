// Refusals by true names: which known storage a directory is that cannot be opened, so that the refusal says what it is
// and what can be done instead of what was stumbled over first.
#pragma once

#include <optional>
#include <string>

#include "lib/foreign/evidence.h"
#include "lib/foreign/foreign_table.h"

namespace mimo {

struct Recognised {
  const ForeignKind* kind = nullptr;
  std::string name;      // of the kind, with what was found filled in
  std::string evidence;  // what was seen, with counts and examples
  std::string advice;    // of the kind, with what was found filled in
  std::string file;      // the path of the first file that is a sign; the root where none is
};

// The first kind of the table with a sign that holds. `opened`: the checkpoint opened all the same, and only what is
// asked always is asked. `fs` is asked for what files hold.
std::optional<Recognised> RecogniseForeign(FileSystem& fs, const ForeignEvidence& evidence, bool opened);

// The refusal: kBadInput with the kind's id. `first`: what was stumbled over; may be empty (null).
Error RefuseByName(const Recognised& recognised, const Error* first);

}  // namespace mimo
