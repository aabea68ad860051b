// What tensors are that no model table knows, by their names: the table is schemas/findings/unknown.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mimo {

struct Stranger {
  std::string id;    // "unknown.lora"
  std::string name;  // "LoRA adapters"
  std::string means;
  std::string advice;
};

// Never null: the last kind is that of everything else ("unknown.tensor"). Null only when the embedded table is
// malformed, which a test finds.
const Stranger* FindStranger(std::string_view tensor);

// Kinds that occur among `tensors`, each once, most telling first, with how many there are and the first of each.
struct StrangerCount {
  const Stranger* kind = nullptr;
  uint64_t count = 0;
  std::string example;
};
std::vector<StrangerCount> CountStrangers(const std::vector<std::string>& tensors);

}  // namespace mimo
