#include "lib/verify/compare/compare_state.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/json/parse.h"
#include "lib/run/sources.h"

namespace mimo {
namespace {

using nlohmann::json;

constexpr char kStateFormat[] = "mimo-compare-state";
constexpr uint64_t kStateBytes = uint64_t{1} << 30;

json CountsOf(const kernels::Anomalies& odd) {
  return {odd.nan_codes, odd.infinities, odd.zero_scale_codes, odd.bad_scales, odd.overflows};
}

kernels::Anomalies AnomaliesOf(const json& counts) {
  kernels::Anomalies odd;
  odd.nan_codes = counts.at(0).get<uint64_t>();
  odd.infinities = counts.at(1).get<uint64_t>();
  odd.zero_scale_codes = counts.at(2).get<uint64_t>();
  odd.bad_scales = counts.at(3).get<uint64_t>();
  odd.overflows = counts.at(4).get<uint64_t>();
  return odd;
}

json LineOf(const TensorComparison& t) {
  const kernels::ErrorSums& s = t.figures.sums;
  return {{"name", t.name},
          {"equality", std::string(WordOf(kEqualities, t.equality))},
          {"measured", t.measured},
          {"sums", {s.error, s.source, s.target, s.product, s.max_error, s.amax}},
          {"elements", s.elements},
          {"counts", {t.figures.differing, t.figures.non_finite, t.figures.beyond, t.figures.clipped}},
          {"first", {t.figures.first_row, t.figures.first_col}},
          {"odd", {CountsOf(t.odd_a), CountsOf(t.odd_b)}}};
}

// Throws what the JSON library throws where the line is of another shape.
TensorComparison TensorOf(const json& line) {
  TensorComparison t;
  t.name = line.at("name").get<std::string>();
  t.equality = FromWord(kEqualities, line.at("equality").get<std::string>()).value_or(Equality::kDifferent);
  t.measured = line.at("measured").get<bool>();
  kernels::ErrorSums& s = t.figures.sums;
  double* const sums[] = {&s.error, &s.source, &s.target, &s.product, &s.max_error, &s.amax};
  for (size_t i = 0; i < std::size(sums); ++i) *sums[i] = line.at("sums").at(i).get<double>();
  s.elements = line.at("elements").get<uint64_t>();
  uint64_t* const counts[] = {&t.figures.differing, &t.figures.non_finite, &t.figures.beyond, &t.figures.clipped};
  for (size_t i = 0; i < std::size(counts); ++i) *counts[i] = line.at("counts").at(i).get<uint64_t>();
  t.figures.first_row = line.at("first").at(0).get<int64_t>();
  t.figures.first_col = line.at("first").at(1).get<int64_t>();
  t.odd_a = AnomaliesOf(line.at("odd").at(0));
  t.odd_b = AnomaliesOf(line.at("odd").at(1));
  return t;
}

Error OfAnother(const std::string& path) {
  return UsageError("the file of --state is of another comparison")
      .File(path)
      .Advice("name another file, or remove it to compare everything again");
}

}  // namespace

Result<CompareState> CompareState::Open(FileSystem& fs, const std::string& path, const std::string& key) {
  CompareState state;
  state.fs_ = &fs;
  state.path_ = path;
  MIMO_ASSIGN_OR_RETURN(const auto there, fs.Stat(path));
  std::string text;
  if (there) {
    if (there->kind != FileKind::kRegular) return OfAnother(path);
    MIMO_ASSIGN_OR_RETURN(text, ReadWholeFile(fs, path, kStateBytes));
  }
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const Result<json> line = ParseJson<json>(text.substr(begin, end - begin), path);
    try {
      if (!line.ok()) return OfAnother(path);
      if (begin == 0) {
        if (line.value().at("format") != kStateFormat || line.value().at("key") != key) return OfAnother(path);
      } else {
        TensorComparison tensor = TensorOf(line.value());
        std::string name = tensor.name;
        state.known_.insert_or_assign(std::move(name), std::move(tensor));
      }
    } catch (const json::exception&) {
      return OfAnother(path);
    }
    state.end_ = end + 1;
  }
  if (state.end_ > 0) return state;
  if (!text.empty()) return OfAnother(path);
  MIMO_ASSIGN_OR_RETURN(const auto file, fs.OpenForWrite(path, OpenMode::kKeep));
  const std::string head = json({{"format", kStateFormat}, {"version", 1}, {"key", key}}).dump() + "\n";
  MIMO_RETURN_IF_ERROR(file->WriteAt(0, std::as_bytes(std::span(head))));
  MIMO_RETURN_IF_ERROR(file->Close());
  state.end_ = head.size();
  return state;
}

bool CompareState::Take(TensorComparison* tensor) const {
  const auto found = known_.find(tensor->name);
  if (found == known_.end()) return false;
  const TensorComparison& known = found->second;
  tensor->equality = known.equality;
  tensor->measured = known.measured;
  tensor->figures = known.figures;
  tensor->odd_a = known.odd_a;
  tensor->odd_b = known.odd_b;
  return true;
}

Status CompareState::Add(const std::vector<const TensorComparison*>& tensors) {
  std::string lines;
  for (const TensorComparison* tensor : tensors) lines += LineOf(*tensor).dump() + "\n";
  MIMO_ASSIGN_OR_RETURN(const auto file, fs_->OpenForWrite(path_, OpenMode::kExisting));
  MIMO_RETURN_IF_ERROR(file->Truncate(end_));
  MIMO_RETURN_IF_ERROR(file->WriteAt(end_, std::as_bytes(std::span(lines))));
  MIMO_RETURN_IF_ERROR(file->Sync());
  MIMO_RETURN_IF_ERROR(file->Close());
  end_ += lines.size();
  return {};
}

std::string CompareKey(const LogicalCheckpoint& a, const LogicalCheckpoint& b) {
  StreamHash hash;
  for (const LogicalCheckpoint* side : {&a, &b}) {
    const Catalogue& stored = side->checkpoint().stored;
    hash.Update(stored.Fingerprint().Hex());
    for (const SourceState& file : SourceStates(stored))
      hash.Update(file.name + " " + std::to_string(file.bytes) + " " + std::to_string(file.stamp.mtime_ns) + " " +
                  std::to_string(file.stamp.inode) + ";");
  }
  return hash.Digest().Hex();
}

}  // namespace mimo
