#include "lib/verify/mtp_repair.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "lib/model/mtp_names.h"

namespace mimo {
namespace {

constexpr char kReleased[] = "released";

// What an index that is written anew puts right, with every tensor where it is.
bool IsOfIndex(const Finding& finding) {
  return finding.id == "mtp.unindexed" || finding.id == "mtp.listed_elsewhere";
}

// A file that no table explains, or tensors of whole layers that are no part of one: conversions ask what to do.
bool LeavesUnknown(const MtpDamage& damage) {
  std::set<std::string> named;  // files that the index names
  const Catalogue& catalogue = damage.headers.catalogue;
  for (size_t i = 0; i < catalogue.arrays.size(); ++i)
    if (damage.headers.listed[i] != 0) named.insert(catalogue.files[catalogue.arrays[i].file].name);
  return std::any_of(damage.report.layers.begin(), damage.report.layers.end(), [&](const MtpLayerReport& layer) {
    if (layer.whole && layer.convention == kReleased) return !layer.unknown.empty();
    return catalogue.index.present && std::any_of(layer.files.begin(), layer.files.end(),
                                                  [&](const std::string& file) { return !named.contains(file); });
  });
}

}  // namespace

std::string ShellWord(const std::string& word) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::vector<MtpRepair> RepairsOf(const MtpDamage& damage) {
  std::vector<const Finding*> wrong;
  for (const Finding& finding : damage.report.findings.findings())
    if (finding.severity == Severity::kError || IsOfIndex(finding)) wrong.push_back(&finding);
  if (wrong.empty() || !damage.has_place) return {};
  const std::string start = "mimo-convert " + ShellWord(damage.root) + " OUT";
  std::string first;
  if (!damage.headers.unreadable.empty())
    first = "once " + damage.headers.unreadable.front().first +
            ", which cannot be read, is whole or out of the directory: ";
  else if (damage.rest)
    first = "once the rest opens (mimo-verify check): ";
  if (std::all_of(wrong.begin(), wrong.end(), [](const Finding* finding) { return IsOfIndex(*finding); }))
    return {{start + " --copy", first + "the same tensors, and an index that names them all"}};
  const std::string graft = damage.detour.empty()
                                ? start
                                : start.substr(0, start.size() - 3) + "HF " + damage.detour + " && mimo-convert HF OUT";
  const std::string reference = damage.reference.empty() ? "REF" : ShellWord(damage.reference);
  return {{graft + " --to hf --like " + reference + (LeavesUnknown(damage) ? " --unknown drop" : ""),
           first +
               "MTP layers that are not whole here, and config.json, are REF's; all other weights stay what they are. "
               "REF is a whole checkpoint of this model, stored in the same codecs and layout, or in any that "
               "--like can make where this one is not quantized"}};
}

}  // namespace mimo
