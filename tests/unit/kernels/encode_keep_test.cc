// Encoding under scales that are there already (EncodeJob::keep): decoded codes come back as they were, a change moves
// the codes of its own elements alone, and a block is made anew just when a value of it does not fit. Every
// implementation, the GPU's threads run on the host included, against the element-by-element reference.
#include <cmath>
#include <limits>

#include "tests/unit/kernels/encode_grid.h"

namespace mimo::kernels::encode_keep_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<uint8_t> BytesOf(const std::vector<float>& scales) {
  std::vector<uint8_t> bytes(4 * scales.size());
  std::memcpy(bytes.data(), scales.data(), bytes.size());
  return bytes;
}

Band Bf16Band(const std::vector<uint16_t>& values, uint64_t cols) {
  Band band;
  band.source = {.codec = Codec::kBf16, .data = values.data(), .row_bytes = 2 * cols};
  band.rows = values.size() / cols;
  band.cols = cols;
  return band;
}

std::vector<uint16_t> ToBf16(Band band) {
  std::vector<uint16_t> values(band.rows * band.cols);
  band.target = {.codec = Codec::kBf16, .data = values.data(), .row_bytes = 2 * band.cols};
  const Anomalies anomalies = ConvertBands(std::span(&band, 1));
  EXPECT_EQ(anomalies, Anomalies());
  return values;
}

void ExpectAllEqualReference(const std::vector<Band>& bands, uint64_t cols, const Encoding& encoding,
                             const std::vector<uint8_t>& keep, const std::string& what) {
  const reference::Encoded expected = reference::Encoder(bands, cols, encoding, {}, &keep).result();
  for (const EncodeImplementation& by : EncodeImplementations()) {
    for (const uint64_t gap : {0, 5}) {
      const std::string here = by.name + " " + what + " to " + Label(encoding);
      const EncodeRun run(bands, cols, encoding, {}, by, true, gap, &keep);
      ASSERT_EQ(Hex(run.scales), Hex(expected.scales)) << here;
      ASSERT_EQ(Hex(run.codes), Hex(expected.codes)) << here;
      ASSERT_EQ(run.counts, expected.counts) << here;
      for (size_t i = 0; i < run.errors.size(); ++i) {
        ASSERT_EQ(run.errors[i].elements, expected.errors[i].elements) << here;
        ASSERT_EQ(run.errors[i].max_error, expected.errors[i].max_error) << here;
        ASSERT_EQ(run.errors[i].saturated, expected.errors[i].saturated) << here;
        if (!std::isfinite(expected.errors[i].error)) continue;
        ASSERT_NEAR(run.errors[i].error, expected.errors[i].error, 1e-12 * expected.errors[i].error) << here;
      }
    }
  }
  ExpectGridEqualsCpu(bands, cols, encoding, {}, what, &keep);
}

// ---- what was decoded comes back

// All finite codes under scales of every exponent whose values BF16 holds without loss of range.
TEST(Keep, EveryE4m3CodeComesBackUnderEveryScale) {
  constexpr uint64_t kCols = 96, kBlock = 32, kRows = 3;  // blocks of 96 codes: rows of blocks of 288
  std::mt19937_64 random(3);
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  for (uint32_t exponent = 10; exponent < 245; ++exponent) {  // 2^-117 .. 2^117
    for (int i = 0; i < 3; ++i) {
      scales.push_back(FloatFromBits(exponent << 23 | static_cast<uint32_t>(random() & (i == 0 ? 0 : 0x7FFFFF))));
    }
  }
  const uint64_t rows = scales.size() / 3 * kRows;
  for (uint64_t at = 0; at < rows * kCols; ++at) {  // each block has each magnitude, and both signs in turn
    uint8_t code = static_cast<uint8_t>(at * 37 + at / 288 * 128);
    if ((code & 0x7F) == 0x7F) code ^= 0x55;
    codes.push_back(code);
  }
  const Encoding encoding{.codec = Codec::kFp8Block, .block_rows = kRows, .block_cols = kBlock};
  std::vector<uint16_t> values;
  for (uint64_t row = 0; row < rows; ++row) {
    Band band;
    band.source = {.codec = Codec::kFp8Block,
                   .data = codes.data() + row * kCols,
                   .row_bytes = kCols,
                   .scales = scales.data() + row / kRows * 3};
    band.rows = 1;
    band.cols = kCols;
    band.column_block = kBlock;
    band.column_blocks = 3;
    const std::vector<uint16_t> one = ToBf16(band);
    values.insert(values.end(), one.begin(), one.end());
  }
  const std::vector<uint8_t> keep = BytesOf(scales);
  const Band band = Bf16Band(values, kCols);
  for (const EncodeImplementation& by : EncodeImplementations()) {
    const EncodeRun run({band}, kCols, encoding, {}, by, false, 0, &keep);
    EXPECT_EQ(Hex(run.codes), Hex(codes)) << by.name;
    EXPECT_EQ(Hex(run.scales), Hex(keep)) << by.name;
    EXPECT_EQ(run.counts.kept_blocks, scales.size()) << by.name;
  }
  ExpectGridEqualsCpu({band}, kCols, encoding, {}, "codes", &keep);
}

