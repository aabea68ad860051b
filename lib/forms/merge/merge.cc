#include "lib/forms/merge/merge.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>

#include "lib/model/role_groups.h"

namespace mimo {
namespace {

constexpr char kFallbackFile[] = "model.safetensors";

class Merger {
 public:
  Merger(Checkpoint run, Checkpoint reference) : run_(std::move(run)), ref_(std::move(reference)) {}

  Result<Checkpoint> Merge() {
    if (ref_.view)
      return UsageError("--like names what is no Hugging Face checkpoint")
          .File(ref_.stored.root)
          .Expected("a directory of config.json and .safetensors files")
          .Found("form " + std::string(WordOf(kForms, ref_.view->form)));
    if (!ref_.stored.name_prefix.empty())
      return BadInput("the reference has its tensor names under a prefix, and what is like it would have other names")
          .Id("names.prefixed_reference")
          .File(ref_.stored.root)
          .Expected("names as in the release")
          .Found("names under \"" + ref_.stored.name_prefix + "\"")
          .Advice("convert the reference by itself first, which gives its tensors the released names");
    for (const Weight& w : run_.inventory.weights) run_has_.emplace(KeyOf(run_, w), &w);
    for (const AttentionWeights& a : run_.inventory.attention)
      if (a.first() != kNone) run_attention_.insert({a.mtp, a.layer});
    MIMO_RETURN_IF_ERROR(CheckShapes());
    MIMO_RETURN_IF_ERROR(JoinStored());
    MIMO_RETURN_IF_ERROR(JoinShown());
    JoinInventories();
    out_.layout = run_.layout;
    out_.facts = ref_.facts;
    out_.cut_rows = run_.cut_rows;
    for (CutRows& rows : out_.cut_rows) rows.array = StoredOfRun(rows.array);
    return std::move(out_);
  }

 private:
  // Towers have no rule: their names tell them apart.
  static std::string KeyOf(const Checkpoint& c, const Weight& w) {
    const std::string name = c.catalogue().table->NameOf(w.id);
    return name.empty() || IsTower(w.id.role) ? c.catalogue().arrays[w.array].name : name;
  }

  // Whether the run has what this weight of the reference is.
  bool Replaced(const Weight& w) const {
    if (IsAttentionProjection(w.id.role)) return run_attention_.contains({w.id.mtp, w.id.layer});
    return run_has_.contains(KeyOf(ref_, w));
  }

  Status CheckShapes() const {
    const auto bad = [&](const std::string& tensor, const std::string& expected, const std::string& found) {
      return BadInput("the run and --like are of different models")
          .File(run_.stored.root)
          .Tensor(tensor)
          .Expected(expected)
          .Found(found)
          .Advice("name the checkpoint that the run was trained from");
    };
    const auto text = [](int64_t rows, int64_t cols) {
      return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
    };
    for (const Weight& w : ref_.inventory.weights) {
      if (IsAttentionProjection(w.id.role)) continue;
      const auto found = run_has_.find(KeyOf(ref_, w));
      if (found != run_has_.end() && (found->second->rows != w.rows || found->second->cols != w.cols))
        return bad(found->first, text(w.rows, w.cols), text(found->second->rows, found->second->cols));
    }
    for (const bool windowed : {false, true}) {
      const AttentionShape a = LogicalShape(run_.catalogue().config, windowed);
      const AttentionShape b = LogicalShape(ref_.catalogue().config, windowed);
      if (a != b)
        return bad(windowed ? "sliding-window attention" : "full attention",
                   std::to_string(b.heads) + " Q and " + std::to_string(b.kv_heads) + " KV heads",
                   std::to_string(a.heads) + " and " + std::to_string(a.kv_heads));
    }
    return {};
  }

  Status JoinStored() {
    Catalogue& stored = out_.stored;
    stored = ref_.stored;
    for (const std::string& oddity : run_.stored.oddities) stored.oddities.push_back(oddity);
    for (StrayFile stray : run_.stored.strays) {
      stray.root = run_.stored.root;
      stored.strays.push_back(std::move(stray));
    }
    const auto shift = static_cast<uint32_t>(stored.files.size());
    for (CatalogueFile file : run_.stored.files) {
      if (file.root.empty()) file.root = run_.stored.root;
      stored.files.push_back(std::move(file));
    }
    const auto item_shift = static_cast<uint32_t>(stored.items.size());
    for (StoredItem item : run_.stored.items) {
      item.file += shift;
      stored.items.push_back(item);
    }
    for (StoredArray array : run_.stored.arrays) {
      array.name = kRunPrefix + array.name;
      array.file += shift;
      if (array.item != kNone) array.item += item_shift;
      stored.arrays.push_back(std::move(array));
    }
    return SortArrays(&stored);
  }

