#include "lib/layout/decide.h"

#include <algorithm>

#include "lib/base/file_system.h"
#include "lib/model/family.h"

namespace mimo {

namespace {

constexpr char kMarker[] = "marker";

// What is stored for one attention layer: rows and (where quantized) scale rows of each array.
struct StoredRows {
  bool windowed = false;
  std::array<int64_t, 3> rows{};
  std::array<int64_t, 3> scale_rows{};  // -1 where the array is not quantized
  std::array<uint32_t, 3> arrays{kNone, kNone, kNone};
};

std::vector<StoredRows> CollectRows(const Catalogue& catalogue, const Inventory& inventory) {
  std::vector<StoredRows> layers;
  for (const AttentionWeights& a : inventory.attention) {
    StoredRows stored;
    stored.windowed = catalogue.config.windowed_at(a.layer, a.mtp);
    const std::array<uint32_t, 3> weights = a.in_order();
    for (size_t i = 0; i < 3; ++i) {
      if (weights[i] == kNone) continue;
      const Weight& w = inventory.weights[weights[i]];
      stored.arrays[i] = w.array;
      stored.rows[i] = w.rows;
      stored.scale_rows[i] = w.in_blocks() ? catalogue.arrays[w.scale].shape[0] : -1;
    }
    layers.push_back(stored);
  }
  return layers;
}

bool Explains(const QkvLayout& layout, const ModelConfig& config, const StoredRows& stored) {
  const AttentionShape shape = LogicalShape(config, stored.windowed);
  if (!LayoutFits(layout, shape)) return false;
  // Before a map is built: it is as long as the config says, which may be anything.
  const int64_t copies = layout.fused() ? std::max(layout.chunks, shape.kv_heads) : shape.kv_heads;  // of KV heads
  const int64_t k_rows = copies * shape.head_dim, v_rows = copies * shape.v_head_dim;
  const std::array<int64_t, 3> rows = layout.fused() ? std::array<int64_t, 3>{shape.q_rows() + k_rows + v_rows, 0, 0}
                                                     : std::array<int64_t, 3>{shape.q_rows(), k_rows, v_rows};
  if (rows != stored.rows) return false;
  const QkvMap map = BuildQkvMap(layout, shape, config.block_rows);
  for (size_t i = 0; i < static_cast<size_t>(map.arrays); ++i) {
    if (map.rows[i] != stored.rows[i]) return false;
    if (stored.scale_rows[i] >= 0 && stored.scale_rows[i] != map.scale_rows[i]) return false;
  }
  return true;
}

// Whether two layouts have equal rows and, where it matters, equal scales.
bool SameMeaning(const QkvLayout& a, const QkvLayout& b, const ModelConfig& config, bool quantized) {
  for (bool windowed : {false, true}) {
    const AttentionShape shape = LogicalShape(config, windowed);
    if (!LayoutFits(a, shape) || !LayoutFits(b, shape)) continue;  // the model has no such layers
    const QkvMap x = BuildQkvMap(a, shape, config.block_rows), y = BuildQkvMap(b, shape, config.block_rows);
    if (x.arrays != y.arrays || ComposeRows(x, y) != ComposeRows(y, y)) return false;
    if (quantized && x.bands != y.bands) return false;
  }
  return true;
}

bool FullyQuantized(const std::vector<StoredRows>& layers) {
  return std::all_of(layers.begin(), layers.end(), [](const StoredRows& s) { return s.scale_rows[0] >= 0; });
}

}  // namespace

AttentionShape LogicalShape(const ModelConfig& config, bool windowed) {
  AttentionShape shape = config.attention(windowed);
  if (config.marker) {
    const int64_t heads = windowed ? config.marker->swa_kv_heads : config.marker->kv_heads;
    if (heads > 0) shape.kv_heads = heads;
  }
  return shape;
}

std::vector<LayoutCandidate> FeasibleLayouts(const Catalogue& catalogue, const Inventory& inventory) {
  const ModelConfig& config = catalogue.config;
  const std::vector<StoredRows> layers = CollectRows(catalogue, inventory);
  if (layers.empty()) return {};
  std::vector<LayoutCandidate> ranked;
  const auto add = [&](QkvKind kind, std::optional<int64_t> chunks, const char* basis, bool evidence) {
    if (chunks && *chunks >= 1) ranked.push_back({{kind, *chunks}, basis, evidence});
  };
  const std::optional<int64_t> marked = config.marker ? std::optional(config.marker->chunks) : std::nullopt;
  const bool marked_fused = config.marker && config.marker->fused;
  if (inventory.fused) {
    if (marked_fused) add(QkvKind::kFused, marked, kMarker, true);
    if (config.quant_method == "modelopt") add(QkvKind::kFused, 1, "quant_method modelopt", true);
    add(QkvKind::kFused, catalogue.index.tp_size, "index tp_size", true);
    add(QkvKind::kFused, config.global.kv_heads, "config num_key_value_heads", false);
    add(QkvKind::kFused, 1, "plain [Q;K;V]", false);
  } else if (!config.family->fused_attention) {  // nobody cuts them out of chunks
    add(QkvKind::kSplitIndependent, 1, "one grid per tensor", true);
  } else {
    if (marked && !marked_fused)
      add(config.marker->independent ? QkvKind::kSplitIndependent : QkvKind::kSplit, marked, kMarker, true);
    add(QkvKind::kSplit, catalogue.index.tp_size, "index tp_size", true);
    add(QkvKind::kSplit, config.global.kv_heads, "config num_key_value_heads", false);
    add(QkvKind::kSplitIndependent, 1, "one grid per tensor", false);
  }
  std::vector<LayoutCandidate> feasible;
  const bool quantized = FullyQuantized(layers);
  for (const LayoutCandidate& candidate : ranked) {
    const bool explains = std::all_of(layers.begin(), layers.end(),
                                      [&](const StoredRows& s) { return Explains(candidate.layout, config, s); });
    const bool known = explains && std::any_of(feasible.begin(), feasible.end(), [&](const LayoutCandidate& f) {
                         return SameMeaning(f.layout, candidate.layout, config, quantized);
                       });
    if (explains && !known) feasible.push_back(candidate);
  }
  return feasible;
}

namespace {

// Names the tensor that the layout which explains most layers does not explain.
Error NothingFits(const Catalogue& catalogue, const std::vector<StoredRows>& layers) {
  const int64_t usual = catalogue.index.tp_size.value_or(catalogue.config.global.kv_heads);
  const bool fused = layers[0].arrays[1] == kNone;
  const std::vector<QkvLayout> candidates =
      fused ? std::vector<QkvLayout>{{QkvKind::kFused, usual}, {QkvKind::kFused, 1}}
            : std::vector<QkvLayout>{{QkvKind::kSplit, usual}, {QkvKind::kSplitIndependent, 1}};
  const auto explained = [&](const QkvLayout& layout) {
    return std::count_if(layers.begin(), layers.end(),
                         [&](const StoredRows& s) { return Explains(layout, catalogue.config, s); });
  };
  const QkvLayout best =
      *std::max_element(candidates.begin(), candidates.end(),
                        [&](const QkvLayout& a, const QkvLayout& b) { return explained(a) < explained(b); });
  Error e = BadInput("no known QKV layout explains the attention tensors")
                .File(catalogue.root)
                .Advice(
                    "see whether config.json is of these tensors; if you know the layout, say it: --source-qkv "
                    "split|independent|fused:C");
  const auto odd = std::find_if(layers.begin(), layers.end(),
                                [&](const StoredRows& s) { return !Explains(best, catalogue.config, s); });
  const AttentionShape shape = LogicalShape(catalogue.config, odd->windowed);
  for (size_t i = 0; i < (fused ? 1u : 3u); ++i) {
    std::string expected;
    bool wrong = false;
    for (const QkvLayout& layout : candidates) {
      if (!LayoutFits(layout, shape)) continue;
      const int64_t rows = BuildQkvMap(layout, shape, catalogue.config.block_rows).scale_rows[i];
      expected += (expected.empty() ? "" : " or ") + std::to_string(rows) + " as " + layout.ToString();
      wrong |= layout == best && odd->scale_rows[i] >= 0 && rows != odd->scale_rows[i];
    }
    if (!wrong) continue;
    const StoredArray& weight = catalogue.arrays[odd->arrays[i]];
    e.what = "scale of the wrong shape: no known QKV layout has this many scale rows";
    e.tensor = weight.name + "_scale_inv";
    if (const StoredArray* scale = catalogue.Find(e.tensor))
      e.file = JoinPath(catalogue.root, catalogue.files[scale->file].name);
    e.expected = expected + " scale rows for " + std::to_string(odd->rows[i]) + " weight rows";
    e.found = std::to_string(odd->scale_rows[i]);
    break;
  }
  return e;
}

const SaturationCount* CountOf(const SurveyFacts& facts, const QkvLayout& layout) {
  for (const SaturationCount& count : facts.saturation)
    if (count.layout == layout) return &count;
  return nullptr;
}

std::string CountText(const SaturationCount& count) {
  return count.layout.ToString() + ": " + std::to_string(count.cells - count.unsaturated) + " of " +
         std::to_string(count.cells) + " sampled K/V blocks hold a saturated code";
}

// At least this many cells before the data may say anything, and these shares of unsaturated cells.
constexpr uint64_t kMinCells = 16;
bool LooksRight(const SaturationCount& c) {
  return c.cells >= kMinCells && c.unsaturated * 50 <= c.cells;
}
bool LooksWrong(const SaturationCount& c) {
  return c.cells >= kMinCells && c.unsaturated * 8 >= c.cells;
}

Status CheckAgainstData(const Catalogue& catalogue, const SurveyFacts& facts, LayoutVerdict* verdict) {
  const SaturationCount* chosen = CountOf(facts, verdict->layout);
  if (chosen == nullptr || chosen->cells < kMinCells) return {};
  verdict->evidence.push_back(CountText(*chosen));
  // How scales were made is known of families that store what was cut out of chunks, and of no others.
  if (!LooksWrong(*chosen) || !catalogue.config.family->fused_attention) return {};
  for (const SaturationCount& other : facts.saturation) {
    if (other.layout == verdict->layout || !LooksRight(other)) continue;
    return BadInput("the data contradicts the QKV layout that " + verdict->basis + " names")
        .File(catalogue.root)
        .Tensor(facts.sampled.empty() ? "" : facts.sampled.front())
        .Expected("a saturated code in (nearly) every block; " + CountText(other))
        .Found(CountText(*chosen))
        .Advice("say which is right: --source-qkv split|independent|fused:C")
        .Id("layout.contradicted");
  }
  // Split files: one published reading scales all rows of V by V's own row. It has the same shapes; only the data can
  // tell (the second half of a V head would then lack a saturated code half of the time). Power-of-two scales never
  // saturate and prove nothing.
  const bool amax_scales = facts.power_of_two_scales * 2 < facts.attention_scales;
  if (verdict->layout.kind == QkvKind::kSplit && verdict->basis != kMarker && amax_scales) {
    return BadInput("the data does not bear out that K and V share scale rows")
        .File(catalogue.root)
        .Tensor(facts.sampled.empty() ? "" : facts.sampled.front())
        .Expected("a saturated code in (nearly) every block of " + verdict->layout.ToString())
        .Found(CountText(*chosen))
        .Advice(
            "if you know how the file was quantized, say so: --source-qkv split (K and V share a row) or independent")
        .Id("layout.contradicted");
  }
  verdict->evidence.push_back(verdict->basis == kMarker
                                  ? "the others were re-quantized under a scale of the source, which need not saturate"
                                  : "suspicious: blocks without a saturated code are what a wrong layout looks like");
  return {};
}

// Whether the codes bear out a layout, and none of the others that were looked at.
bool SaturationProves(const SurveyFacts& facts, const QkvLayout& layout) {
  const SaturationCount* chosen = CountOf(facts, layout);
  return chosen != nullptr && facts.saturation.size() > 1 && LooksRight(*chosen) &&
         std::all_of(facts.saturation.begin(), facts.saturation.end(),
                     [&](const SaturationCount& c) { return c.layout == layout || LooksWrong(c); });
}

std::string FusedList(const std::vector<int64_t>& chunks, const char* between) {
  std::string text;
  for (int64_t c : chunks) text += (text.empty() ? "" : between) + QkvLayout{QkvKind::kFused, c}.ToString();
  return text;
}

// Rows that lie under no block grid: they bear `best` out, or contradict it; where nothing names a layout, the one that
// they prove takes its place. Whatever the marker says is ours.
Status CheckAgainstRows(const Catalogue& catalogue, const RowOrder& rows, LayoutCandidate* best,
                        LayoutVerdict* verdict) {
  if (rows.chunks.empty() || best->basis == kMarker || !best->layout.fused()) return {};
  const std::string where = "norms of the rows of " + std::to_string(rows.sampled.size()) + " sampled layers";
  const std::optional<int64_t> proven = rows.Proven();
  if (verdict->assumed && !best->evidence && proven) *best = {{QkvKind::kFused, *proven}, "row norms", true};
  if (rows.Contradicts(best->layout.chunks) && (best->evidence || !verdict->assumed)) {
    const std::vector<int64_t> left = rows.Unbeaten();
    std::string flags;
    for (int64_t c : left) flags += (flags.empty() ? "--source-qkv fused:" : " or fused:") + std::to_string(c);
    Error e = BadInput("the data contradicts the QKV layout that " + best->basis + " names: its rows of Q, K and V mix")
                  .File(catalogue.root)
                  .Tensor(rows.sampled.front())
                  .Expected(where + " that set Q, K and V apart along the borders of " + best->layout.ToString())
                  .Found("borders of " + (left.empty() ? "no one layout" : FusedList(left, " or ")))
                  .Id("layout.contradicted");
    e.advice = left.empty() ? "say how it was written, if you know: --source-qkv fused:C" : "pass " + flags;
    return e;
  }
  if (proven && best->layout.chunks == *proven) {
    verdict->assumed = false;
    verdict->evidence.push_back(where + " set Q, K and V apart along the borders of " + best->layout.ToString() +
                                " and of no other layout");
  } else if (verdict->assumed) {
    verdict->evidence.push_back(where + " do not tell which it is");
  }
  return {};
}

Error Undecided(const Catalogue& catalogue, const StoredArray& array, const RowOrder& rows,
                const std::vector<LayoutCandidate>& feasible) {
  Error e = BadInput(
                "the QKV layout cannot be decided: the fused weights carry no block scales, nothing names the chunk "
                "count, and rows of Q, K and V do not differ enough to tell")
                .File(catalogue.root)
                .Tensor(array.name)
                .Expected("metadata.tp_size in the index, or FP8 scale rows")
                .Found("neither; possible are")
                .Id("layout.undecided");
  std::vector<int64_t> chunks = rows.Unbeaten();
  if (chunks.empty())
    for (const LayoutCandidate& c : feasible) chunks.push_back(c.layout.chunks);
  e.found += " " + FusedList(chunks, " ");
  e.advice = "say how it was written: --source-qkv fused:1 for plain [Q;K;V], fused:C for C chunks";
  return e;
}

}  // namespace

Result<LayoutVerdict> DecideLayout(const Catalogue& catalogue, const Inventory& inventory, const SurveyFacts& facts,
                                   const std::optional<QkvWish>& flag) {
  const std::vector<StoredRows> layers = CollectRows(catalogue, inventory);
  LayoutVerdict verdict;
  if (layers.empty()) {
    verdict.basis = "no attention";
    verdict.layout = {inventory.fused ? QkvKind::kFused : QkvKind::kSplitIndependent, 1};
    return verdict;
  }
  if (flag) {
    MIMO_ASSIGN_OR_RETURN(verdict.layout, LayoutOfWish(*flag, catalogue));
    verdict.basis = "--source-qkv";
    for (const StoredRows& stored : layers) {
      if (verdict.layout.fused() == inventory.fused && Explains(verdict.layout, catalogue.config, stored)) continue;
      const StoredArray& array = catalogue.arrays[stored.arrays[0]];
      Error e = BadInput("--source-qkv " + flag->text + " does not fit the tensors")
                    .File(JoinPath(catalogue.root, catalogue.files[array.file].name))
                    .Tensor(array.name);
      if (verdict.layout.fused() != inventory.fused) {
        e.expected = verdict.layout.fused() ? "fused attention" : "split attention";
        e.found = inventory.fused ? "qkv_proj" : "q_proj, k_proj and v_proj";
      } else if (const AttentionShape shape = LogicalShape(catalogue.config, stored.windowed);
                 LayoutFits(verdict.layout, shape)) {
        const QkvMap map = BuildQkvMap(verdict.layout, shape, catalogue.config.block_rows);
        const auto text = [&](const std::array<int64_t, 3>& rows, const std::array<int64_t, 3>& scales) {
          std::string t;
          for (size_t i = 0; i < static_cast<size_t>(map.arrays); ++i)
            t += (i ? "; " : "") + std::to_string(rows[i]) + " rows" +
                 (stored.scale_rows[i] < 0 ? "" : ", " + std::to_string(scales[i]) + " scale rows");
          return t;
        };
        e.expected = text(map.rows, map.scale_rows);
        e.found = text(stored.rows, stored.scale_rows);
      } else {
        e.expected = "a chunk count that divides " + std::to_string(shape.heads) + " Q heads and fits " +
                     std::to_string(shape.kv_heads) + " KV heads";
        e.found = std::to_string(verdict.layout.chunks);
      }
      e.advice = "leave --source-qkv out to have the layout decided";
      return e;
    }
    if (const SaturationCount* count = CountOf(facts, verdict.layout)) verdict.evidence.push_back(CountText(*count));
    return verdict;
  }

  const std::vector<LayoutCandidate> feasible = FeasibleLayouts(catalogue, inventory);
  if (feasible.empty()) return NothingFits(catalogue, layers);
  LayoutCandidate best = feasible.front();
  if (feasible.size() == 1) {
    if (!best.evidence) best.basis = "shapes";
    verdict.evidence.push_back("rows and scale rows of all " + std::to_string(layers.size()) +
                               " attention layers fit no other known layout");
  } else {
    for (size_t i = 1; i < feasible.size(); ++i)
      verdict.evidence.push_back("shapes alone would also allow " + feasible[i].layout.ToString() + " (" +
                                 feasible[i].basis + ")");
    verdict.assumed = best.basis != kMarker;  // until the data bears it out
  }
  MIMO_RETURN_IF_ERROR(CheckAgainstRows(catalogue, facts.rows, &best, &verdict));
  if (verdict.assumed && !best.evidence && !FullyQuantized(layers))
    return Undecided(catalogue, catalogue.arrays[layers[0].arrays[0]], facts.rows, feasible);
  verdict.layout = best.layout;
  verdict.basis = best.basis;
  MIMO_RETURN_IF_ERROR(CheckAgainstData(catalogue, facts, &verdict));
  if (verdict.assumed && SaturationProves(facts, best.layout)) verdict.assumed = false;
  return verdict;
}

}  // namespace mimo