// All nibbles, the negative zero too, under all bytes whose values BF16 holds.
TEST(Keep, EveryNibbleComesBackUnderEveryByte) {
  std::vector<uint8_t> codes, bytes;
  for (unsigned byte = 0; byte < 255; ++byte) {
    const unsigned most = byte < 253 ? 7 : byte == 253 ? 5 : 3;
    for (unsigned start = 0; start < 16; ++start) {
      bytes.push_back(static_cast<uint8_t>(byte));
      for (unsigned i = 0; i < 32; i += 2) {
        const auto nibble = [&](unsigned at) { return ((at & 7) <= most ? at & 7 : 0) | (at & 8); };
        codes.push_back(static_cast<uint8_t>(nibble(start + i / 2) | nibble(3 * start + 5 * i + i / 8) << 4));
      }
    }
  }
  Band band;
  band.source = {
      .codec = Codec::kMxfp4, .data = codes.data(), .row_bytes = 16, .scales = bytes.data(), .scale_row_bytes = 1};
  band.rows = bytes.size();
  band.cols = 32;
  const std::vector<uint16_t> values = ToBf16(band);
  const Band from = Bf16Band(values, 32);
  for (const ScaleRule rule : {ScaleRule::kRceil, ScaleRule::kFloor}) {
    for (const Ties ties : {Ties::kEven, Ties::kTowardZero}) {
      const Encoding encoding{.codec = Codec::kMxfp4, .rule = rule, .ties = ties};
      for (const EncodeImplementation& by : EncodeImplementations()) {
        const EncodeRun run({from}, 32, encoding, {}, by, false, 0, &bytes);
        EXPECT_EQ(Hex(run.codes), Hex(codes)) << by.name;
        EXPECT_EQ(Hex(run.scales), Hex(bytes)) << by.name;
        EXPECT_EQ(run.counts.kept_blocks, bytes.size()) << by.name;
      }
      ExpectGridEqualsCpu({from}, 32, encoding, {}, "nibbles", &bytes);
    }
  }
}

// ---- limits

// One block of 32 ones with `x` among them; whether it keeps 1 (MXFP4: 2^0).
bool Kept(Encoding encoding, float x) {
  std::vector<float> values(32, 1.0f);
  values[13] = x;
  encoding.block_rows = 1;
  encoding.block_cols = 32;
  const std::vector<uint8_t> keep = encoding.codec == Codec::kFp8Block ? BytesOf({1.0f}) : std::vector<uint8_t>{127};
  std::vector<uint64_t> kept;
  for (const EncodeImplementation& by : EncodeImplementations()) {
    const EncodeRun run({MatrixBand(values, 32)}, 32, encoding, {}, by, false, 0, &keep);
    EXPECT_EQ(run.scales == keep, run.counts.kept_blocks == 1) << by.name;
    kept.push_back(run.counts.kept_blocks);
  }
  EXPECT_EQ(std::count(kept.begin(), kept.end(), kept[0]), static_cast<ptrdiff_t>(kept.size())) << x;
  return kept[0] == 1;
}

