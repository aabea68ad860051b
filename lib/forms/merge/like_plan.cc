// Every array of a reference again, with the weights of a run in the place of its own.
#include <algorithm>
#include <set>
#include <unordered_map>

#include "lib/draft/attention.h"
#include "lib/forms/merge/merge_form.h"
#include "lib/forms/unknown.h"
#include "lib/model/family.h"
#include "lib/model/role_groups.h"
#include "lib/recipe/recipe.h"

namespace mimo {
namespace {

class LikePlanner {
 public:
  explicit LikePlanner(Planning* p)
      : p_(*p), like_(*p->like), catalogue_(p->catalogue), options_(p->options), draft_(p->draft) {}

  Status Fill() {
    for (uint32_t i = 0; i < like_.first_grafted; ++i) run_of_.emplace(NameOf(p_.inventory.weights[i]), i);
    for (const AttentionWeights& a : like_.reference.attention) MIMO_RETURN_IF_ERROR(PlanAttentionOf(a));
    for (const Weight& w : like_.reference.weights)
      if (!IsAttentionProjection(w.id.role)) MIMO_RETURN_IF_ERROR(PlanWeight(w));
    MIMO_RETURN_IF_ERROR(PlanOthers());
    MIMO_RETURN_IF_ERROR(PutInPlace());
    Note(&p_.notes);
    return {};
  }

 private:
  std::string NameOf(const Weight& w) const {
    const std::string name = catalogue_.table->NameOf(w.id);
    return name.empty() || IsTower(w.id.role) ? Bare(catalogue_.arrays[w.array].name) : name;
  }

  static std::string Bare(const std::string& name) {
    return name.starts_with(kReferencePrefix) ? name.substr(sizeof kReferencePrefix - 1) : name;
  }

  // The weight of the run that takes the place of one of the reference; kNone: the run has none.
  uint32_t WeightOfRun(const Weight& w) const {
    const auto found = run_of_.find(NameOf(w));
    return found == run_of_.end() ? kNone : found->second;
  }

  void Take(const Weight& from) { p_.tally.rounded.push_back(from.array); }  // the data says which values fit

  void Graft(const Weight& w) {
    draft_.AddKept(w);
    ++grafted_;
    if (w.id.mtp)
      graft_notes_.insert("MTP layer " + std::to_string(w.id.layer));
    else if (IsTower(w.id.role))
      graft_notes_.insert(std::string(RoleName(w.id.role)));
    else
      graft_notes_.insert(catalogue_.arrays[w.array].name);
  }

  Status CannotMake(const Weight& w, const std::string& what) const {
    return UsageError("the reference stores a weight as nothing that --like can make from values")
        .Expected("BF16, FP16, FP32, block FP8 or MXFP4")
        .Found(what + " in " + Bare(catalogue_.arrays[w.array].name))
        .Advice("--like REF --dtype bf16 --qkv split, then a recipe in a second run");
  }

  std::optional<Codec> Values(const Weight& w) const {
    return w.storage == Storage::kPlain ? ValueCodecOf(catalogue_.arrays[w.array].dtype) : std::nullopt;
  }

  // Scales that can be kept or made anew: F32 or BF16, of blocks or of rows that are rows.
  bool CanMakeFp8(const Weight& w) const {
    const StoredArray &codes = catalogue_.arrays[w.array], &scale = catalogue_.arrays[w.scale];
    return codes.dtype == DType::kF8E4M3 && (scale.dtype == DType::kF32 || scale.dtype == DType::kBF16) &&
           scale.shape.size() == 2 && w.input == kNone && !w.per_tensor();
  }

  // How the reference stores a weight of codes, and in which arrays.
  kernels::Encoding EncodingOf(const Weight& w) const {
    kernels::Encoding encoding;
    encoding.codec = *CodecOf(w.storage);
    encoding.rule = w.storage == Storage::kMxfp4 ? Recipe().mx_rule : kernels::ScaleRule::kMax;
    encoding.block_rows = static_cast<uint32_t>(w.block_rows);
    encoding.block_cols = static_cast<uint32_t>(w.block_cols);
    encoding.power_of_two = w.storage == Storage::kFp8Block && catalogue_.config.scale_fmt == "ue8m0";
    return encoding;
  }
  WeightArrays ArraysOf(const Weight& w) const {
    const StoredArray &codes = catalogue_.arrays[w.array], &scales = catalogue_.arrays[w.scale];
    WeightArrays arrays;
    arrays.codes = codes.id.part;
    arrays.code_dtype = codes.dtype;
    arrays.scales = scales.id.part;
    arrays.scale_dtype = scales.dtype;
    return arrays;
  }

