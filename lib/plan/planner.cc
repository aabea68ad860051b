#include "lib/plan/planner.h"

#include <algorithm>
#include <regex>

#include "lib/form/hf.h"
#include "lib/plan/builder.h"
#include "lib/plan/plan_json.h"

namespace mimo {

namespace {

Error Usage(std::string what, std::string expected, std::string found, std::string advice) {
  Error e;
  e.code = ErrorCode::kUsage;
  e.what = std::move(what);
  e.expected = std::move(expected);
  e.found = std::move(found);
  e.advice = std::move(advice);
  return e;
}

bool IsTower(Role role) {
  return role == Role::kVision || role == Role::kAudio || role == Role::kSpeech;
}
bool IsRouter(Role role) {
  return role == Role::kRouter || role == Role::kRouterBias;
}
bool IsAttentionProjection(Role role) {
  return role == Role::kAttnQkv || role == Role::kAttnQ || role == Role::kAttnK || role == Role::kAttnV;
}

// --include and --exclude, on the names of weights; scales follow.
class NameFilter {
 public:
  static Result<NameFilter> Make(const PlanOptions& options) {
    NameFilter filter;
    MIMO_RETURN_IF_ERROR(filter.Add(options.include, "--include", &filter.include_));
    MIMO_RETURN_IF_ERROR(filter.Add(options.exclude, "--exclude", &filter.exclude_));
    return filter;
  }
  bool empty() const { return include_.empty() && exclude_.empty(); }
  // Why `name` stays out; "" when it is in.
  std::string Rejects(const std::string& name) {
    bool in = include_.empty();
    for (Pattern& p : include_) in |= p.Matches(name);
    std::string reason = in ? "" : "not included";
    for (Pattern& p : exclude_)
      if (p.Matches(name)) reason = "excluded by " + p.text;
    return reason;
  }
  Status CheckAllMatched() const {
    for (const auto* patterns : {&include_, &exclude_})
      for (const Pattern& p : *patterns)
        if (!p.matched)
          return Usage(
              std::string(patterns == &include_ ? "--include" : "--exclude") + " matches no tensor of the output",
              "a regular expression found in at least one tensor name", p.text,
              "list the names with --dry-run --verbose");
    return {};
  }

 private:
  struct Pattern {
    std::string text;
    std::regex regex;
    bool matched = false;
    bool Matches(const std::string& name) {
      const bool found = std::regex_search(name, regex);
      matched |= found;
      return found;
    }
  };
  std::vector<Pattern> include_, exclude_;

  Status Add(const std::vector<std::string>& texts, const char* flag, std::vector<Pattern>* patterns) {
    for (const std::string& text : texts) {
      try {
        patterns->push_back({text, std::regex(text, std::regex::ECMAScript | std::regex::optimize), false});
      } catch (const std::regex_error& error) {
        return Usage(std::string(flag) + " is not a regular expression", "ECMAScript syntax", text, error.what());
      }
    }
    return {};
  }
};

class Planner {
 public:
  Planner(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& verdict,
          const PlanOptions& options)
      : catalogue_(catalogue),
        inventory_(inventory),
        verdict_(verdict),
        options_(options),
        builder_(catalogue, inventory) {}

  Result<Plan> Make() {
    MIMO_ASSIGN_OR_RETURN(filter_, NameFilter::Make(options_));
    dropped_.resize(catalogue_.arrays.size());
    MIMO_RETURN_IF_ERROR(ChooseTarget());
    MIMO_RETURN_IF_ERROR(PlanUnknown());
    PlanAttentionLayers();
    for (const Weight& weight : inventory_.weights)
      if (!IsAttentionProjection(weight.id.role)) PlanWeight(weight);
    MIMO_RETURN_IF_ERROR(Filter());
    MIMO_RETURN_IF_ERROR(CheckPromises());
    builder_.plan().target_layout = target_;
    PlaceOutputs(builder_, options_.max_shard_bytes);
    MIMO_RETURN_IF_ERROR(Describe());
    return Finish();
  }

