// The code of the GPU threads that encode and measure, run for every thread of every tile on the host, against
// EncodeRows and MeasureRows of the CPU. What stays untested without a GPU: the launches, the staging, atomics, and the
// hardware's directed rounding, byte permutation and E4M3 packing, which the host replaces.
#include <cmath>

#include "kernels/cuda/measure_tile.h"
#include "tests/unit/kernels/encode_grid.h"

namespace mimo::kernels::encode_tile_test {
namespace {

template <Codec kFrom>
void MeasureAs(DeviceBand band, bool via_bf16, cuda::MeasureTally* tally) {
  cuda::ShapeTiles(kFrom, &band);
  for (uint64_t tile = 0; tile < cuda::TileCount(band); ++tile) {
    for (uint32_t t = 0; t < cuda::kThreads; ++t) cuda::MeasureTile<kFrom>(band, tile, t, via_bf16, tally);
  }
}

Measured MeasureOnGrid(const std::vector<Band>& bands, bool via_bf16) {
  cuda::MeasureTally tally;
  Measured measured;
  for (const Band& band : bands) {
    const DeviceBand device = BandOf(band);
    measured.all_mxfp4 &= device.codec == Codec::kMxfp4;
    switch (device.codec) {
      case Codec::kFp32:
        MeasureAs<Codec::kFp32>(device, via_bf16, &tally);
        break;
      case Codec::kFp16:
        MeasureAs<Codec::kFp16>(device, via_bf16, &tally);
        break;
      case Codec::kBf16:
        MeasureAs<Codec::kBf16>(device, via_bf16, &tally);
        break;
      case Codec::kFp8Block:
        MeasureAs<Codec::kFp8Block>(device, via_bf16, &tally);
        break;
      case Codec::kMxfp4:
        MeasureAs<Codec::kMxfp4>(device, via_bf16, &tally);
        break;
      case Codec::kMxfp8:
        MeasureAs<Codec::kMxfp8>(device, via_bf16, &tally);
        break;
      case Codec::kNvfp4:
        MeasureAs<Codec::kNvfp4>(device, via_bf16, &tally);
        break;
    }
  }
  measured.amax = FloatFromBits(tally.amax);
  measured.least_exponent = static_cast<uint8_t>(tally.least);
  measured.largest_exponent = static_cast<uint8_t>(tally.largest);
  return measured;
}

TEST(EncodeTile, EveryPairOnRandomMatrices) {
  for (const Codec from : kSources) {
    for (Encoding encoding : AllEncodings()) {
      const bool slow = encoding.rule == ScaleRule::kSweep || encoding.rule == ScaleRule::kMse;
      for (uint64_t seed = 0; seed < (slow ? 6u : 24u); ++seed) {
        const uint64_t group = encoding.codec == Codec::kFp8Block ? 1 : GroupColumns(encoding);
        const uint64_t cols = group * (1 + seed * 7919 % ((slow ? 200 : 700) / group));
        encoding.via_bf16 = seed % 2 == 1;
        const RandomCase one(from, Codec::kFp32, seed % 5 == 0 ? 40 : 6, 1, 9000 + seed, cols);
        std::vector<uint8_t> unused = one.blank_target();
        ExpectGridEqualsCpu({one.BandInto(&unused)}, cols, encoding,
                            "from " + std::to_string(int(from)) + " seed " + std::to_string(seed));
        if (HasFailure()) return;
      }
    }
  }
}

TEST(EncodeTile, RunsOfDifferentSourcesShareCells) {
  for (Encoding encoding : AllEncodings()) {
    if (encoding.rule == ScaleRule::kSweep || encoding.rule == ScaleRule::kMse) continue;
    std::vector<RandomCase> cases;
    for (int round = 0; round < 2; ++round) {
      for (const Codec from : kSources) cases.emplace_back(from, Codec::kFp32, 30, 1, 7 + uint64_t(round), 576);
    }
    std::vector<Band> bands;
    std::vector<uint8_t> unused = cases[0].blank_target();
    for (const RandomCase& one : cases) bands.push_back(one.BandInto(&unused));
    ExpectGridEqualsCpu(bands, 576, encoding, "mixed");
    if (HasFailure()) return;
  }
}

TEST(EncodeTile, MeasuresAsTheCpuDoes) {
  const EncodeImplementation cpu = EncodeImplementations()[0];
  for (const Codec from : kSources) {
    for (uint64_t seed = 0; seed < 80; ++seed) {
      const RandomCase one(from, Codec::kFp32, seed % 4 == 0 ? 70 : 5, 700, 4000 + seed);
      std::vector<uint8_t> unused = one.blank_target();
      const Band band = one.BandInto(&unused);
      const std::vector<SourceRows> rows{RowsOf(band)};
      for (const bool via_bf16 : {false, true}) {
        const Measured wanted = MeasureRowsWith(rows, band.cols, via_bf16, *cpu.kernels, *cpu.encoders);
        const Measured actual = MeasureOnGrid({band}, via_bf16);
        ASSERT_EQ(actual.amax, wanted.amax) << int(from) << " seed " << seed;
        ASSERT_EQ(actual, wanted) << int(from) << " seed " << seed;
      }
    }
  }
}

// ---- the quick ways against the definition

float Random(std::mt19937_64* random, uint32_t least_exponent, uint32_t exponents) {
  const uint64_t bits = (*random)();
  return reference::FromBits((least_exponent + static_cast<uint32_t>(bits >> 32) % exponents) << 23 |
                             (static_cast<uint32_t>(bits) & 0x7FFFFF));
}

// The floats around every boundary of a multiplier, for multipliers of every exponent: ties, and quotients that round
// onto a tie, are all there.
TEST(E2m1Bounds, SayWhatTheDivisionSays) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 300000; ++i) {
    float m = Random(&random, 27, 200);
    if (i % 5 == 0) m = FloatFromBits(FloatBits(m) & 0xFFFF0000u);
    if (i % 7 == 0) m = FloatFromBits(FloatBits(m) & 0xFF800000u);
    const cuda::E2m1Bounds bounds = cuda::QuotientBounds(m);
    for (const float b : {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f}) {
      for (int step = -3; step <= 3; ++step) {
        const float x = FloatFromBits(FloatBits(b * m) + static_cast<uint32_t>(step));
        ASSERT_EQ(cuda::CountAbove(bounds, x), E2m1Magnitude(Nvfp4Scaled(x, m))) << x << " / " << m;
      }
    }
  }
}

