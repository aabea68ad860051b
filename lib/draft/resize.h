// Tensors whose dimensions or blocks differ between source and output: zeros added at the tails for a TP that does not
// divide them (reference target-layouts.md section 10), or dropped again; FP8 blocks of another height.
#pragma once

#include "lib/draft/draft.h"

namespace mimo {

// Pieces of a matrix of shape `to` whose first rows and columns are those of `source`, of shape `from`; the rest is
// padding.
std::vector<Piece> ResizedPieces(uint32_t source, const std::vector<int64_t>& from, const std::vector<int64_t>& to);

// The shape of a weight in elements, two to a byte of packed codes.
std::vector<int64_t> ElementShape(const Catalogue& catalogue, const Weight& weight);
// The shape of `weight` (elements) in an output whose dimensions are those of `model`; its own where no rule of the
// model table speaks of it (towers).
Result<std::vector<int64_t>> ResizedShape(const Catalogue& catalogue, const Weight& weight, const ModelConfig& model);

// Resizes the arrays of a kept or renamed weight, which were just added to the last group, to `shape` (elements): zero
// codes and values under scales of one.
void ResizeAdded(Draft& draft, const Weight& weight, const std::vector<int64_t>& shape);

// Every array of a block FP8 weight that is kept, its scales for blocks of `block_rows` rows: repeated for lower
// blocks, and one of several for higher ones, which must be equal (Plan::equal).
void AddRegridded(Draft& draft, const Weight& weight, int64_t block_rows);

}  // namespace mimo
