#include "lib/base/pattern.h"

#include <regex>
#include <utility>

namespace mimo {

struct Pattern::Engine {
  std::regex regex;
};

Pattern::Pattern(std::string text, std::shared_ptr<const Engine> engine)
    : text_(std::move(text)), engine_(std::move(engine)) {}

Result<Pattern> Pattern::Make(const std::string& text) {
  try {
    Engine engine{std::regex(text, std::regex::ECMAScript | std::regex::optimize)};
    return Pattern(text, std::make_shared<Engine>(std::move(engine)));
  } catch (const std::regex_error& error) {
    return UsageError("not a regular expression").Expected("ECMAScript syntax").Found(text).Advice(error.what());
  }
}

bool Pattern::FoundIn(const std::string& name) const {
  return std::regex_search(name, engine_->regex);
}

}  // namespace mimo
