// Hashes of values as documents hold them: mimo-manifest.json, and what mimo-verify manifest prints.
#pragma once

#include <string>
#include <vector>

#include "lib/base/hash.h"
#include "lib/json/members.h"

namespace mimo {

// Of one tensor, under its Hugging Face name in the split form: the sum over its rows, in logical order, of the hash of
// the row's decoded values, seeded with its number (HashRows, lib/base/hash.h).
struct LogicalHash {
  std::string name;
  std::vector<int64_t> shape;
  bool f32 = false;    // the model has it in F32: rounded to BF16 it is another
  bool values = true;  // false: elements that do not decode; `fp32` is of their bytes
  Hash128 fp32;        // of the values as FP32
  Hash128 bf16;        // of the values rounded to BF16
  bool operator==(const LogicalHash&) const = default;
};

// {"name":...,"shape":[...],"f32":...,"fp32":"...","bf16":"..."}, or "bytes" in place of the last three.
void AppendLogicalHash(std::string& out, const LogicalHash& hash);
// What it wrote; closes `members`. What is wrong is in `problems`.
LogicalHash TakeLogicalHash(JsonMembers& members, JsonProblems& problems);

}  // namespace mimo
