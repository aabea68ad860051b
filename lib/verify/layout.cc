#include "lib/verify/layout.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/layout/row_profile.h"
#include "lib/model/family.h"

namespace mimo {
namespace {

using Reached = OpenedCheckpoint::Reached;
constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();
constexpr uint64_t kLittle = 128u << 20;  // bytes of codes that are read without being asked for

// Something that names a layout of the attention.
struct Named {
  std::string by;
  QkvLayout layout;
};

// Chunk counts and grids that are named; config.json's fused or split is held against the names of tensors.
Result<std::vector<Named>> NamedLayouts(const Catalogue& catalogue, bool fused, const LayoutOptions& options) {
  std::vector<Named> named;
  const ModelConfig& config = catalogue.config;
  if (options.source_qkv) {
    MIMO_ASSIGN_OR_RETURN(const QkvLayout layout, LayoutOfWish(*options.source_qkv, catalogue));
    named.push_back({"--source-qkv", layout});
  }
  if (config.marker && config.marker->chunks > 0) {
    const LayoutMarker& m = *config.marker;
    const QkvKind kind = m.fused ? QkvKind::kFused : m.independent ? QkvKind::kSplitIndependent : QkvKind::kSplit;
    named.push_back({"marker", {kind, kind == QkvKind::kSplitIndependent ? 1 : m.chunks}});
  }
  if (fused && config.quant_method == "modelopt")
    named.push_back({"config quant_method modelopt", {QkvKind::kFused, 1}});
  // Of split files it says what they were cut from, unless our marker says it better.
  if (const auto tp = catalogue.index.tp_size; tp && *tp > 0 && (fused || !config.marker))
    named.push_back({"index tp_size", {fused ? QkvKind::kFused : QkvKind::kSplit, *tp}});
  return named;
}

class Prover {
 public:
  Prover(FileSystem& fs, const Catalogue& catalogue, const Inventory& inventory, const LayoutOptions& options)
      : fs_(fs), catalogue_(catalogue), inventory_(inventory), options_(options) {}

  Result<LayoutReport> Prove() {
    const std::vector<StoredAttention> layers = StoredAttentionOf(catalogue_, inventory_);
    report_.attention_layers = layers.size();
    if (layers.empty())
      return BadInput("there is no attention in it whose layout could be tried")
          .File(catalogue_.root)
          .Advice("give the whole checkpoint, or a part that holds attention");
    MIMO_ASSIGN_OR_RETURN(const std::vector<Named> named, NamedLayouts(catalogue_, inventory_.fused, options_));
    std::vector<QkvLayout> also;
    for (const Named& n : named) also.push_back(n.layout);
    const std::vector<Candidate> candidates = CandidatesFor(catalogue_.config, layers, inventory_.fused, also);
    TrialData data;
    MIMO_RETURN_IF_ERROR(Look(layers, &data));
    report_.tried = TryCandidates(candidates, data);
    HoldAgainst(named);
    Judge();
    return std::move(report_);
  }

 private:
  Status Look(const std::vector<StoredAttention>& layers, TrialData* data) {
    data->global = catalogue_.config.global;
    data->window = catalogue_.config.window;
    data->block_rows = catalogue_.config.block_rows;
    data->in_blocks = std::any_of(layers.begin(), layers.end(), [](const StoredAttention& s) { return s.in_blocks; });
    MIMO_ASSIGN_OR_RETURN(data->tiles, ReadCodeTiles(fs_, catalogue_, inventory_, Sampled(layers), options_.threads));
    for (const LayerTiles& tiles : data->tiles) report_.read.push_back(tiles.name);
    const RowSample rows{options_.all ? kNoLimit : RowSample().layers_of_a_kind, options_.threads};
    MIMO_ASSIGN_OR_RETURN(data->rows, LookAtRows(fs_, catalogue_, inventory_, rows));
    report_.read.insert(report_.read.end(), data->rows.sampled.begin(), data->rows.sampled.end());
    return {};
  }

  // First and last layer of each kind that lies in blocks, MTP apart; or all of them.
  std::vector<uint32_t> Sampled(const std::vector<StoredAttention>& layers) const {
    std::map<std::pair<bool, bool>, std::vector<uint32_t>> kinds;
    uint64_t bytes = 0;
    for (const StoredAttention& s : layers) {
      if (!s.in_blocks) continue;
      const AttentionWeights& attention = inventory_.attention[s.attention];
      kinds[{s.windowed, attention.mtp}].push_back(s.attention);
      for (const uint32_t weight : attention.in_order())
        if (weight != kNone) bytes += catalogue_.arrays[inventory_.weights[weight].array].bytes;
    }
    std::vector<uint32_t> sampled;
    for (const auto& [kind, members] : kinds) {
      if (options_.all || bytes <= kLittle) {
        sampled.insert(sampled.end(), members.begin(), members.end());
        continue;
      }
      sampled.push_back(members.front());
      if (members.size() > 1) sampled.push_back(members.back());
    }
    std::sort(sampled.begin(), sampled.end());
    return sampled;
  }

