#include "lib/judge/copies.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include "kernels/codec/e4m3.h"
#include "lib/base/workers.h"
#include "lib/decode/row_bytes.h"
#include "lib/layout/row_map.h"
#include "lib/model/scale_values.h"

namespace mimo {
namespace {

// Attention whose copies are compared.
struct Candidate {
  const Weight* weight = nullptr;
  QkvMap map;
};

std::vector<Candidate> Candidates(const Checkpoint& checkpoint) {
  std::vector<Candidate> candidates;
  const QkvLayout& layout = checkpoint.layout.layout;
  if (!layout.fused()) return candidates;
  const Catalogue& catalogue = checkpoint.catalogue();
  for (const AttentionWeights& attention : checkpoint.inventory.attention) {
    if (!attention.fused()) continue;
    const Weight& weight = checkpoint.inventory.weights[attention.qkv];
    const AttentionShape shape =
        LogicalShape(catalogue.config, catalogue.config.windowed_at(attention.layer, attention.mtp));
    if (layout.chunks <= shape.kv_heads || !LayoutFits(layout, shape)) continue;
    Candidate candidate{&weight, BuildQkvMap(layout, shape, weight.in_blocks() ? weight.block_rows : 128)};
    if (candidate.map.rows[0] == catalogue.arrays[weight.array].rows()) candidates.push_back(std::move(candidate));
  }
  return candidates;
}

// Of a stored or a shown array, which has no bytes of its own.
uint64_t RowBytesOf(const StoredArray& array) {
  return static_cast<uint64_t>(RowElements(array.shape)) * BitsPerElement(array.dtype) / 8;
}

// Rows of arrays that a checkpoint shows, from where they are stored.
class ShownRows {
 public:
  ShownRows(const StoredRowReader& read, const Checkpoint& checkpoint) : read_(read), checkpoint_(checkpoint) {
    if (!checkpoint.view) return;
    for (const Replica& replica : checkpoint.view->replicas) replicas_.insert(replica.second);
  }

  // Whether the rows of an array can be read, and nothing else compares them: nothing is turned over, no row is cut,
  // and none is a replica of the view.
  bool Has(uint32_t array) const {
    if (!checkpoint_.view) return true;
    const int64_t cols = RowElements(checkpoint_.catalogue().arrays[array].shape);
    const std::vector<Fragment>& fragments = checkpoint_.view->fragments[array];
    return checkpoint_.view->transposed[array] == 0 && std::all_of(fragments.begin(), fragments.end(), [&](auto& f) {
             return f.col == 0 && f.cols == cols && f.stored_col == 0 && !replicas_.contains(f.array) &&
                    RowElements(checkpoint_.stored.arrays[f.array].shape) == cols;
           });
  }

  // `out` gets the bytes of rows [row, row + rows).
  Status Read(uint32_t array, int64_t row, int64_t rows, std::vector<std::byte>* out) const {
    const StoredArray& shown = checkpoint_.catalogue().arrays[array];
    const uint64_t bytes = RowBytesOf(shown);
    out->assign(Rows(rows, bytes), std::byte{0});
    if (!checkpoint_.view) return read_(shown, row, *out);
    for (const Fragment& f : checkpoint_.view->fragments[array]) {
      const int64_t begin = std::max(f.row, row), end = std::min(f.row + f.rows, row + rows);
      if (begin >= end) continue;
      MIMO_RETURN_IF_ERROR(read_(checkpoint_.stored.arrays[f.array], f.stored_row + begin - f.row,
                                 std::span(*out).subspan(Rows(begin - row, bytes), Rows(end - begin, bytes))));
    }
    return {};
  }

 private:
  const StoredRowReader& read_;
  const Checkpoint& checkpoint_;
  std::set<uint32_t> replicas_;
};

// What values round to a code under a scale, ends included. The largest code also stands for what was cut off: an
// encoder that keeps a neighbour's scale cuts less than a step, and never a whole binade.
struct Interval {
  double low = 0, high = 0;
};
Interval RoundingTo(uint8_t code, float scale) {
  const double value = std::fabs(static_cast<double>(kernels::E4m3ToFloat(code & 0x7F)));
  const int exponent = std::max((code & 0x7F) >> 3, 1);
  const double half = std::ldexp(1.0, exponent - 11) * (1 + 1e-6);  // the step is 2^(exponent - 10)
  const bool largest = (code & 0x7F) == kernels::kE4m3MaxCode;
  Interval interval{(value - half) * scale, (largest ? 2 * value : value + half) * scale};
  if ((code & 0x80) != 0) interval = {-interval.high, -interval.low};
  if (interval.low > interval.high) std::swap(interval.low, interval.high);  // a negative scale
  return interval;
}

bool AreCopies(uint8_t a, float scale_a, uint8_t b, float scale_b) {
  if (kernels::E4m3IsNan(a) || kernels::E4m3IsNan(b)) return a == b;
  if (scale_a == scale_b) return a == b || ((a | b) & 0x7F) == 0;  // zeros of either sign
  const Interval x = RoundingTo(a, scale_a), y = RoundingTo(b, scale_b);
  return x.low <= y.high && y.low <= x.high;
}

std::string ShortNumber(float value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", static_cast<double>(value));
  return text.data();
}

// The copies of one attention.
class CopyComparison {
 public:
  CopyComparison(const StoredRowReader& read, const Checkpoint& checkpoint, bool sample)
      : rows_(read, checkpoint), catalogue_(checkpoint.catalogue()), sample_(sample) {}

