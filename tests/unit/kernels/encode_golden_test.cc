// Published vectors (quantization-formats.md 4.1, 9.4 to 9.9) through EncodeRows on every implementation.
#include "tests/unit/kernels/encode_lab.h"

namespace mimo::kernels::encode_golden_test {
namespace {

std::vector<float> Padded(std::vector<float> values, size_t width) {
  values.resize(width, 0.0f);
  return values;
}

// Encodes rows of `cols` values and returns "scales codes" of each implementation, which must agree.
std::string EncodeHex(const std::vector<float>& values, uint64_t cols, const Encoding& encoding,
                      const Nvfp4Global& global = {}) {
  std::string first;
  for (const EncodeImplementation& by : EncodeImplementations()) {
    const EncodeRun run({MatrixBand(values, cols)}, cols, encoding, global, by, true);
    const std::string text = Hex(run.scales) + " " + Hex(run.codes);
    if (first.empty()) first = text;
    EXPECT_EQ(text, first) << by.name;
  }
  return first;
}

Nvfp4Global GlobalFor(float amax, ScaleRule rule) {
  Measured measured;
  measured.amax = amax;
  measured.all_mxfp4 = false;
  return ChooseNvfp4Global(measured, rule);
}

// ---- 9.4

TEST(EncodeGolden, Nvfp4MaxRule) {
  const Nvfp4Global global = GlobalFor(5.25f, ScaleRule::kMax);
  EXPECT_EQ(reference::Bits(global.multiplier), 0x3B000000u);
  const Encoding nvfp4{.codec = Codec::kNvfp4};
  EXPECT_EQ(EncodeHex({5.25f, -5.25f, 0.21875f, 0.65625f, 1.09375f, 1.53125f, 2.1875f, 3.0625f, 4.375f, -0.21875f,
                       -0.65625f, -0.0f, 0, 0.1f, 3.9375f, 4.8125f},
                      16, nvfp4, global),
            "7e f7204264860a0076");
  EXPECT_EQ(EncodeHex({0.02f, -0.02f, 0.001f, 0.003f, -0.005f, 0.007f, -0.009f, 0.011f, 0.013f, -0.015f, 0.017f,
                       -0.019f, 0.0025f, -0.0075f, 0.0125f, 0},
                      16, nvfp4, global),
            "3e f7214b5de6f6c106");
  EXPECT_EQ(EncodeHex(std::vector<float>(16), 16, nvfp4, global), "38 0000000000000000");
  EXPECT_EQ(
      EncodeHex({1e-6f, -1e-6f, 5e-7f, 5e-7f, 5e-7f, 5e-7f, 5e-7f, 5e-7f, -3e-7f, -3e-7f, -3e-7f, -3e-7f, 0, 0, 0, 0},
                16, nvfp4, global),
      "01 9100000088880000");
  EXPECT_EQ(EncodeHex({3, -2.9f, 2.8f, 2.1f, -2, 1.9f, 1.4f, -1.3f, 1, 0.9f, -0.8f, 0.6f, 0.45f, -0.3f, 0.2f, 0.05f},
                      16, nvfp4, global),
            "78 f7676ed5442b9201");
}

TEST(EncodeGolden, Nvfp4DecodesToThePublishedValues) {
  const uint8_t packed[8] = {0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE};
  const uint8_t scale = 0x3B;
  const uint32_t expected[8] = {0x00000000, 0x3C0A8C15, 0x3C8A8C15, 0x3CCFD220,
                                0x3D0A8C15, 0x3D4FD220, 0x3D8A8C15, 0x3DCFD220};
  const uint16_t expected16[8] = {0x0000, 0x3C0B, 0x3C8B, 0x3CD0, 0x3D0B, 0x3D50, 0x3D8B, 0x3DD0};
  for (const EncodeImplementation& by : EncodeImplementations()) {
    Band band;
    band.source = {.codec = Codec::kNvfp4,
                   .data = packed,
                   .row_bytes = 8,
                   .scales = &scale,
                   .scale_row_bytes = 1,
                   .global = reference::FromBits(0x3C4985F0)};
    band.rows = 1;
    band.cols = 16;
    uint32_t out[16];
    uint16_t out16[16];
    band.target = {.codec = Codec::kFp32, .data = out, .row_bytes = 64};
    EXPECT_EQ(ConvertBandsWith(*by.kernels, {&band, 1}, 1), Anomalies{});
    band.target = {.codec = Codec::kBf16, .data = out16, .row_bytes = 32};
    EXPECT_EQ(ConvertBandsWith(*by.kernels, {&band, 1}, 1), Anomalies{});
    for (size_t i = 0; i < 16; ++i) {
      EXPECT_EQ(out[i], expected[i % 8] | (i < 8 ? 0 : 0x80000000)) << by.name << " " << i;
      EXPECT_EQ(out16[i], expected16[i % 8] | (i < 8 ? 0 : 0x8000)) << by.name << " " << i;
    }
  }
}

// ---- 9.5

const std::vector<float> kF = {6,    -4.5f, 4.4f, 3, 1.5f, -1.5f, 0.75f, 0.7f,
                               4.6f, -4.4f, 0.1f, 0, 2.2f, -2.9f, 3.1f,  4.5f};
const std::vector<float> kG = {6, -4, 4.1f, 3, 1, -1, 0.5f, 0.6f, 1.5f, -1.6f, 0.1f, 0, 2.2f, -2.9f, 3.1f, 4};
const std::vector<float> kE = {3, -2.9f, 2.8f,  2.1f, -2,    1.9f,  1.4f, -1.3f,
                               1, 0.9f,  -0.8f, 0.6f, 0.45f, -0.3f, 0.2f, 0.05f};

TEST(EncodeGolden, Nvfp4FourOverSixChoosesTheLesserError) {
  const Nvfp4Global global = GlobalFor(12, ScaleRule::kFourOverSix);
  EXPECT_EQ(reference::Bits(global.multiplier), 0x3C000000u);
  const Encoding encoding{.codec = Codec::kNvfp4, .rule = ScaleRule::kFourOverSix};
  EXPECT_EQ(EncodeHex(kF, 16, encoding, global), "74 d645a211d500c354");
  EXPECT_EQ(EncodeHex(kG, 16, encoding, global), "70 e756a211b300d465");
  const EncodeRun run({MatrixBand(kF, 16)}, 16, encoding, global, EncodeImplementations().back(), true);
  EXPECT_NEAR(run.errors[0].error, 0.0650, 1e-4);
}

TEST(EncodeGolden, Nvfp4SweepFindsTheBestCode) {
  const Encoding encoding{.codec = Codec::kNvfp4, .rule = ScaleRule::kSweep};
  const Nvfp4Global global = GlobalFor(12, ScaleRule::kSweep);
  EXPECT_EQ(EncodeHex(kE, 16, encoding, global).substr(0, 2), "6e");
  EXPECT_EQ(EncodeHex(kF, 16, encoding, global).substr(0, 2), "7a");
  EXPECT_EQ(EncodeHex(kG, 16, encoding, global).substr(0, 2), "76");
  EXPECT_EQ(EncodeHex(std::vector<float>(16), 16, encoding, global), "01 0000000000000000");
}

// ---- 9.6, 9.7

TEST(EncodeGolden, Mxfp4RulesAndTies) {
  const std::vector<float> m = {7,    -6.5f, 5,    3.5f,  2.5f,  1.75f, 1.25f, 0.75f,  0.25f, -0.25f, -0.1f,
                                0,    6,     -6,   4.5f,  -3.5f, 0.3f,  -0.6f, 0.9f,   -1.2f, 1.8f,   -2.1f,
                                2.7f, -3.3f, 4.2f, -4.8f, 5.4f,  -5.6f, 0.05f, -0.05f, 1,     -1};
  const auto hex = [&](ScaleRule rule, Ties ties) {
    return EncodeHex(m, 32, {.codec = Codec::kMxfp4, .rule = rule, .ties = ties});
  };
  EXPECT_EQ(hex(ScaleRule::kFloor, Ties::kEven), "7f f76644228008f7e691a2c4d5e6f780a2");
  EXPECT_EQ(hex(ScaleRule::kFloor, Ties::kTowardZero), "7f f75634128008f7d691a2c4d5e6f780a2");
  for (const ScaleRule rule : {ScaleRule::kRceil, ScaleRule::kEven, ScaleRule::kCeil}) {
    EXPECT_EQ(hex(rule, Ties::kEven), "80 d64422118008d5c49091a2b3c4d58091");
  }
  EXPECT_EQ(hex(ScaleRule::kRceil, Ties::kTowardZero), "80 d53422118008d5b49091a2b3c4d58091");
}

TEST(EncodeGolden, Mxfp8SaturatesUnderFloorOnly) {
  const std::vector<float> values = Padded({500, -448, 300, 100, -33, 17, 1.1f, 0.01f}, 32);
  const std::string zeros(48, '0');
  EXPECT_EQ(EncodeHex(values, 32, {.codec = Codec::kMxfp8, .rule = ScaleRule::kFloor}), "7f 7efe796ce0583905" + zeros);
  EXPECT_EQ(EncodeHex(values, 32, {.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil}), "80 78f67164d8503103" + zeros);
}

TEST(EncodeGolden, MxScaleBytesByRule) {
  struct Row {
    float amax;
    int fp4[4];  // floor, even, ceil, rceil
    int fp8[4];
  };
  const Row rows[] = {
      {0, {0, 0, 0, 0}, {0, 0, 0, 0}},
      {1, {125, 125, 125, 125}, {119, 119, 119, 119}},
      {3, {126, 126, 127, 126}, {120, 120, 121, 120}},
      {4, {127, 127, 127, 127}, {121, 121, 121, 121}},
      {5, {127, 127, 128, 127}, {121, 121, 122, 121}},
      {6, {127, 127, 128, 127}, {121, 121, 122, 121}},
      {6.5f, {127, 127, 128, 128}, {121, 121, 122, 121}},
      {7, {127, 128, 128, 128}, {121, 121, 122, 121}},
      {7.999f, {127, 128, 128, 128}, {121, 122, 122, 122}},
      {8, {128, 128, 128, 128}, {122, 122, 122, 122}},
      {150, {132, 132, 133, 132}, {126, 126, 127, 126}},
      {448, {133, 134, 134, 134}, {127, 127, 128, 127}},
      {480, {133, 134, 134, 134}, {127, 127, 128, 128}},
      {500, {133, 134, 134, 134}, {127, 128, 128, 128}},
      {512, {134, 134, 134, 134}, {128, 128, 128, 128}},
      {1e-38f, {0, 0, 0, 0}, {0, 0, 0, 0}},
      {3e38f, {252, 253, 253, 253}, {246, 246, 247, 247}},
  };
  const ScaleRule rules[] = {ScaleRule::kFloor, ScaleRule::kEven, ScaleRule::kCeil, ScaleRule::kRceil};
  for (const Row& row : rows) {
    for (size_t i = 0; i < 4; ++i) {
      const std::vector<float> values = Padded({-row.amax}, 32);
      const std::string fp4 = EncodeHex(values, 32, {.codec = Codec::kMxfp4, .rule = rules[i]});
      const std::string fp8 = EncodeHex(values, 32, {.codec = Codec::kMxfp8, .rule = rules[i]});
      EXPECT_EQ(std::stoi(fp4.substr(0, 2), nullptr, 16), row.fp4[i]) << row.amax << " rule " << i;
      EXPECT_EQ(std::stoi(fp8.substr(0, 2), nullptr, 16), row.fp8[i]) << row.amax << " rule " << i;
    }
  }
}

// ---- 9.8

// The published blocks are 2 x 2; ours are at least 32 wide, so each column block is spread over 32 columns.
TEST(EncodeGolden, BlockFp8WithFp32AndPowerOfTwoScales) {
  const float input[4][4] = {{1, -2, 0.01f, 0.02f}, {3, 0.5f, -0.03f, 0.005f}, {0, 0, 0.001f, 448}, {0, 0, -7, 0.1f}};
  std::vector<float> values(4 * 64);
  for (size_t row = 0; row < 4; ++row) {
    for (size_t col = 0; col < 4; ++col) values[64 * row + col / 2 * 32 + col % 2] = input[row][col];
  }
  const auto expect = [&](bool power, const std::string& codes, const std::string& scales) {
    const std::string text =
        EncodeHex(values, 64, {.codec = Codec::kFp8Block, .block_rows = 2, .block_cols = 32, .power_of_two = power});
    EXPECT_EQ(text.substr(0, 32), scales);
    std::string found;
    for (size_t row = 0; row < 4; ++row) {
      for (size_t col = 0; col < 4; ++col) found += text.substr(33 + 2 * (64 * row + col / 2 * 32 + col % 2), 2);
    }
    EXPECT_EQ(found, codes);
  };
  expect(false, "71f971797e69fe690000017e0000ce1d", "b76ddb3b2d6f8c38c5d720270000803f");
  expect(true, "70f86a727c68f7620000017e0000ce1d", "0000003c00000039000080340000803f");
}

// Made in torch by the published rule of Neuron's row scales: s = clamp(amax / 240, min=1e-10), q = E4M3(x / s).
TEST(EncodeGolden, NeuronRowScales) {
  std::vector<float> values(4 * 32);
  const auto fill = [&](size_t row, std::initializer_list<float> x) {
    std::copy(x.begin(), x.end(), values.begin() + static_cast<ptrdiff_t>(32 * row));
  };
  fill(0, {1, -2, 0.01f, 0.02f, 3, 0.5f, -0.03f, 0.005f, 2.9f, -2.95f, 1.37f, 0});
  fill(1, {1e-12f, -2e-9f, 3e-10f, 1e-9f, 2.3e-8f, -2.4e-8f, 5e-11f, 0});
  fill(3, {448, -447, 239.5f, 100, -3.14159f, 0.7f, -0.001f, 17, 232, -231.9f});
  const std::vector<std::string> codes = {"6af2353d7762c22d76f76e", "05da445276f730", "", "77f77065bd2c805170f0"};
  std::string want = "cdcc4c3cffe6db2effe6db2eefeeee3f ";
  for (const std::string& row : codes) want += row + std::string(64 - row.size(), '0');
  EXPECT_EQ(EncodeHex(values, 32, {.codec = Codec::kFp8Block, .block_rows = 1, .block_cols = 32, .neuron = true}),
            want);
  // The same rows in cells far wider than they are.
  EXPECT_EQ(EncodeHex(values, 32, {.codec = Codec::kFp8Block, .block_rows = 1, .block_cols = 24576, .neuron = true}),
            want);
}

// Infinite values saturate to 240, not to 448; the anomaly is counted.
TEST(EncodeGolden, NeuronCodesEndAt240) {
  const float inf = std::numeric_limits<float>::infinity();
  const Encoding neuron{.codec = Codec::kFp8Block, .block_rows = 1, .block_cols = 32, .neuron = true};
  EXPECT_EQ(EncodeHex(Padded({240, inf, -inf, 1}, 32), 32, neuron), "0000803f 7777f738" + std::string(56, '0'));
}

// ---- 9.9

TEST(EncodeGolden, Mxfp4ScalesAsE4m3) {
  std::vector<uint8_t> packed(5 * 16, 0x21), bytes = {127, 120, 110, 109, 127};
  Band band;
  band.source = {.codec = Codec::kMxfp4, .data = packed.data(), .row_bytes = 48, .scales = bytes.data()};
  band.source.scale_row_bytes = 3;
  band.rows = 1;
  band.cols = 96;
  for (const EncodeImplementation& by : EncodeImplementations()) {
    const Encoding nvfp4{.codec = Codec::kNvfp4};
    const Nvfp4Global global = GlobalOf({band}, 96, nvfp4, by);
    ASSERT_TRUE(global.exact);
    EXPECT_EQ(reference::Bits(global.multiplier), 0x3B800000u);
    const EncodeRun run({band}, 96, nvfp4, global, by, false);
    EXPECT_EQ(Hex(run.scales), "787840400101");
    EXPECT_EQ(run.counts.exact_blocks, 6u);
    Band wider = band;
    wider.cols = 128;
    EXPECT_FALSE(GlobalOf({wider}, 128, nvfp4, by).exact);
  }
}

TEST(EncodeGolden, NanAndInfinity) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const std::vector<float> values = Padded({nan, -nan, inf, -inf, 3, -0.0f, -1e-9f}, 32);
  const Nvfp4Global global = GlobalFor(3, ScaleRule::kMax);
  EXPECT_EQ(EncodeHex(values, 32, {.codec = Codec::kNvfp4}, global), "7e38 f7f7070800000000" + std::string(16, '0'));
  EXPECT_EQ(EncodeHex(values, 32, {.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil}),
            "7e f7f7070800000000" + std::string(16, '0'));
  EXPECT_EQ(EncodeHex(values, 32, {.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil}),
            "78 7fff7efe7c8080" + std::string(50, '0'));
  const EncodeRun run({MatrixBand(values, 32)}, 32, {.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil}, {},
                      EncodeImplementations().back(), true);
  EXPECT_EQ(run.counts.anomalies.nan_codes, 2u);
  EXPECT_EQ(run.counts.anomalies.infinities, 2u);
  EXPECT_EQ(run.errors[0].nan_codes, 2u);
  EXPECT_EQ(run.errors[0].elements, 28u);
}

// ---- 7.2

double Sqnr(const std::vector<float>& values, uint64_t cols, const Encoding& encoding) {
  const EncodeImplementation by = EncodeImplementations().back();
  const std::vector<Band> bands = {MatrixBand(values, cols)};
  const EncodeRun run(bands, cols, encoding, GlobalOf(bands, cols, encoding, by), by, true);
  ErrorSums total;
  for (const ErrorSums& sums : run.errors) total += sums;
  EXPECT_EQ(total.elements, values.size());
  EXPECT_GT(total.product / std::sqrt(total.source * total.target), 0.98);
  return 10 * std::log10(total.source / total.error);
}

TEST(EncodeGolden, SignalToNoiseOnGaussianAndUniformWeights) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> gaussian(512 * 1024), flat(512 * 1024);
  // Of this magnitude, as the published ones: it decides how power-of-two scales fit.
  for (float& x : gaussian) x = reference::Bf16Rounded(0.02f * normal(random));
  for (float& x : flat) x = reference::Bf16Rounded(0.02f * uniform(random));
  struct Row {
    Encoding encoding;
    double gaussian, flat;  // dB; 0: not published
  };
  const Row rows[] = {
      {{.codec = Codec::kFp8Block}, 31.55, 31.86},
      {{.codec = Codec::kFp8Block, .power_of_two = true}, 31.50, 31.24},
      {{.codec = Codec::kMxfp8, .rule = ScaleRule::kRceil}, 31.50, 31.24},
      {{.codec = Codec::kMxfp8, .rule = ScaleRule::kEven}, 31.11, 0},
      {{.codec = Codec::kMxfp8, .rule = ScaleRule::kFloor}, 30.67, 0},
      {{.codec = Codec::kNvfp4, .rule = ScaleRule::kMax}, 20.43, 19.88},
      {{.codec = Codec::kNvfp4, .rule = ScaleRule::kFourOverSix}, 21.21, 21.17},
      {{.codec = Codec::kNvfp4, .rule = ScaleRule::kSweep}, 21.80, 21.07},
      {{.codec = Codec::kMxfp4, .rule = ScaleRule::kFloor}, 18.86, 0},
      {{.codec = Codec::kMxfp4, .rule = ScaleRule::kEven}, 19.00, 0},
      {{.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil}, 18.53, 18.39},
      {{.codec = Codec::kMxfp4, .rule = ScaleRule::kCeil}, 17.29, 17.63},
  };
  for (const Row& row : rows) {
    EXPECT_NEAR(Sqnr(gaussian, 1024, row.encoding), row.gaussian, 0.06) << Label(row.encoding);
    if (row.flat == 0) continue;
    EXPECT_NEAR(Sqnr(flat, 1024, row.encoding), row.flat, 0.06) << Label(row.encoding);
  }
  // Not published: between the max rule and the sweep, which knows all its candidates.
  const double mse = Sqnr(gaussian, 1024, {.codec = Codec::kNvfp4, .rule = ScaleRule::kMse});
  EXPECT_GT(mse, 21.2);
  EXPECT_LT(mse, 21.85);
  const double toward_zero =
      Sqnr(gaussian, 1024, {.codec = Codec::kMxfp4, .rule = ScaleRule::kRceil, .ties = Ties::kTowardZero});
  EXPECT_NEAR(toward_zero, 18.53, 0.2);
  Encoding via{.codec = Codec::kNvfp4};
  via.via_bf16 = true;
  EXPECT_EQ(Sqnr(gaussian, 1024, via), Sqnr(gaussian, 1024, {.codec = Codec::kNvfp4}));
}

