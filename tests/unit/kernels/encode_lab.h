// Jobs for the encoders from bands of any source, run on every implementation.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "kernels/cpu/encode_table.h"
#include "tests/unit/kernels/encode_reference.h"
#include "tests/unit/kernels/random_case.h"

namespace mimo::kernels {
#ifdef MIMO_TEST_AVX512_EMULATED
const Kernels& Avx512EmulatedKernels();
#endif

inline void PrintTo(const EncodeCounts& c, std::ostream* out) {
  const Anomalies& a = c.anomalies;
  *out << "{blocks " << c.blocks << ", exact " << c.exact_blocks << ", kept " << c.kept_blocks << ", nan "
       << a.nan_codes << ", infinite " << a.infinities << ", zero scale " << a.zero_scale_codes << ", bad scales "
       << a.bad_scales << ", overflows " << a.overflows << "}";
}

struct EncodeImplementation {
  std::string name;
  const Kernels* kernels;
  const EncodeKernels* encoders;
};

inline std::vector<EncodeImplementation> EncodeImplementations() {
  std::vector<EncodeImplementation> all{{"portable", &PortableKernels(), &PortableEncoders()}};
#ifdef MIMO_X86
  if (IsaAvailable(Isa::kAvx2)) all.push_back({"avx2", &Avx2Kernels(), &Avx2Encoders()});
  if (IsaAvailable(Isa::kAvx512)) all.push_back({"avx512", &Avx512Kernels(), &EncodersFor(Isa::kAvx512)});
#ifdef MIMO_TEST_AVX512_EMULATED
  if (IsaAvailable(Isa::kAvx2)) all.push_back({"avx512 emulated", &Avx512EmulatedKernels(), &Avx2Encoders()});
#endif
#endif
  return all;
}

inline SourceRows RowsOf(const Band& band) {
  SourceRows rows;
  rows.source = band.source;
  rows.rows = band.rows;
  rows.column_edges = band.column_edges;
  rows.column_blocks = band.column_blocks;
  rows.column_block = band.column_block;
  return rows;
}

// One run of the encoder, with gaps between the rows of its target, which must stay as they are.
struct EncodeRun {
  std::vector<uint8_t> codes, scales;  // gaps taken out
  EncodeCounts counts;
  std::vector<ErrorSums> errors;

  EncodeRun(const std::vector<Band>& bands, uint64_t cols, const Encoding& encoding, const Nvfp4Global& global,
            const EncodeImplementation& by, bool with_errors, uint64_t gap = 0,
            const std::vector<uint8_t>* keep = nullptr) {
    std::vector<SourceRows> from;
    EncodeJob job;
    for (const Band& band : bands) {
      from.push_back(RowsOf(band));
      job.rows += band.rows;
    }
    const bool cells = encoding.codec == Codec::kFp8Block;
    const uint64_t groups = (cols + GroupColumns(encoding) - 1) / GroupColumns(encoding);
    const uint64_t code_bytes = cells || encoding.codec == Codec::kMxfp8 ? cols : cols / 2;
    const uint64_t scale_bytes = cells ? 4 * groups : groups;
    const uint64_t scale_rows = cells ? (job.rows + encoding.block_rows - 1) / encoding.block_rows : job.rows;
    std::vector<uint8_t> wide_codes(job.rows * (code_bytes + gap), 0xCD);
    std::vector<uint8_t> wide_scales(scale_rows * (scale_bytes + gap), 0xCD);
    job.from = from;
    job.cols = cols;
    job.encoding = encoding;
    job.global = global;
    job.codes = wide_codes.data();
    job.code_row_bytes = code_bytes + gap;
    job.scales = wide_scales.data();
    job.scale_row_bytes = scale_bytes + gap;
    std::vector<uint8_t> wide_keep(keep == nullptr ? 0 : wide_scales.size(), 0xCD);
    for (uint64_t row = 0; keep != nullptr && row < scale_rows; ++row) {
      std::copy_n(keep->data() + row * scale_bytes, scale_bytes, wide_keep.data() + row * (scale_bytes + gap));
    }
    job.keep = keep == nullptr ? nullptr : wide_keep.data();
    errors.resize(with_errors ? (job.rows + kStatRows - 1) / kStatRows : 0);
    for (ErrorSums& sums : errors) sums.error = -1;  // overwritten
    job.errors = with_errors ? errors.data() : nullptr;
    counts = EncodeRowsWith(job, *by.kernels, *by.encoders);
    codes = Narrow(wide_codes, code_bytes, gap);
    scales = Narrow(wide_scales, scale_bytes, gap);
  }

