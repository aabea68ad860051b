#include "lib/foreign/recognise.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "lib/json/parse.h"
#include "lib/model/family.h"
#include "lib/model/name_prefix.h"

namespace mimo {
namespace {

using Json = nlohmann::json;
using Kind = ForeignCondition::Kind;

constexpr uint64_t kMaxSearchedBytes = 256ull << 20;  // of a file that is searched for a text
constexpr size_t kMaxPrefixComponents = 6;
constexpr size_t kMaxNotes = 6;

std::string Lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

bool AnyMatches(const std::vector<std::string>& patterns, const std::string& text) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return MatchesGlob(pattern, text); });
}

std::string Trimmed(std::string_view text) {
  const size_t at = text.find_first_not_of(" \t\r\n\xEF\xBB\xBF");
  return at == std::string_view::npos ? "" : std::string(text.substr(at));
}

void Replace(std::string* text, std::string_view slot, const std::string& value) {
  for (size_t at = text->find(slot); at != std::string::npos; at = text->find(slot, at + value.size()))
    text->replace(at, slot.size(), value);
}

// What of one sign was seen.
struct Seen {
  std::vector<std::string> notes;
  std::string file;   // the first that matched
  std::string value;  // of the first key of config.json
};

class Recogniser {
 public:
  Recogniser(FileSystem& fs, const ForeignEvidence& evidence) : fs_(fs), evidence_(evidence) {
    if (evidence.config.empty()) return;
    if (auto parsed = ParseJson<Json>(evidence.config, "config.json"); parsed.ok() && parsed.value().is_object())
      config_ = std::move(parsed).value();
  }

  std::optional<Recognised> Recognise(bool opened) {
    for (const ForeignKind& kind : ForeignKinds()) {
      if (opened && !kind.always) continue;
      Seen all;  // of every sign that holds: one is enough, and people want to see the rest
      bool recognised = false;
      for (const auto& sign : kind.signs) {
        Seen seen;
        if (!std::all_of(sign.begin(), sign.end(), [&](const ForeignCondition& c) { return Holds(c, &seen); }))
          continue;
        recognised = true;
        if (all.file.empty()) all.file = seen.file;
        if (all.value.empty()) all.value = seen.value;
        for (std::string& note : seen.notes)
          if (all.notes.size() < kMaxNotes && std::find(all.notes.begin(), all.notes.end(), note) == all.notes.end())
            all.notes.push_back(std::move(note));
      }
      if (recognised) return Fill(kind, all);
    }
    return std::nullopt;
  }

 private:
  Recognised Fill(const ForeignKind& kind, const Seen& seen) const {
    Recognised out{&kind, kind.name, "", kind.advice, evidence_.root};
    for (const std::string& note : seen.notes) out.evidence += (out.evidence.empty() ? "" : ", ") + note;
    if (!seen.file.empty() && !evidence_.root_is_file) out.file = JoinPath(evidence_.root, seen.file);
    for (std::string* text : {&out.name, &out.advice}) {
      Replace(text, "{value}", seen.value);
      Replace(text, "{file}", seen.file);
      Replace(text, "{families}", KnownFamilies(false));
      Replace(text, "{directory}", ParentOf(JoinPath(evidence_.root, seen.file)));
    }
    return out;
  }

  bool Holds(const ForeignCondition& condition, Seen* seen) {
    switch (condition.kind) {
      case Kind::kArrays:
        return HasArrays(condition, seen);
      case Kind::kNoArrays:
        return !HasArrays(condition, nullptr);
      case Kind::kOnlyArrays:
        return HasOnly(condition, seen);
      case Kind::kPrefixed:
        return IsPrefixed(seen);
      case Kind::kConfig:
        return HasKey(condition, seen);
      case Kind::kNotConfig:
        return config_.is_object() && !HasKey(condition, nullptr);
      case Kind::kNotFamily:
        return config_.is_object() && FamilyOfConfig() == nullptr;
      case Kind::kFile:
        return HasFile(condition, seen, [](const SeenFile&) { return std::string("is there"); });
      case Kind::kNoFile:
        return !HasFile(condition, nullptr, [](const SeenFile&) { return std::string("is there"); });
      case Kind::kBegins:
        return HasFile(condition, seen, [&](const SeenFile& file) { return BeginsWith(condition, file); });
      case Kind::kHolds:
        return HasFile(condition, seen, [&](const SeenFile& file) { return HoldsText(condition, file); });
      case Kind::kDangling:
        return HasFile(condition, seen, [](const SeenFile& file) {
          return file.dangling ? std::string("leads nowhere") : std::string();
        });
      case Kind::kMetadata:
        return HasMetadata(condition, seen);
      case Kind::kRootIsFile:
        return evidence_.root_is_file;
    }
    return false;
  }