TEST(Keep, FitsUpToTheLastValueThatRoundsToACode) {
  const Encoding fp8{.codec = Codec::kFp8Block};
  const Encoding power{.codec = Codec::kFp8Block, .power_of_two = true};
  const Encoding neuron{.codec = Codec::kFp8Block, .neuron = true};
  const Encoding four{.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil};
  for (const float sign : {1.0f, -1.0f}) {
    for (const Encoding& encoding : {fp8, power}) {
      EXPECT_TRUE(Kept(encoding, sign * 464.0f));
      EXPECT_FALSE(Kept(encoding, sign * std::nextafter(464.0f, kInfinity)));
    }
    EXPECT_TRUE(Kept(neuron, sign * std::nextafter(248.0f, 0.0f)));
    EXPECT_FALSE(Kept(neuron, sign * 248.0f));
    EXPECT_TRUE(Kept(four, sign * std::nextafter(7.0f, 0.0f)));
    EXPECT_FALSE(Kept(four, sign * 7.0f));
  }
  for (const Encoding& encoding : {fp8, power, neuron, four}) {
    for (const float odd : {kInfinity, -kInfinity, std::nanf("")}) EXPECT_FALSE(Kept(encoding, odd));
    EXPECT_TRUE(Kept(encoding, 0.0f));
  }
}

TEST(Keep, BadScalesAreNeverKeptAndZeroBlocksKeepTheirs) {
  const std::vector<float> zeros(64, 0.0f);
  const Encoding fp8{.codec = Codec::kFp8Block, .block_rows = 1, .block_cols = 32};
  const float fresh = 1e-12f / 448.0f;
  for (const EncodeImplementation& by : EncodeImplementations()) {
    for (const float bad : {0.0f, -0.0f, -1.0f, kInfinity, std::nanf("")}) {
      const std::vector<uint8_t> keep = BytesOf({bad, 0.25f});
      const EncodeRun run({MatrixBand(zeros, 64)}, 64, fp8, {}, by, false, 0, &keep);
      EXPECT_EQ(Hex(run.scales), Hex(BytesOf({fresh, 0.25f}))) << by.name << " " << bad;
      EXPECT_EQ(run.counts.kept_blocks, 1u);
    }
    const std::vector<uint8_t> bytes{255, 9};
    const EncodeRun run({MatrixBand(zeros, 64)}, 64, {.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil}, {}, by, false,
                        0, &bytes);
    EXPECT_EQ(run.scales, (std::vector<uint8_t>{0, 9})) << by.name;
    EXPECT_EQ(run.counts.kept_blocks, 1u);
  }
}

// ---- changes

TEST(Keep, AChangeMovesItsOwnCodeAndALargeOneItsOwnBlock) {
  constexpr uint64_t kRows = 40, kCols = 224;
  std::mt19937_64 random(8);
  for (const bool four : {false, true}) {
    const Encoding encoding = four ? Encoding{.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil}
                                   : Encoding{.codec = Codec::kFp8Block, .block_rows = 16, .block_cols = 64};
    const EncodeImplementation by = EncodeImplementations().back();
    std::vector<float> values(kRows * kCols);
    for (float& x : values) x = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 512.0f;
    const EncodeRun before({MatrixBand(values, kCols)}, kCols, encoding, {}, by, false);
    const uint64_t per_row = before.scales.size() / (four ? kRows : 3) / (four ? 1 : 4);
    const auto block_of = [&](uint64_t at) { return four ? at / 32 : at / kCols / 16 * per_row + at % kCols / 64; };
    const auto code_of = [&](const EncodeRun& run, uint64_t at) {
      return four ? run.codes[at / 2] >> (at % 2 * 4) & 15 : run.codes[at];
    };
    const auto scale_of = [&](const EncodeRun& run, uint64_t block) {
      const size_t size = four ? 1 : 4;
      return Hex({run.scales.begin() + static_cast<ptrdiff_t>(block * size),
                  run.scales.begin() + static_cast<ptrdiff_t>((block + 1) * size)});
    };
    for (int round = 0; round < 20; ++round) {
      const uint64_t changed = random() % values.size(), large = random() % values.size();
      std::vector<float> after = values;
      after[changed] = -after[changed] * 0.75f;
      after[large] = 3000.0f;
      const EncodeRun run({MatrixBand(after, kCols)}, kCols, encoding, {}, by, false, 0, &before.scales);
      EXPECT_EQ(run.counts.kept_blocks, run.counts.blocks - 1);
      for (uint64_t at = 0; at < values.size(); ++at) {
        if (block_of(at) == block_of(large)) continue;
        ASSERT_EQ(scale_of(run, block_of(at)), scale_of(before, block_of(at)));
        if (at == changed) continue;
        // A zero that the fresh rule wrote without its sign gets it.
        if (four && values[at] == 0) continue;
        ASSERT_EQ(code_of(run, at), code_of(before, at)) << at << " changed " << changed << " large " << large;
      }
      EXPECT_NE(scale_of(run, block_of(large)), scale_of(before, block_of(large)));
    }
  }
}

