// Which engines load a checkpoint at which tensor-parallel size, refuse it, re-quantize it or get it wrong.
// The knowledge is data (schemas/engines.json); here are the facts its rules speak of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/forms/rules.h"
#include "lib/layout/decide.h"
#include "lib/model/inventory.h"

namespace mimo {

struct EngineOutcome {
  int64_t tp = 1;
  std::string outcome;  // "loads", "requantizes", "dequantizes", "refuses", "wrong", "unknown"
  std::string note;
};

struct EngineReport {
  std::string id, engine, version;
  std::vector<std::string> sources;
  std::vector<EngineOutcome> outcomes;  // one per TP asked for
  std::vector<std::string> notes;       // true at any TP
};

// The facts of one checkpoint under one TP; every name that a rule of engines.json may use is among them
// (docs/adding-a-model.md).
Facts EngineFacts(const Catalogue& catalogue, const Inventory& inventory, const QkvLayout& layout, int64_t tp);

// In the order of the table. kBadInput when the table is malformed.
Result<std::vector<EngineReport>> JudgeEngines(const Catalogue& catalogue, const Inventory& inventory,
                                               const QkvLayout& layout, const std::vector<int64_t>& tps);

// "fp8", "mxfp4", "mxfp8", "nvfp4", "bf16", "fp16", "fp32" or the dtype's own name, for one stored weight (an array
// that HoldsElements). By dtypes alone, so that it also tells what TakeInventory refuses.
std::string StorageName(const Catalogue& catalogue, const StoredArray& array);

}  // namespace mimo
