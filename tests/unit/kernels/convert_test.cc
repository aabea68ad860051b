// Whole bands on every implementation: bytes and anomalies against the element-by-element reference.
#include <gtest/gtest.h>

#include <string>

#include "kernels/cpu/kernel_table.h"
#include "tests/unit/kernels/random_case.h"

namespace mimo::kernels {
#ifdef MIMO_TEST_AVX512_EMULATED
const Kernels& Avx512EmulatedKernels();
#endif

void PrintTo(const Anomalies& a, std::ostream* out) {
  *out << "{nan " << a.nan_codes << ", infinite " << a.infinities << ", zero scale " << a.zero_scale_codes
       << ", bad scales " << a.bad_scales << ", overflows " << a.overflows << "}";
}

namespace convert_test {
namespace {

struct Implementation {
  std::string name;
  const Kernels* kernels;
};

std::vector<Implementation> Implementations() {
  std::vector<Implementation> all{{"portable", &PortableKernels()}};
#ifdef MIMO_X86
  if (IsaAvailable(Isa::kAvx2)) all.push_back({"avx2", &Avx2Kernels()});
  if (IsaAvailable(Isa::kAvx512)) all.push_back({"avx512", &Avx512Kernels()});
#ifdef MIMO_TEST_AVX512_EMULATED
  if (IsaAvailable(Isa::kAvx2)) all.push_back({"avx512 emulated", &Avx512EmulatedKernels()});
#endif
#endif
  return all;
}

void ExpectAllEqualReference(const RandomCase& one, const std::string& label) {
  std::vector<uint8_t> expected = one.blank_target();
  const Anomalies expected_anomalies = reference::Convert(one.BandInto(&expected));
  for (const Implementation& implementation : Implementations()) {
    for (const uint64_t stream_bytes : {uint64_t{0}, kStreamBytes}) {
      std::vector<uint8_t> target = one.blank_target();
      const Band band = one.BandInto(&target);
      const Anomalies anomalies = ConvertBandsWith(*implementation.kernels, {&band, 1}, 1, stream_bytes);
      ASSERT_EQ(anomalies, expected_anomalies) << implementation.name << " " << label;
      ASSERT_EQ(RandomCase::Content(&target), RandomCase::Content(&expected)) << implementation.name << " " << label;
    }
  }
}

TEST(ConvertBands, EveryPairOnRandomMatricesOnEveryImplementation) {
  for (const Codec from : kSources) {
    for (const Codec to : kTargets) {
      for (uint64_t seed = 0; seed < 60; ++seed) {
        const std::string label =
            "from " + std::to_string(int(from)) + " to " + std::to_string(int(to)) + " seed " + std::to_string(seed);
        ExpectAllEqualReference(RandomCase(from, to, seed % 3 == 0 ? 4 : 24, 700, seed), label);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(ConvertBands, ManyColumnBlocksCrossPanels) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    for (const Codec to : kTargets)
      ExpectAllEqualReference(RandomCase(Codec::kFp8Block, to, 6, 20000, 900 + seed), "wide");
    if (HasFatalFailure()) return;
  }
}

TEST(ConvertBands, EveryCodeUnderEveryKindOfScale) {
  std::vector<uint8_t> codes(256 * 8);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i);
  std::vector<float> scales;
  for (uint32_t exponent = 0; exponent < 256; ++exponent) {
    for (const uint32_t mantissa : {0u, 0x6471C8u, 0x7FFFFFu}) {
      for (const uint32_t sign : {0u, 0x80000000u})
        scales.push_back(reference::FromBits(sign | exponent << 23 | mantissa));
    }
  }
  for (const Codec to : kTargets) {
    for (const float& scale : scales) {
      Band band;
      band.source = {.codec = Codec::kFp8Block, .data = codes.data(), .row_bytes = 256, .scales = &scale};
      band.rows = 8;
      band.cols = 256;
      band.column_block = 256;
      std::vector<uint8_t> expected(8 * 256 * 4), target(8 * 256 * 4);
      band.target = {.codec = to, .data = expected.data(), .row_bytes = 256 * 4};
      const Anomalies anomalies = reference::Convert(band);
      band.target.data = target.data();
      for (const Implementation& implementation : Implementations()) {
        std::fill(target.begin(), target.end(), uint8_t{0});
        ASSERT_EQ(ConvertBandsWith(*implementation.kernels, {&band, 1}, 1), anomalies)
            << implementation.name << " " << scale;
        ASSERT_EQ(target, expected) << implementation.name << " " << scale;
      }
    }
  }
}

TEST(ConvertBands, EveryNibbleUnderEveryE8m0Byte) {
  constexpr uint64_t kCols = 32 * 256;
  std::vector<uint8_t> packed(kCols / 2), scales(256);
  for (size_t i = 0; i < 256; ++i) {
    scales[i] = static_cast<uint8_t>(i);
    for (size_t j = 0; j < 16; ++j) packed[16 * i + j] = static_cast<uint8_t>(j * 2 % 16 | (j * 2 % 16 + 1) << 4);
  }
  for (const Codec to : kTargets) {
    std::vector<uint8_t> expected(kCols * 4), target(kCols * 4);
    Band band;
    band.source = {.codec = Codec::kMxfp4,
                   .data = packed.data(),
                   .row_bytes = kCols / 2,
                   .scales = scales.data(),
                   .scale_row_bytes = 256};
    band.target = {.codec = to, .data = expected.data(), .row_bytes = kCols * 4};
    band.rows = 1;
    band.cols = kCols;
    const Anomalies anomalies = reference::Convert(band);
    EXPECT_EQ(anomalies.nan_codes, 32u);
    band.target.data = target.data();
    for (const Implementation& implementation : Implementations()) {
      std::fill(target.begin(), target.end(), uint8_t{0});
      ASSERT_EQ(ConvertBandsWith(*implementation.kernels, {&band, 1}, 1), anomalies) << implementation.name;
      ASSERT_EQ(target, expected) << implementation.name;
    }
  }
}

TEST(ConvertBands, Every16BitPatternAsSource) {
  std::vector<uint16_t> patterns(65536);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  for (const Codec from : {Codec::kFp16, Codec::kBf16}) {
    for (const Codec to : kTargets) {
      std::vector<uint8_t> expected(65536 * 4), target(65536 * 4);
      Band band;
      band.source = {.codec = from, .data = patterns.data(), .row_bytes = 65536 * 2};
      band.target = {.codec = to, .data = expected.data(), .row_bytes = 65536 * 4};
      band.rows = 1;
      band.cols = 65536;
      const Anomalies anomalies = reference::Convert(band);
      band.target.data = target.data();
      for (const Implementation& implementation : Implementations()) {
        std::fill(target.begin(), target.end(), uint8_t{0});
        ASSERT_EQ(ConvertBandsWith(*implementation.kernels, {&band, 1}, 1), anomalies) << implementation.name;
        ASSERT_EQ(target, expected) << implementation.name;
      }
    }
  }
}

TEST(ConvertBands, ThreadsChangeNothing) {
  for (const Codec from : kSources) {
    for (const Codec to : {Codec::kBf16, Codec::kFp32}) {
      std::vector<RandomCase> cases;
      cases.emplace_back(from, to, 900, 900, 77);  // one big band is cut by rows
      for (uint64_t seed = 0; seed < 12; ++seed) cases.emplace_back(from, to, 60, 400, 500 + seed);
      for (const Isa isa : {Isa::kPortable, BestIsa()}) {
        std::vector<std::vector<uint8_t>> one, many;
        std::vector<Band> one_bands, many_bands;
        for (const RandomCase& c : cases) {
          one.push_back(c.blank_target());
          many.push_back(c.blank_target());
        }
        for (size_t i = 0; i < cases.size(); ++i) {
          one_bands.push_back(cases[i].BandInto(&one[i]));
          many_bands.push_back(cases[i].BandInto(&many[i]));
        }
        const Anomalies expected = ConvertBands(one_bands, 1, isa);
        for (const int threads : {2, 5}) {
          ASSERT_EQ(ConvertBands(many_bands, threads, isa), expected);
          for (size_t i = 0; i < cases.size(); ++i)
            ASSERT_EQ(RandomCase::Content(&one[i]), RandomCase::Content(&many[i]));
        }
      }
    }
  }
}

TEST(ConvertBands, EmptyBandsAreNothing) {
  EXPECT_EQ(ConvertBands({}, 1), Anomalies{});
  const Band empty[2] = {};
  EXPECT_EQ(ConvertBands(empty, 1), Anomalies{});
  EXPECT_EQ(ConvertBands(empty, 3), Anomalies{});
}

// quantization-formats.md 9.2. The scale 00080000 and the product 00000400 are subnormal: flush-to-zero would show.
TEST(ConvertBands, PublishedBlockFp8Vectors) {
  const uint8_t codes[3][5] = {
      {0x38, 0xB8, 0x7E, 0xFE, 0x01}, {0x40, 0x44, 0x08, 0x07, 0x81}, {0x30, 0x00, 0x80, 0x4D, 0x5A}};
  const uint32_t scales[2][3] = {{0x3F000000, 0x3DCCCCCD, 0x00080000}, {0x3EAAAAAB, 0x3AA137F4, 0x40400000}};
  const uint32_t fp32[3][5] = {{0x3F000000, 0xBF000000, 0x42333333, 0xC2333333, 0x00000400},
                               {0x3F800000, 0x3FC00000, 0x3ACCCCCD, 0x3AB33333, 0x80000400},
                               {0x3E2AAAAB, 0x00000000, 0x80000000, 0x3C02FD76, 0x42700000}};
  const uint16_t bf16[3][5] = {{0x3F00, 0xBF00, 0x4233, 0xC233, 0x0000},
                               {0x3F80, 0x3FC0, 0x3ACD, 0x3AB3, 0x8000},
                               {0x3E2B, 0x0000, 0x8000, 0x3C03, 0x4270}};
  const uint16_t fp16[3][5] = {{0x3800, 0xB800, 0x519A, 0xD19A, 0x0000},
                               {0x3C00, 0x3E00, 0x1666, 0x159A, 0x8000},
                               {0x3155, 0x0000, 0x8000, 0x2018, 0x5380}};
  for (const Implementation& implementation : Implementations()) {
    const auto convert = [&](Codec to, void* out, uint64_t row_bytes) {
      Band bands[2];
      for (int i = 0; i < 2; ++i) {
        bands[i].source = {.codec = Codec::kFp8Block, .data = codes[2 * i], .row_bytes = 5, .scales = scales[i]};
        bands[i].target = {.codec = to,
                           .data = static_cast<uint8_t*>(out) + 2 * static_cast<uint64_t>(i) * row_bytes,
                           .row_bytes = row_bytes};
        bands[i].rows = i == 0 ? 2 : 1;
        bands[i].cols = 5;
        bands[i].column_block = 2;
      }
      EXPECT_EQ(ConvertBandsWith(*implementation.kernels, bands, 1), Anomalies{});
    };
    uint32_t out32[3][5];
    uint16_t out16[3][5];
    convert(Codec::kFp32, out32, 20);
    EXPECT_EQ(std::memcmp(out32, fp32, sizeof(fp32)), 0) << implementation.name;
    convert(Codec::kBf16, out16, 10);
    EXPECT_EQ(std::memcmp(out16, bf16, sizeof(bf16)), 0) << implementation.name;
    convert(Codec::kFp16, out16, 10);
    EXPECT_EQ(std::memcmp(out16, fp16, sizeof(fp16)), 0) << implementation.name;
  }
}

// 9.3: block 2, two shards of 3 rows have 4 scale rows; the caller expresses that as bands.
TEST(ConvertBands, ShardedRowsAsBands) {
  const uint8_t codes[6] = {0x38, 0x38, 0x38, 0x38, 0x38, 0x38};  // 1.0
  const float scales[4] = {1, 2, 3, 4};
  const int scale_row[6] = {0, 0, 1, 2, 2, 3};
  const struct {
    uint64_t row, rows;
    int scale;
  } runs[4] = {{0, 2, 0}, {2, 1, 1}, {3, 2, 2}, {5, 1, 3}};
  float out[6];
  std::vector<Band> bands(4);
  for (size_t i = 0; i < 4; ++i) {
    bands[i].source = {
        .codec = Codec::kFp8Block, .data = codes + runs[i].row, .row_bytes = 1, .scales = scales + runs[i].scale};
    bands[i].target = {.codec = Codec::kFp32, .data = out + runs[i].row, .row_bytes = 4};
    bands[i].rows = runs[i].rows;
    bands[i].cols = 1;
  }
  ConvertBands(bands);
  for (int row = 0; row < 6; ++row) EXPECT_EQ(out[row], scales[scale_row[row]]) << row;
}

TEST(MaxCodes, LargestMagnitudeOfEachBlock) {
  std::mt19937 random(5);
  for (const uint64_t cols : {1u, 127u, 128u, 300u, 5000u}) {
    for (const uint32_t block : {128u, 64u, 5u}) {
      const uint64_t rows = 1 + random() % 40, stride = cols + random() % 9;
      std::vector<uint8_t> codes(rows * stride), out((cols + block - 1) / block), expected(out.size());
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % (random() % 50 == 0 ? 256 : 200) & random());
      for (uint64_t r = 0; r < rows; ++r) {
        for (uint64_t c = 0; c < cols; ++c) {
          expected[c / block] = std::max<uint8_t>(expected[c / block], codes[r * stride + c] & 0x7F);
        }
      }
      MaxCodes(codes.data(), stride, rows, cols, block, out.data());
      EXPECT_EQ(out, expected) << cols << " " << block;
    }
  }
}

}  // namespace
}  // namespace convert_test
}  // namespace mimo::kernels
