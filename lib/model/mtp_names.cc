#include "lib/model/mtp_names.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "schemas/embedded.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kTable = "mtp_names.json";
constexpr std::string_view kOtherProject = "self_attention.";  // modules of megatron-core

struct Rest {
  std::string from;
  std::vector<std::string> to;
};

struct MtpTable {
  int64_t released_layers = 0;
  std::vector<MtpConvention> conventions;
  std::vector<std::string> inner;
  std::vector<Rest> rests;
};

// A malformed table is an error of the build, which tests find: it has no conventions then.
MtpTable ReadTable() {
  MtpTable out;
  for (int i = 0; i < kEmbeddedFileCount; ++i) {
    if (kEmbeddedFiles[i].path != kTable) continue;
    const Result<Json> table = ParseJson<Json>(kEmbeddedFiles[i].content, kEmbeddedFiles[i].path);
    if (!table.ok()) return {};
    out.released_layers = table.value().at("released_layers");
    for (const Json& entry : table.value().at("conventions"))
      out.conventions.push_back(
          {entry.at("id"), entry.at("name"), entry.at("prefix"), entry.value("after_decoder", false)});
    out.inner = table.value().at("inner").get<std::vector<std::string>>();
    for (const Json& entry : table.value().at("rests"))
      out.rests.push_back({entry.at("from"), entry.at("to").get<std::vector<std::string>>()});
  }
  return out;
}

const MtpTable& Table() {
  static const MtpTable table = ReadTable();
  return table;
}

// Takes "12." off the front of `text`; nullopt when no number in its usual form stands there.
std::optional<int32_t> TakeNumber(std::string_view* text) {
  int32_t number = 0;
  const auto [end, problem] = std::from_chars(text->data(), text->data() + text->size(), number);
  const auto digits = static_cast<size_t>(end - text->data());
  if (problem != std::errc() || digits == 0 || digits >= text->size() || *end != '.' || number < 0) return std::nullopt;
  if (digits > 1 && text->front() == '0') return std::nullopt;
  text->remove_prefix(digits + 1);
  return number;
}

}  // namespace

const std::vector<MtpConvention>& MtpConventions() {
  return Table().conventions;
}

int64_t ReleasedMtpLayers() {
  return Table().released_layers;
}

std::optional<MtpName> ReadMtpName(std::string_view tensor, int64_t decoder_layers) {
  const MtpTable& table = Table();
  for (size_t i = 0; i < table.conventions.size(); ++i) {
    const MtpConvention& convention = table.conventions[i];
    std::string_view rest = tensor;
    if (!rest.starts_with(convention.prefix)) continue;
    rest.remove_prefix(convention.prefix.size());
    const std::optional<int32_t> number = TakeNumber(&rest);
    if (!number || rest.empty()) continue;
    if (convention.after_decoder && *number < decoder_layers) continue;
    MtpName name;
    name.convention = i;
    name.layer = convention.after_decoder ? static_cast<int32_t>(*number - decoder_layers) : *number;
    for (const std::string& inner : table.inner)
      if (rest.starts_with(inner)) rest.remove_prefix(inner.size());
    name.reordered = rest.starts_with(kOtherProject);
    const std::string stem = table.conventions.front().prefix + std::to_string(name.layer) + ".";
    const auto known =
        std::find_if(table.rests.begin(), table.rests.end(), [&](const Rest& one) { return one.from == rest; });
    if (known == table.rests.end()) {
      name.released.push_back(stem + std::string(rest));
    } else {
      for (const std::string& to : known->to) name.released.push_back(stem + to);
    }
    return name;
  }
  return std::nullopt;
}

}  // namespace mimo