  uint32_t StoredOfRun(uint32_t array) const {
    return out_.stored.by_name.at(kRunPrefix + run_.stored.arrays[array].name);
  }

  Status JoinShown() {
    out_.view = std::make_unique<View>(EmptyView(out_.stored, run_.view ? run_.view->form : FormKind::kHf));
    View& view = *out_.view;
    view.real_files = static_cast<uint32_t>(ref_.stored.files.size());
    view.catalogue.index = ref_.stored.index;
    view.catalogue.files = ref_.stored.files;
    if (run_.view) {
      view.halved_codes = run_.view->halved_codes;
      view.skipped = run_.view->skipped;
      view.notes = run_.view->notes;
      view.said_gate_up = run_.view->said_gate_up;
      view.experts_order = run_.view->experts_order;
      view.dense_order = run_.view->dense_order;
      view.trained = run_.view->trained;
      for (uint32_t i = 0; i < run_.stored.arrays.size(); ++i) {
        if (run_.view->scale_of[i] != kNone) view.scale_of[StoredOfRun(i)] = StoredOfRun(run_.view->scale_of[i]);
        view.constants[StoredOfRun(i)] = run_.view->constants[i];
      }
      for (Replica r : run_.view->replicas) {
        r.first = StoredOfRun(r.first);
        r.second = StoredOfRun(r.second);
        view.replicas.push_back(r);
      }
    }
    std::vector<Shown> shown;
    ShowReference(&shown);
    ShowRun(&shown);
    AddShown(std::move(shown), &view);
    return SortArrays(&view.catalogue);
  }

  void ShowReference(std::vector<Shown>* shown) {
    std::vector<uint8_t> replaced(ref_.stored.arrays.size(), 0);
    for (const Weight& w : ref_.inventory.weights)
      if (Replaced(w))
        for (const uint32_t array : {w.array, w.scale, w.global, w.input})
          if (array != kNone) replaced[array] = 1;
    ref_shown_.resize(replaced.size());
    for (uint32_t i = 0; i < replaced.size(); ++i) {
      StoredArray array = ref_.stored.arrays[i];
      const Fragment whole = WholeOf(array, out_.stored.by_name.at(array.name));
      if (replaced[i] != 0) array.name = kReferencePrefix + array.name;
      ref_shown_[i] = array.name;
      shown->push_back({std::move(array), {whole}});
    }
  }

  // Arrays of the run go where the reference has theirs; q, k and v where it has qkv.
  void ShowRun(std::vector<Shown>* shown) {
    std::map<std::pair<bool, int32_t>, uint32_t> attention_file;
    for (const StoredArray& array : ref_.stored.arrays)
      if (IsAttentionProjection(array.id.role))
        attention_file.emplace(std::pair(array.id.mtp, array.id.layer), array.file);
    std::vector<CatalogueFile>& files = out_.view->catalogue.files;
    uint32_t fallback = kNone;
    const Catalogue& run = run_.catalogue();
    const std::set<uint32_t> beside = BesideWeights();
    for (uint32_t i = 0; i < run.arrays.size(); ++i) {
      Shown s{run.arrays[i], {}};
      const auto attention = attention_file.find({s.array.id.mtp, s.array.id.layer});
      if (const StoredArray* same = ref_.stored.Find(s.array.name)) {
        s.array.file = same->file;
      } else if (IsAttentionProjection(s.array.id.role) && attention != attention_file.end()) {
        s.array.file = attention->second;
      } else {
        if (fallback == kNone) {
          fallback = static_cast<uint32_t>(files.size());
          files.emplace_back().name = kFallbackFile;
        }
        s.array.file = fallback;
      }
      if (run_.view) {
        s.fragments = run_.view->fragments[i];
        for (Fragment& f : s.fragments) f.array = StoredOfRun(f.array);
        s.transposed = run_.view->transposed[i] != 0;
      } else {
        s.fragments = {WholeOf(s.array, StoredOfRun(i))};
      }
      if (beside.contains(i)) s.array.name = kRunPrefix + s.array.name;
      shown->push_back(std::move(s));
    }
  }