TEST(E2m1Bounds, AreTiesThemselvesUnderPowersOfTwo) {
  for (int byte = 27; byte <= 227; ++byte) {
    const float m = E8m0ToFloat(static_cast<uint8_t>(byte));
    for (const bool toward_zero : {false, true}) {
      const cuda::E2m1Bounds bounds = cuda::PowerBounds(m, toward_zero);
      for (const float b : {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f}) {
        for (int step = -2; step <= 2; ++step) {
          const float x = FloatFromBits(FloatBits(b * m) + static_cast<uint32_t>(step));
          ASSERT_EQ(cuda::CountAbove(bounds, x), Mxfp4Code(x, static_cast<uint8_t>(byte), toward_zero));
        }
      }
    }
  }
}

TEST(QuickNvfp4Codes, AreThoseOfTheDefinition) {
  std::mt19937_64 random(6);
  int guessed = 0;
  for (int i = 0; i < 200000; ++i) {
    const float m = Random(&random, i % 3 == 0 ? 27 : 110, i % 3 == 0 ? 100 : 16);
    float values[16];
    float amax = 0;
    for (float& x : values) {
      const uint64_t bits = random();
      const float halves[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 6.0f};
      x = static_cast<float>(bits >> 40) * 0x1p-24f * 6.2f * m;
      if (bits % 11 == 0) x = FloatFromBits(FloatBits(halves[bits >> 8 & 7] * m) + (bits >> 16 & 127) - 63);
      if (bits % 13 == 0) x = (bits >> 20 & 1) != 0 ? 0.0f : FloatFromBits(static_cast<uint32_t>(bits >> 24) % 5000);
      if (i % 4 == 0) x = RoundedToBf16(x);
      if ((bits & 1) != 0) x = -x;
      amax = std::max(amax, Magnitude(x));
    }
    uint32_t words[2];
    if (!cuda::QuickNvfp4Codes(values, amax, m, words)) continue;
    ++guessed;
    for (int j = 0; j < 16; ++j) {
      ASSERT_EQ(words[j / 8] >> (j % 8 * 4) & 15, Nvfp4Code(values[j], m)) << values[j] << " / " << m;
    }
  }
  EXPECT_GT(guessed, 150000);
}

