// The MTP layers of a checkpoint, each judged by itself: what it lacks, and what is not as the model has it. Works on
// checkpoints that TakeInventory refuses, and under names that the model's table does not know.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/words.h"
#include "lib/model/catalogue.h"
#include "lib/model/inventory.h"

namespace mimo {

enum class MtpProblemKind : uint8_t {
  kMissing,    // a tensor that the layer needs
  kShape,      // another shape than config.json says
  kGeometry,   // the shape that it would have in a full-attention layer: MTP layers have sliding windows
  kWeight,     // codes and scales that are not whole, or a type that no weight has
  kProjection  // fused attention where the decoder's is split, or the other way round
};
inline constexpr Words<MtpProblemKind, 5> kMtpProblems{{{MtpProblemKind::kMissing, "missing"},
                                                        {MtpProblemKind::kShape, "shape"},
                                                        {MtpProblemKind::kGeometry, "geometry"},
                                                        {MtpProblemKind::kWeight, "weight"},
                                                        {MtpProblemKind::kProjection, "projection"}}};

struct MtpProblem {
  MtpProblemKind kind = MtpProblemKind::kMissing;
  std::string tensor;  // as it is stored; the released name of one that is missing
  std::string expected;
  std::string found;
};

struct MtpLayer {
  int32_t number = 0;               // from 0
  size_t convention = 0;            // of its names, into MtpNaming::conventions
  bool fused = false;               // how its attention is stored
  std::vector<uint32_t> arrays;     // all under its name, into Catalogue::arrays, ascending
  std::vector<uint32_t> unknown;    // of these, what is no part of an MTP layer
  std::vector<uint32_t> quantized;  // of these, codes of modules that every release has unquantized: o_proj, eh_proj
  uint32_t needs = 0;               // tensors that the layer must have, scales not counted
  Storage attention = Storage::kPlain;  // of its attention projections, the first of which decides
  std::vector<MtpProblem> problems;     // in the order of the table, missing tensors with the others
  bool whole() const { return problems.empty(); }
  bool released() const { return convention == 0; }
};

// By number, then by convention; one entry for each pair that has any array. Headers and config only; nothing of the
// catalogue but config, table, files and arrays is read. Errors are those of a malformed model table.
Result<std::vector<MtpLayer>> FindMtpLayers(const Catalogue& catalogue);

}  // namespace mimo
