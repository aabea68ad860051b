#include "lib/verify/compare/compare.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "lib/base/pattern.h"
#include "lib/decode/row_bytes.h"
#include "lib/model/names.h"
#include "lib/model/role_groups.h"
#include "lib/recipe/codec_types.h"
#include "lib/recipe/codec_words.h"
#include "lib/verify/compare/carried.h"
#include "lib/verify/compare/compare_state.h"
#include "lib/verify/compare/config_compare.h"
#include "lib/verify/compare/explain.h"
#include "lib/verify/compare/units.h"

namespace mimo {
namespace {

constexpr uint64_t kBatchElements = uint64_t{2} << 30;  // between two notes in the state

std::string ShapeOf(const ValueRows& rows) {
  std::string text;
  for (const int64_t extent : rows.array().shape) text += (text.empty() ? "[" : ", ") + std::to_string(extent);
  return text.empty() ? "[]" : text + "]";
}

// Which of a list of patterns are on a name.
class NameFilter {
 public:
  static Result<NameFilter> Of(const CompareOptions& options) {
    NameFilter filter;
    for (const auto& [texts, patterns] :
         {std::pair(&options.include, &filter.include_), std::pair(&options.exclude, &filter.exclude_)})
      for (const std::string& text : *texts) {
        MIMO_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Make(text));
        patterns->push_back(std::move(pattern));
      }
    return filter;
  }
  bool Takes(const std::string& name) const {
    const auto found = [&](const Pattern& pattern) { return pattern.FoundIn(name); };
    return (include_.empty() || std::any_of(include_.begin(), include_.end(), found)) &&
           std::none_of(exclude_.begin(), exclude_.end(), found);
  }

 private:
  std::vector<Pattern> include_, exclude_;
};

// What a checkpoint does not have and does not claim to have: what its form has no place for, and towers of which its
// config says nothing.
class Absent {
 public:
  explicit Absent(const LogicalCheckpoint& checkpoint)
      : traits_(checkpoint.traits()), config_(checkpoint.checkpoint().stored.config) {}
  bool Has(const TensorId& id) const {
    if (IsTower(id.role)) return !traits_.towers || (!config_.has_vision && !config_.has_audio);
    return id.mtp && !traits_.mtp;
  }

 private:
  const FormTraits traits_;
  const ModelConfig& config_;
};

std::string StoredText(const LogicalCheckpoint& checkpoint, const ValueRows& rows) {
  const auto& stored = rows.stored_as();
  if (!stored) return rows.has_values() ? "values put together" : std::string(DTypeName(rows.array().dtype));
  for (const Piece& piece : rows.array().pieces) {
    const SourceArray& source = checkpoint.job().plan.sources[piece.source];
    if (!source.quantized) break;
    if (*stored != Codec::kFp8Block) return std::string(WordOf(kCodecs, *stored));
    return "FP8 of " + std::to_string(source.block_rows) + " x " + std::to_string(source.block_cols);
  }
  return std::string(DTypeName(DTypeOf(*stored)));
}

class Comparison {
 public:
  Comparison(FileSystem& fs, const LogicalCheckpoint& a, const LogicalCheckpoint& b, const CompareOptions& options)
      : fs_(fs), a_(a), b_(b), options_(options) {}