  Result<std::optional<UnequalCopy>> Compare(const Candidate& candidate) {
    candidate_ = &candidate;
    const Weight& weight = *candidate.weight;
    const bool scaled = weight.scale != kNone && !weight.per_tensor();
    if (!rows_.Has(weight.array) || (scaled && !rows_.Has(weight.scale))) return std::optional<UnequalCopy>();
    std::map<std::pair<Projection, int64_t>, const RowRun*> first_of;
    std::optional<UnequalCopy> found;
    for (const RowRun& run : candidate.map.runs) {
      const auto [first, fresh] = first_of.try_emplace({run.projection, run.logical_row}, &run);
      if (fresh || first->second->rows != run.rows) continue;
      MIMO_ASSIGN_OR_RETURN(const std::string difference, Difference(*first->second, run));
      if (difference.empty()) continue;
      if (!found) found = UnequalCopy{weight.array, 0, first->second->array_row, run.array_row, difference};
      ++found->copies;
    }
    return found;
  }

 private:
  // What `second` has that `first` has not; "": nothing.
  Result<std::string> Difference(const RowRun& first, const RowRun& second) {
    const int64_t last = first.rows - 1;
    if (!sample_) return DifferenceOfRows(first.array_row, second.array_row, first.rows);
    for (const int64_t row : {int64_t{0}, last / 2, last}) {
      MIMO_ASSIGN_OR_RETURN(std::string difference, DifferenceOfRows(first.array_row + row, second.array_row + row, 1));
      if (!difference.empty()) return difference;
    }
    return std::string();
  }

  Result<std::string> DifferenceOfRows(int64_t first, int64_t second, int64_t rows) {
    const Weight& weight = *candidate_->weight;
    MIMO_RETURN_IF_ERROR(rows_.Read(weight.array, first, rows, &codes_a_));
    MIMO_RETURN_IF_ERROR(rows_.Read(weight.array, second, rows, &codes_b_));
    if (HasBlockGrid(weight.storage)) return DifferenceOfFp8(first, second, rows);
    std::string difference = DifferenceOfBytes(weight.array, first, second);
    if (!difference.empty() || weight.scale == kNone) return difference;
    if (catalogue_.arrays[weight.scale].rows() != candidate_->map.rows[0]) return std::string();
    MIMO_RETURN_IF_ERROR(rows_.Read(weight.scale, first, rows, &codes_a_));
    MIMO_RETURN_IF_ERROR(rows_.Read(weight.scale, second, rows, &codes_b_));
    return DifferenceOfBytes(weight.scale, first, second);
  }

  std::string DifferenceOfBytes(uint32_t array, int64_t first, int64_t second) const {
    const auto differs = std::mismatch(codes_a_.begin(), codes_a_.end(), codes_b_.begin()).first;
    if (differs == codes_a_.end()) return "";
    const auto row =
        static_cast<int64_t>(static_cast<uint64_t>(differs - codes_a_.begin()) / RowBytesOf(catalogue_.arrays[array]));
    return "row " + std::to_string(second + row) + " has other bytes than row " + std::to_string(first + row);
  }

  // Scales of rows [row, row + rows) of the codes, one list for each band of rows that lies under the same.
  struct Scales {
    std::vector<std::vector<float>> lists;
    std::vector<size_t> of_row;
  };

  Result<Scales> ScalesOf(int64_t row, int64_t rows) {
    const Weight& weight = *candidate_->weight;
    Scales scales;
    if (weight.per_tensor()) {
      scales.lists.push_back({1.0f});
      scales.of_row.assign(static_cast<size_t>(rows), 0);
      return scales;
    }
    const StoredArray& array = catalogue_.arrays[weight.scale];
    const bool in_a_row = weight.per_row() && array.shape.size() == 1;
    const uint64_t bytes = BitsPerElement(array.dtype) / 8;
    int64_t loaded = -1;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t wanted = weight.in_blocks() ? ScaleRowOf(row + i) : row + i;
      if (wanted != loaded) {
        const bool all = in_a_row && loaded >= 0;
        if (!all) MIMO_RETURN_IF_ERROR(rows_.Read(weight.scale, in_a_row ? 0 : wanted, 1, &scale_row_));
        const std::span<const std::byte> stored =
            in_a_row ? std::span(scale_row_).subspan(Rows(wanted, bytes), bytes) : std::span(scale_row_);
        std::vector<float>& list = scales.lists.emplace_back(stored.size() / bytes);
        WidenScales(array.dtype, stored.data(), list.size(), list.data());
        loaded = wanted;
      }
      scales.of_row.push_back(scales.lists.size() - 1);
    }
    return scales;
  }