  bool HasArrays(const ForeignCondition& condition, Seen* seen) const {
    uint64_t count = 0;
    const SeenArrays* first = nullptr;
    for (const SeenArrays& arrays : evidence_.arrays) {
      if (condition.rank != 0 && arrays.rank != condition.rank) continue;
      if (!condition.values.empty() && !AnyMatches(condition.values, arrays.dtype)) continue;
      if (!MatchesGlob(condition.pattern, arrays.name)) continue;
      if (first == nullptr) first = &arrays;
      count += arrays.count;
    }
    if (first != nullptr && seen != nullptr)
      seen->notes.push_back(std::to_string(count) + (count == 1 ? " tensor " : " tensors ") + condition.pattern + " (" +
                            first->dtype + "), such as " + first->example);
    return first != nullptr;
  }

  bool HasOnly(const ForeignCondition& condition, Seen* seen) const {
    uint64_t count = 0;
    for (const SeenArrays& arrays : evidence_.arrays) {
      if (!AnyMatches(condition.values, arrays.name)) return false;
      count += arrays.count;
    }
    if (count > 0)
      seen->notes.push_back("nothing but " + std::to_string(count) + " tensors such as " +
                            evidence_.arrays.front().example);
    return count > 0;
  }

  // Null: of none that is known, or there is no config.
  const Family* FamilyOfConfig() const {
    if (!config_.is_object()) return nullptr;
    std::vector<std::string> architectures;
    std::string model_type;
    if (const auto type = config_.find("model_type"); type != config_.end() && type->is_string())
      model_type = type->get<std::string>();
    if (const auto list = config_.find("architectures"); list != config_.end() && list->is_array())
      for (const Json& one : *list)
        if (one.is_string()) architectures.push_back(one.get<std::string>());
    const auto family =
        Family::Of(model_type, architectures, [&](const std::string& key) { return Find(key) != nullptr; });
    return family.ok() ? family.value() : nullptr;
  }

  // Families that the config may mean: the one that it names, or all.
  std::vector<const Family*> Candidates() const {
    const Family* named = FamilyOfConfig();
    const auto all = Family::All();
    return named != nullptr ? std::vector{named} : all.ok() ? *all.value() : std::vector<const Family*>();
  }

  // Whether what most names begin with hides names that a table knows.
  bool IsPrefixed(Seen* seen) const {
    const std::vector<const Family*> families = Candidates();
    return std::any_of(families.begin(), families.end(),
                       [&](const Family* family) { return IsPrefixed(*family, seen); });
  }
  bool IsPrefixed(const Family& family, Seen* seen) const {
    const ModelTable& table = family.table;
    std::set<std::string> tried;
    for (const SeenArrays& one : evidence_.arrays) {
      if (IsReadUnderPrefix(table, one.example)) continue;
      std::string prefix;
      for (size_t end = one.example.find('.'), n = 0; end != std::string::npos && n < kMaxPrefixComponents; ++n) {
        prefix = one.example.substr(0, end + 1);
        end = one.example.find('.', end + 1);
        if (!tried.insert(prefix).second) continue;
        uint64_t known = 0, all = 0;
        for (const SeenArrays& arrays : evidence_.arrays) {
          all += arrays.count;
          if (!arrays.example.starts_with(prefix)) continue;
          const std::string rest = arrays.example.substr(prefix.size());
          const bool is_known =
              table.Identify(rest).role != Role::kUnknown || table.Identify("model." + rest).role != Role::kUnknown;
          if (is_known && table.Identify(arrays.example).role == Role::kUnknown) known += arrays.count;
        }
        if (known * 2 < all) continue;
        seen->value = prefix;
        seen->notes.push_back(std::to_string(known) + " of " + std::to_string(all) + " tensor names are those of a " +
                              family.title + " model after \"" + prefix + "\", such as " + one.example);
        return true;
      }
    }
    return false;
  }