  const Tried* Find(const QkvLayout& layout) const {
    const TestedLayout tested{layout};
    for (const Tried& tried : report_.tried) {
      const std::vector<TestedLayout>& same = tried.candidate.same;
      if (tried.candidate.tested == tested || std::find(same.begin(), same.end(), tested) != same.end()) return &tried;
    }
    return nullptr;
  }

  void HoldAgainst(const std::vector<Named>& named) {
    for (const Named& n : named) {
      std::optional<bool> agrees = false;  // of the other kind: fused, where the tensors are split
      if (const Tried* tried = Find(n.layout)) {
        agrees = std::nullopt;
        if (tried->standing != Standing::kUndecided) agrees = tried->standing == Standing::kProven;
      }
      report_.stated.push_back({n.by, n.layout.ToString(), agrees});
    }
    const std::string& said = catalogue_.config.projection_layout;
    if (said.empty() && !inventory_.fused) return;
    report_.stated.push_back({"config attention_projection_layout",
                              said == "fused_qkv" ? "fused"
                              : said.empty()      ? "split (the key is absent)"
                                                  : said,
                              (said == "fused_qkv") == inventory_.fused});
  }

  // Nobody cuts attention of such a family out of chunks, and all layouts that fit have the same rows and scales.
  bool IsOnlyReading() const {
    return !catalogue_.config.family->fused_attention && !inventory_.fused && report_.tried.size() == 1 &&
           report_.tried.front().standing == Standing::kUndecided;
  }

  void Judge() {
    std::string undecided;
    for (const Tried& tried : report_.tried) {
      const std::string name = tried.candidate.tested.ToString();
      if (tried.standing == Standing::kProven) report_.layout = name;
      if (tried.standing == Standing::kUndecided) undecided += (undecided.empty() ? "" : ", ") + name;
    }
    const bool only = IsOnlyReading();
    if (only) report_.layout = report_.tried.front().candidate.tested.ToString();
    report_.verdict = report_.layout.empty() ? Standing::kUndecided : Standing::kProven;
    if (only)
      report_.reason = "every layout that fits these shapes has the same rows under the same scales";
    else if (!report_.layout.empty())
      report_.reason = "every other layout is contradicted by the shapes or by the data";
    else if (!undecided.empty())
      report_.reason = "the data does not tell, possible: " + undecided;
    else
      report_.reason = "no layout that is known explains the tensors";
    for (const LayoutStatement& s : report_.stated) {
      if (s.agrees.value_or(true)) continue;
      report_.verdict = Standing::kContradicted;
      report_.reason = s.by + " says " + s.layout + ", " +
                       (report_.layout.empty() ? "which the data rules out" : "the data shows " + report_.layout);
      break;
    }
  }

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Inventory& inventory_;
  const LayoutOptions& options_;
  LayoutReport report_;
};

// A form that has one layout: what others state can only agree with it or not.
Result<LayoutReport> ByForm(const Checkpoint& checkpoint, const LayoutOptions& options) {
  LayoutReport report;
  report.by_form = true;
  report.verdict = Standing::kProven;
  report.layout = checkpoint.layout.layout.ToString();
  report.attention_layers = checkpoint.inventory.attention.size();
  report.reason = "this form has no other layout; no rows were tried";
  if (!options.source_qkv) return report;
  MIMO_ASSIGN_OR_RETURN(const QkvLayout said, LayoutOfWish(*options.source_qkv, checkpoint.catalogue()));
  report.stated.push_back({"--source-qkv", said.ToString(), said == checkpoint.layout.layout});
  if (said != checkpoint.layout.layout) {
    report.verdict = Standing::kContradicted;
    report.reason = "--source-qkv says " + said.ToString() + ", this form has " + report.layout;
  }
  return report;
}

}  // namespace

Result<LayoutReport> ProveLayout(FileSystem& fs, const std::string& root, const LayoutOptions& options) {
  // Scales that no quantizer writes are no reason to refuse: they are cells that tell nothing.
  OpenedCheckpoint opened = OpenAsFarAsPossible(fs, root, {.allow_anomalies = true});
  const bool understood = opened.reached == Reached::kInventory || opened.reached == Reached::kLayout;
  if (!opened.status.ok()) {
    // Refusals of the decision about the layout are what this is for; anything else is not.
    const Error& error = opened.status.error();
    const bool refused = opened.reached == Reached::kInventory && error.code == ErrorCode::kBadInput &&
                         !error.id.starts_with("foreign.");
    if (!refused) return opened.status.TakeError();
  }
  if (!understood) return BadInput("no checkpoint that is understood").File(root);
  if (opened.checkpoint.view) return ByForm(opened.checkpoint, options);
  return Prover(fs, opened.checkpoint.stored, opened.checkpoint.inventory, options).Prove();
}

}  // namespace mimo