  Result<CompareReport> Run() {
    MIMO_RETURN_IF_ERROR(CheckSameModel());
    report_.a = a_.root();
    report_.b = b_.root();
    MIMO_ASSIGN_OR_RETURN(const NameFilter filter, NameFilter::Of(options_));
    MIMO_RETURN_IF_ERROR(PairTensors(filter));
    MIMO_RETURN_IF_ERROR(CompareTensors());
    for (TensorComparison& tensor : report_.tensors) tensor.accepted = Accepts(tensor);
    MIMO_RETURN_IF_ERROR(CompareReplicasOf(a_));
    MIMO_RETURN_IF_ERROR(CompareReplicasOf(b_));
    MIMO_RETURN_IF_ERROR(CompareInputScales());
    NoteAnomalies();
    ConfigComparison configs = CompareConfigs(a_.checkpoint(), b_.checkpoint());
    Take(std::move(configs.differences), std::move(configs.notes));
    const auto takes = [&filter](const std::string& place) { return filter.Takes(place); };
    MIMO_ASSIGN_OR_RETURN(CarriedComparison carried, CompareCarried(a_, b_, takes, options_.threads));
    Take(std::move(carried.differences), std::move(carried.notes));
    MIMO_RETURN_IF_ERROR(Explain(a_, b_, pairs_, options_, &report_));
    return std::move(report_);
  }

 private:
  void Take(std::vector<CompareDifference> differences, std::vector<std::string> notes) {
    for (CompareDifference& difference : differences) report_.differences.push_back(std::move(difference));
    for (std::string& note : notes) report_.notes.push_back(std::move(note));
  }

  void Differs(std::string kind, std::string place, std::string evidence) {
    report_.differences.push_back({std::move(kind), std::move(place), std::move(evidence), std::nullopt});
  }

  // Of rows of other lengths nothing can be compared; layers and experts that are too few are differences.
  Status CheckSameModel() const {
    const ModelConfig &x = a_.checkpoint().catalogue().config, &y = b_.checkpoint().catalogue().config;
    const auto dimensions = [](const ModelConfig& c) {
      return "hidden " + std::to_string(c.hidden) + ", heads of " + std::to_string(c.global.head_dim) + " and " +
             std::to_string(c.global.v_head_dim);
    };
    if (dimensions(x) == dimensions(y)) return {};
    return BadInput("not the same model").File(b_.root()).Expected(dimensions(x)).Found(dimensions(y));
  }

  Status PairTensors(const NameFilter& filter) {
    const Absent absent_in_a(a_), absent_in_b(b_);
    size_t left_out = 0;
    for (const LogicalTensor& b : b_.tensors()) {
      if (!filter.Takes(b.name) || a_.Find(b.name) != nullptr) continue;
      if (absent_in_a.Has(b.rows.array().id))
        ++left_out;
      else
        Differs("tensor.added", b.name, ShapeOf(b.rows) + " in " + b_.root() + " alone");
    }
    for (const LogicalTensor& a : a_.tensors()) {
      if (!filter.Takes(a.name)) continue;
      const LogicalTensor* b = b_.Find(a.name);
      if (b == nullptr && absent_in_b.Has(a.rows.array().id)) {
        ++left_out;
        continue;
      }
      if (b == nullptr) {
        Differs("tensor.missing", a.name, ShapeOf(a.rows) + " in " + a_.root() + " alone");
        continue;
      }
      if (a.rows.array().shape != b->rows.array().shape) {
        std::vector<int64_t> turned = b->rows.array().shape;
        std::reverse(turned.begin(), turned.end());
        const bool transposed = turned.size() == 2 && turned == a.rows.array().shape;
        Differs(transposed ? "tensor.transposed" : "tensor.shape", a.name,
                ShapeOf(a.rows) + " against " + ShapeOf(b->rows));
        continue;
      }
      if (!a.rows.has_values() || !b->rows.has_values()) {
        if (a.rows.array().dtype != b->rows.array().dtype) {
          Differs("tensor.type", a.name,
                  std::string(DTypeName(a.rows.array().dtype)) + " against " +
                      std::string(DTypeName(b->rows.array().dtype)));
          continue;
        }
      }
      pairs_.push_back({&a, b});
      TensorComparison tensor;
      tensor.name = a.name;
      tensor.id = a.rows.array().id;
      tensor.elements = static_cast<uint64_t>(a.rows.rows() * a.rows.cols());
      tensor.stored_a = StoredText(a_, a.rows);
      tensor.stored_b = StoredText(b_, b->rows);
      report_.tensors.push_back(std::move(tensor));
    }
    if (left_out > 0)
      report_.notes.push_back(std::to_string(left_out) +
                              " tensors of towers or MTP layers are in one alone: the other has no place for them");
    return {};
  }