// Every largest code with every other code and sign, under scales and multipliers that make ties, near ties and
// saturation; the table must also cover what weights look like, or it is of no use.
template <GroupTarget kTo>
void ExpectTableEqualsDefinition(const EncodeParams& params, float scale, uint64_t* covered) {
  for (uint32_t largest = 0; largest < 128; ++largest) {
    cuda::Pair table[cuda::kTableEntries];
    table[largest] = cuda::NibbleEntry<kTo>(params, scale, largest);
    constexpr int kSize = cuda::kGroup<kTo>;
    for (uint32_t start = 0; start <= largest; start += kSize - 1) {
      alignas(16) uint8_t group[kSize];
      for (int i = 0; i + 1 < kSize; ++i) {
        group[i] = static_cast<uint8_t>(std::min<uint32_t>(start + static_cast<uint32_t>(i), largest) |
                                        ((static_cast<uint32_t>(i) + start) % 3 == 0 ? 0x80 : 0));
      }
      group[kSize - 1] = static_cast<uint8_t>(largest | 0x80);
      alignas(16) uint8_t codes[kSize / 2], wanted[kSize / 2];
      uint8_t byte = 0, wanted_byte = 0;
      if (!cuda::EncodeByTable<kTo>(cuda::LoadWords<kSize / 4>(group), table, codes, &byte)) continue;
      ++*covered;
      DeviceRun run{};
      run.from.codec = Codec::kFp8Block;
      run.from.data = group;
      run.from.scales = reinterpret_cast<const uint8_t*>(&scale);
      run.from.rows = 1;
      run.from.cols = kSize;
      run.from.block_width = kSize;
      run.codes = wanted;
      run.scales = &wanted_byte;
      Tally tally;
      cuda::EncodeGroupByDefinition<kTo>(run, params, 0, 0, &tally);
      ASSERT_EQ(byte, wanted_byte) << scale << " largest " << largest;
      ASSERT_EQ(Hex({codes, codes + kSize / 2}), Hex({wanted, wanted + kSize / 2})) << scale << " largest " << largest;
    }
  }
}

TEST(NibbleTable, EveryCodeUnderEveryLargestCode) {
  std::mt19937_64 random(7);
  uint64_t covered = 0, tables = 0;
  for (int i = 0; i < 400; ++i) {
    float scale = Random(&random, i % 4 == 0 ? 37 : 110, i % 4 == 0 ? 97 : 12);
    if (i % 5 == 0) scale = FloatFromBits(FloatBits(scale) & 0xFFF00000u);  // few bits: ties
    EncodeParams params;
    params.encoding.via_bf16 = i % 2 == 1;
    const float above[] = {1.0f, 1.75f, 2.0f, 16.0f, 1000.0f};
    params.global.multiplier = scale * (448.0f / 2688.0f) * above[i % 5];
    params.global.amax = 2688.0f * params.global.multiplier;
    ExpectTableEqualsDefinition<GroupTarget::kNvfp4Max>(params, scale, &covered);
    for (const ScaleRule rule : {ScaleRule::kRceil, ScaleRule::kFloor, ScaleRule::kEven, ScaleRule::kCeil}) {
      params.encoding.codec = Codec::kMxfp4;
      params.encoding.rule = rule;
      params.encoding.ties = (i / 2) % 2 == 1 ? Ties::kTowardZero : Ties::kEven;
      ExpectTableEqualsDefinition<GroupTarget::kMxfp4>(params, scale, &covered);
    }
    tables += 5;
    if (HasFailure()) return;
  }
  EXPECT_GT(covered, tables * 120);
}

// Weights of 128 x 128 blocks over several tiles and more rows than one tile has.
TEST(NibbleTable, WholeTilesOfBlocks) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const uint32_t widths[] = {128, 64, 48, 256, 128, 512};
    const uint64_t rows = 140, cols = 1184;
    std::mt19937_64 random(seed);
    AlignedBytes codes(rows * cols);
    for (uint64_t i = 0; i < rows * cols; ++i) {
      codes.data()[i] = static_cast<uint8_t>((random() & 0x80) | (0x30 + random() % 0x4F));
    }
    if (seed == 4) codes.data()[77777] = 0xFF;
    std::vector<float> scales((cols + widths[seed] - 1) / widths[seed]);
    for (float& scale : scales) scale = Random(&random, 112, 5);
    if (seed == 5) scales[1] = -0.5f;
    Band band;
    band.source = {.codec = Codec::kFp8Block, .data = codes.data(), .row_bytes = cols, .scales = scales.data()};
    band.rows = rows;
    band.cols = cols;
    band.column_block = widths[seed];
    for (const bool via_bf16 : {false, true}) {
      ExpectGridEqualsCpu({band}, cols, {.codec = Codec::kNvfp4, .via_bf16 = via_bf16}, "blocks");
      ExpectGridEqualsCpu({band}, cols, {.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil, .via_bf16 = via_bf16},
                          "blocks");
      ExpectGridEqualsCpu({band}, cols, {.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil, .via_bf16 = via_bf16},
                          "blocks");
    }
    if (HasFailure()) return;
  }
}

// ---- the exact ways

