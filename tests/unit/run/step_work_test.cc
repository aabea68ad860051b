// What the executor writes, against ground truth worked out element by element.
#include "lib/run/step_work.h"

#include <gtest/gtest.h>

#include "lib/run/executor.h"
#include "tests/unit/run/lab.h"
#include "tests/unit/run/numbers.h"

namespace mimo::step_work_test {
namespace {

using lab::Bytes;

RunReport MustRun(const lab::Checkpoint& checkpoint, const Plan& plan, RunOptions options = {}) {
  options.output = checkpoint.output();
  auto report = RunPlan(PosixFileSystem(), checkpoint.catalogue, plan, options);
  EXPECT_TRUE(report.ok()) << report.error().Message();
  return report.ok() ? *report : RunReport();
}

TEST(Move, RowsOfSeveralSourcesGoWhereThePiecesSay) {
  lab::Random random(1);
  lab::Checkpoint checkpoint;
  const Bytes a = random.Any(10 * 6), b = random.Any(7 * 6), scalar = random.Any(4);
  checkpoint.AddFile("a.safetensors", {{"a", DType::kBF16, {10, 3}, a}, {"s", DType::kF32, {}, scalar}});
  checkpoint.AddFile("b.safetensors", {{"b", DType::kBF16, {7, 3}, b}, {"empty", DType::kF32, {0, 4}, {}}});
  lab::PlanBuilder builder(checkpoint);
  builder.File("x.safetensors");
  const uint32_t g = builder.Group("g");
  const uint32_t sa = builder.Source("a"), sb = builder.Source("b");
  // Rows 4..9 of a, rows 2..4 of b, row 0 of a again.
  builder.Output(g, "mixed", DType::kBF16, {10, 3}, Transform::kMove, {{sa, 4, 0, 6}, {sb, 2, 6, 3}, {sa, 0, 9, 1}});
  builder.Keep("empty");
  builder.Keep("s");
  MustRun(checkpoint, builder.Finish());

  Bytes expected;
  const auto add = [&](const Bytes& from, int row, int rows) {
    expected.insert(expected.end(), from.begin() + row * 6, from.begin() + (row + rows) * 6);
  };
  add(a, 4, 6);
  add(b, 2, 3);
  add(a, 0, 1);
  const std::string file = JoinPath(checkpoint.output(), "x.safetensors");
  EXPECT_EQ(lab::Tensor(file, "mixed"), expected);
  EXPECT_EQ(lab::Tensor(file, "s"), scalar);
  EXPECT_EQ(lab::Tensor(file, "empty"), Bytes());
}

TEST(Move, AnUnchangedFileIsCopiedByteForByteWithItsOwnHeader) {
  lab::Random random(2);
  lab::Checkpoint checkpoint;
  checkpoint.AddFile("m.safetensors",
                     {{"z", DType::kU8, {5, 3}, random.Any(15)}, {"a", DType::kBF16, {2}, random.Any(4)}});
  lab::PlanBuilder builder(checkpoint);
  builder.UnchangedFile("m.safetensors", 0);
  MustRun(checkpoint, builder.Finish());
  EXPECT_EQ(lab::ReadFile(JoinPath(checkpoint.output(), "m.safetensors")),
            lab::ReadFile(checkpoint.path("m.safetensors")));
}

constexpr int64_t kRows = 300, kCols = 200;  // no multiple of 128: ragged blocks at both edges

struct Fp8 {
  lab::Checkpoint checkpoint;
  Bytes codes, scales;
  explicit Fp8(int64_t scale_rows) {
    lab::Random random(3);
    codes = random.Codes(kRows * kCols);
    scales = random.Scales(static_cast<size_t>(scale_rows * 2));
    checkpoint.AddFile("w.safetensors", {{"w", DType::kF8E4M3, {kRows, kCols}, codes},
                                         {"w_scale_inv", DType::kF32, {scale_rows, 2}, scales}});
  }
  float Scale(int64_t scale_row, int64_t column) const {
    return lab::FloatAt(&scales[static_cast<size_t>(4 * (scale_row * 2 + column / 128))]);
  }
  template <class RowToScale>
  Bytes ExpectedBf16(RowToScale scale_row) const {
    Bytes out;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < kCols; ++c) {
        const uint16_t bits =
            lab::ToBf16(lab::E4m3(codes[static_cast<size_t>(r * kCols + c)]) * Scale(scale_row(r), c));
        out.push_back(static_cast<uint8_t>(bits));
        out.push_back(static_cast<uint8_t>(bits >> 8));
      }
    }
    return out;
  }
};

