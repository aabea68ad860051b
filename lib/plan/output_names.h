// The names of everything that a plan puts into OUT, as one set: a name that two files would take, or that the output
// needs itself, is found before anything is written. Names that differ by case only are two names, as they are to the
// file systems that checkpoints live on.
#pragma once

#include <map>
#include <string>

#include "lib/base/status.h"
#include "lib/plan/plan.h"

namespace mimo {

class OutputNames {
 public:
  enum class Use : uint8_t { kTensors, kText, kCarried };

  // The longest name in bytes: leaves room for the path of OUT in what systems take (4096).
  static constexpr size_t kMaxBytes = 3072;
  static constexpr size_t kMaxComponentBytes = 255;

  // kBadInput, and the name is not taken: it leaves the output (absolute; an empty, "." or ".." component; NUL), is not
  // UTF-8, is too long, is mimo-convert's own (mimo-manifest.json, anything that begins with .mimo-), is taken, or is a
  // directory of one that is taken, or the reverse. Of files that the plan writes itself also: a backslash or a control
  // character.
  Status Add(const std::string& name, Use use);

 private:
  Status CheckFree(const std::string& name, Use use) const;

  std::map<std::string, Use, std::less<>> files_;
  std::map<std::string, std::string, std::less<>> directories_;  // with a file that lies in it
};

// All of a plan: tensor files, texts and carried files. Beyond Add's, kBadInput for a carried file that the catalogue
// does not have, or that leaves the checkpoint (CarriedFile::outside).
Status CheckOutputNames(const Catalogue& catalogue, const Plan& plan);

}  // namespace mimo
