#include "lib/base/pattern.h"

#include <regex>
#include <utility>

namespace mimo {

struct Pattern::Engine {
  std::regex regex;
};

Pattern::Pattern(std::string text, std::unique_ptr<Engine> engine)
    : text_(std::move(text)), engine_(std::move(engine)) {}
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

Result<Pattern> Pattern::Make(const std::string& text) {
  try {
    auto engine = std::make_unique<Engine>();
    engine->regex.assign(text, std::regex::ECMAScript | std::regex::optimize);
    return Pattern(text, std::move(engine));
  } catch (const std::regex_error& error) {
    return UsageError("not a regular expression").Expected("ECMAScript syntax").Found(text).Advice(error.what());
  }
}

bool Pattern::FoundIn(const std::string& name) const {
  return std::regex_search(name, engine_->regex);
}

}  // namespace mimo
