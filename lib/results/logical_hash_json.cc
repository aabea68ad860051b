#include "lib/results/logical_hash_json.h"

#include <nlohmann/json.hpp>

#include "lib/json/text.h"

namespace mimo {

void AppendLogicalHash(std::string& out, const LogicalHash& hash) {
  JsonObject object(out);
  object.String("name", hash.name);
  object.NumberList("shape", hash.shape);
  if (!hash.values) {
    object.String("bytes", hash.fp32.Hex());
    return;
  }
  object.Bool("f32", hash.f32);
  object.String("fp32", hash.fp32.Hex());
  object.String("bf16", hash.bf16.Hex());
}

LogicalHash TakeLogicalHash(JsonMembers& members, JsonProblems& problems) {
  LogicalHash hash;
  const auto take = [&](const char* key, Hash128* out) {
    const std::string text = members.String(key);
    if (!Hash128::FromHex(text, out)) problems.AddText(members.Place() + " \"" + key + "\"", "32 hex digits", text);
  };
  hash.name = members.String("name");
  for (const nlohmann::json& extent : members.Array("shape")) {
    const auto size = IntegerOf<int64_t>(extent);
    if (!size || *size < 0) problems.Add(members.Place(), "shape", "sizes", &extent);
    hash.shape.push_back(size.value_or(0));
  }
  hash.values = !members.Has("bytes");
  if (hash.values) {
    hash.f32 = members.Bool("f32", std::nullopt);
    take("fp32", &hash.fp32);
    take("bf16", &hash.bf16);
  } else {
    take("bytes", &hash.fp32);
  }
  members.Close();
  return hash;
}

}  // namespace mimo
