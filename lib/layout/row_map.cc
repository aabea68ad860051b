#include "lib/layout/row_map.h"

#include <algorithm>
#include <map>

#include "lib/base/checked.h"

namespace mimo {

namespace {

// The piece of one projection in one chunk.
struct Section {
  Projection projection;
  int64_t first_row;  // logical
  int64_t rows;
};

std::array<Section, 3> ChunkSections(const AttentionShape& s, int64_t chunks, int64_t c) {
  const int64_t q_heads = s.heads / chunks;
  const bool replicated = chunks > s.kv_heads;
  const int64_t kv_heads = replicated ? 1 : s.kv_heads / chunks;
  const int64_t kv_first = replicated ? c * s.kv_heads / chunks : c * kv_heads;
  return {Section{Projection::kQ, c * q_heads * s.head_dim, q_heads * s.head_dim},
          Section{Projection::kK, kv_first * s.head_dim, kv_heads * s.head_dim},
          Section{Projection::kV, kv_first * s.v_head_dim, kv_heads * s.v_head_dim}};
}

QkvMap BuildFused(const AttentionShape& s, int64_t chunks, int64_t block) {
  QkvMap map;
  map.arrays = 1;
  int64_t row = 0, scale_row = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t chunk_begin = row;
    for (const Section& section : ChunkSections(s, chunks, c)) {
      map.runs.push_back({0, section.projection, row, section.first_row, section.rows});
      row += section.rows;
    }
    for (int64_t b = chunk_begin; b < row; b += block)
      map.bands.push_back({0, b, std::min(b + block, row), 0, scale_row++});
  }
  map.rows[0] = row;
  map.scale_rows[0] = scale_row;
  return map;
}

// q, k, v cut out of fused(chunks). A block that two projections share is stored with the earlier one (its scale row is
// the last of that projection in the chunk), so the later one's first rows take a foreign scale.
QkvMap BuildSplit(const AttentionShape& s, int64_t chunks, int64_t block) {
  QkvMap map;
  map.arrays = 3;
  for (int64_t c = 0; c < chunks; ++c) {
    const auto sections = ChunkSections(s, chunks, c);
    std::array<int64_t, 4> bound{};  // rows of the chunk before each section
    for (size_t i = 0; i < 3; ++i) bound[i + 1] = bound[i] + sections[i].rows;
    std::array<int64_t, 3> first_block{}, first_scale = map.scale_rows;
    for (size_t i = 0; i < 3; ++i) first_block[i] = CeilDiv(bound[i], block);
    for (uint8_t i = 0; i < 3; ++i) {
      map.runs.push_back({i, sections[i].projection, map.rows[i], sections[i].first_row, sections[i].rows});
      for (int64_t r = bound[i]; r < bound[i + 1];) {
        const int64_t b = r / block;
        const int64_t end = std::min((b + 1) * block, bound[i + 1]);
        uint8_t owner = i;
        while (b < first_block[owner]) --owner;  // the section that the block began in
        map.bands.push_back({i, map.rows[i] + r - bound[i], map.rows[i] + end - bound[i], owner,
                             first_scale[owner] + b - first_block[owner]});
        r = end;
      }
      map.rows[i] += sections[i].rows;
      map.scale_rows[i] += CeilDiv(bound[i + 1], block) - first_block[i];
    }
  }
  return map;
}

QkvMap BuildSplitIndependent(const AttentionShape& s, int64_t block) {
  QkvMap map;
  map.arrays = 3;
  const int64_t rows[3] = {s.q_rows(), s.k_rows(), s.v_rows()};
  for (uint8_t i = 0; i < 3; ++i) {
    map.runs.push_back({i, static_cast<Projection>(i), 0, 0, rows[i]});
    map.rows[i] = rows[i];
    map.scale_rows[i] = CeilDiv(rows[i], block);
    for (int64_t b = 0; b < map.scale_rows[i]; ++b)
      map.bands.push_back({i, b * block, std::min((b + 1) * block, rows[i]), i, b});
  }
  return map;
}

int64_t ChunksOf(const QkvLayout& layout, const AttentionShape& s) {
  return layout.kind == QkvKind::kSplit ? std::min(layout.chunks, s.kv_heads) : layout.chunks;
}

}  // namespace

std::string QkvLayout::ToString() const {
  if (kind == QkvKind::kSplitIndependent) return "split(independent)";
  return (kind == QkvKind::kFused ? "fused(" : "split(") + std::to_string(chunks) + ")";
}

