#include "lib/run/atoms.h"

#include <algorithm>
#include <numeric>

namespace mimo {
namespace {

struct SourcePiece {
  uint32_t source = 0;
  int64_t begin = 0;  // source rows
  int64_t end = 0;
  RowTarget target;
};

std::vector<SourcePiece> PiecesOf(const Job& job, uint32_t group) {
  std::vector<SourcePiece> pieces;
  for (const uint32_t o : job.plan.groups[group].outputs) {
    const OutputArray& output = job.plan.outputs[o];
    if (job.modes[o] == OutputMode::kSkip || output.row_bytes() == 0) continue;
    if (output.transform == Transform::kEncode) continue;  // cut along the target: encode_strips.h
    for (const Piece& piece : output.pieces) {
      if (piece.rows <= 0) continue;
      pieces.push_back({piece.source, piece.source_row, piece.source_row + piece.rows, {o, piece.target_row}});
    }
  }
  std::sort(pieces.begin(), pieces.end(), [&](const SourcePiece& a, const SourcePiece& b) {
    if (a.source != b.source) {
      const StoredArray& x = job.array(a.source);
      const StoredArray& y = job.array(b.source);
      return x.file != y.file ? x.file < y.file : x.begin != y.begin ? x.begin < y.begin : a.source < b.source;
    }
    if (a.begin != b.begin) return a.begin < b.begin;
    return a.target.output != b.target.output ? a.target.output < b.target.output : a.target.row < b.target.row;
  });
  return pieces;
}

// Atoms of pieces of one source, ascending by begin: between two neighbouring edges the set of pieces is constant.
void Split(const SourcePiece* first, const SourcePiece* last, std::vector<RowStrip>* atoms) {
  std::vector<int64_t> edges;
  for (const SourcePiece* p = first; p != last; ++p) {
    edges.push_back(p->begin);
    edges.push_back(p->end);
  }
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  std::vector<const SourcePiece*> active;
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    std::erase_if(active, [&](const SourcePiece* p) { return p->end <= edges[i]; });
    for (; first != last && first->begin <= edges[i]; ++first) active.push_back(first);
    if (active.empty()) continue;
    RowStrip atom{active[0]->source, edges[i], edges[i + 1] - edges[i], edges[i], {}};
    for (const SourcePiece* p : active) atom.targets.push_back({p->target.output, p->target.row + edges[i] - p->begin});
    atoms->push_back(std::move(atom));
  }
}

}  // namespace

std::vector<RowStrip> AtomsOf(const Job& job, uint32_t group) {
  const std::vector<SourcePiece> pieces = PiecesOf(job, group);
  std::vector<RowStrip> atoms;
  atoms.reserve(pieces.size());
  for (size_t begin = 0; begin < pieces.size();) {
    size_t end = begin;
    while (end < pieces.size() && pieces[end].source == pieces[begin].source) ++end;
    Split(pieces.data() + begin, pieces.data() + end, &atoms);
    begin = end;
  }
  return atoms;
}

std::vector<uint32_t> CellsOf(const Job& job, uint32_t group) {
  const FuseGroup& fuse = job.plan.groups[group];
  if (fuse.cells.empty() || job.modes[fuse.cells[0].scale_output] == OutputMode::kSkip) return {};
  std::vector<uint32_t> cells(fuse.cells.size());
  std::iota(cells.begin(), cells.end(), 0u);
  return cells;
}

}  // namespace mimo