 private:
  static Codec CodecOf(DTypeChoice choice) {
    return choice == DTypeChoice::kFp16 ? Codec::kFp16 : choice == DTypeChoice::kFp32 ? Codec::kFp32 : Codec::kBf16;
  }
  bool keep() const { return options_.dtype == DTypeChoice::kKeep; }
  bool KeepsFp8() const { return keep() && inventory_.quantized_attention; }

  // Every attention kind that the model has layers of.
  std::vector<AttentionShape> Shapes() const {
    std::vector<AttentionShape> shapes;
    for (bool windowed : {false, true})
      if (std::any_of(inventory_.attention.begin(), inventory_.attention.end(),
                      [&](const AttentionWeights& a) { return Windowed(a) == windowed; }))
        shapes.push_back(LogicalShape(catalogue_.config, windowed));
    return shapes;
  }
  bool Windowed(const AttentionWeights& a) const {
    return a.mtp || catalogue_.config.windowed[static_cast<size_t>(a.layer)] != 0;
  }
  bool Fits(const QkvLayout& layout) const {
    const auto shapes = Shapes();
    return std::all_of(shapes.begin(), shapes.end(), [&](const AttentionShape& s) { return LayoutFits(layout, s); });
  }

  Status ChooseTarget() {
    const QkvLayout source = verdict_.layout;
    const std::string& wish = options_.qkv;
    const int64_t kv_heads = LogicalShape(catalogue_.config, false).kv_heads;
    if (wish == "keep") {
      target_ = source;
    } else if (wish == "split" && !KeepsFp8()) {
      target_ = {QkvKind::kSplitIndependent, 1};
    } else if (wish == "split") {
      // The cut of the chunks as they are loses nothing; replicas are dropped.
      target_ = source.fused() ? QkvLayout{QkvKind::kSplit, std::min(source.chunks, kv_heads)} : source;
      if (target_.kind == QkvKind::kSplit && SameAsIndependent()) target_ = {QkvKind::kSplitIndependent, 1};
    } else if (wish == "fused") {
      target_ = source.fused() ? source : QkvLayout{QkvKind::kFused, kv_heads};
    } else {
      MIMO_ASSIGN_OR_RETURN(target_, ParseLayoutFlag(wish, catalogue_));
    }
    if (!Fits(target_)) {
      std::string heads;
      for (const AttentionShape& s : Shapes())
        heads += (heads.empty() ? "" : " and ") + std::to_string(s.heads) + " Q, " + std::to_string(s.kv_heads) +
                 " KV heads";
      return Usage("--qkv " + wish + " does not fit this model",
                   "a chunk count that divides the Q heads, and that divides the KV heads "
                   "or is a multiple of them: " +
                       heads,
                   target_.ToString(), "");
    }
    return {};
  }

  bool SameAsIndependent() const {
    for (const AttentionShape& s : Shapes()) {
      const QkvMap a = BuildQkvMap(target_, s), b = BuildQkvMap({QkvKind::kSplitIndependent, 1}, s);
      if (ComposeRows(a, b) != ComposeRows(b, b) || a.bands != b.bands) return false;
    }
    return true;
  }

  Status PlanUnknown() {
    for (uint32_t array : inventory_.unknown) {
      const StoredArray& stored = catalogue_.arrays[array];
      if (options_.unknown == UnknownPolicy::kCarry) {
        builder_.BeginGroup(stored.name);
        builder_.AddUnchanged(array);
      } else if (options_.unknown == UnknownPolicy::kDrop) {
        dropped_[array] = "unknown tensor, --unknown drop";
      } else {
        Error e;
        e.what = "a tensor that no model table knows";
        e.file = JoinPath(catalogue_.root, catalogue_.files[stored.file].name);
        e.tensor = stored.name;
        e.expected = "tensors of the MiMo-V2 family only";
        e.found = std::to_string(inventory_.unknown.size()) + " unknown";
        e.advice = "pass --unknown carry to copy such tensors as they are, or --unknown drop";
        return e;
      }
    }
    return {};
  }