  // In batches, each noted before the next where there is a file for that.
  Status CompareTensors() {
    std::optional<CompareState> state;
    if (!options_.state.empty()) {
      MIMO_ASSIGN_OR_RETURN(state, CompareState::Open(fs_, options_.state, CompareKey(a_, b_)));
    }
    UnitRunner runner(a_, b_, pairs_, {options_.threads, options_.memory_bytes, options_.progress});
    if (options_.progress != nullptr)
      options_.progress->Start(a_.checkpoint().stored.payload_bytes() + b_.checkpoint().stored.payload_bytes());
    std::vector<CompareUnit> batch;
    std::vector<const TensorComparison*> in_batch;
    uint64_t elements = 0;
    for (const uint32_t p : PairsInOrder(a_, pairs_)) {
      TensorComparison& tensor = report_.tensors[p];
      if (state && state->Take(&tensor)) continue;
      const std::vector<CompareUnit> units = UnitsOf(pairs_[p], p);
      batch.insert(batch.end(), units.begin(), units.end());
      in_batch.push_back(&tensor);
      elements += tensor.elements;
      if (!state || elements < kBatchElements) continue;
      MIMO_RETURN_IF_ERROR(CompareBatch(runner, batch));
      MIMO_RETURN_IF_ERROR(state->Add(in_batch));
      batch.clear();
      in_batch.clear();
      elements = 0;
    }
    MIMO_RETURN_IF_ERROR(CompareBatch(runner, batch));
    if (state) MIMO_RETURN_IF_ERROR(state->Add(in_batch));
    report_.bytes_read = runner.bytes_read();
    if (options_.progress != nullptr) options_.progress->Finish();
    return {};
  }

  // All once; those that differ in a part of their rows again for their figures.
  Status CompareBatch(UnitRunner& runner, const std::vector<CompareUnit>& units) {
    std::vector<UnitResult> results;
    MIMO_RETURN_IF_ERROR(runner.Run(units, /*measure=*/false, &results));
    for (size_t u = 0; u < units.size(); ++u) {
      TensorComparison& tensor = report_.tensors[units[u].pair];
      tensor.equality = std::max(tensor.equality, results[u].equality);
    }
    std::vector<CompareUnit> again;
    std::vector<size_t> place;
    for (size_t u = 0; u < units.size(); ++u)
      if (report_.tensors[units[u].pair].equality >= Equality::kWithin && !results[u].measured) {
        again.push_back(units[u]);
        place.push_back(u);
      }
    std::vector<UnitResult> measured;
    MIMO_RETURN_IF_ERROR(runner.Run(again, /*measure=*/true, &measured));
    for (size_t i = 0; i < place.size(); ++i) results[place[i]] = measured[i];
    for (size_t u = 0; u < units.size(); ++u) {
      TensorComparison& tensor = report_.tensors[units[u].pair];
      tensor.odd_a += results[u].odd_a;
      tensor.odd_b += results[u].odd_b;
      if (tensor.equality < Equality::kWithin) continue;
      tensor.measured = true;
      tensor.figures += results[u].figures;
    }
    return {};
  }

  // Whether the model holds these in F32 and one side does not.
  bool LosesF32(const TensorComparison& tensor, const TensorPair& pair) const {
    const auto &x = pair.a->rows.stored_as(), &y = pair.b->rows.stored_as();
    if (tensor.equality != Equality::kRounded || !x || !y || (*x == Codec::kFp32) == (*y == Codec::kFp32)) return false;
    const ModelTable* table = a_.checkpoint().stored.table;
    const TensorRule* rule = table == nullptr ? nullptr : table->RuleOf(tensor.id);
    return rule != nullptr && rule->pinned();
  }