// Section 5: from FP8 the bytes differ a little by the way through BF16, the quality does not.
TEST(EncodeGolden, ThroughBf16ChangesBytesNotQuality) {
  std::mt19937_64 random(6);
  std::normal_distribution<float> normal;
  std::vector<uint8_t> codes(256 * 1024);
  for (uint8_t& code : codes) {
    code = static_cast<uint8_t>(reference::E4m3Of(normal(random) * 100, normal(random)));
  }
  std::vector<float> scales(8);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = 1e-4f * (1 + static_cast<float>(i) / 10);
  Band band;
  band.source = {.codec = Codec::kFp8Block, .data = codes.data(), .row_bytes = 1024, .scales = scales.data()};
  band.rows = 256;
  band.cols = 1024;
  const EncodeImplementation by = EncodeImplementations().back();
  double sqnr[2];
  std::vector<uint8_t> bytes[2];
  for (size_t i = 0; i < 2; ++i) {
    Encoding encoding{.codec = Codec::kNvfp4};
    encoding.via_bf16 = i == 1;
    const EncodeRun run({band}, 1024, encoding, GlobalOf({band}, 1024, encoding, by), by, true);
    ErrorSums total;
    for (const ErrorSums& sums : run.errors) total += sums;
    sqnr[i] = 10 * std::log10(total.source / total.error);
    bytes[i] = run.codes;
  }
  size_t differ = 0;
  for (size_t i = 0; i < bytes[0].size(); ++i) {
    differ += ((bytes[0][i] ^ bytes[1][i]) & 15) != 0;
    differ += ((bytes[0][i] ^ bytes[1][i]) >> 4) != 0;
  }
  EXPECT_GT(differ, 100u);
  EXPECT_LT(static_cast<double>(differ), 0.03 * static_cast<double>(codes.size()));
  EXPECT_NEAR(sqnr[0], sqnr[1], 0.02);
}

}  // namespace
}  // namespace mimo::kernels::encode_golden_test