TEST(Convert, UniformFp8BlocksBecomeBf16ByDefinition) {
  Fp8 lab(3);
  lab::PlanBuilder builder(lab.checkpoint);
  builder.File("x.safetensors");
  const uint32_t source = builder.Quantized("w", "w_scale_inv");
  builder.Output(builder.Group("g"), "w", DType::kBF16, {kRows, kCols}, Transform::kConvert, {{source, 0, 0, kRows}});
  builder.Finish();
  for (const uint64_t memory : {0ull, 20'000ull, 900ull}) {  // whole, some rows, one row at a time
    RunOptions options;
    options.memory_bytes = memory;
    options.threads = memory == 0 ? 2 : 1;
    options.overwrite = std::filesystem::exists(lab.checkpoint.output());
    MustRun(lab.checkpoint, builder.plan, options);
    EXPECT_EQ(lab::Tensor(JoinPath(lab.checkpoint.output(), "x.safetensors"), "w"), lab.ExpectedBf16([](int64_t r) {
      return r / 128;
    })) << memory;
  }
}

TEST(Convert, AGridOfItsOwnTakesItsScaleRowsFromTheBands) {
  Fp8 lab(4);
  lab::PlanBuilder builder(lab.checkpoint);
  builder.File("x.safetensors");
  const uint32_t source = builder.Quantized("w", "w_scale_inv");
  SourceArray& p = builder.plan.sources[source];
  const uint32_t scale = p.scale;
  p.scale = kNone;
  p.bands = {{0, 64, scale, 2}, {64, 192, scale, 0}, {192, 193, scale, 3}, {193, kRows, scale, 1}};
  // Two halves swapped, so that pieces cut bands.
  builder.Output(builder.Group("g"), "w", DType::kBF16, {kRows, kCols}, Transform::kConvert,
                 {{source, 100, 0, 200}, {source, 0, 200, 100}});
  MustRun(lab.checkpoint, builder.Finish());
  const Bytes straight = lab.ExpectedBf16([](int64_t r) { return r < 64 ? 2 : r < 192 ? 0 : r < 193 ? 3 : 1; });
  Bytes expected(straight.begin() + 100 * kCols * 2, straight.end());
  expected.insert(expected.end(), straight.begin(), straight.begin() + 100 * kCols * 2);
  EXPECT_EQ(lab::Tensor(JoinPath(lab.checkpoint.output(), "x.safetensors"), "w"), expected);
}

TEST(Convert, Mxfp4IsTwoCodesAByteAndAPowerOfTwoPer32Columns) {
  lab::Random random(4);
  constexpr int64_t kN = 20, kK = 96;
  const Bytes codes = random.Any(kN * kK / 2);
  Bytes scales = random.Any(kN * kK / 32);
  for (uint8_t& s : scales) s = static_cast<uint8_t>(110 + s % 30);
  lab::Checkpoint checkpoint;
  checkpoint.AddFile("e.safetensors",
                     {{"e", DType::kU8, {kN, kK / 2}, codes}, {"e_scale", DType::kU8, {kN, kK / 32}, scales}});
  lab::PlanBuilder builder(checkpoint);
  builder.File("x.safetensors");
  const uint32_t source = builder.Quantized("e", "e_scale");
  builder.Output(builder.Group("g"), "e", DType::kBF16, {kN, kK}, Transform::kConvert,
                 {{source, 10, 0, 10}, {source, 0, 10, 10}});
  RunOptions options;
  options.memory_bytes = 1500;
  options.threads = 1;
  MustRun(checkpoint, builder.Finish(), options);
  Bytes expected;
  for (int64_t i = 0; i < kN; ++i) {
    const int64_t r = (i + 10) % kN;
    for (int64_t c = 0; c < kK; ++c) {
      const uint8_t byte = codes[static_cast<size_t>(r * kK / 2 + c / 2)];
      const float value = std::ldexp(lab::E2m1(c % 2 == 0 ? byte & 15 : byte >> 4),
                                     scales[static_cast<size_t>(r * kK / 32 + c / 32)] - 127);
      const uint16_t bits = lab::ToBf16(value);
      expected.push_back(static_cast<uint8_t>(bits));
      expected.push_back(static_cast<uint8_t>(bits >> 8));
    }
  }
  EXPECT_EQ(lab::Tensor(JoinPath(checkpoint.output(), "x.safetensors"), "e"), expected);
}

// Source rows 0..191 under scale rows of 128 and 64 rows; the target swaps the order to rows 64..191, 0..63 with blocks
// of 128: its first block holds rows under both scale rows, its second one is moved.
struct Relayout {
  lab::Checkpoint checkpoint;
  lab::PlanBuilder builder{checkpoint};
  Bytes codes, scales;
  uint32_t group = 0;

  explicit Relayout(bool equal_scales) {
    lab::Random random(5);
    codes = random.Codes(192 * 200);
    scales = random.Scales(4);
    if (equal_scales) std::copy_n(scales.begin(), 8, scales.begin() + 8);
    checkpoint.AddFile("w.safetensors",
                       {{"w", DType::kF8E4M3, {192, 200}, codes}, {"w_scale_inv", DType::kF32, {2, 2}, scales}});
    builder.File("x.safetensors");
    group = builder.Group("layer");
    const uint32_t w = builder.Source("w"), s = builder.Source("w_scale_inv");
    const uint32_t out = builder.Output(group, "w", DType::kF8E4M3, {192, 200}, Transform::kRelayout, {});
    const uint32_t out_s = builder.Output(group, "w_scale_inv", DType::kF32, {2, 2}, Transform::kScales, {});
    builder.plan.groups[group].cells = {
        {out_s, 0, false, {{w, 64, out, 0, 64, s, 0}, {w, 128, out, 64, 64, s, 1}}},
        {out_s, 1, true, {{w, 0, out, 128, 64, s, 0}}},
    };
    builder.Finish();
  }
  float SourceScale(int64_t row, int64_t column) const {
    return lab::FloatAt(&scales[static_cast<size_t>(4 * (row / 128 * 2 + column / 128))]);
  }
};

TEST(Relayout, StraddlingBlocksTakeTheScaleThatErrsLeastAndOthersAreMoved) {
  const Relayout lab(false);
  const RunReport report = MustRun(lab.checkpoint, lab.builder.plan);
  const std::string file = JoinPath(lab.checkpoint.output(), "x.safetensors");
  const Bytes codes = lab::Tensor(file, "w"), scales = lab::Tensor(file, "w_scale_inv");
  // Rows 128..191 of the target are rows 0..63 of the source, and so is their scale row.
  EXPECT_TRUE(std::equal(codes.begin() + 128 * 200, codes.end(), lab.codes.begin()));
  EXPECT_TRUE(std::equal(scales.begin() + 8, scales.end(), lab.scales.begin()));
  // The first row of blocks, by trying every candidate.
  double error_sum = 0;
  for (int64_t block = 0; block < 2; ++block) {
    const int64_t begin = block * 128, end = std::min<int64_t>(begin + 128, 200);
    float amax = 0;
    const auto value = [&](int64_t r, int64_t c) {
      return lab::E4m3(lab.codes[static_cast<size_t>(r * 200 + c)]) * lab.SourceScale(r, c);
    };
    for (int64_t r = 64; r < 192; ++r) {
      for (int64_t c = begin; c < end; ++c) amax = std::max(amax, std::fabs(value(r, c)));
    }
    double least = INFINITY;
    float kept = 0;
    Bytes best;
    for (const float scale :
         {lab.SourceScale(64, begin), lab.SourceScale(128, begin), std::max(amax, 1e-12f) / 448.0f}) {
      double error = 0;
      Bytes attempt;
      for (int64_t r = 64; r < 192; ++r) {
        for (int64_t c = begin; c < end; ++c) {
          const float x = value(r, c);
          const float clamped = std::clamp(x / scale, -448.0f, 448.0f);
          attempt.push_back(lab::NearestE4m3(clamped));
          const double e = static_cast<double>(lab::E4m3(attempt.back()) * scale) - x;
          error += e * e;
        }
      }
      if (error < least) {
        least = error;
        kept = scale;
        best = attempt;
      }
    }
    error_sum += least;
    EXPECT_EQ(lab::FloatAt(&scales[static_cast<size_t>(4 * block)]), kept) << block;
    Bytes found;
    for (int64_t r = 0; r < 128; ++r) {
      for (int64_t c = begin; c < end; ++c) found.push_back(codes[static_cast<size_t>(r * 200 + c)]);
    }
    EXPECT_EQ(found, best) << block;
  }
  EXPECT_EQ(report.blocks.moved_blocks, 2u);
  EXPECT_EQ(report.blocks.equal_scale_blocks, 0u);
  EXPECT_EQ(report.blocks.requantized_blocks, 2u);
  EXPECT_NEAR(report.blocks.squared_error, error_sum, 1e-9 * error_sum);
}

TEST(Relayout, BlocksUnderEqualScalesAreExactAndCounted) {
  const Relayout lab(true);
  const RunReport report = MustRun(lab.checkpoint, lab.builder.plan);
  EXPECT_EQ(report.blocks.equal_scale_blocks, 2u);
  EXPECT_EQ(report.blocks.requantized_blocks, 0u);
  EXPECT_EQ(report.blocks.squared_error, 0);
  const Bytes codes = lab::Tensor(JoinPath(lab.checkpoint.output(), "x.safetensors"), "w");
  EXPECT_TRUE(std::equal(codes.begin(), codes.begin() + 128 * 200, lab.codes.begin() + 64 * 200));
}

}  // namespace
}  // namespace mimo::step_work_test
