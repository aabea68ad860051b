// Whole jobs on every implementation: bytes, counts and error sums against the element-by-element reference.
#include "tests/unit/kernels/encode_lab.h"

namespace mimo::kernels::encode_test {
namespace {

void ExpectNear(double actual, double expected, const std::string& label) {
  if (std::isfinite(expected)) {
    EXPECT_NEAR(actual, expected, 1e-12 * std::fabs(expected)) << label;
  } else {
    EXPECT_FALSE(std::isfinite(actual)) << label;
  }
}

void ExpectSums(const ErrorSums& actual, const ErrorSums& expected, const std::string& label) {
  ExpectNear(actual.error, expected.error, label + " error");
  ExpectNear(actual.source, expected.source, label + " source");
  ExpectNear(actual.target, expected.target, label + " target");
  if (std::isfinite(expected.target)) {
    EXPECT_NEAR(actual.product, expected.product, 1e-12 * (expected.source + expected.target)) << label;
  }
  EXPECT_EQ(actual.max_error, expected.max_error) << label;
  EXPECT_EQ(actual.amax, expected.amax) << label;
  EXPECT_EQ(actual.elements, expected.elements) << label;
  EXPECT_EQ(actual.zero_blocks, expected.zero_blocks) << label;
  EXPECT_EQ(actual.saturated, expected.saturated) << label;
  EXPECT_EQ(actual.least_scales, expected.least_scales) << label;
  EXPECT_EQ(actual.largest_scales, expected.largest_scales) << label;
  EXPECT_EQ(actual.nan_codes, expected.nan_codes) << label;
}

// NaN sums (infinite targets) are equal too.
bool SameSums(const ErrorSums& a, const ErrorSums& b) {
  const auto same = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
  ErrorSums x = a, y = b;
  const bool sums = same(x.error, y.error) && same(x.source, y.source) && same(x.target, y.target) &&
                    same(x.product, y.product) && same(x.max_error, y.max_error);
  x.error = y.error = x.source = y.source = x.target = y.target = x.product = y.product = 0;
  x.max_error = y.max_error = 0;
  return sums && x == y;
}

void ExpectAllEqualReference(const std::vector<Band>& bands, uint64_t cols, const Encoding& encoding,
                             const std::string& what, uint64_t gap = 0) {
  const std::string label = what + " to " + Label(encoding);
  const std::vector<EncodeImplementation> all = EncodeImplementations();
  const Nvfp4Global global = GlobalOf(bands, cols, encoding, all[0]);
  const reference::Encoded expected = reference::Encoder(bands, cols, encoding, global).result();
  std::vector<ErrorSums> first;
  for (const EncodeImplementation& by : all) {
    const std::string here = by.name + " " + label;
    const Nvfp4Global again = GlobalOf(bands, cols, encoding, by);
    ASSERT_EQ(again.multiplier, global.multiplier) << here;
    ASSERT_EQ(again.amax, global.amax) << here;
    ASSERT_EQ(again.exact, global.exact) << here;
    for (const bool with_errors : {false, true}) {
      const EncodeRun run(bands, cols, encoding, global, by, with_errors, gap);
      ASSERT_EQ(Hex(run.scales), Hex(expected.scales)) << here;
      ASSERT_EQ(Hex(run.codes), Hex(expected.codes)) << here;
      ASSERT_EQ(run.counts, expected.counts) << here;
      if (!with_errors) continue;
      if (first.empty()) {
        first = run.errors;
        for (size_t i = 0; i < first.size(); ++i) ExpectSums(first[i], expected.errors[i], here);
      }
      for (size_t i = 0; i < first.size(); ++i) ASSERT_TRUE(SameSums(run.errors[i], first[i])) << here;
    }
  }
}

// ---- random sources

TEST(EncodeRows, EveryPairOnRandomMatricesOnEveryImplementation) {
  for (const Codec from : kSources) {
    for (Encoding encoding : AllEncodings()) {
      for (uint64_t seed = 0; seed < 6; ++seed) {
        const uint64_t group = encoding.codec == Codec::kNvfp4 ? 16 : encoding.codec == Codec::kFp8Block ? 1 : 32;
        const uint64_t cols = group * (1 + (seed * 7919 + static_cast<uint64_t>(encoding.rule)) % (400 / group));
        encoding.via_bf16 = seed % 2 == 1;
        const RandomCase one(from, Codec::kFp32, 6, 1, 100 * seed + 1, cols);
        std::vector<uint8_t> unused = one.blank_target();
        ExpectAllEqualReference({one.BandInto(&unused)}, cols, encoding,
                                "from " + std::to_string(int(from)) + " seed " + std::to_string(seed), seed % 3 * 5);
        if (HasFailure()) return;
      }
    }
  }
}

TEST(EncodeRows, RunsOfDifferentSourcesAndTheirErrorSums) {
  for (Encoding encoding : AllEncodings()) {
    if (encoding.rule == ScaleRule::kSweep) continue;  // slow as a reference
    for (uint64_t seed = 0; seed < 2; ++seed) {
      const uint64_t cols = seed == 0 ? 2080 : 576;  // beyond a strip; beyond a segment
      std::vector<RandomCase> cases;
      for (const Codec from : kSources) cases.emplace_back(from, Codec::kFp32, seed == 0 ? 3 : 60, 1, 7 + seed, cols);
      std::vector<Band> bands;
      std::vector<uint8_t> unused = cases[0].blank_target();
      for (const RandomCase& one : cases) bands.push_back(one.BandInto(&unused));
      encoding.via_bf16 = seed == 1;
      ExpectAllEqualReference(bands, cols, encoding, "mixed " + std::to_string(seed));
      if (HasFailure()) return;
    }
  }
}

// ---- FP8 blocks as weights have them, for the fused path and the exact ones

class Fp8Matrix {
 public:
  Fp8Matrix(uint64_t rows, uint64_t cols, uint32_t block, uint64_t seed) : random_(seed), codes_(rows * cols) {
    // Codes near the top of the range, as in a block of weights; all codes; NaN now and then.
    const bool hostile = seed % 3 == 2;
    for (uint8_t& code : codes_) {
      const uint64_t bits = random_();
      code = static_cast<uint8_t>(seed % 3 == 0 ? (bits & 0x80) | (0x48 + (bits >> 8) % 0x37) : bits);
      if ((code & 0x7F) == 0x7F && !(hostile && bits >> 20 & 1)) code ^= 0x10;
    }
    for (uint64_t i = 0; i < codes_.size() / 16; ++i) {
      if (random_() % 5 == 0) std::fill_n(codes_.begin() + static_cast<ptrdiff_t>(16 * i), 16, uint8_t{0x80});
    }
    scales_.resize((cols + block - 1) / block);
    for (float& scale : scales_) {
      const uint32_t exponent = static_cast<uint32_t>(hostile ? 1 + random_() % 245 : 108 + random_() % 12);
      scale = reference::FromBits(exponent << 23 | (static_cast<uint32_t>(random_()) & 0x7FFFFF));
    }
    band_.source = {.codec = Codec::kFp8Block, .data = codes_.data(), .row_bytes = cols, .scales = scales_.data()};
    band_.rows = rows;
    band_.cols = cols;
    band_.column_block = block;
  }
  const Band& band() const { return band_; }
  std::vector<float>& scales() { return scales_; }

