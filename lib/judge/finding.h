// The verdict document: what is to be said about a checkpoint, as findings with names. One list for everything that
// judges (a source, a plan before a byte is written, any directory) and everything that shows it (mimo-inspect,
// mimo-convert, mimo-verify check). Ids, severities, meanings and default advice are data: schemas/findings/*.json, of
// which docs/findings.md is made.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/certainty.h"
#include "lib/base/status.h"
#include "lib/base/words.h"

namespace mimo {

enum class Severity : uint8_t {
  kNote,     // true and worth knowing; nothing follows from it
  kWarning,  // may be meant, and changes what the checkpoint means to some reader
  kError,    // contradicted, damaged or undecidable: nothing is made of it, nothing that holds it is right
};
inline constexpr Words<Severity, 3> kSeverities{
    {{Severity::kNote, "note"}, {Severity::kWarning, "warning"}, {Severity::kError, "error"}}};

// What the table says of an id.
struct FindingKind {
  std::string id;  // "declared.block": room of the check, then what it found
  Severity severity = Severity::kNote;
  std::string means;   // one sentence: what is wrong, and what follows
  std::string advice;  // what to do; never destroys a valid file
};

struct Finding {
  std::string id;
  Severity severity = Severity::kNote;
  std::string place;     // file, tensor, module pattern or config key: where to look
  std::string evidence;  // what was declared and what was seen, with examples
  std::string advice;    // that of the table, or a better one for this place
  uint64_t count = 1;    // how many places have it
  // "warning declared.block: PLACE: EVIDENCE; ADVICE"
  std::string Line() const;
};

class Verdict {
 public:
  // Adds a finding with the severity and advice of its kind. An id that no table holds is an error of the caller: it is
  // added as an error, so that a test sees it. The reference is valid until the next call.
  Finding& Add(std::string_view id, std::string place, std::string evidence, uint64_t count = 1);
  void Add(Finding finding) { findings_.push_back(std::move(finding)); }
  void Append(Verdict other);

  const std::vector<Finding>& findings() const { return findings_; }
  bool Has(std::string_view id) const;
  uint64_t CountOf(Severity severity) const;
  // kBadInput of the first error, its id and the number of others; ok when there is none.
  Status ToStatus() const;

 private:
  std::vector<Finding> findings_;  // in the order in which they were found
};

// All kinds, by id; parsed once. Malformed tables are an error of the build that tests find: they hold nothing then.
const std::vector<FindingKind>& FindingKinds();
const FindingKind* FindKind(std::string_view id);  // null when there is none

// A refusal as a finding: its id ("refused" where it has none), tensor or file, and what was expected and found.
Finding FindingOf(const Error& error);

// "1 module", "2 modules": `what` is one of them, with an -s where there are more.
std::string Counted(uint64_t count, std::string_view what);

// "a, b, c and 4 more", at most `shown` of them.
std::string Examples(const std::vector<std::string>& names, size_t shown = 3);

}  // namespace mimo