  void PlanAttentionLayers() {
    const bool decode = !keep();
    for (const AttentionWeights& a : inventory_.attention) {
      if (a.qkv == kNone && a.q == kNone) continue;
      const Weight& first = inventory_.weights[a.fused() ? a.qkv : a.q];
      const AttentionShape shape = LogicalShape(catalogue_.config, Windowed(a));
      AttentionRequest request;
      request.weights = &a;
      request.source = BuildQkvMap(verdict_.layout, shape);
      request.target = BuildQkvMap(target_, shape);
      request.codec = CodecOf(options_.dtype);
      request.decode = decode && NeedsConversion(first);
      const bool refuse = options_.on_straddle != StraddlePolicy::kRequantize || options_.lossless;
      if (PlanAttention(builder_, request, refuse) == AttentionResult::kDone) {
        if (request.decode) Decoded(first, request.codec);
        continue;
      }
      straddling_layers_.push_back(std::string(a.mtp ? "mtp " : "") + std::to_string(a.layer));
      if (options_.on_straddle == StraddlePolicy::kBf16 && !options_.lossless) {
        request.decode = true;
        request.codec = Codec::kBf16;
        PlanAttention(builder_, request, false);
        Decoded(first, Codec::kBf16);
      }
    }
  }

  // Whether --dtype changes how a weight is stored (docs/commands.md, table of roles).
  bool NeedsConversion(const Weight& weight) const {
    if (keep()) return false;
    if (weight.storage != Storage::kPlain) return true;
    const DType dtype = catalogue_.arrays[weight.array].dtype;
    if (IsRouter(weight.id.role) || (dtype != DType::kBF16 && dtype != DType::kF16)) return false;
    return dtype != DTypeOf(CodecOf(options_.dtype));
  }

  void Decoded(const Weight& weight, Codec codec) {
    const DType plain = catalogue_.arrays[weight.array].dtype;
    const bool exact = weight.storage == Storage::kMxfp4   ? codec != Codec::kFp16
                       : weight.storage == Storage::kPlain ? codec == Codec::kFp32 && plain != DType::kF32
                                                           : false;
    if (!exact) ++rounded_;
  }

  void PlanWeight(const Weight& weight) {
    const StoredArray& stored = catalogue_.arrays[weight.array];
    if (options_.text_only && IsTower(weight.id.role)) {
      dropped_[weight.array] = "tower, --text-only";
      return;
    }
    builder_.BeginGroup(stored.name);
    if (!NeedsConversion(weight)) {
      builder_.AddUnchanged(weight.array);
      if (weight.scale != kNone) builder_.AddUnchanged(weight.scale);
      return;
    }
    OutputArray output;
    output.name = stored.name;
    output.id = weight.id;
    output.target_codec = CodecOf(options_.dtype);
    output.dtype = DTypeOf(output.target_codec);
    output.shape = stored.shape;
    if (weight.storage == Storage::kMxfp4) output.shape.back() = weight.cols;
    output.transform = Transform::kConvert;
    output.pieces.push_back({builder_.DecodedSource(weight), 0, 0, stored.rows()});
    builder_.AddOutput(std::move(output), weight.array);
    Decoded(weight, CodecOf(options_.dtype));
  }