 private:
  std::mt19937_64 random_;
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
  Band band_;
};

TEST(EncodeRows, FusedFp8ToNvfp4OnBlocksOfWeights) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const uint32_t blocks[] = {128, 16, 48, 100, 64, 128};
    const uint64_t cols = 16 * (1 + seed * 13 % 25);
    const Fp8Matrix matrix(9, cols, blocks[seed % 6], seed);
    Encoding encoding{.codec = Codec::kNvfp4};
    encoding.via_bf16 = seed % 2 == 1;
    ExpectAllEqualReference({matrix.band()}, cols, encoding, "seed " + std::to_string(seed));
    if (HasFailure()) return;
  }
}

// Each largest code under scales of every exponent, every other code beside it: all table entries, ties included.
TEST(EncodeRows, FusedFp8ToNvfp4EveryLargestCodeWithEveryOther) {
  std::vector<uint8_t> codes;
  for (unsigned largest = 0; largest < 127; ++largest) {
    for (unsigned start = 0; start <= largest; start += 15) {
      for (unsigned i = 0; i < 15; ++i) {
        codes.push_back(static_cast<uint8_t>(std::min(start + i, largest) | (i % 2 == 1 ? 0x80 : 0)));
      }
      codes.push_back(static_cast<uint8_t>(largest));
    }
  }
  Band band;
  for (uint32_t exponent = 0; exponent < 250; exponent += 3) {
    for (const uint32_t mantissa : {0u, 0x400000u, 0x6471C8u, 0x2AAAABu}) {
      const float scale = reference::FromBits(exponent << 23 | mantissa);
      band.source = {.codec = Codec::kFp8Block, .data = codes.data(), .row_bytes = codes.size(), .scales = &scale};
      band.rows = 1;
      band.cols = codes.size();
      band.column_block = static_cast<uint32_t>(codes.size());
      for (const bool via_bf16 : {false, true}) {
        Encoding encoding{.codec = Codec::kNvfp4};
        encoding.via_bf16 = via_bf16;
        const std::vector<EncodeImplementation> all = EncodeImplementations();
        // Multipliers that the block itself would not give too: other blocks of the tensor are larger.
        for (const float factor : {1.0f, 1.37f, 64.0f, 3e4f}) {
          Nvfp4Global global = GlobalOf({band}, band.cols, encoding, all[0]);
          global.multiplier *= factor;
          const EncodeRun portable({band}, band.cols, encoding, global, all[0], false);
          for (const EncodeImplementation& by : all) {
            const EncodeRun run({band}, band.cols, encoding, global, by, false);
            ASSERT_EQ(run.codes, portable.codes) << by.name << " " << scale << " " << factor;
            ASSERT_EQ(run.scales, portable.scales) << by.name << " " << scale << " " << factor;
            ASSERT_EQ(run.counts, portable.counts) << by.name << " " << scale << " " << factor;
          }
        }
      }
    }
  }
}