  const Json* Find(const std::string& path) const {
    const Json* at = &config_;
    for (size_t begin = 0; begin <= path.size();) {
      const size_t end = std::min(path.find('.', begin), path.size());
      if (!at->is_object()) return nullptr;
      const auto it = at->find(path.substr(begin, end - begin));
      if (it == at->end()) return nullptr;
      at = &*it;
      begin = end + 1;
    }
    return at->is_null() ? nullptr : at;
  }

  bool HasKey(const ForeignCondition& condition, Seen* seen) const {
    const Json* value = config_.is_object() ? Find(condition.pattern) : nullptr;
    if (value == nullptr) return false;
    std::vector<const Json*> all;
    if (value->is_array())
      for (const Json& one : *value) all.push_back(&one);
    else
      all.push_back(value);
    for (const Json* one : all) {
      const std::string text = one->is_string() ? one->get<std::string>() : one->is_primitive() ? one->dump() : "...";
      if (!condition.values.empty() && !AnyMatches(condition.values, Lower(text))) continue;
      if (seen != nullptr) {
        if (seen->value.empty()) seen->value = text.substr(0, 80);
        seen->notes.push_back("config.json says " + condition.pattern +
                              (one->is_primitive() ? " " + text.substr(0, 80) : ""));
      }
      return true;
    }
    return condition.values.empty() && !all.empty();
  }

  // `look`: what is to be said of a file; "" where it is not the one.
  template <class Look>
  bool HasFile(const ForeignCondition& condition, Seen* seen, const Look& look) {
    uint64_t count = 0;
    std::string note, first;
    for (const SeenFile& file : evidence_.files) {
      if (!MatchesGlob(condition.pattern, file.name, /*within_component=*/true)) continue;
      const std::string said = look(file);
      if (said.empty()) continue;
      if (count++ == 0) {
        first = file.name;
        note = said;
      }
      if (seen == nullptr) return true;
    }
    if (count == 0) return false;
    if (seen->file.empty()) seen->file = first;
    seen->notes.push_back(first + " " + note + (count > 1 ? " (" + std::to_string(count) + " such files)" : ""));
    return true;
  }

  static std::string BeginsWith(const ForeignCondition& condition, const SeenFile& file) {
    const std::string head = Lower(Trimmed(file.head));
    for (const std::string& text : condition.values)
      if (head.starts_with(Lower(text))) return "begins with \"" + text + "\"";
    return "";
  }

  std::string HoldsText(const ForeignCondition& condition, const SeenFile& file) {
    const auto text = ReadWholeFile(fs_, JoinPath(evidence_.root, file.name), kMaxSearchedBytes);
    if (!text.ok()) return "";
    for (const std::string& one : condition.values)
      if (text.value().find(one) != std::string::npos) return "names \"" + one + "\"";
    return "";
  }

  bool HasMetadata(const ForeignCondition& condition, Seen* seen) const {
    const auto it = std::find_if(evidence_.metadata.begin(), evidence_.metadata.end(),
                                 [&](const std::string& key) { return MatchesGlob(condition.pattern, key); });
    if (it == evidence_.metadata.end()) return false;
    seen->notes.push_back(*it + " in the headers of tensor files");
    return true;
  }

  FileSystem& fs_;
  const ForeignEvidence& evidence_;
  Json config_;  // an object, or null where there is none
};

}  // namespace

std::optional<Recognised> RecogniseForeign(FileSystem& fs, const ForeignEvidence& evidence, bool opened) {
  return Recogniser(fs, evidence).Recognise(opened);
}

Error RefuseByName(const Recognised& recognised, const Error* first) {
  Error error = BadInput(recognised.name + ": " + recognised.kind->means).File(recognised.file);
  error.found = recognised.evidence;
  if (first != nullptr)
    error.found += " (reading stopped at: " + (first->tensor.empty() ? "" : first->tensor + ": ") + first->what + ")";
  error.advice = recognised.advice;
  error.id = recognised.kind->id;
  return error;
}

}  // namespace mimo