  // Drops what --include and --exclude leave out. Done on the whole plan, so that patterns see output names.
  Status Filter() {
    if (filter_.empty()) return {};
    Plan& plan = builder_.plan();
    std::vector<std::string> reason(plan.outputs.size());
    std::vector<std::string> group_reason(plan.groups.size());
    for (size_t g = 0; g < plan.groups.size(); ++g) {
      size_t in = 0, weights = 0;
      for (uint32_t i : plan.groups[g].outputs) {
        if (plan.outputs[i].id.part != Part::kWeight) continue;
        ++weights;
        reason[i] = filter_.Rejects(plan.outputs[i].name);
        in += reason[i].empty();
        if (!reason[i].empty()) group_reason[g] = reason[i];
      }
      if (in == weights) continue;
      const bool shared_scales =
          std::any_of(plan.groups[g].outputs.begin(), plan.groups[g].outputs.end(), [&](uint32_t i) {
            return plan.outputs[i].id.part == Part::kFp8Scale && IsAttentionProjection(plan.outputs[i].id.role);
          });
      if (in > 0 && shared_scales)
        return Usage("--include/--exclude keep a part of " + plan.groups[g].label,
                     "all of its projections, or none: K and V share scales",
                     std::to_string(in) + " of " + std::to_string(weights), "widen the pattern, or add --dtype bf16");
    }
    MIMO_RETURN_IF_ERROR(filter_.CheckAllMatched());
    std::vector<uint8_t> gone(plan.outputs.size(), 0);
    for (size_t g = 0; g < plan.groups.size(); ++g) {
      for (uint32_t i : plan.groups[g].outputs) {
        const std::string& why = plan.outputs[i].id.part == Part::kWeight ? reason[i] : group_reason[g];
        if (why.empty()) continue;
        gone[i] = 1;
      }
    }
    builder_.RemoveOutputs(gone, [&](uint32_t array, uint32_t group) { dropped_[array] = group_reason[group]; });
    if (plan.outputs.empty()) return Usage("--include/--exclude leave nothing", "at least one tensor", "none", "");
    return {};
  }

  Status CheckPromises() {
    const Plan& plan = builder_.plan();
    std::string layers;
    for (const std::string& layer : straddling_layers_) layers += (layers.empty() ? "" : ", ") + layer;
    Error e;
    e.code = ErrorCode::kCheckFailed;
    e.file = catalogue_.root;
    if (!layers.empty() && (options_.lossless || options_.on_straddle == StraddlePolicy::kRefuse)) {
      e.what = "scale blocks straddle: " + verdict_.layout.ToString() + " -> " + target_.ToString() +
               " would re-quantize them";
      e.expected =
          options_.lossless ? "nothing that rounds (--lossless)" : "no straddling blocks (--on-straddle refuse)";
      e.found = "straddling blocks in the attention of layers " + layers;
      e.advice = "choose another --qkv, or --on-straddle requant|bf16";
      return e;
    }
    if (options_.lossless && rounded_ > 0) {
      e.what = "--dtype rounds";
      e.expected = "nothing that rounds (--lossless)";
      e.found = std::to_string(rounded_) + " weights whose values do not fit the target type exactly";
      e.advice = "keep them (--dtype keep), or leave --lossless out";
      return e;
    }
    builder_.plan().lossless = rounded_ == 0 && plan.straddling_blocks == 0;
    return {};
  }

  // Linear modules that the output stores without scales; what ignore lists must name.
  std::vector<std::string> UnquantizedModules() const {
    std::vector<std::string> modules;
    const auto module_of = [](const std::string& tensor) { return tensor.substr(0, tensor.rfind(".weight")); };
    const auto add = [&](TensorId id, Role role) {
      id.role = role;
      modules.push_back(module_of(catalogue_.table->NameOf(id)));
    };
    for (const AttentionWeights& a : inventory_.attention) {
      TensorId id;
      id.layer = a.layer;
      id.mtp = a.mtp;
      const uint32_t first = a.fused() ? a.qkv : a.q;
      const std::string layer = std::string(a.mtp ? "mtp " : "") + std::to_string(a.layer);
      const bool straddled =
          options_.on_straddle == StraddlePolicy::kBf16 &&
          std::find(straddling_layers_.begin(), straddling_layers_.end(), layer) != straddling_layers_.end();
      if (straddled || (first != kNone && inventory_.weights[first].storage == Storage::kPlain))
        for (Role role : {Role::kAttnQ, Role::kAttnK, Role::kAttnV, Role::kAttnQkv}) add(id, role);
      add(id, Role::kAttnO);
      if (a.mtp) add(id, Role::kMtpEhProj);
    }
    return modules;
  }