TEST(EncodeRows, PowerOfTwoBlocksOfFp8BecomeMxfp8ByMoving) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const uint32_t blocks[] = {128, 32, 48};
    Fp8Matrix matrix(5, 384, blocks[seed % 3], seed);
    for (size_t i = 0; i < matrix.scales().size(); ++i) {
      if (seed % 4 != 3 || i % 2 == 0)
        matrix.scales()[i] = std::ldexp(1.0f, static_cast<int>(i * 97 + seed) % 254 - 127);
    }
    ExpectAllEqualReference({matrix.band()}, 384, {.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil},
                            "seed " + std::to_string(seed));
    if (HasFailure()) return;
  }
  const Fp8Matrix matrix(5, 384, 128, 0);
  const_cast<Fp8Matrix&>(matrix).scales() = {1.0f, 0x1p-127f, 0x1p127f};
  const EncodeRun run({matrix.band()}, 384, {.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil}, {},
                      EncodeImplementations().back(), false);
  EXPECT_EQ(run.counts.exact_blocks, 5u * 12);
  EXPECT_EQ(std::memcmp(run.codes.data(), matrix.band().source.data, run.codes.size()), 0);
}

// ---- MXFP4 sources

struct Mxfp4Matrix {
  std::vector<uint8_t> packed, bytes;
  Band band;
  Mxfp4Matrix(uint64_t rows, uint64_t cols, int least, int span, uint64_t seed)
      : packed(rows * cols / 2), bytes(rows * cols / 32) {
    std::mt19937_64 random(seed);
    for (uint8_t& two : packed) two = static_cast<uint8_t>(random());
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(least + static_cast<int>(random() % (span + 1)));
    bytes[0] = static_cast<uint8_t>(least);
    bytes[1] = static_cast<uint8_t>(least + span);
    packed[0] = packed[16] = 0x77;
    std::fill_n(packed.begin() + 32, 16, uint8_t{0x80});  // a group of zeros far away
    bytes[2] = 3;
    band.source = {.codec = Codec::kMxfp4,
                   .data = packed.data(),
                   .row_bytes = cols / 2,
                   .scales = bytes.data(),
                   .scale_row_bytes = cols / 32};
    band.rows = rows;
    band.cols = cols;
  }
};