  // Codes of the run that lie under scales of the reference's kind, in arrays of its names, types and shapes: they are
  // its weight as they are.
  bool IsStoredAlike(const Weight& w, const Weight& from) const {
    if (w.storage == Storage::kPlain || w.storage != from.storage || w.span != from.span ||
        w.block_rows != from.block_rows || w.block_cols != from.block_cols)
      return false;
    const auto alike = [&](uint32_t a, uint32_t b) {
      if (a == kNone || b == kNone) return a == b;
      const StoredArray &of_ref = catalogue_.arrays[a], &of_run = catalogue_.arrays[b];
      return of_ref.dtype == of_run.dtype && of_ref.shape == of_run.shape && Bare(of_ref.name) == Bare(of_run.name);
    };
    return alike(w.array, from.array) && alike(w.scale, from.scale) && alike(w.global, from.global) &&
           alike(w.input, from.input);
  }

  bool IsStoredAlike(const AttentionWeights& ref, const AttentionWeights& run) const {
    if (p_.layout.layout != like_.layout) return false;
    for (size_t i = 0; i < ref.in_order().size(); ++i) {
      const uint32_t a = ref.in_order()[i], b = run.in_order()[i];
      if ((a == kNone) != (b == kNone)) return false;
      if (a != kNone && !IsStoredAlike(like_.reference.weights[a], p_.inventory.weights[b])) return false;
    }
    return true;
  }

  void MoveCodes(const Weight& w, const Weight& from) {
    const std::array<uint32_t, 4> of_run = {from.array, from.scale, from.global, from.input};
    const std::array<uint32_t, 4> of_ref = {w.array, w.scale, w.global, w.input};
    for (size_t i = 0; i < of_ref.size(); ++i) {
      if (of_ref[i] == kNone) continue;
      OutputArray output = OutputLike(catalogue_.arrays[of_ref[i]]);
      output.name = Bare(output.name);
      output.pieces.push_back({draft_.Source(of_run[i]), 0, 0, output.rows()});
      draft_.AddOutput(std::move(output), of_ref[i]);
    }
  }

  Status PlanAttentionOf(const AttentionWeights& ref) {
    if (ref.first() == kNone) return {};
    const Weight& w = like_.reference.weights[ref.first()];
    const AttentionWeights* run = nullptr;
    for (const AttentionWeights& a : p_.inventory.attention)  // kNone is beyond all weights
      if (a.mtp == ref.mtp && a.layer == ref.layer && a.first() < like_.first_grafted) run = &a;
    if (run == nullptr) {
      draft_.BeginGroup(Bare(catalogue_.arrays[w.array].name));
      for (const uint32_t i : ref.in_order())
        if (i != kNone) Graft(like_.reference.weights[i]);
      return {};
    }
    if (IsStoredAlike(ref, *run)) {
      draft_.BeginGroup(Bare(catalogue_.arrays[w.array].name));
      for (size_t i = 0; i < ref.in_order().size(); ++i)
        if (const uint32_t of_ref = ref.in_order()[i]; of_ref != kNone)
          MoveCodes(like_.reference.weights[of_ref], p_.inventory.weights[run->in_order()[i]]);
      ++from_run_;
      ++moved_;
      return {};
    }
    const AttentionShape shape = LogicalShape(catalogue_.config, catalogue_.config.windowed_at(ref.layer, ref.mtp));
    const Weight& from = p_.inventory.weights[run->first()];
    AttentionRequest request;
    request.weights = run;
    request.source = BuildQkvMap(p_.layout.layout, shape, from.block_rows);
    request.target = BuildQkvMap(like_.layout, shape, w.block_rows);
    if (const auto codec = Values(w)) {
      request.decode = *codec;
    } else if (w.in_blocks() && CanMakeFp8(w) && Values(from)) {
      std::array<uint32_t, 3> keep = {kNone, kNone, kNone};
      for (size_t i = 0; i < keep.size() && !options_.fresh_scales; ++i)
        if (const uint32_t weight = ref.in_order()[i]; weight != kNone)
          keep[i] = draft_.Source(like_.reference.weights[weight].scale);
      const kernels::Encoding encoding = EncodingOf(w);
      const bool narrow = catalogue_.arrays[w.scale].dtype != DType::kF32;
      if (!encoding.power_of_two && !narrow) {
        request.quantize = keep;
        request.block_cols = w.block_cols;
      } else if (like_.layout.kind != QkvKind::kSplit) {  // no block lies across arrays
        request.encode = {encoding, ArraysOf(w), {}, keep};
      } else {
        return CannotMake(
            w, "blocks across K and V under scales that are " + std::string(narrow ? "BF16," : "powers of two,"));
      }
      CountNarrow(w);
    } else {
      return CannotMake(w, "attention");
    }
    PlanAttention(draft_, request, false);
    for (const uint32_t i : run->in_order())
      if (i != kNone) Take(p_.inventory.weights[i]);
    ++from_run_;
    return {};
  }

