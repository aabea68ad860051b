// Regular expressions of users: one place that knows the engine, which is RE2. It takes time linear in the name and
// memory within a bound, whatever the pattern and the name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "lib/base/status.h"

namespace mimo {

inline constexpr size_t kMaxPatternBytes = 64 << 10;

class Pattern {
 public:
  // The syntax of RE2: that of ECMAScript and Perl, less lookaheads and backreferences. kUsage for what is none of
  // these, longer than kMaxPatternBytes, or too large for the engine, with the engine's words as the advice.
  static Result<Pattern> Make(const std::string& text);
  const std::string& text() const { return text_; }
  // Whether it is found anywhere in `name`.
  bool FoundIn(const std::string& name) const;

 private:
  static constexpr int64_t kMaxEngineBytes = 16 << 20;  // of one pattern, compiled and while it is searched for

  struct Engine;
  Pattern(std::string text, std::shared_ptr<const Engine> engine);

  std::string text_;
  std::shared_ptr<const Engine> engine_;
};

}  // namespace mimo