TEST(EncodeRows, Mxfp4BecomesNvfp4AndBlockFp8Exactly) {
  for (const int least : {1, 60, 110, 230}) {
    for (const int span : {0, 13, 14, 15, 17, 18, 22}) {
      Mxfp4Matrix matrix(6, 256, least, span, static_cast<uint64_t>(span));
      for (const Encoding& encoding : AllEncodings()) {
        if (encoding.codec != Codec::kNvfp4 && encoding.codec != Codec::kFp8Block) continue;
        ExpectAllEqualReference({matrix.band}, 256, encoding,
                                "least " + std::to_string(least) + " span " + std::to_string(span));
        if (HasFailure()) return;
      }
      const EncodeImplementation by = EncodeImplementations().back();
      const Encoding nvfp4{.codec = Codec::kNvfp4};
      const Nvfp4Global global = GlobalOf({matrix.band}, 256, nvfp4, by);
      EXPECT_EQ(global.exact, span <= 17);
      const EncodeRun run({matrix.band}, 256, nvfp4, global, by, true);
      EXPECT_EQ(run.counts.exact_blocks, span <= 17 ? 6u * 16 : 0u);
      if (span <= 17) {
        EXPECT_EQ(run.errors[0].error, 0);
        EXPECT_EQ(run.codes, matrix.packed);
      }
      const EncodeRun fp8({matrix.band}, 256, {.codec = Codec::kFp8Block}, {}, by, true);
      if (span <= 14) {
        EXPECT_EQ(fp8.counts.exact_blocks, 2u);
        EXPECT_EQ(fp8.errors[0].error, 0);
      } else {
        EXPECT_LT(fp8.counts.exact_blocks, 2u);
      }
      matrix.bytes[9] = 255;  // NaN is not moved
      ExpectAllEqualReference({matrix.band}, 256, nvfp4, "nan byte");
      ExpectAllEqualReference({matrix.band}, 256, {.codec = Codec::kFp8Block}, "nan byte");
      if (HasFailure()) return;
    }
  }
}

// The exact way to NVFP4 and back, over all exponents that NVFP4 can hold beside each other: the bytes come back.
TEST(EncodeRows, Nvfp4ThatWasMxfp4GoesBackByMoving) {
  for (int largest = 0; largest <= 252; ++largest) {
    std::mt19937_64 random(static_cast<uint64_t>(largest));
    constexpr uint64_t kRows = 3, kCols = 32 * 18;
    const int span = std::min(17, largest);
    std::vector<uint8_t> packed(kRows * kCols / 2), bytes(kRows * kCols / 32);
    for (uint8_t& byte : packed) byte = static_cast<uint8_t>(random());
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<uint8_t>(largest - static_cast<int>(i) % (span + 1));
      packed[16 * i] |= 1;  // no group is zero, so that each counts
    }
    for (size_t i = 0; i < 16; ++i) packed[16 * 5 + i] = i % 2 == 0 ? 0 : 0x80;  // but one, of both signs
    Band band;
    band.source = {.codec = Codec::kMxfp4,
                   .data = packed.data(),
                   .row_bytes = kCols / 2,
                   .scales = bytes.data(),
                   .scale_row_bytes = kCols / 32};
    band.rows = kRows;
    band.cols = kCols;
    const Encoding nvfp4{.codec = Codec::kNvfp4};
    for (const EncodeImplementation& by : EncodeImplementations()) {
      const Nvfp4Global global = GlobalOf({band}, kCols, nvfp4, by);
      ASSERT_TRUE(global.exact);
      const EncodeRun there({band}, kCols, nvfp4, global, by, false);
      for (const bool divides : {false, true}) {
        if (divides && largest < 9) continue;  // the reciprocal of the global scale is beyond F32
        Band made = band;
        made.source = {.codec = Codec::kNvfp4,
                       .data = there.codes.data(),
                       .row_bytes = kCols / 2,
                       .scales = there.scales.data(),
                       .scale_row_bytes = kCols / 16,
                       .global = divides ? 1 / global.multiplier : global.multiplier,
                       .global_divides = divides};
        for (const ScaleRule rule : {ScaleRule::kRceil, ScaleRule::kFloor, ScaleRule::kEven}) {
          const EncodeRun back({made}, kCols, {.codec = Codec::kMxfp4, .rule = rule}, {}, by, true);
          ASSERT_EQ(back.codes, packed) << by.name << ' ' << largest;
          ASSERT_EQ(back.scales, bytes) << by.name << ' ' << largest;
          ASSERT_EQ(back.counts.exact_blocks, bytes.size());
          ASSERT_EQ(back.errors[0].error, 0);
        }
      }
    }
  }
}

