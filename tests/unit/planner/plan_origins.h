// Where every element of a plan's outputs comes from, one by one: from the definitions in lib/plan/plan.h alone.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lib/plan/plan.h"

namespace mimo::made {

// An element of a stored array, or one of these.
using Ids = std::vector<int64_t>;
inline constexpr int64_t kPadding = -1, kMadeAnew = -2, kConstantElement = -3, kNobody = -4;

inline int64_t Cols(const std::vector<int64_t>& shape) {
  return shape.empty() ? 1 : shape.back();
}
inline int64_t ElementId(uint32_t array, int64_t element) {
  return (static_cast<int64_t>(array) << 32) | element;
}
inline uint32_t ArrayOfId(int64_t id) {
  return static_cast<uint32_t>(id >> 32);
}
inline int64_t ElementOfId(int64_t id) {
  return id & 0xFFFFFFFF;
}

class PlanOrigins {
 public:
  PlanOrigins(const Catalogue& catalogue, const Plan& plan) : catalogue_(catalogue), plan_(plan) {
    for (const OutputArray& output : plan.outputs)
      ids_.emplace_back(static_cast<size_t>(output.rows() * Cols(output.shape)), kNobody);
    for (uint32_t i = 0; i < plan.outputs.size(); ++i) FromPieces(i);
    for (const FuseGroup& group : plan.groups)
      for (const CellRow& cell : group.cells) FromCell(cell);
    for (uint32_t i = 0; i < plan.outputs.size(); ++i)
      for (const int64_t id : ids_[i])
        if (id == kNobody) {
          ADD_FAILURE() << plan.outputs[i].name << " has an element that nothing makes";
          break;
        }
  }

  const std::vector<Ids>& ids() const { return ids_; }

 private:
  int64_t SourceId(uint32_t source, int64_t row, int64_t col) const {
    const uint32_t array = plan_.sources[source].array;
    const StoredArray& stored = catalogue_.arrays[array];
    const int64_t cols = Cols(stored.shape);
    if (row < 0 || row >= stored.rows() || col < 0 || col >= cols) ADD_FAILURE() << "beyond " << stored.name;
    return ElementId(array, row * cols + col);
  }

  // Elements (row, col) and on: `id`, and for those of sources `step` more each.
  void Put(uint32_t output, int64_t row, int64_t col, int64_t cols, int64_t id, int64_t step) {
    const OutputArray& o = plan_.outputs[output];
    const int64_t width = Cols(o.shape);
    if (row < 0 || row >= o.rows() || col < 0 || cols < 1 || col + cols > width) {
      ADD_FAILURE() << "beyond " << o.name;
      return;
    }
    bool twice = false;
    for (int64_t c = 0; c < cols; ++c) {
      int64_t& at = ids_[output][static_cast<size_t>(row * width + col + c)];
      twice |= at != kNobody;
      at = id < 0 ? id : id + c * step;
    }
    if (twice) ADD_FAILURE() << o.name << " has an element that is made twice";
  }

  void FromPieces(uint32_t index) {
    const OutputArray& o = plan_.outputs[index];
    if (o.transform == Transform::kConstant) ids_[index].assign(ids_[index].size(), kConstantElement);
    if (o.transform == Transform::kEncode || o.transform == Transform::kBeside)
      ids_[index].assign(ids_[index].size(), kMadeAnew);
    if (o.transform == Transform::kEncode) return;
    const bool turned = o.transform == Transform::kTranspose;
    for (const Piece& p : o.pieces) {
      const int64_t cols = p.cols == 0 ? Cols(o.shape) : p.cols;
      for (int64_t r = 0; r < p.rows; ++r) {
        if (p.source == kNone) {
          Put(index, p.target_row + r, p.target_col, cols, kPadding, 0);
          continue;
        }
        const int64_t row = p.source_row + (turned ? 0 : r), col = p.source_col + (turned ? r : 0);
        const int64_t first = SourceId(p.source, row, col);
        const int64_t last = SourceId(p.source, turned ? row + cols - 1 : row, turned ? col : col + cols - 1);
        Put(index, p.target_row + r, p.target_col, cols, first, cols > 1 ? (last - first) / (cols - 1) : 0);
      }
    }
  }

  void FromCell(const CellRow& cell) {
    const int64_t scale_cols = Cols(plan_.outputs[cell.scale_output].shape);
    const CellSegment* first = nullptr;
    for (const CellSegment& s : cell.segments) {
      if (first == nullptr && s.source != kNone) first = &s;
      const int64_t cols = Cols(plan_.outputs[s.output].shape);
      for (int64_t r = 0; r < s.rows; ++r)
        Put(s.output, s.target_row + r, 0, cols, s.source == kNone ? kPadding : SourceId(s.source, s.source_row + r, 0),
            1);
    }
    Put(cell.scale_output, cell.scale_row, 0, scale_cols,
        !cell.moved        ? kMadeAnew
        : first == nullptr ? kPadding
                           : SourceId(first->scale, first->scale_row, 0),
        1);
  }

  const Catalogue& catalogue_;
  const Plan& plan_;
  std::vector<Ids> ids_;
};

}  // namespace mimo::made