// Scales near those of the rule, and hostile ones.
std::vector<uint8_t> NearScales(const Encoding& encoding, const std::vector<uint8_t>& fresh, std::mt19937_64* random) {
  std::vector<uint8_t> keep = fresh;
  if (encoding.codec == Codec::kMxfp4) {
    for (uint8_t& byte : keep) {
      const uint64_t choice = (*random)() % 8;
      byte = choice == 0   ? 255
             : choice == 1 ? static_cast<uint8_t>((*random)())
                           : static_cast<uint8_t>(byte + choice - 4);
    }
    return keep;
  }
  for (size_t i = 0; i < keep.size(); i += 4) {
    float scale;
    std::memcpy(&scale, &keep[i], 4);
    const float factors[] = {1, 0.5f, 2, 448.0f / 464.0f, 0.97f, 0.96f, 240.0f / 248.0f, 1e-20f, 1e20f, 0, -1};
    scale *= factors[(*random)() % std::size(factors)];
    if ((*random)() % 4 == 0) scale = FloatFromBits(FloatBits(scale) + static_cast<uint32_t>((*random)() % 3) - 1);
    if ((*random)() % 9 == 0) scale = FloatFromBits(static_cast<uint32_t>((*random)()));
    std::memcpy(&keep[i], &scale, 4);
  }
  return keep;
}

TEST(Keep, EverySourceEqualsTheReference) {
  std::mt19937_64 random(11);
  uint64_t kept = 0, blocks = 0;
  for (const Codec from : kSources) {
    for (Encoding encoding : AllEncodings()) {
      if (encoding.codec != Codec::kMxfp4 && encoding.codec != Codec::kFp8Block) continue;
      for (uint64_t seed = 0; seed < 10; ++seed) {
        const uint64_t group = encoding.codec == Codec::kFp8Block ? 1 : 32;
        const uint64_t cols = group * (1 + seed * 7919 % (600 / group));
        encoding.via_bf16 = seed % 2 == 1;
        const RandomCase one(from, Codec::kFp32, seed % 5 == 0 ? 40 : 6, 1, 700 + seed, cols);
        std::vector<uint8_t> unused = one.blank_target();
        const std::vector<Band> bands{one.BandInto(&unused)};
        const EncodeRun fresh(bands, cols, encoding, {}, EncodeImplementations()[0], false);
        const std::vector<uint8_t> keep = NearScales(encoding, fresh.scales, &random);
        const EncodeRun run(bands, cols, encoding, {}, EncodeImplementations()[0], false, 0, &keep);
        kept += run.counts.kept_blocks;
        blocks += run.counts.blocks;
        ExpectAllEqualReference(bands, cols, encoding, keep,
                                "from " + std::to_string(int(from)) + " seed " + std::to_string(seed));
        if (HasFailure()) return;
      }
    }
  }
  EXPECT_GT(kept, blocks / 5);
  EXPECT_LT(kept, blocks * 4 / 5);
}

TEST(Keep, OtherCodecsKnowNothingOfIt) {
  const std::vector<float> values(64, 1.5f);
  for (const Codec codec : {Codec::kMxfp8, Codec::kNvfp4}) {
    const Encoding encoding{.codec = codec, .rule = codec == Codec::kMxfp8 ? ScaleRule::kRceil : ScaleRule::kMax};
    const EncodeImplementation by = EncodeImplementations().back();
    const EncodeRun fresh({MatrixBand(values, 64)}, 64, encoding, {}, by, false);
    const std::vector<uint8_t> keep(fresh.scales.size(), 3);
    const EncodeRun run({MatrixBand(values, 64)}, 64, encoding, {}, by, false, 0, &keep);
    EXPECT_EQ(run.scales, fresh.scales);
    EXPECT_EQ(run.counts.kept_blocks, 0u);
  }
}

// ---- cells from several arrays

