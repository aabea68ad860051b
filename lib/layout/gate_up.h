// In which order the rows of gate and up lie in a stored linear_fc1. [gate ; up] unless the trainer keeps them
// otherwise in memory and saves them so, or saves them wrongly:
//
// turns of N: blocks of N rows by turns, gate first, as fused kernels want experts
//   (moe_mlp_glu_interleave_size; NVIDIA/Megatron-LM issue 7576: Megatron-LM saves what is in memory, while
//   Megatron-Bridge puts the rows back when it saves, since its pull request 2841);
// halves over D: what megatron-core before 0.19 saves under FSDP2 over D ranks: each rank takes the first half of its
//   rows of [gate ; up] for gate and the second for up (NVIDIA/Megatron-LM issue 2769, pull request 5714).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"

namespace mimo {

struct GateUpOrder {
  enum class Kind : uint8_t { kPlain, kTurns, kHalves };
  Kind kind = Kind::kPlain;
  int64_t number = 0;  // rows of a block (kTurns), ranks (kHalves)
  int64_t ranks = 1;   // kTurns: that share an expert out (ETP), each with turns of its own
  bool operator==(const GateUpOrder&) const = default;
  std::string ToString() const;  // "plain", "turns:32", "halves:8"
};

// What --source-gate-up says: [experts=|dense=]plain|turns:N|halves:D. Turns are of experts unless it says dense,
// halves and plain of both unless it says which. kUsage for anything else.
struct GateUpWish {
  std::optional<GateUpOrder> experts, dense;
  Status Take(std::string_view text);
};

// Whether gate and up of `rows` rows each can lie so.
bool GateUpFits(const GateUpOrder& order, int64_t rows);

// Where row `row` of [gate ; up] as it is stored belongs: a row of [gate ; up] of the model. Requires GateUpFits.
int64_t GateUpRow(const GateUpOrder& order, int64_t rows, int64_t row);

// The other way: where a row of [gate ; up] of the model is stored.
int64_t StoredGateUpRow(const GateUpOrder& order, int64_t rows, int64_t row);

// Rows [row, row + rows) of gate, or of up, are stored from row `stored_row` of [gate ; up] on.
struct GateUpRun {
  int64_t row = 0;
  int64_t stored_row = 0;
  int64_t rows = 0;
};
// All rows of gate, or of up, ascending. Requires GateUpFits.
std::vector<GateUpRun> GateUpRuns(const GateUpOrder& order, int64_t rows, bool up);

}  // namespace mimo
