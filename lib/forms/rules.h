// A small matcher for tables of rules over facts (schemas/engines.json, releases of families).
// A condition is "FACT OPERATOR VALUE": operators = != < <= > >= divides; VALUE is an integer, another fact, or a word.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

using Fact = std::variant<int64_t, std::string>;
using Facts = std::map<std::string, Fact>;

// kBadInput: the left side is no fact, the operator is unknown, or an order is asked of words.
Result<bool> Holds(const std::string& condition, const Facts& facts);
Result<bool> AllHold(const std::vector<std::string>& conditions, const Facts& facts);

// "NAME = VALUE" of the left fact of a condition, for evidence.
std::string Observed(const std::string& condition, const Facts& facts);

// The content of a JSON file of schemas/ by its relative path; "" when there is none.
std::string EmbeddedText(const std::string& path);

}  // namespace mimo