// Only some groups of a row lie under powers of two: the others are encoded.
TEST(EncodeRows, Nvfp4UnderSomePowersOfTwo) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    constexpr uint64_t kRows = 4, kCols = 256;
    std::vector<uint8_t> packed(kRows * kCols / 2), scales(kRows * kCols / 16);
    for (uint8_t& byte : packed) byte = static_cast<uint8_t>(random());
    for (size_t i = 0; i < scales.size(); i += 2) {
      scales[i] = static_cast<uint8_t>(random() % 3 == 0 ? random() % 127 : random() % 16 * 8);
      scales[i + 1] = random() % 3 == 0 ? static_cast<uint8_t>(random() % 127) : scales[i];
    }
    Band band;
    band.source = {.codec = Codec::kNvfp4,
                   .data = packed.data(),
                   .row_bytes = kCols / 2,
                   .scales = scales.data(),
                   .scale_row_bytes = kCols / 16,
                   .global = seed % 4 == 3 ? 3e-5f : std::ldexp(1.0f, static_cast<int>(seed) * 4 - 140),
                   .global_divides = seed % 2 == 1};
    band.rows = kRows;
    band.cols = kCols;
    for (const ScaleRule rule : {ScaleRule::kRceil, ScaleRule::kFloor})
      ExpectAllEqualReference({band}, kCols, {.codec = Codec::kMxfp4, .rule = rule}, "seed " + std::to_string(seed));
    if (HasFailure()) return;
  }
}

// ---- adversarial groups

std::vector<float> Adversarial(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> v(32 * 8);
  const auto below = [&](uint64_t n) { return random() % n; };
  for (size_t group = 0; group < v.size() / 32; ++group) {
    const uint64_t kind = below(12);
    const int shift = kind == 0 ? -140 : kind == 1 ? 118 : static_cast<int>(below(20)) - 10;
    for (size_t i = 0; i < 32; ++i) {
      float& x = v[32 * group + i];
      const float ties[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 6.0f, 448.0f, 464.0f, 0.0f, 1.0f};
      x = std::ldexp(ties[below(12)], shift);
      if (kind < 4) x = std::ldexp(static_cast<float>(random() >> 40), shift - 22);
      if (kind == 4) x = 0;
      if (kind == 5) x = i == 7 ? 1e30f : 1e-3f;
      if (kind == 6) x = std::nextafter(x, below(2) == 0 ? 0.0f : 1e9f);
      if (kind == 7 && below(9) == 0) x = std::numeric_limits<float>::quiet_NaN();
      if (kind == 8 && below(9) == 0) x = std::numeric_limits<float>::infinity();
      if (kind == 9) x = reference::FromBits(static_cast<uint32_t>(below(5)));
      if (kind == 10) x = std::nextafter(std::ldexp(1.0f, shift), below(2) == 0 ? 0.0f : 1e9f);
      if (kind == 11) x = reference::FromBits(0x7F7F7F00 + static_cast<uint32_t>(below(0x100)));
      if (below(2) == 0) x = -x;
    }
  }
  return v;
}

TEST(EncodeRows, AdversarialGroups) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const std::vector<float> values = Adversarial(seed);
    for (Encoding encoding : AllEncodings()) {
      for (const bool via_bf16 : {false, true}) {
        encoding.via_bf16 = via_bf16;
        ExpectAllEqualReference({MatrixBand(values, 256)}, 256, encoding, "seed " + std::to_string(seed));
        if (HasFailure()) return;
      }
    }
  }
}

