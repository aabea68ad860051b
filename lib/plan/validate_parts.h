// The parts of ValidatePlan. Internal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/plan/plan.h"
#include "lib/recipe/codec_types.h"

namespace mimo::plan_check {

Error Bad(std::string what);

// Whether rows or columns [begin, begin + count) lie in [0, limit).
inline bool Within(int64_t begin, int64_t count, int64_t limit) {
  return begin >= 0 && count >= 0 && begin <= limit && count <= limit - begin;
}

// Stored elements of a row.
inline int64_t Columns(const std::vector<int64_t>& shape) {
  return shape.empty() ? 1 : shape.back();
}

// What is checked.
struct Subject {
  const Catalogue& catalogue;
  const Plan& plan;
  const StoredArray& ArrayOf(uint32_t source) const { return catalogue.arrays[plan.sources[source].array]; }
  bool IsSource(uint32_t index) const { return index < plan.sources.size(); }
  bool IsOutput(uint32_t index, uint32_t group, Transform transform) const {
    return index < plan.outputs.size() && plan.outputs[index].group == group &&
           plan.outputs[index].transform == transform;
  }
};

// At least `rows` rows of scales of the type of `codes`, with one column per block of its columns.
Status CheckScales(const Subject& subject, const SourceArray& codes, uint32_t scale, int64_t rows);
// Each needs what stands before it to be checked: arrays of sources exist; then sources; files, groups and sizes of
// outputs; pieces.
Status CheckSource(const Subject& subject, const SourceArray& source);
Status CheckEqual(const Subject& subject, const EqualRows& equal);
Status CheckPieces(const Subject& subject, const OutputArray& output);
Status CheckCells(const Subject& subject, uint32_t group);
Status CheckEncoded(const Subject& subject, uint32_t group);

}  // namespace mimo::plan_check