  bool Accepts(TensorComparison& tensor) const {
    const TensorPair& pair = pairs_[static_cast<size_t>(&tensor - report_.tensors.data())];
    if (LosesF32(tensor, pair)) return false;
    if (tensor.equality <= Equality::kRounded) return true;
    if (tensor.figures.non_finite > 0) return false;
    if (tensor.equality == Equality::kWithin && options_.within_codec) return true;
    bool asked = false;
    for (const Threshold& threshold : options_.thresholds) {
      if (!InRole(tensor.id, threshold.role)) continue;
      asked = true;
      if (SqnrDb(tensor.figures.sums) < threshold.min_sqnr_db) return false;
    }
    return asked;
  }

  // What inputs are divided by before they are quantized: no part of a weight's values, and part of what is computed.
  // Of weights that both hold in the same codes: who quantizes anew may calibrate anew.
  Status CompareInputScales() {
    MIMO_ASSIGN_OR_RETURN(const auto in_a, a_.InputScales());
    MIMO_ASSIGN_OR_RETURN(const auto in_b, b_.InputScales());
    if (in_a.empty() && in_b.empty()) return {};
    for (size_t t = 0; t < pairs_.size(); ++t) {
      const TensorPair& pair = pairs_[t];
      const auto& codec = pair.a->rows.stored_as();
      if (report_.tensors[t].equality != Equality::kBytes || !codec || IsValueCodec(*codec)) continue;
      const auto a = in_a.find(pair.a->name), b = in_b.find(pair.a->name);
      const bool has_a = a != in_a.end(), has_b = b != in_b.end();
      if (has_a != has_b)
        Differs("input-scale.missing", pair.a->name, std::string("in ") + (has_a ? a_ : b_).root() + " alone");
      else if (has_a && a->second != b->second)
        Differs("input-scale.differs", pair.a->name,
                std::to_string(a->second) + " against " + std::to_string(b->second));
    }
    return {};
  }

  void NoteAnomalies() {
    kernels::Anomalies in_a, in_b;
    for (const TensorComparison& tensor : report_.tensors) {
      in_a += tensor.odd_a;
      in_b += tensor.odd_b;
    }
    for (const auto& [side, odd] : {std::pair(&a_, &in_a), std::pair(&b_, &in_b)})
      if (odd->nan_codes + odd->infinities + odd->bad_scales + odd->zero_scale_codes > 0)
        report_.notes.push_back(
            side->root() + " holds " + std::to_string(odd->nan_codes) + " NaN, " + std::to_string(odd->infinities) +
            " infinite values, " + std::to_string(odd->bad_scales) + " bad scales and " +
            std::to_string(odd->zero_scale_codes) + " codes under a scale of zero, among rows that differ");
  }

  // Rows that one side holds several times, of which one was compared.
  Status CompareReplicasOf(const LogicalCheckpoint& side) {
    return side.VisitBrokenReplicas([&](const std::string& first, const std::string& second) {
      Differs("replica.differs", second, "in " + side.root() + ", not what " + first + " holds");
    });
  }

  FileSystem& fs_;  // of the state
  const LogicalCheckpoint& a_;
  const LogicalCheckpoint& b_;
  const CompareOptions& options_;
  std::vector<TensorPair> pairs_;  // as CompareReport::tensors
  CompareReport report_;
};

}  // namespace

uint64_t CompareReport::CountOf(Equality equality) const {
  return static_cast<uint64_t>(
      std::count_if(tensors.begin(), tensors.end(),
                    [equality](const TensorComparison& tensor) { return tensor.equality == equality; }));
}

Result<CompareReport> Compare(FileSystem& fs, const LogicalCheckpoint& a, const LogicalCheckpoint& b,
                              const CompareOptions& options) {
  return Comparison(fs, a, b, options).Run();
}

}  // namespace mimo
