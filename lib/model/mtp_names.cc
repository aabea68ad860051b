#include "lib/model/mtp_names.h"

#include <algorithm>
#include <charconv>

namespace mimo {
namespace {

constexpr std::string_view kOtherProject = "self_attention.";  // modules of megatron-core

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

std::optional<MtpName> ReadMtpName(const MtpNaming& table, std::string_view tensor, int64_t decoder_layers) {
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
    const MtpConvention& released = table.conventions.front();
    const std::string stem =
        released.prefix + std::to_string(name.layer + (released.after_decoder ? decoder_layers : 0)) + ".";
    const auto known = std::find_if(table.rests.begin(), table.rests.end(),
                                    [&](const MtpNaming::Rest& one) { return one.from == rest; });
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
