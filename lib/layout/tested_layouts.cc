#include "lib/layout/tested_layouts.h"

#include <algorithm>

#include "lib/base/checked.h"

namespace mimo {
namespace {

// What is wrong with one layer under a layout; "" where nothing is.
std::string MisfitOf(const TestedLayout& tested, const AttentionShape& shape, int64_t block_rows,
                     const StoredAttention& stored) {
  if (!LayoutFits(tested.layout, shape))
    return std::to_string(shape.heads) + " Q heads and " + std::to_string(shape.kv_heads) +
           " KV heads are not that many chunks";
  const QkvMap map = MapOf(tested, shape, block_rows);
  for (size_t i = 0; i < static_cast<size_t>(map.arrays); ++i) {
    static constexpr const char* kNames[] = {"q", "k", "v"};
    const std::string of = map.arrays == 1 ? "" : std::string(" of ") + kNames[i];
    if (map.rows[i] != stored.rows[i])
      return std::to_string(map.rows[i]) + " rows" + of + ", stored are " + std::to_string(stored.rows[i]);
    if (stored.scale_rows[i] >= 0 && stored.scale_rows[i] != map.scale_rows[i])
      return std::to_string(map.scale_rows[i]) + " scale rows" + of + ", stored are " +
             std::to_string(stored.scale_rows[i]);
  }
  return "";
}

// One misfit, and how many layers have one.
std::string MisfitOfAll(const TestedLayout& tested, const ModelConfig& config,
                        const std::vector<StoredAttention>& layers) {
  std::string first;
  size_t count = 0;
  for (const StoredAttention& stored : layers) {
    const std::string misfit = MisfitOf(tested, config.attention(stored.windowed), config.block_rows, stored);
    if (misfit.empty()) continue;
    if (++count == 1) first = misfit;
  }
  if (count == 0) return "";
  return "it would have " + first + " (" + std::to_string(count) + " of " + std::to_string(layers.size()) + " layers)";
}

bool SameRowsAndScales(const TestedLayout& a, const TestedLayout& b, const ModelConfig& config,
                       const std::vector<StoredAttention>& layers) {
  for (const bool windowed : {false, true}) {
    bool stored = false, in_blocks = false;
    for (const StoredAttention& layer : layers) {
      stored |= layer.windowed == windowed;
      in_blocks |= layer.windowed == windowed && layer.in_blocks;
    }
    if (!stored) continue;
    const AttentionShape& shape = config.attention(windowed);
    const QkvMap x = MapOf(a, shape, config.block_rows), y = MapOf(b, shape, config.block_rows);
    if (ComposeRows(x, y) != ComposeRows(y, y) || (in_blocks && !SameGrid(x, y))) return false;
  }
  return true;
}

}  // namespace

std::string TestedLayout::ToString() const {
  return layout.ToString() + (apart ? " with grids apart" : "");
}

QkvMap MapOf(const TestedLayout& tested, const AttentionShape& shape, int64_t block_rows) {
  QkvMap map = BuildQkvMap(tested.layout, shape, block_rows);
  if (!tested.apart) return map;
  map.bands.clear();
  map.scale_rows = {};
  for (const RowRun& run : map.runs)
    for (int64_t row = 0; row < run.rows; row += block_rows)
      map.bands.push_back({run.array, run.array_row + row, run.array_row + std::min(row + block_rows, run.rows),
                           run.array, map.scale_rows[run.array]++});
  return map;
}

bool SameGrid(const QkvMap& a, const QkvMap& b) {
  return a.arrays == b.arrays && a.bands == b.bands;
}

std::vector<StoredAttention> StoredAttentionOf(const Catalogue& catalogue, const Inventory& inventory) {
  std::vector<StoredAttention> layers;
  for (uint32_t i = 0; i < inventory.attention.size(); ++i) {
    const AttentionWeights& a = inventory.attention[i];
    StoredAttention stored{i, catalogue.config.windowed_at(a.layer, a.mtp), true};
    bool complete = a.first() != kNone;
    const std::array<uint32_t, 3> weights = a.in_order();
    for (size_t part = 0; part < (a.fused() ? 1u : 3u); ++part) {
      complete &= weights[part] != kNone;
      if (weights[part] == kNone) continue;
      const Weight& w = inventory.weights[weights[part]];
      stored.rows[part] = w.rows;
      stored.in_blocks &= w.in_blocks();
      if (w.in_blocks()) stored.scale_rows[part] = catalogue.arrays[w.scale].shape[0];
    }
    if (complete) layers.push_back(stored);
  }
  return layers;
}

std::vector<Candidate> CandidatesFor(const ModelConfig& config, const std::vector<StoredAttention>& layers, bool fused,
                                     const std::vector<QkvLayout>& declared) {
  if (layers.empty()) return {};
  const QkvKind kind = fused ? QkvKind::kFused : QkvKind::kSplit;
  int64_t most = 1;
  bool in_blocks = false;
  for (const StoredAttention& layer : layers) {
    most = std::max(most, config.attention(layer.windowed).kv_heads);
    in_blocks |= layer.in_blocks;
  }
  std::vector<QkvLayout> wanted;
  if (!fused) wanted.push_back(kOwnGrids);
  for (int64_t c = 1; c <= most; ++c)
    if (std::all_of(layers.begin(), layers.end(), [&](const StoredAttention& layer) {
          return LayoutFits({kind, c}, config.attention(layer.windowed));
        }))
      wanted.push_back({kind, c});
  for (const QkvLayout& layout : declared)
    if (layout.fused() == fused && std::find(wanted.begin(), wanted.end(), layout) == wanted.end())
      wanted.push_back(layout);

  std::vector<Candidate> candidates;
  const auto add = [&](const TestedLayout& tested) {
    Candidate candidate{tested, {}, MisfitOfAll(tested, config, layers)};
    if (tested.apart && !candidate.fits()) return;
    if (candidate.fits())
      for (Candidate& other : candidates)
        if (other.fits() && SameRowsAndScales(other.tested, tested, config, layers)) {
          if (!tested.apart) other.same.push_back(tested);
          return;
        }
    candidates.push_back(std::move(candidate));
  };
  for (const QkvLayout& layout : wanted) add({layout});
  if (in_blocks)
    for (const QkvLayout& layout : wanted)
      if (layout.kind != QkvKind::kSplitIndependent) add({layout, true});
  return candidates;
}

}  // namespace mimo