// Tensors of nothing but subnormals, where s2 or its products underflow: codes are what they are, never NaN.
TEST(EncodeRows, TensorsBelowTheRangeOfTheirScales) {
  for (const uint32_t largest : {0u, 1u, 2u, 100u, 2687u, 2688u, 5000u, 1000000u}) {
    std::vector<float> values(64, 0.0f);
    for (size_t i = 0; i < 40; ++i) values[i] = reference::FromBits(largest * static_cast<uint32_t>(i) / 39);
    for (const Encoding& encoding : AllEncodings()) {
      ExpectAllEqualReference({MatrixBand(values, 64)}, 64, encoding, "largest " + std::to_string(largest));
      if (encoding.codec != Codec::kNvfp4) continue;
      const Nvfp4Global global = GlobalOf({MatrixBand(values, 64)}, 64, encoding, EncodeImplementations()[0]);
      EXPECT_GT(global.multiplier, 0);
      EXPECT_EQ(global.multiplier == 1, largest == 0);
      const EncodeRun run({MatrixBand(values, 64)}, 64, encoding, global, EncodeImplementations()[0], true);
      for (const uint8_t scale : run.scales) EXPECT_TRUE(scale >= 1 && scale <= 0x7E);
      EXPECT_TRUE(std::isfinite(run.errors[0].target));
      if (HasFailure()) return;
    }
  }
}

// ---- measuring

TEST(MeasureRows, EqualsTheLargestFiniteElement) {
  for (const Codec from : kSources) {
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const RandomCase one(from, Codec::kFp32, 12, 500, seed + 31);
      std::vector<uint8_t> unused = one.blank_target();
      const Band band = one.BandInto(&unused);
      const bool via_bf16 = seed % 2 == 1;
      Measured expected;
      expected.all_mxfp4 = from == Codec::kMxfp4;
      const std::vector<uint32_t> block_of = reference::BlockOf(band);
      for (uint64_t row = 0; row < band.rows; ++row) {
        for (uint64_t col = 0; col < band.cols; ++col) {
          uint32_t bits = 0;
          float value = reference::ElementAt(band, block_of, row, col, &bits).value;
          if (from == Codec::kMxfp4 && value != 0) {
            const uint8_t* bytes = static_cast<const uint8_t*>(band.source.scales);
            const uint8_t byte = bytes[row * band.source.scale_row_bytes + col / 32];
            if (byte != 255) {
              expected.least_exponent = std::min(expected.least_exponent, byte);
              expected.largest_exponent = std::max(expected.largest_exponent, byte);
            }
          }
          if (via_bf16) value = reference::Bf16Rounded(value);
          if (std::isfinite(value)) expected.amax = std::max(expected.amax, std::fabs(value));
        }
      }
      const SourceRows rows = RowsOf(band);
      for (const EncodeImplementation& by : EncodeImplementations()) {
        const Measured measured = MeasureRowsWith({&rows, 1}, band.cols, via_bf16, *by.kernels, *by.encoders);
        ASSERT_EQ(measured.amax, expected.amax) << by.name << " from " << int(from) << " seed " << seed;
        ASSERT_TRUE(measured == expected) << by.name << " from " << int(from) << " seed " << seed;
      }
    }
  }
}

TEST(MeasureRows, CombinesInAnyOrder) {
  const Measured a{.amax = 3, .all_mxfp4 = true, .least_exponent = 100, .largest_exponent = 110};
  const Measured b{.amax = 5, .all_mxfp4 = false, .least_exponent = 90, .largest_exponent = 105};
  Measured ab = a, ba = b;
  ab += b;
  ba += a;
  EXPECT_EQ(ab, ba);
  EXPECT_EQ(ab, (Measured{.amax = 5, .all_mxfp4 = false, .least_exponent = 90, .largest_exponent = 110}));
}

TEST(EncodeRows, ContinuedRunsDoNotCountBadScalesAgain) {
  const std::vector<uint8_t> codes(64, 0x38);
  const float scale = -1;
  Band band;
  band.source = {.codec = Codec::kFp8Block, .data = codes.data(), .row_bytes = 32, .scales = &scale};
  band.rows = 1;
  band.cols = 32;
  SourceRows runs[2] = {RowsOf(band), RowsOf(band)};
  runs[1].continues = true;
  uint8_t out[32], scales[8];
  EncodeJob job;
  job.from = runs;
  job.rows = 2;
  job.cols = 32;
  job.codes = out;
  job.code_row_bytes = 16;
  job.scales = scales;
  job.scale_row_bytes = 2;
  EXPECT_EQ(EncodeRows(job).anomalies.bad_scales, 1u);
}

}  // namespace
}  // namespace mimo::kernels::encode_test