// A cell that is cut into parts is the cell of EncodeRows, under every scale, on every instruction set.
TEST(ValueCell, PartsAreEncodedAsTheWholeCellIs) {
  std::mt19937_64 random(21);
  for (int round = 0; round < 400; ++round) {
    const uint64_t rows = 1 + random() % 12, cols = 1 + random() % (round % 10 == 0 ? 5000 : 200);
    const Codec codec = std::array{Codec::kFp32, Codec::kFp16, Codec::kBf16}[random() % 3];
    const RandomCase one(codec, Codec::kFp32, 1, 1, random(), cols);
    std::vector<uint8_t> unused = one.blank_target();
    std::vector<float> line(cols), values;
    Band row = one.BandInto(&unused);
    row.rows = 1;
    row.target = {.codec = Codec::kFp32, .data = line.data(), .row_bytes = 4 * cols};
    (void)ConvertBands(std::span(&row, 1));
    for (uint64_t r = 0; r < rows; ++r) {
      std::shuffle(line.begin(), line.end(), random);
      values.insert(values.end(), line.begin(), line.end());
    }
    const Encoding encoding{.codec = Codec::kFp8Block, .block_rows = 12, .block_cols = 8192};
    const EncodeRun fresh({MatrixBand(values, cols)}, cols, encoding, {}, EncodeImplementations()[0], false);
    const std::vector<uint8_t> keep = NearScales(encoding, fresh.scales, &random);
    const bool given = random() % 4 != 0;
    const EncodeRun whole({MatrixBand(values, cols)}, cols, encoding, {}, EncodeImplementations()[0], true, 0,
                          given ? &keep : nullptr);
    const reference::Encoded slow =
        reference::Encoder({MatrixBand(values, cols)}, cols, encoding, {}, given ? &keep : nullptr).result();
    ASSERT_EQ(Hex(whole.codes), Hex(slow.codes));
    float old;
    std::memcpy(&old, keep.data(), 4);
    for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
      if (!IsaAvailable(isa)) continue;
      std::vector<uint8_t> codes(rows * cols, 0xEE);
      std::vector<ValuePart> parts;
      for (uint64_t at = 0; at < rows;) {
        const uint64_t count = 1 + random() % (rows - at);
        parts.push_back({Codec::kFp32, values.data() + at * cols, 4 * cols, codes.data() + at * cols, cols, count});
        at += count;
      }
      const ValueCellResult made = EncodeValueCell(parts, cols, given ? &old : nullptr, isa);
      ASSERT_EQ(Hex(BytesOf({made.scale})), Hex(whole.scales)) << IsaName(isa);
      ASSERT_EQ(Hex(codes), Hex(whole.codes)) << IsaName(isa);
      ASSERT_EQ(made.kept, whole.counts.kept_blocks == 1) << IsaName(isa);
      ASSERT_EQ(made.anomalies, whole.counts.anomalies) << IsaName(isa);
      const ErrorSums& sums = whole.errors[0];
      ASSERT_EQ(made.amax, static_cast<float>(sums.amax));
      if (!std::isfinite(sums.error)) continue;
      ASSERT_EQ(made.squared_error, sums.error) << IsaName(isa);
      ASSERT_EQ(made.squared_sum, sums.source) << IsaName(isa);
      ASSERT_EQ(made.max_error, static_cast<float>(sums.max_error)) << IsaName(isa);
    }
  }
}

// FP16 and BF16 parts, with gaps between their rows.
TEST(ValueCell, PartsMayBeOfAnyValueCodec) {
  const std::vector<uint16_t> bf16{0x3F80, 0xC000, 0x7777, 0x4040, 0x8000, 0x7777};  // 1, -2, gap, 3, -0, gap
  const std::vector<uint16_t> fp16{0x4400, 0xB800};                                  // 4, -0.5
  std::vector<uint8_t> a(6, 0xEE), b(2, 0xEE);
  const std::vector<ValuePart> parts{{Codec::kBf16, bf16.data(), 6, a.data(), 3, 2},
                                     {Codec::kFp16, fp16.data(), 4, b.data(), 2, 1}};
  const float keep = 0.5f;
  const ValueCellResult made = EncodeValueCell(parts, 2, &keep);
  EXPECT_TRUE(made.kept);
  EXPECT_EQ(made.scale, 0.5f);
  EXPECT_EQ(Hex(a), "40c8ee4c80ee");  // 2, -4; 6, -0
  EXPECT_EQ(Hex(b), "50b8");          // 8, -1
  EXPECT_EQ(made.squared_error, 0);
  EXPECT_EQ(made.squared_sum, 1 + 4 + 9 + 16 + 0.25);
}

}  // namespace
}  // namespace mimo::kernels::encode_keep_test
