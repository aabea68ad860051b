#include "lib/run/turns.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "lib/decode/row_bytes.h"
#include "lib/plan/reads.h"

namespace mimo {
namespace {

// Runs of target rows that no piece crosses the end of.
std::vector<TurnRows> RunsOf(const Job& job, uint32_t group) {
  std::vector<TurnRows> runs;
  for (const uint32_t o : job.plan.groups[group].outputs) {
    const OutputArray& output = job.plan.outputs[o];
    if (output.transform != Transform::kTranspose) continue;
    if (job.modes[o] == OutputMode::kSkip || output.row_bytes() == 0) continue;
    int64_t end = 0;
    for (const Piece& piece : output.pieces) {
      if (runs.empty() || runs.back().output != o || piece.target_row >= end) runs.push_back({o, piece.target_row, 0});
      end = std::max(end, piece.target_row + piece.rows);
      runs.back().rows = end - runs.back().row;
    }
  }
  return runs;
}

// Rows of a source that run `run` reads.
struct Read {
  uint32_t source = 0;
  int64_t row = 0;
  int64_t end = 0;
  size_t run = 0;
};

size_t Root(std::vector<size_t>& parent, size_t i) {
  while (parent[i] != i) i = parent[i] = parent[parent[i]];
  return i;
}

}  // namespace

std::span<const Piece> PiecesOf(const Job& job, const TurnRows& rows) {
  const std::vector<Piece>& pieces = job.plan.outputs[rows.output].pieces;
  const auto before = [](const Piece& piece, int64_t row) { return piece.target_row < row; };
  const auto first = std::lower_bound(pieces.begin(), pieces.end(), rows.row, before);
  return {first, std::lower_bound(first, pieces.end(), rows.row + rows.rows, before)};
}

std::vector<TurnUnit> TurnsOf(const Job& job, uint32_t group) {
  const std::vector<TurnRows> runs = RunsOf(job, group);
  std::vector<Read> reads;
  for (size_t i = 0; i < runs.size(); ++i) {
    for (const Piece& piece : PiecesOf(job, runs[i])) {
      if (piece.source != kNone) reads.push_back({piece.source, piece.source_row, piece.source_row + piece.cols, i});
    }
  }
  std::sort(reads.begin(), reads.end(),
            [](const Read& a, const Read& b) { return std::tie(a.source, a.row) < std::tie(b.source, b.row); });
  std::vector<size_t> parent(runs.size());
  std::iota(parent.begin(), parent.end(), size_t{0});
  int64_t end = 0;
  for (size_t i = 0; i < reads.size(); ++i) {
    const bool apart = i == 0 || reads[i].source != reads[i - 1].source || reads[i].row >= end;
    if (!apart) parent[Root(parent, reads[i].run)] = Root(parent, reads[i - 1].run);
    end = apart ? reads[i].end : std::max(end, reads[i].end);
  }
  std::vector<size_t> unit_of(runs.size(), SIZE_MAX);
  std::vector<TurnUnit> units;
  for (size_t i = 0; i < runs.size(); ++i) {
    size_t& unit = unit_of[Root(parent, i)];
    if (unit == SIZE_MAX) {
      unit = units.size();
      units.emplace_back();
    }
    units[unit].targets.push_back(runs[i]);
  }
  const auto place = [&](const TurnUnit& unit) {
    std::pair<uint32_t, uint64_t> first{UINT32_MAX, 0};
    for (const TurnRows& rows : unit.targets) {
      for (const Piece& piece : PiecesOf(job, rows)) {
        if (piece.source != kNone) first = std::min(first, job.PlaceOf(piece.source, piece.source_row));
      }
    }
    return first;
  };
  std::stable_sort(units.begin(), units.end(),
                   [&](const TurnUnit& a, const TurnUnit& b) { return place(a) < place(b); });
  return units;
}

std::vector<TurnSource> SourcesOf(const Job& job, const TurnUnit& unit) {
  std::vector<TurnSource> sources;
  for (const TurnRows& rows : unit.targets) {
    const OutputArray& output = job.plan.outputs[rows.output];
    for (const Piece& piece : PiecesOf(job, rows)) {
      if (piece.source == kNone) continue;
      const SourceArray& source = job.plan.sources[piece.source];
      sources.push_back({piece.source, piece.source_row, piece.cols, source.quantized && Decodes(output, source)});
    }
  }
  std::sort(sources.begin(), sources.end(), [](const TurnSource& a, const TurnSource& b) {
    return std::tie(a.source, a.row) < std::tie(b.source, b.row);
  });
  size_t kept = 0;
  for (const TurnSource& next : sources) {
    if (kept > 0) {
      TurnSource& last = sources[kept - 1];
      if (last.source == next.source && next.row <= last.row + last.rows) {
        last.rows = std::max(last.rows, next.row + next.rows - last.row);
        last.decoded |= next.decoded;
        continue;
      }
    }
    sources[kept++] = next;
  }
  sources.resize(kept);
  return sources;
}

uint64_t TurnProgress(const Job& job, const TurnUnit& unit) {
  uint64_t bytes = 0;
  for (const TurnSource& from : SourcesOf(job, unit)) bytes += Rows(from.rows, job.array(from.source).row_bytes());
  for (const TurnRows& rows : unit.targets) {
    if (job.modes[rows.output] != OutputMode::kWrite) continue;
    bytes += Rows(rows.rows, job.plan.outputs[rows.output].row_bytes());
  }
  return bytes;
}

}  // namespace mimo
