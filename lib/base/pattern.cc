#include "lib/base/pattern.h"

#include <re2/re2.h>

#include <utility>

namespace mimo {

struct Pattern::Engine {
  Engine(const std::string& text, const RE2::Options& options) : regex(text, options) {}
  RE2 regex;
};

Pattern::Pattern(std::string text, std::shared_ptr<const Engine> engine)
    : text_(std::move(text)), engine_(std::move(engine)) {}

Result<Pattern> Pattern::Make(const std::string& text) {
  const auto bad = [](std::string found) {
    return UsageError("not a regular expression that can be searched for").Found(std::move(found));
  };
  if (text.size() > kMaxPatternBytes)
    return bad(std::to_string(text.size()) + " bytes").Expected("at most " + std::to_string(kMaxPatternBytes));
  RE2::Options options;
  options.set_max_mem(kMaxEngineBytes);
  options.set_log_errors(false);  // the library prints nothing
  auto engine = std::make_shared<Engine>(text, options);
  if (!engine->regex.ok())
    return bad(text)
        .Expected("the syntax of RE2, which has no lookaheads and no backreferences")
        .Advice(engine->regex.error());
  return Pattern(text, std::move(engine));
}

bool Pattern::FoundIn(const std::string& name) const {
  return RE2::PartialMatch(name, engine_->regex);
}

}  // namespace mimo
