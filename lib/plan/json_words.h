// Reading the words and the options of a plan's JSON. Internal to lib/plan.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "lib/json/members.h"
#include "lib/plan/words.h"

namespace mimo {

// The value of a member whose text is one of `words`; the first of them, and a problem, for any other. With `usual` the
// member may be absent.
template <class T, size_t N>
T Word(JsonMembers& members, JsonProblems& problems, const char* key, const Words<T, N>& words,
       std::optional<T> usual) {
  const nlohmann::json* value = members.Find(key);
  if (value == nullptr && usual) return *usual;
  if (value != nullptr && value->is_string()) {
    if (std::optional<T> found = FromWord(words, value->get_ref<const std::string&>())) return *found;
  }
  problems.Add(members.Place(), key, "one of " + Joined(words, " ", " "), value);
  return words[0].first;
}

// nullopt for a member that is left out.
template <class T, size_t N>
std::optional<T> WordIfAny(JsonMembers& members, JsonProblems& problems, const char* key, const Words<T, N>& words) {
  if (!members.Has(key)) return std::nullopt;
  return Word(members, problems, key, words, std::optional<T>());
}

PlanOptions ReadPlanOptions(const nlohmann::json& object, JsonProblems& problems);

}  // namespace mimo
