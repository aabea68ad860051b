// Which sources a source needs to be decoded: one rule, for everyone who follows a plan's reads.
#pragma once

#include "lib/plan/plan.h"

namespace mimo {

// Calls visit(uint32_t) with `source` and with the sources of its scales and global.
template <class Visit>
void VisitDecoded(const Plan& plan, uint32_t source, Visit visit) {
  const PlanSource& s = plan.sources[source];
  visit(source);
  if (s.scale != kNone) visit(s.scale);
  if (s.global != kNone) visit(s.global);
  for (const SourceBand& band : s.bands) visit(band.scale);
}

// Whether the pieces of an output are decoded, so that their scales are read too.
inline bool Decodes(Transform transform) {
  return transform == Transform::kConvert || transform == Transform::kEncode;
}

// Calls visit(uint32_t) with every source that a group reads; some more than once.
template <class Visit>
void VisitGroupReads(const Plan& plan, const FuseGroup& group, Visit visit) {
  for (const uint32_t i : group.outputs) {
    for (const Piece& piece : plan.outputs[i].pieces) {
      if (Decodes(plan.outputs[i].transform)) {
        VisitDecoded(plan, piece.source, visit);
      } else {
        visit(piece.source);
      }
    }
  }
  for (const CellRow& cell : group.cells) {
    for (const CellSegment& segment : cell.segments) {
      visit(segment.source);
      visit(segment.scale);
    }
  }
}

}  // namespace mimo