TEST(EncodeTile, PowerOfTwoBlocksOfFp8BecomeMxfp8ByMoving) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const RandomCase one(Codec::kFp8Block, Codec::kFp32, 9, 1, 50 + seed, 384);
    std::vector<uint8_t> unused = one.blank_target();
    Band band = one.BandInto(&unused);
    const uint64_t blocks =
        band.column_edges != nullptr ? band.column_blocks : (band.cols + band.column_block - 1) / band.column_block;
    std::vector<float> scales(blocks);
    for (size_t i = 0; i < blocks; ++i) {
      scales[i] = seed % 3 == 1 && i % 3 == 1 ? 0.3f : E8m0ToFloat(static_cast<uint8_t>(i * 37 + seed * 11));
    }
    band.source.scales = scales.data();
    for (const bool via_bf16 : {false, true}) {
      ExpectGridEqualsCpu({band}, 384, {.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil, .via_bf16 = via_bf16},
                          "powers " + std::to_string(seed));
    }
    if (HasFailure()) return;
  }
}

TEST(EncodeTile, Nvfp4UnderPowersOfTwoMovesToMxfp4) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    constexpr uint64_t kRows = 5, kCols = 160;
    AlignedBytes packed(kRows * kCols / 2);
    std::vector<uint8_t> scales(kRows * kCols / 16);
    for (uint8_t* p = packed.data(); p < packed.data() + kRows * kCols / 2; ++p) *p = static_cast<uint8_t>(random());
    for (size_t i = 0; i < scales.size(); i += 2) {
      scales[i] = static_cast<uint8_t>(random() % 3 == 0 ? random() % 256 : random() % 16 * 8);
      scales[i + 1] = random() % 3 == 0 ? static_cast<uint8_t>(random() % 256) : scales[i];
    }
    Band band;
    band.source = {.codec = Codec::kNvfp4,
                   .data = packed.data(),
                   .row_bytes = kCols / 2,
                   .scales = scales.data(),
                   .scale_row_bytes = kCols / 16,
                   .global = seed % 5 == 3 ? -0.5f : std::ldexp(1.0f, static_cast<int>(seed) * 4 - 140),
                   .global_divides = seed % 2 == 1};
    band.rows = kRows;
    band.cols = kCols;
    for (const bool via_bf16 : {false, true})
      ExpectGridEqualsCpu({band}, kCols, {.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil, .via_bf16 = via_bf16},
                          "powers " + std::to_string(seed));
    if (HasFailure()) return;
  }
}

TEST(EncodeTile, Mxfp4MovesToNvfp4AndToBlocksOfFp8) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    std::mt19937_64 random(seed);
    const uint64_t rows = 7, cols = seed % 2 == 0 ? 160 : 176;  // the latter ends with half a group
    const uint64_t row_bytes = cols / 2, groups = (cols + 31) / 32;
    AlignedBytes packed(rows * row_bytes);
    std::vector<uint8_t> bytes(rows * groups);
    for (uint8_t* p = packed.data(); p < packed.data() + rows * row_bytes; ++p) *p = static_cast<uint8_t>(random());
    const uint64_t span = seed % 3 == 0 ? 18 : 15;
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(100 + random() % span);
    const uint64_t zero_row = seed % rows;  // a group of zeros with any byte, far below, far above or NaN
    for (uint64_t i = 0; i < 16; ++i) packed.data()[zero_row * row_bytes + 16 + i] = seed % 2 == 0 ? 0 : 0x88;
    bytes[zero_row * groups + 1] = static_cast<uint8_t>(seed % 5 == 4 ? 255 : seed % 5 * 60);
    Band band;
    band.source = {.codec = Codec::kMxfp4,
                   .data = packed.data(),
                   .row_bytes = row_bytes,
                   .scales = bytes.data(),
                   .scale_row_bytes = groups};
    band.rows = rows;
    band.cols = cols;
    Encoding encoding{.codec = Codec::kNvfp4};
    const EncodeImplementation cpu = EncodeImplementations()[0];
    const Nvfp4Global global = GlobalOf({band}, cols, encoding, cpu);
    EXPECT_TRUE(global.exact);
    for (const ScaleRule rule : {ScaleRule::kMax, ScaleRule::kFourOverSix}) {
      encoding.rule = rule;
      ExpectGridEqualsCpu({band}, cols, encoding, global, "exact " + std::to_string(seed));
    }
    encoding = {.codec = Codec::kFp8Block, .block_rows = 3, .block_cols = 64};
    ExpectGridEqualsCpu({band}, cols, encoding, "exact cells " + std::to_string(seed));
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace mimo::kernels::encode_tile_test
