// Cells with padding and factors.
#include "lib/run/cell_work.h"

#include <gtest/gtest.h>

#include "lib/plan/plan_json.h"
#include "lib/results/manifest.h"
#include "lib/run/executor.h"
#include "lib/verify/check.h"
#include "tests/unit/run/lab.h"
#include "tests/unit/run/numbers.h"

namespace mimo::cell_work_test {
namespace {

using lab::Bytes;

// 96 rows under scale rows of 32, brought into cells of 16 rows: halves of source blocks, rows times 0.5, padding
// inside a cell and a cell of nothing else.
struct Padded {
  static constexpr int64_t kCols = 40, kBlock = 16;
  lab::Checkpoint checkpoint;
  lab::PlanBuilder builder{checkpoint};
  Bytes codes, scales;
  uint32_t out = 0, out_s = 0;

  Padded() {
    lab::Random random(21);
    codes = random.Codes(96 * kCols);
    scales = random.Scales(9);
    checkpoint.AddFile("w.safetensors",
                       {{"w", DType::kF8E4M3, {96, kCols}, codes}, {"w_scale_inv", DType::kF32, {3, 3}, scales}});
    builder.File("x.safetensors");
    const uint32_t group = builder.Group("layer");
    const uint32_t w = builder.Source("w"), s = builder.Source("w_scale_inv");
    builder.plan.sources[w].block_rows = 32;
    builder.plan.sources[w].block_cols = kBlock;
    out = builder.Output(group, "w", DType::kF8E4M3, {80, kCols}, Transform::kRelayout, {});
    out_s = builder.Output(group, "w_scale_inv", DType::kF32, {5, 3}, Transform::kScales, {});
    builder.plan.groups[group].cells = {
        {out_s, 0, true, {{w, 16, out, 0, 16, s, 0, 1}}},
        {out_s, 1, true, {{w, 32, out, 16, 10, s, 1, 0.707f}, {kNone, 0, out, 26, 6, kNone, 0, 1}}},
        {out_s, 2, true, {{kNone, 0, out, 32, 16, kNone, 0, 1}}},
        {out_s,
         3,
         false,
         {{w, 0, out, 48, 8, s, 0, 1}, {kNone, 0, out, 56, 2, kNone, 0, 1}, {w, 64, out, 58, 6, s, 2, 1}}},
        {out_s, 4, false, {{w, 70, out, 64, 8, s, 2, 0.5f}, {w, 80, out, 72, 8, s, 2, 0.5f}}},
    };
    builder.Finish();
  }
};

TEST(CellWork, PaddingIsZeroCodesAndAFactorGoesIntoTheScales) {
  const Padded lab;
  RunOptions options;
  options.output = lab.checkpoint.output();
  for (const uint64_t memory : {1ull << 20, 3000ull}) {
    options.memory_bytes = memory;
    options.threads = memory == 3000 ? 1 : 3;
    options.overwrite = std::filesystem::exists(options.output);
    const auto report = RunPlan(PosixFileSystem(), lab.checkpoint.catalogue, lab.builder.plan, options);
    ASSERT_TRUE(report.ok()) << report.error().Message();
    const std::string file = JoinPath(options.output, "x.safetensors");
    const Bytes codes = lab::Tensor(file, "w"), scales = lab::Tensor(file, "w_scale_inv");
    const auto code_rows = [&](const Bytes& bytes, int64_t row, int64_t rows) {
      return Bytes(bytes.begin() + row * Padded::kCols, bytes.begin() + (row + rows) * Padded::kCols);
    };
    const auto scale = [&](const Bytes& bytes, int64_t row, int64_t b) {
      return lab::FloatAt(&bytes[static_cast<size_t>(4 * (row * 3 + b))]);
    };
    const auto zeros = [](int64_t rows) { return Bytes(static_cast<size_t>(rows * Padded::kCols), 0); };
    EXPECT_EQ(code_rows(codes, 0, 16), code_rows(lab.codes, 16, 16));
    EXPECT_EQ(code_rows(codes, 16, 10), code_rows(lab.codes, 32, 10));
    EXPECT_EQ(code_rows(codes, 26, 22), zeros(22));
    EXPECT_EQ(code_rows(codes, 56, 2), zeros(2));
    EXPECT_EQ(code_rows(codes, 64, 8), code_rows(lab.codes, 70, 8));
    EXPECT_EQ(code_rows(codes, 72, 8), code_rows(lab.codes, 80, 8));
    for (int64_t b = 0; b < 3; ++b) {
      EXPECT_EQ(scale(scales, 0, b), scale(lab.scales, 0, b));
      EXPECT_EQ(scale(scales, 1, b), scale(lab.scales, 1, b) * 0.707f);
      EXPECT_EQ(scale(scales, 2, b), 1.0f);
      EXPECT_EQ(scale(scales, 4, b), scale(lab.scales, 2, b) * 0.5f);  // equal scales: exact, though not planned so
      // Re-quantized: within half a step of the largest code, whichever scale was taken.
      for (int64_t i = 0; i < 14; ++i) {
        const int64_t target = i < 8 ? 48 + i : 50 + i, source = i < 8 ? i : 56 + i;
        for (int64_t c = b * 16; c < std::min<int64_t>(b * 16 + 16, Padded::kCols); ++c) {
          const auto at = [&](const Bytes& bytes, int64_t row) {
            return lab::E4m3(bytes[static_cast<size_t>(row * Padded::kCols + c)]);
          };
          const float made = at(codes, target) * scale(scales, 3, b);
          const float truth = at(lab.codes, source) * scale(lab.scales, i < 8 ? 0 : 2, b);
          EXPECT_LE(std::fabs(made - truth), 16 * scale(scales, 3, b)) << i << " " << c;
        }
      }
    }
    EXPECT_EQ(report.value().blocks.moved_blocks, 9u);
    EXPECT_EQ(report.value().blocks.equal_scale_blocks, 3u);
    EXPECT_EQ(report.value().blocks.requantized_blocks, 3u);
    const auto check = CheckDirectory(PosixFileSystem(), options.output);
    ASSERT_TRUE(check.ok());
    EXPECT_TRUE(check.value().ToStatus().ok()) << check.value().ToStatus().error().Message();
  }
}

}  // namespace
}  // namespace mimo::cell_work_test