  Status Describe() {
    Plan& plan = builder_.plan();
    HfDescription d;
    d.layout = target_;
    d.global = LogicalShape(catalogue_.config, false);
    d.window = LogicalShape(catalogue_.config, true);
    d.text_only = options_.text_only;
    d.quantized = std::any_of(plan.outputs.begin(), plan.outputs.end(), [](const OutputArray& o) {
      return o.dtype == DType::kF8E4M3 || o.id.part != Part::kWeight;
    });
    if (!keep())
      d.dtype = options_.dtype == DTypeChoice::kBf16   ? "bfloat16"
                : options_.dtype == DTypeChoice::kFp16 ? "float16"
                                                       : "float32";
    d.unquantized = UnquantizedModules();
    const bool edited = target_ != verdict_.layout || !keep() || options_.text_only;
    std::string config = catalogue_.config.text;
    if (edited) {
      MIMO_ASSIGN_OR_RETURN(config, EditHfConfig(catalogue_.config, d));
    }
    std::vector<std::pair<std::string, std::string>> where;
    for (const OutputArray& output : plan.outputs) {
      where.emplace_back(output.name, plan.files[output.file].name);
      plan.payload_bytes += output.end - output.begin;
    }
    std::sort(where.begin(), where.end());
    plan.texts.push_back({kHfConfigName, std::move(config)});
    plan.texts.push_back({kHfIndexName, BuildHfIndex(catalogue_.index, d, plan.payload_bytes, where)});
    for (const CarriedFile& file : catalogue_.carried)
      if (!options_.text_only || file.name.rfind("audio_tokenizer/", 0) != 0) plan.carried.push_back(file.name);
    AddNotes(d);
    return {};
  }

  void AddNotes(const HfDescription& d) {
    std::vector<std::string>& notes = builder_.plan().notes;
    if (verdict_.assumed)
      notes.push_back("the source layout " + verdict_.layout.ToString() + " is assumed by the documented rule (" +
                      verdict_.basis + "); --source-qkv overrides it");
    if (target_.fused() && !KeepsFp8())
      notes.push_back("engines read unquantized fused QKV as plain [Q;K;V]: --qkv split is what they load");
    if (target_.fused() && KeepsFp8() && target_ != verdict_.layout && target_.chunks < d.global.kv_heads)
      notes.push_back("released engines take the chunk count from num_key_value_heads (" +
                      std::to_string(d.global.kv_heads) + "): " + target_.ToString() +
                      " needs a reader that takes it from tp_size or mimo_layout");
    if (target_.fused() && StoredKvHeads(target_, d.global) != d.global.kv_heads)
      notes.push_back("KV heads are replicated: config.json says " + std::to_string(StoredKvHeads(target_, d.global)) +
                      " KV heads, each rank at TP " + std::to_string(target_.chunks) + " takes its chunk as it is");
    if (!straddling_layers_.empty() && options_.on_straddle == StraddlePolicy::kBf16)
      notes.push_back("attention of " + std::to_string(straddling_layers_.size()) +
                      " layers becomes BF16 (--on-straddle bf16)");
  }

  Plan Finish() {
    Plan& plan = builder_.plan();
    plan.options = options_;
    plan.source_fingerprint = catalogue_.Fingerprint();
    plan.source_layout = verdict_;
    for (uint32_t i = 0; i < catalogue_.arrays.size(); ++i) {
      SourceFate fate{i, Fate::kUsed, ""};
      if (!builder_.used(i)) {
        fate.fate = Fate::kDropped;
        fate.reason = dropped_[i].empty() ? "not needed" : dropped_[i];
      }
      plan.fates.push_back(std::move(fate));
    }
    plan.digest = PlanDigest(catalogue_, plan);
    return std::move(plan);
  }

  const Catalogue& catalogue_;
  const Inventory& inventory_;
  const LayoutVerdict& verdict_;
  const PlanOptions& options_;
  PlanBuilder builder_;
  NameFilter filter_;
  QkvLayout target_;
  std::vector<std::string> dropped_;            // reasons, by catalogue array
  std::vector<std::string> straddling_layers_;  // whose blocks would be re-quantized, when that is not wanted
  uint64_t rounded_ = 0;                        // weights whose decoded values need rounding
};

}  // namespace

Result<Plan> MakePlan(const Catalogue& catalogue, const Inventory& inventory, const LayoutVerdict& source,
                      const PlanOptions& options) {
  return Planner(catalogue, inventory, source, options).Make();
}

}  // namespace mimo