  Status PlanWeight(const Weight& w) {
    const StoredArray& stored = catalogue_.arrays[w.array];
    const uint32_t index = WeightOfRun(w);
    const std::string name = Bare(stored.name);
    draft_.BeginGroup(name);
    if (index == kNone) {
      Graft(w);
      return {};
    }
    ++from_run_;
    const Weight& from = p_.inventory.weights[index];
    if (IsStoredAlike(w, from)) {
      MoveCodes(w, from);
      ++moved_;
      return {};
    }
    Take(from);
    if (w.storage == Storage::kPlain) return PlanPlain(w, from, name);
    const bool fp8 = w.storage == Storage::kFp8Block && CanMakeFp8(w);
    if (!Values(from) || (!fp8 && w.storage != Storage::kMxfp4))
      return CannotMake(w, std::string(DTypeName(stored.dtype)));
    EncodedRequest request;
    request.id = w.id;
    request.name = NameOfPart(name, Part::kWeight);
    request.rows = w.rows;
    request.cols = w.cols;
    request.encoding = EncodingOf(w);
    request.arrays = ArraysOf(w);
    if (!options_.fresh_scales) request.keep = draft_.Source(w.scale);
    CountNarrow(w);
    request.pieces.push_back({draft_.DecodedSource(from), 0, 0, w.rows});
    draft_.AddEncoded(request, w.array);
    return {};
  }

  void CountNarrow(const Weight& w) {
    narrow_scales_ += w.storage == Storage::kFp8Block && catalogue_.arrays[w.scale].dtype == DType::kBF16;
  }

  Status PlanPlain(const Weight& w, const Weight& from, const std::string& name) {
    const StoredArray& stored = catalogue_.arrays[w.array];
    const StoredArray& source = catalogue_.arrays[from.array];
    OutputArray output = OutputLike(stored);
    output.name = name;
    output.id = w.id;
    if (from.storage == Storage::kPlain && source.dtype == stored.dtype) {
      output.pieces.push_back({draft_.Source(from.array), 0, 0, stored.rows()});
    } else {
      const auto codec = ValueCodecOf(stored.dtype);
      const bool plain = from.storage == Storage::kPlain;
      if (!codec || (plain && !ValueCodecOf(source.dtype))) return CannotMake(w, std::string(DTypeName(stored.dtype)));
      output.transform = Transform::kConvert;
      output.target_codec = *codec;
      output.pieces.push_back({draft_.DecodedSource(from), 0, 0, stored.rows()});
      const bool narrowed = plain && source.dtype == DType::kBF16 && stored.dtype == DType::kF32;
      if (narrowed && (w.id.role == Role::kRouter || w.id.role == Role::kRouterBias)) {
        output.keep = draft_.Source(w.array);
        ++(w.id.role == Role::kRouter ? narrow_routers_ : narrow_biases_);
      }
    }
    draft_.AddOutput(std::move(output), w.array);
    return {};
  }

  // What is no weight. Scales of the KV cache that the run has are the newer ones; whatever else it has and the
  // reference lacks, and what no table knows, is for --unknown to say.
  Status PlanOthers() {
    std::unordered_map<std::string, uint32_t> of_run;
    for (const uint32_t array : like_.run_unknown) of_run.emplace(BareOfRun(array), array);
    const bool carries = options_.unknown == UnknownPolicy::kCarry;
    for (const uint32_t array : like_.unknown) {
      const StoredArray& stored = catalogue_.arrays[array];
      draft_.BeginGroup(stored.name);
      const auto found = of_run.find(stored.name);
      const StoredArray* newer = found == of_run.end() ? nullptr : &catalogue_.arrays[found->second];
      const bool fits = newer != nullptr && newer->dtype == stored.dtype && newer->shape == stored.shape;
      if (!fits || !(carries || IsCacheScale(stored.id.role))) {
        draft_.AddUnchanged(array);
        continue;
      }
      OutputArray output = OutputLike(stored);
      output.pieces.push_back({draft_.Source(found->second), 0, 0, stored.rows()});
      draft_.AddOutput(std::move(output), array);
      of_run.erase(found);
    }
    if (of_run.empty() || options_.unknown == UnknownPolicy::kDrop) return {};
    std::vector<std::string> names;
    for (const auto& [name, array] : of_run) names.push_back(name);
    std::sort(names.begin(), names.end());
    if (!carries) return RefuseUnknown(catalogue_.config.family->title, names, FileOfRun(of_run.at(names[0])));
    for (const std::string& name : names) MIMO_RETURN_IF_ERROR(CarryOfRun(name, of_run.at(name)));
    return {};
  }