  // Arrays of the run that are no weights: unknown, scales of the KV cache, and MTP layers that are not whole.
  std::set<uint32_t> BesideWeights() const {
    std::set<uint32_t> beside(run_.inventory.unknown.begin(), run_.inventory.unknown.end());
    for (const CacheScale& scale : run_.inventory.cache_scales) beside.insert(scale.array);
    beside.insert(run_.inventory.left_out.begin(), run_.inventory.left_out.end());
    return beside;
  }

  void JoinInventories() {
    const auto& by_name = out_.view->catalogue.by_name;
    const auto of_run = [&](uint32_t array) {
      return array == kNone ? kNone : by_name.at(run_.catalogue().arrays[array].name);
    };
    const auto of_reference = [&](uint32_t array) { return array == kNone ? kNone : by_name.at(ref_shown_[array]); };
    const auto renumber = [](Weight w, const auto& of) {
      for (uint32_t* array : {&w.array, &w.scale, &w.global, &w.input}) *array = of(*array);
      return w;
    };
    Inventory& merged = out_.inventory;
    merged = run_.inventory;
    for (Weight& w : merged.weights) w = renumber(w, of_run);
    merged.unknown.clear();
    merged.cache_scales.clear();
    merged.left_out.clear();
    out_.like = std::make_unique<Like>();
    Like& like = *out_.like;
    const std::vector<uint32_t>& broken = run_.inventory.left_out;
    for (const uint32_t array : BesideWeights()) {
      const uint32_t shown = by_name.at(kRunPrefix + run_.catalogue().arrays[array].name);
      if (std::binary_search(broken.begin(), broken.end(), array)) {
        for (const Fragment& f : out_.view->fragments[shown]) like.stored_run_broken_mtp.push_back(f.array);
        continue;
      }
      like.run_unknown.push_back(shown);
      for (const Fragment& f : out_.view->fragments[shown]) like.stored_run_unknown.push_back(f.array);
    }
    std::sort(like.stored_run_unknown.begin(), like.stored_run_unknown.end());
    std::sort(like.stored_run_broken_mtp.begin(), like.stored_run_broken_mtp.end());
    for (const CacheScale& scale : ref_.inventory.cache_scales) {
      merged.cache_scales.push_back({of_reference(scale.array), scale.id, scale.placement});
      like.unknown.push_back(merged.cache_scales.back().array);
    }
    like.layout = ref_.layout.layout;
    like.reference = ref_.inventory;
    like.first_grafted = static_cast<uint32_t>(merged.weights.size());
    std::vector<uint32_t> moved(ref_.inventory.weights.size(), kNone);
    for (uint32_t i = 0; i < ref_.inventory.weights.size(); ++i) {
      const Weight& w = ref_.inventory.weights[i];
      like.reference.weights[i] = renumber(w, of_reference);
      if (Replaced(w)) continue;
      moved[i] = static_cast<uint32_t>(merged.weights.size());
      merged.weights.push_back(like.reference.weights[i]);
    }
    for (AttentionWeights a : ref_.inventory.attention) {
      if (run_attention_.contains({a.mtp, a.layer})) continue;
      for (uint32_t* weight : {&a.qkv, &a.q, &a.k, &a.v})
        if (*weight != kNone) *weight = moved[*weight];
      merged.attention.push_back(a);
    }
    std::stable_sort(merged.attention.begin(), merged.attention.end(),
                     [](const AttentionWeights& a, const AttentionWeights& b) {
                       return std::tie(a.mtp, a.layer) < std::tie(b.mtp, b.layer);
                     });
    merged.mtp_layers = std::max(merged.mtp_layers, ref_.inventory.mtp_layers);
    for (const uint32_t array : ref_.inventory.unknown) {
      like.unknown.push_back(of_reference(array));
      merged.unknown.push_back(of_reference(array));
    }
  }

  Checkpoint run_, ref_;
  Checkpoint out_;
  std::unordered_map<std::string, const Weight*> run_has_;
  std::set<std::pair<bool, int32_t>> run_attention_;
  std::vector<std::string> ref_shown_;  // name by array of the reference
};

}  // namespace

Result<Checkpoint> MergeLike(Checkpoint run, Checkpoint reference) {
  return Merger(std::move(run), std::move(reference)).Merge();
}

}  // namespace mimo
