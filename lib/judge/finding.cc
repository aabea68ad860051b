#include "lib/judge/finding.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "schemas/embedded.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kFolder = "findings/";
constexpr std::string_view kForeign = "foreign.json";  // storages that are refused by name

std::vector<FindingKind> ReadKinds() {
  std::vector<FindingKind> kinds;
  for (int i = 0; i < kEmbeddedFileCount; ++i) {
    const std::string_view path = kEmbeddedFiles[i].path;
    if (!path.starts_with(kFolder) && path != kForeign) continue;
    const Result<Json> table = ParseJson<Json>(kEmbeddedFiles[i].content, kEmbeddedFiles[i].path);
    if (!table.ok() || !table.value().is_object() || !table.value().contains("findings")) return {};
    for (const Json& entry : table.value().at("findings")) {
      const std::optional<Severity> severity = FromWord(kSeverities, entry.value("severity", ""));
      if (!severity) return {};
      kinds.push_back({entry.value("id", ""), *severity, entry.value("means", ""), entry.value("advice", "")});
    }
  }
  std::sort(kinds.begin(), kinds.end(), [](const FindingKind& a, const FindingKind& b) { return a.id < b.id; });
  return kinds;
}

}  // namespace

std::string Finding::Line() const {
  std::string line = std::string(WordOf(kSeverities, severity)) + " " + id;
  for (const std::string* part : {&place, &evidence})
    if (!part->empty()) line += ": " + *part;
  return advice.empty() ? line : line + "; " + advice;
}

Finding& Verdict::Add(std::string_view id, std::string place, std::string evidence, uint64_t count) {
  const FindingKind* kind = FindKind(id);
  findings_.push_back({std::string(id), kind ? kind->severity : Severity::kError, std::move(place), std::move(evidence),
                       kind ? kind->advice : "report this: no table knows this finding", count});
  return findings_.back();
}

void Verdict::Append(Verdict other) {
  std::move(other.findings_.begin(), other.findings_.end(), std::back_inserter(findings_));
}

bool Verdict::Has(std::string_view id) const {
  return std::any_of(findings_.begin(), findings_.end(), [&](const Finding& f) { return f.id == id; });
}

uint64_t Verdict::CountOf(Severity severity) const {
  return static_cast<uint64_t>(
      std::count_if(findings_.begin(), findings_.end(), [&](const Finding& f) { return f.severity == severity; }));
}

Status Verdict::ToStatus() const {
  const auto first =
      std::find_if(findings_.begin(), findings_.end(), [](const Finding& f) { return f.severity == Severity::kError; });
  if (first == findings_.end()) return {};
  const FindingKind* kind = FindKind(first->id);
  const uint64_t others = CountOf(Severity::kError) - 1;
  return BadInput(kind ? kind->means : first->id)
      .Id(first->id)
      .File(first->place)
      .Found(first->evidence + (others > 0 ? " (and " + std::to_string(others) + " other errors)" : ""))
      .Advice(first->advice);
}

const std::vector<FindingKind>& FindingKinds() {
  static const std::vector<FindingKind> kinds = ReadKinds();
  return kinds;
}

const FindingKind* FindKind(std::string_view id) {
  const std::vector<FindingKind>& kinds = FindingKinds();
  const auto it = std::lower_bound(kinds.begin(), kinds.end(), id,
                                   [](const FindingKind& kind, std::string_view wanted) { return kind.id < wanted; });
  return it != kinds.end() && it->id == id ? &*it : nullptr;
}

Finding FindingOf(const Error& error) {
  std::string evidence = error.what;
  if (!error.expected.empty()) evidence += ": expected " + error.expected;
  if (!error.found.empty()) evidence += (error.expected.empty() ? ": found " : ", found ") + error.found;
  return {error.id.empty() ? "refused" : error.id, Severity::kError, error.tensor.empty() ? error.file : error.tensor,
          std::move(evidence), error.advice};
}

std::string Counted(uint64_t count, std::string_view what) {
  return std::to_string(count) + " " + std::string(what) + (count == 1 ? "" : "s");
}

std::string Examples(const std::vector<std::string>& names, size_t shown) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < shown; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > shown ? text + " and " + std::to_string(names.size() - shown) + " more" : text;
}

}  // namespace mimo
