// Files of one rank: model-rank-R-part-P.safetensors, and mtp-rank-R-part-P.safetensors of MTP layers.
#pragma once

#include <string>

namespace mimo {

// "rank3/" of "model-rank-3-part-0.safetensors", which stands before the names of its arrays (catalogue.h); "" for
// files of no rank.
inline std::string RankPrefix(const std::string& file) {
  size_t at = file.find("-rank-");
  const std::string kind = file.substr(0, at);
  if (at == std::string::npos || (kind != "model" && kind != "mtp")) return "";
  at += 6;
  size_t end = at;
  while (end < file.size() && file[end] >= '0' && file[end] <= '9') ++end;
  if (end == at || end - at > 5 || file.compare(end, 6, "-part-") != 0) return "";
  return "rank" + file.substr(at, end - at) + "/";
}

}  // namespace mimo