 private:
  static std::vector<uint8_t> Narrow(const std::vector<uint8_t>& wide, uint64_t bytes, uint64_t gap) {
    std::vector<uint8_t> narrow;
    for (size_t at = 0; at < wide.size(); at += bytes + gap) {
      narrow.insert(narrow.end(), wide.begin() + static_cast<ptrdiff_t>(at),
                    wide.begin() + static_cast<ptrdiff_t>(at + bytes));
      for (size_t i = 0; i < gap; ++i) EXPECT_EQ(wide[at + bytes + i], 0xCD);
    }
    return narrow;
  }
};

inline Nvfp4Global GlobalOf(const std::vector<Band>& bands, uint64_t cols, const Encoding& encoding,
                            const EncodeImplementation& by) {
  std::vector<SourceRows> from;
  for (const Band& band : bands) from.push_back(RowsOf(band));
  return ChooseNvfp4Global(MeasureRowsWith(from, cols, encoding.via_bf16, *by.kernels, *by.encoders), encoding.rule);
}

inline Band MatrixBand(const std::vector<float>& values, uint64_t cols) {
  Band band;
  band.source = {.codec = Codec::kFp32, .data = values.data(), .row_bytes = 4 * cols};
  band.rows = values.size() / cols;
  band.cols = cols;
  return band;
}

inline std::string Hex(const std::vector<uint8_t>& bytes) {
  std::string text;
  char two[3];
  for (const uint8_t byte : bytes) {
    std::snprintf(two, sizeof(two), "%02x", byte);
    text += two;
  }
  return text;
}

inline std::string Label(const Encoding& e) {
  return "codec " + std::to_string(int(e.codec)) + " rule " + std::to_string(int(e.rule)) + " ties " +
         std::to_string(int(e.ties)) + " blocks " + std::to_string(e.block_rows) + "x" + std::to_string(e.block_cols) +
         (e.power_of_two ? " power" : "") + (e.neuron ? " neuron" : "") + (e.via_bf16 ? " via bf16" : "");
}

// Every codec with every rule.
inline std::vector<Encoding> AllEncodings() {
  std::vector<Encoding> all;
  for (const ScaleRule rule : {ScaleRule::kMax, ScaleRule::kFourOverSix, ScaleRule::kSweep, ScaleRule::kMse}) {
    all.push_back({.codec = Codec::kNvfp4, .rule = rule});
  }
  for (const ScaleRule rule : {ScaleRule::kRceil, ScaleRule::kFloor, ScaleRule::kEven, ScaleRule::kCeil}) {
    all.push_back({.codec = Codec::kMxfp4, .rule = rule});
    all.push_back({.codec = Codec::kMxfp4, .rule = rule, .ties = Ties::kTowardZero});
    all.push_back({.codec = Codec::kMxfp8, .rule = rule});
  }
  for (const bool power : {false, true}) {
    all.push_back({.codec = Codec::kFp8Block, .power_of_two = power});
    all.push_back({.codec = Codec::kFp8Block, .block_rows = 7, .block_cols = 96, .power_of_two = power});
    all.push_back({.codec = Codec::kFp8Block, .block_rows = 1, .block_cols = 32, .power_of_two = power});
  }
  all.push_back({.codec = Codec::kFp8Block, .neuron = true});
  all.push_back({.codec = Codec::kFp8Block, .block_rows = 1, .block_cols = 24576, .neuron = true});
  return all;
}

}  // namespace mimo::kernels
