#include "lib/decode/decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "lib/decode/row_bytes.h"

namespace mimo {

Result<kernels::Anomalies> Decode(const SourceMemory& memory, const SourceRectangle& from, kernels::Target target,
                                  const BandConverter& convert) {
  RowRuns runs;
  runs.Add(memory, from);
  std::vector<kernels::Band> bands;
  bands.reserve(runs.list().size());
  auto* out = static_cast<std::byte*>(target.data);
  for (const kernels::SourceRows& run : runs.list()) {
    target.data = out;
    bands.push_back({run.source, target, run.rows, static_cast<uint64_t>(from.cols), run.column_edges,
                     run.column_blocks, run.column_block});
    out += run.rows * target.row_bytes;
  }
  std::span<const kernels::Band> rest(bands);
  kernels::Anomalies anomalies;
  if (runs.list()[0].continues) {  // its scales were counted before
    MIMO_ASSIGN_OR_RETURN(anomalies, convert(rest.first(1)));
    anomalies.bad_scales = 0;
    rest = rest.subspan(1);
  }
  if (rest.empty()) return anomalies;
  MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies more, convert(rest));
  return anomalies += more;
}

Result<kernels::Anomalies> DecodeScaled(const SourceMemory& memory, const SourceRectangle& from, float factor,
                                        kernels::Target target, const BandConverter& convert) {
  constexpr int64_t kValues = 64 << 10;  // stay in the cache
  const int64_t rows = std::clamp<int64_t>(kValues / std::max<int64_t>(from.cols, 1), 1, from.rows);
  const uint64_t row_bytes = static_cast<uint64_t>(from.cols) * sizeof(float);
  std::vector<std::byte> values(Rows(rows, row_bytes));
  kernels::Anomalies anomalies;
  for (int64_t done = 0; done < from.rows; done += rows) {
    SourceRectangle part = from;
    part.row += done;
    part.rows = std::min(rows, from.rows - done);
    MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies decoded,
                          Decode(memory, part, {Codec::kFp32, values.data(), row_bytes}, convert));
    anomalies += decoded;
    anomalies.overflows += ScaleValues(std::span(values).first(Rows(part.rows, row_bytes)), factor);
    kernels::Band band;
    band.source.codec = Codec::kFp32;
    band.source.data = values.data();
    band.source.row_bytes = row_bytes;
    band.target = target;
    band.target.data = static_cast<std::byte*>(target.data) + Rows(done, target.row_bytes);
    band.rows = static_cast<uint64_t>(part.rows);
    band.cols = static_cast<uint64_t>(from.cols);
    MIMO_ASSIGN_OR_RETURN(const kernels::Anomalies rounded, convert(std::span(&band, 1)));
    anomalies.overflows += rounded.overflows;  // the rest was counted as it was decoded
  }
  return anomalies;
}

uint64_t ScaleValues(std::span<std::byte> values, float factor) {
  uint64_t overflows = 0;
  for (size_t i = 0; i + sizeof(float) <= values.size(); i += sizeof(float)) {
    float value = 0;
    std::memcpy(&value, &values[i], sizeof value);
    if (std::isnan(value)) continue;
    const float product = value * factor;
    overflows += std::isinf(product) && !std::isinf(value);
    std::memcpy(&values[i], &product, sizeof product);
  }
  return overflows;
}

kernels::Anomalies CentreValues(std::span<std::byte> values) {
  const size_t count = values.size() / sizeof(float);
  const auto at = [&](size_t i) {
    float value = 0;
    std::memcpy(&value, &values[i * sizeof value], sizeof value);
    return value;
  };
  kernels::Anomalies anomalies;
  double sum = 0;
  size_t finite = 0;
  for (size_t i = 0; i < count; ++i) {
    const float value = at(i);
    anomalies.nan_codes += std::isnan(value);
    anomalies.infinities += std::isinf(value);
    if (!std::isfinite(value)) continue;
    sum += value;
    ++finite;
  }
  const auto mean = static_cast<float>(sum / static_cast<double>(std::max<size_t>(finite, 1)));
  for (size_t i = 0; i < count; ++i) {
    const float centred = at(i) - mean;
    std::memcpy(&values[i * sizeof centred], &centred, sizeof centred);
  }
  return anomalies;
}

}  // namespace mimo