bool LayoutFits(const QkvLayout& layout, const AttentionShape& s) {
  if (layout.kind == QkvKind::kSplitIndependent) return true;
  const int64_t c = ChunksOf(layout, s);
  if (c < 1 || s.heads % c != 0) return false;
  return c <= s.kv_heads ? s.kv_heads % c == 0 : c % s.kv_heads == 0;
}

QkvMap BuildQkvMap(const QkvLayout& layout, const AttentionShape& s, int64_t block) {
  QkvMap map = layout.kind == QkvKind::kFused   ? BuildFused(s, layout.chunks, block)
               : layout.kind == QkvKind::kSplit ? BuildSplit(s, ChunksOf(layout, s), block)
                                                : BuildSplitIndependent(s, block);
  map.layout = layout;
  std::sort(map.runs.begin(), map.runs.end(), [](const RowRun& a, const RowRun& b) {
    return std::pair(a.array, a.array_row) < std::pair(b.array, b.array_row);
  });
  std::sort(map.bands.begin(), map.bands.end(), [](const ScaleBand& a, const ScaleBand& b) {
    return std::pair(a.array, a.row_begin) < std::pair(b.array, b.row_begin);
  });
  return map;
}

std::vector<RowMove> ComposeRows(const QkvMap& source, const QkvMap& target) {
  // The source's runs by logical position; the first copy of a replicated head wins.
  std::vector<RowRun> by_logical = source.runs;
  std::stable_sort(by_logical.begin(), by_logical.end(), [](const RowRun& a, const RowRun& b) {
    return std::pair(a.projection, a.logical_row) < std::pair(b.projection, b.logical_row);
  });
  std::array<int64_t, 3> logical_rows{};
  for (const RowRun& run : source.runs) {
    int64_t& rows = logical_rows[static_cast<size_t>(run.projection)];
    rows = std::max(rows, run.logical_row + run.rows);
  }
  std::vector<RowMove> moves;
  for (const RowRun& run : target.runs) {
    for (int64_t done = 0; done < run.rows;) {
      const int64_t logical = run.logical_row + done;
      if (logical >= logical_rows[static_cast<size_t>(run.projection)]) {
        moves.push_back({run.array, run.array_row + done, kPaddingArray, 0, run.rows - done});
        break;
      }
      auto it = std::upper_bound(
          by_logical.begin(), by_logical.end(), std::pair(run.projection, logical),
          [](const auto& key, const RowRun& r) { return key < std::pair(r.projection, r.logical_row); });
      --it;
      while (it != by_logical.begin() && std::prev(it)->projection == it->projection &&
             std::prev(it)->logical_row == it->logical_row)
        --it;
      const int64_t into = logical - it->logical_row;
      const int64_t rows = std::min(run.rows - done, it->rows - into);
      RowMove move{run.array, run.array_row + done, it->array, it->array_row + into, rows};
      if (!moves.empty() && moves.back().target_array == move.target_array &&
          moves.back().source_array == move.source_array &&
          moves.back().target_row + moves.back().rows == move.target_row &&
          moves.back().source_row + moves.back().rows == move.source_row) {
        moves.back().rows += rows;
      } else {
        moves.push_back(move);
      }
      done += rows;
    }
  }
  return moves;
}

bool Straddles(const QkvMap& source, const QkvMap& target) {
  const std::vector<RowMove> moves = ComposeRows(source, target);
  const auto band_at = [](const std::vector<ScaleBand>& bands, uint8_t array, int64_t row) {
    auto it =
        std::upper_bound(bands.begin(), bands.end(), std::pair(array, row),
                         [](const auto& key, const ScaleBand& b) { return key < std::pair(b.array, b.row_begin); });
    return std::prev(it);
  };
  std::map<std::pair<uint8_t, int64_t>, std::pair<uint8_t, int64_t>> scale_of;  // target scale -> source scale
  for (const RowMove& move : moves) {
    if (move.source_array == kPaddingArray) continue;
    for (int64_t done = 0; done < move.rows;) {
      const auto from = band_at(source.bands, move.source_array, move.source_row + done);
      const auto to = band_at(target.bands, move.target_array, move.target_row + done);
      const auto [it, fresh] =
          scale_of.emplace(std::pair(to->scale_array, to->scale_row), std::pair(from->scale_array, from->scale_row));
      if (!fresh && it->second != std::pair(from->scale_array, from->scale_row)) return true;
      done = std::min(from->row_end - move.source_row, to->row_end - move.target_row);
    }
  }
  return false;
}

}  // namespace mimo
