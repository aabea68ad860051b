#include "lib/forms/rules.h"

#include <charconv>
#include <optional>

#include "schemas/embedded.h"

namespace mimo {
namespace {

struct Condition {
  std::string left, op, right;
};

std::optional<Condition> Split(const std::string& text) {
  const size_t first = text.find(' ');
  const size_t second = first == std::string::npos ? first : text.find(' ', first + 1);
  if (second == std::string::npos) return std::nullopt;
  return Condition{text.substr(0, first), text.substr(first + 1, second - first - 1), text.substr(second + 1)};
}

Error BadRule(const std::string& condition, std::string problem) {
  return BadInput("bad rule \"" + condition + "\"").Expected("FACT OPERATOR VALUE").Found(std::move(problem));
}

Fact ValueOf(const std::string& text, const Facts& facts) {
  int64_t number = 0;
  auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem == std::errc() && end == text.data() + text.size()) return number;
  auto it = facts.find(text);
  return it == facts.end() ? Fact(text) : it->second;
}

}  // namespace

Result<bool> Holds(const std::string& condition, const Facts& facts) {
  const std::optional<Condition> parts = Split(condition);
  if (!parts) return BadRule(condition, "too few words");
  auto it = facts.find(parts->left);
  if (it == facts.end()) return BadRule(condition, "no fact " + parts->left);
  const Fact& left = it->second;
  const Fact right = ValueOf(parts->right, facts);
  const std::string& op = parts->op;
  if (op == "=") return left == right;
  if (op == "!=") return left != right;
  const int64_t* a = std::get_if<int64_t>(&left);
  const int64_t* b = std::get_if<int64_t>(&right);
  if (a == nullptr || b == nullptr) return BadRule(condition, "words have no order");
  if (op == "<") return *a < *b;
  if (op == "<=") return *a <= *b;
  if (op == ">") return *a > *b;
  if (op == ">=") return *a >= *b;
  if (op == "divides") return *a != 0 && *b % *a == 0;
  return BadRule(condition, "operator " + op);
}

Result<bool> AllHold(const std::vector<std::string>& conditions, const Facts& facts) {
  for (const std::string& condition : conditions) {
    MIMO_ASSIGN_OR_RETURN(const bool holds, Holds(condition, facts));
    if (!holds) return false;
  }
  return true;
}

std::string Observed(const std::string& condition, const Facts& facts) {
  const std::string name = condition.substr(0, condition.find(' '));
  auto it = facts.find(name);
  if (it == facts.end()) return name + " unknown";
  const int64_t* number = std::get_if<int64_t>(&it->second);
  return name + " = " + (number != nullptr ? std::to_string(*number) : std::get<std::string>(it->second));
}

std::string EmbeddedText(const std::string& path) {
  for (const EmbeddedFile* file = kEmbeddedFiles; file->path != nullptr; ++file) {
    if (path == file->path) return file->content;
  }
  return "";
}

}  // namespace mimo