  int64_t ScaleRowOf(int64_t row) const {
    const std::vector<ScaleBand>& bands = candidate_->map.bands;
    const auto band =
        std::partition_point(bands.begin(), bands.end(), [&](const ScaleBand& b) { return b.row_end <= row; });
    return band->scale_row;
  }

  Result<std::string> DifferenceOfFp8(int64_t first, int64_t second, int64_t rows) {
    const Weight& weight = *candidate_->weight;
    MIMO_ASSIGN_OR_RETURN(const Scales a, ScalesOf(first, rows));
    MIMO_ASSIGN_OR_RETURN(const Scales b, ScalesOf(second, rows));
    const size_t cols = RowBytesOf(catalogue_.arrays[weight.array]);
    const auto block = static_cast<size_t>(weight.in_blocks() ? weight.block_cols : weight.cols);
    for (size_t i = 0; i < static_cast<size_t>(rows); ++i) {
      const std::vector<float>&of_a = a.lists[a.of_row[i]], &of_b = b.lists[b.of_row[i]];
      const auto* x = reinterpret_cast<const uint8_t*>(codes_a_.data()) + i * cols;
      const auto* y = reinterpret_cast<const uint8_t*>(codes_b_.data()) + i * cols;
      if (of_a == of_b && std::equal(x, x + cols, y)) continue;
      for (size_t col = 0; col < cols; ++col) {
        const float scale_a = of_a[std::min(col / block, of_a.size() - 1)];
        const float scale_b = of_b[std::min(col / block, of_b.size() - 1)];
        if (AreCopies(x[col], scale_a, y[col], scale_b)) continue;
        return "column " + std::to_string(col) + " of row " + std::to_string(second + static_cast<int64_t>(i)) +
               " is " + ShortNumber(kernels::E4m3ToFloat(y[col]) * scale_b) + ", of row " +
               std::to_string(first + static_cast<int64_t>(i)) + " " +
               ShortNumber(kernels::E4m3ToFloat(x[col]) * scale_a);
      }
    }
    return std::string();
  }

  ShownRows rows_;
  const Catalogue& catalogue_;
  const bool sample_;
  const Candidate* candidate_ = nullptr;
  std::vector<std::byte> codes_a_, codes_b_, scale_row_;
};

}  // namespace

Result<std::vector<UnequalCopy>> FindUnequalCopies(const StoredRowReader& read, const Checkpoint& checkpoint,
                                                   const CopyOptions& options) {
  const std::vector<Candidate> candidates = Candidates(checkpoint);
  std::vector<std::optional<UnequalCopy>> found(candidates.size());
  std::atomic<size_t> next = 0;
  Workers workers(options.threads > 0 ? options.threads : ThreadsOfMachine(), "try again with more memory");
  const auto work = [&](int) -> Status {
    CopyComparison comparison(read, checkpoint, options.sample);
    for (size_t i = next++; i < candidates.size() && !workers.stopped(); i = next++) {
      MIMO_ASSIGN_OR_RETURN(found[i], comparison.Compare(candidates[i]));
    }
    return {};
  };
  if (!candidates.empty()) MIMO_RETURN_IF_ERROR(workers.Run(work));
  std::vector<UnequalCopy> unequal;
  for (std::optional<UnequalCopy>& one : found)
    if (one) unequal.push_back(std::move(*one));
  return unequal;
}

Result<Verdict> JudgeCopies(FileSystem& fs, const Checkpoint& checkpoint, const CopyOptions& options) {
  std::map<uint32_t, std::unique_ptr<ReadableFile>> files;
  std::mutex mutex;
  const auto open = [&](uint32_t file) -> Result<const ReadableFile*> {
    const std::lock_guard lock(mutex);
    std::unique_ptr<ReadableFile>& opened = files[file];
    if (!opened) {
      MIMO_ASSIGN_OR_RETURN(opened, fs.OpenForRead(checkpoint.stored.PathOf(checkpoint.stored.files[file])));
    }
    return static_cast<const ReadableFile*>(opened.get());
  };
  const auto read = [&](const StoredArray& array, int64_t row, std::span<std::byte> out) -> Status {
    MIMO_ASSIGN_OR_RETURN(const ReadableFile* file, open(array.file));
    return file->ReadAt(array.begin + Rows(row, array.row_bytes()), out);
  };
  MIMO_ASSIGN_OR_RETURN(const std::vector<UnequalCopy> unequal, FindUnequalCopies(read, checkpoint, options));
  Verdict verdict;
  for (const UnequalCopy& one : unequal) {
    const std::string copies =
        one.copies == 1 ? "1 copy of a KV head holds" : std::to_string(one.copies) + " copies of KV heads hold";
    Finding& finding =
        verdict.Add("layout.unequal_copies", checkpoint.catalogue().arrays[one.array].name,
                    copies + " something else than the first: rows from " + std::to_string(one.second_row) +
                        " and from " + std::to_string(one.first_row) + ", where " + one.what,
                    one.copies);
    if (options.allow_anomalies) finding.severity = Severity::kWarning;
  }
  return verdict;
}

}  // namespace mimo
