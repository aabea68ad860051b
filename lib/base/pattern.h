// Regular expressions of users: one place that knows the engine.
#pragma once

#include <memory>
#include <string>

#include "lib/base/status.h"

namespace mimo {

class Pattern {
 public:
  // ECMAScript syntax. kUsage for what is no regular expression, with the engine's words as the advice.
  static Result<Pattern> Make(const std::string& text);
  const std::string& text() const { return text_; }
  // Whether it is found anywhere in `name`.
  bool FoundIn(const std::string& name) const;

 private:
  struct Engine;
  Pattern(std::string text, std::shared_ptr<const Engine> engine);

  std::string text_;
  std::shared_ptr<const Engine> engine_;
};

}  // namespace mimo