  std::string FileOfRun(uint32_t shown) const {
    const std::vector<Fragment>& fragments = p_.view->fragments[shown];
    return fragments.empty() ? p_.catalogue.root
                             : p_.stored.PathOf(p_.stored.files[p_.stored.arrays[fragments[0].array].file]);
  }

  std::string BareOfRun(uint32_t array) const { return catalogue_.arrays[array].name.substr(sizeof kRunPrefix - 1); }

  // In a file of its own, for every file of the reference stays as long as it is.
  Status CarryOfRun(const std::string& name, uint32_t array) {
    if (p_.stored.Find(name) != nullptr)
      return BadInput("a tensor of the run that the reference has too, of another type or shape")
          .Id("unknown.tensor")
          .Tensor(name)
          .Expected("what the reference has")
          .Found("another")
          .Advice("--unknown drop keeps the reference's");
    OutputArray output = OutputLike(catalogue_.arrays[array]);
    output.name = name;
    output.pieces.push_back({draft_.Source(array), 0, 0, catalogue_.arrays[array].rows()});
    draft_.BeginGroup(name);
    draft_.AddOutput(std::move(output), array, kRunUnknownFile);
    return {};
  }

  // Every output takes the place of the reference's array of its name; all of these have one.
  Status PutInPlace() {
    std::unordered_map<std::string, uint32_t> place;
    for (uint32_t i = 0; i < catalogue_.arrays.size(); ++i) {
      const StoredArray& array = catalogue_.arrays[i];
      if (array.name.starts_with(kReferencePrefix) || p_.view->IsReal(i, p_.stored)) place[Bare(array.name)] = i;
    }
    for (DraftGroup& group : draft_.groups) {
      for (DraftOutput& output : group.outputs) {
        if (!output.file_name.empty()) continue;  // not the reference's
        const auto found = place.find(output.name);
        const StoredArray* array = found == place.end() ? nullptr : &catalogue_.arrays[found->second];
        if (array == nullptr || array->dtype != output.dtype || array->shape != output.shape)
          return UsageError("what --like would write is not what the reference has")
              .Expected("its names, types and shapes")
              .Found(output.name)
              .Advice("a reference in the layout that its config says");
        output.near = found->second;
        place.erase(found);
      }
    }
    if (place.empty()) return {};
    return UsageError("an array of the reference that nothing fills").Expected("none").Found(place.begin()->first);
  }

  void Note(std::vector<std::string>* notes) const {
    notes->push_back(std::to_string(from_run_) +
                     " weights (attention counts by layer) are the run's, in the codecs of the reference, under " +
                     (options_.fresh_scales ? "scales made anew" : "its scales where the values fit"));
    if (moved_ > 0)
      notes->push_back(std::to_string(moved_) +
                       " of them are in these codecs in the run: codes and scales are the run's");
    if (narrow_scales_ > 0)
      notes->push_back(
          "the reference stores scales of " + std::to_string(narrow_scales_) +
          " weights in BF16: those that are made anew are rounded up to it, and codes are made under them");
    if (narrow_routers_ + narrow_biases_ > 0)
      notes->push_back("router weights of " + std::to_string(narrow_routers_) + " and biases of " +
                       std::to_string(narrow_biases_) +
                       " layers are BF16 in the run and F32 in the reference: its bits are kept wherever they round to "
                       "the run's, other elements have BF16 precision only (the manifest counts them)");
    if (grafted_ == 0) return;
    std::string text = std::to_string(grafted_) + " weights that the run does not have are the reference's:";
    size_t shown = 0;
    for (const std::string& what : graft_notes_)
      if (++shown <= 12) text += (shown == 1 ? " " : ", ") + what;
    notes->push_back(text + (shown > 12 ? " ..." : ""));
  }

  Planning& p_;
  const Like& like_;
  const Catalogue& catalogue_;  // what the merged view shows
  const PlanOptions& options_;
  Draft& draft_;
  std::unordered_map<std::string, uint32_t> run_of_;  // weight of the run by name
  std::set<std::string> graft_notes_;
  uint64_t from_run_ = 0, moved_ = 0, grafted_ = 0;
  uint64_t narrow_scales_ = 0;                       // of weights (attention counts by layer)
  uint64_t narrow_routers_ = 0, narrow_biases_ = 0;  // BF16 of the run for F32 of the reference
};

}  // namespace

Status MergeForm::Fill(Planning* p) const {
  return LikePlanner(p).Fill();
}

}  // namespace mimo
