// Plans whose pieces are rectangles: random tilings of every kind, against a model that goes element by element.
#include "lib/run/bundles.h"

#include <gtest/gtest.h>

#include <set>

#include "lib/plan/plan_json.h"
#include "lib/results/manifest.h"
#include "lib/run/executor.h"
#include "lib/run/step_memory.h"
#include "lib/run/steps.h"
#include "lib/run/turns.h"
#include "tests/unit/run/plan_model.h"

namespace mimo::bundles_test {
namespace {

using lab::Bytes;

// A random checkpoint of matrices and a plan of random outputs.
class RandomPlan {
 public:
  explicit RandomPlan(uint64_t seed) : engine_(seed), data_(seed) {
    std::vector<lab::Stored> arrays;
    for (int i = 0; i < 3; ++i) Add("bf16_" + std::to_string(i), DType::kBF16, &arrays);
    for (int i = 0; i < 3; ++i) Add("f32_" + std::to_string(i), DType::kF32, &arrays);
    for (int i = 0; i < 3; ++i) Add("fp8_" + std::to_string(i), DType::kF8E4M3, &arrays);
    const size_t half = arrays.size() / 2;
    checkpoint.AddFile("a.safetensors", {arrays.begin(), arrays.begin() + static_cast<ptrdiff_t>(half)});
    checkpoint.AddFile("b.safetensors", {arrays.begin() + static_cast<ptrdiff_t>(half), arrays.end()});
    for (uint32_t file = 0; file < 2; ++file) {
      builder.File("out" + std::to_string(file) + ".safetensors", file);
      const uint32_t group = builder.Group("g" + std::to_string(file));
      for (int i = 0; i < 6; ++i) AddOutput(group, file);
    }
    builder.Finish();
    Plan& plan = builder.plan;
    for (uint32_t i = 0; i < checkpoint.catalogue.arrays.size(); ++i) {
      const bool used = std::any_of(plan.sources.begin(), plan.sources.end(),
                                    [&](const SourceArray& source) { return source.array == i; });
      plan.fates.push_back({i, used ? Fate::kUsed : Fate::kDropped, used ? "" : "not asked for"});
    }
    plan.source_fingerprint = checkpoint.catalogue.Fingerprint();
    plan.digest = PlanDigest(checkpoint.catalogue, plan);
  }

  lab::Checkpoint checkpoint;
  std::map<std::string, Bytes> stored;
  lab::PlanBuilder builder{checkpoint};

 private:
  int64_t Below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }

  void Add(const std::string& name, DType dtype, std::vector<lab::Stored>* arrays) {
    const int64_t rows = 20 + Below(30), cols = 20 + Below(30);
    const auto count = static_cast<size_t>(rows * cols);
    Bytes bytes = dtype == DType::kF8E4M3 ? data_.Codes(count)
                  : dtype == DType::kF32  ? data_.Scales(count)
                                          : data_.Bf16(count);
    if (dtype == DType::kF8E4M3) {
      const int64_t scale_rows = (rows + kBlockRows - 1) / kBlockRows,
                    scale_cols = (cols + kBlockCols - 1) / kBlockCols;
      const Bytes scales = data_.Scales(static_cast<size_t>(scale_rows * scale_cols));
      stored[name + "_s"] = scales;
      arrays->push_back({name + "_s", DType::kF32, {scale_rows, scale_cols}, scales});
    }
    stored[name] = bytes;
    arrays->push_back({name, dtype, {rows, cols}, std::move(bytes)});
  }

  std::string ArrayOf(DType dtype) {
    const std::string kind = dtype == DType::kF8E4M3 ? "fp8_" : dtype == DType::kF32 ? "f32_" : "bf16_";
    return kind + std::to_string(Below(3));
  }

  uint32_t SourceOf(const std::string& name, bool quantized) {
    const auto [known, fresh] = sources_.try_emplace({name, quantized}, 0);
    if (!fresh) return known->second;
    if (!quantized) return known->second = builder.Source(name);
    known->second = builder.Quantized(name, name + "_s");
    builder.plan.sources[known->second].block_rows = kBlockRows;
    builder.plan.sources[known->second].block_cols = kBlockCols;
    return known->second;
  }

  void AddOutput(uint32_t group, uint32_t file) {
    const std::string name = "o" + std::to_string(file) + "_" + std::to_string(builder.plan.outputs.size());
    if (Below(8) == 0) {
      const uint32_t o = builder.Output(group, name, DType::kF32, {3, 2}, Transform::kConstant, {});
      const Bytes bytes = data_.Any(24);
      builder.plan.outputs[o].constant.assign(bytes.begin(), bytes.end());
      return;
    }
    const bool turned = Below(3) == 0, decoded = Below(2) == 0;
    const DType from = std::array{DType::kBF16, DType::kF32, DType::kF8E4M3}[static_cast<size_t>(Below(3))];
    const DType to = !decoded ? from : Below(2) == 0 ? DType::kBF16 : DType::kF32;
    const int64_t experts = 1 + Below(2), rows = 1 + Below(24), cols = 1 + Below(24);
    const uint32_t o = builder.Output(group, name, to, {experts, rows, cols},
                                      turned    ? Transform::kTranspose
                                      : decoded ? Transform::kConvert
                                                : Transform::kMove,
                                      {});
    OutputArray& output = builder.plan.outputs[o];
    if (turned && !decoded && from == DType::kF8E4M3) output.target_codec = Codec::kFp8Block;
    if (!decoded && from == DType::kF8E4M3) {
      output.adjust =
          std::array{Adjust::kAsIs, Adjust::kHalve, Adjust::kDouble, Adjust::kNeuron}[static_cast<size_t>(Below(4))];
    } else if (!turned && (decoded || from == DType::kF32) && Below(2) == 0) {
      output.adjust = Adjust::kScale;
      output.factor = 0.707f;
    }
    if (Below(2) == 0) {
      const Bytes pad = data_.Codes(lab::ElementBytes(to));
      output.pad.assign(pad.begin(), pad.end());
    }
    std::vector<Piece> pieces;
    Tile(output, from, decoded, {0, 0, experts * rows, cols}, &pieces);
    std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
      return std::tie(a.target_row, a.target_col) < std::tie(b.target_row, b.target_col);
    });
    builder.plan.outputs[o].pieces = std::move(pieces);
  }

  struct Box {
    int64_t row, col, rows, cols;
  };

  void Tile(const OutputArray& output, DType from, bool decoded, const Box& box, std::vector<Piece>* pieces) {
    if (box.rows > 1 && Below(3) == 0) {
      const int64_t cut = 1 + Below(box.rows - 1);
      Tile(output, from, decoded, {box.row, box.col, cut, box.cols}, pieces);
      return Tile(output, from, decoded, {box.row + cut, box.col, box.rows - cut, box.cols}, pieces);
    }
    if (box.cols > 1 && Below(3) == 0) {
      const int64_t cut = 1 + Below(box.cols - 1);
      Tile(output, from, decoded, {box.row, box.col, box.rows, cut}, pieces);
      return Tile(output, from, decoded, {box.row, box.col + cut, box.rows, box.cols - cut}, pieces);
    }
    const bool turned = output.transform == Transform::kTranspose;
    const int64_t high = turned ? box.cols : box.rows, wide = turned ? box.rows : box.cols;
    Piece piece{kNone, 0, box.row, box.rows, 0, box.col, box.cols};
    if (Below(6) != 0) {
      const std::string name = ArrayOf(from);
      const bool quantized = decoded && from == DType::kF8E4M3;
      const StoredArray& array = checkpoint.catalogue.arrays[checkpoint.catalogue.by_name.at(name)];
      const int64_t unit = quantized ? kBlockCols : 1;
      if (array.rows() < high || array.shape[1] < wide) {  // too small: halves will do
        const bool across = box.rows == 1;
        const int64_t row_cut = box.rows / 2, col_cut = box.cols / 2;
        if (across) {
          Tile(output, from, decoded, {box.row, box.col, box.rows, col_cut}, pieces);
          return Tile(output, from, decoded, {box.row, box.col + col_cut, box.rows, box.cols - col_cut}, pieces);
        }
        Tile(output, from, decoded, {box.row, box.col, row_cut, box.cols}, pieces);
        return Tile(output, from, decoded, {box.row + row_cut, box.col, box.rows - row_cut, box.cols}, pieces);
      }
      piece.source = SourceOf(name, quantized);
      piece.source_row = Below(array.rows() - high + 1);
      piece.source_col = Below((array.shape[1] - wide) / unit + 1) * unit;
    }
    pieces->push_back(piece);
  }

  static constexpr int64_t kBlockRows = 7, kBlockCols = 5;
  std::mt19937_64 engine_;
  lab::Random data_;
  std::map<std::pair<std::string, bool>, uint32_t> sources_;
};

TEST(Rectangles, RandomTilingsAreMadeElementByElementWhateverTheMemoryAndThreads) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const RandomPlan random(seed);
    const Plan& plan = random.builder.plan;
    const Catalogue& catalogue = random.checkpoint.catalogue;
    const Status valid = ValidatePlan(catalogue, plan);
    ASSERT_TRUE(valid.ok()) << seed << ": " << valid.error().Message();
    lab::PlanModel model(catalogue, plan, random.stored);
    std::vector<Bytes> expected;
    for (uint32_t o = 0; o < plan.outputs.size(); ++o) expected.push_back(model.Output(o));
    const Job job{catalogue, plan, std::vector<OutputMode>(plan.outputs.size(), OutputMode::kWrite)};
    const uint64_t least = lab::MeasureJob(job).largest_unit_bytes;
    for (const uint64_t memory : {uint64_t{64} << 20, 3 * least, least}) {
      for (const int threads : {1, 3}) {
        RunOptions options;
        options.output = random.checkpoint.output();
        options.overwrite = std::filesystem::exists(options.output);
        options.memory_bytes = memory;
        options.threads = threads;
        options.allow_anomalies = true;  // doubled codes
        const auto report = RunPlan(PosixFileSystem(), catalogue, plan, options);
        ASSERT_TRUE(report.ok()) << seed << ": " << report.error().Message();
        EXPECT_EQ(report.value().blocks.inexact_codes, model.inexact_codes) << seed;
        EXPECT_EQ(report.value().anomalies.overflows, model.overflows) << seed;
        const auto manifest = ReadManifest(PosixFileSystem(), JoinPath(options.output, kManifestName));
        ASSERT_TRUE(manifest.ok());
        EXPECT_EQ(manifest.value().blocks.inexact_codes, model.inexact_codes);
        for (uint32_t o = 0; o < plan.outputs.size(); ++o) {
          const OutputArray& output = plan.outputs[o];
          const std::string file = JoinPath(options.output, plan.files[output.file].name);
          ASSERT_EQ(lab::Tensor(file, output.name), expected[o])
              << seed << " " << output.name << " " << static_cast<int>(output.transform) << " memory " << memory;
          EXPECT_EQ(*manifest.value().tensors[o].hash,
                    HashRows(std::as_bytes(std::span(expected[o])), output.row_bytes(), 0))
              << seed << " " << output.name;
        }
      }
    }
  }
}

TEST(Rectangles, EverySourceRowIsReadOnceHoweverFinelyCut) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const RandomPlan random(seed);
    const Plan& plan = random.builder.plan;
    const Job job{random.checkpoint.catalogue, plan, std::vector<OutputMode>(plan.outputs.size(), OutputMode::kWrite)};
    const JobSize size = lab::MeasureJob(job);
    for (const uint64_t limit : {uint64_t{1} << 30, 2 * size.largest_unit_bytes, uint64_t{1}}) {
      std::set<std::tuple<uint32_t, uint32_t, int64_t>> read, turned;  // (file group, source, row)
      uint64_t progress = 0;
      PartLoader loader(job, UINT64_MAX);
      StepCutter cutter(job, loader, limit, uint64_t{1} << 40, lab::AllParts(job.plan));
      while (const auto step = cutter.Next()) {
        progress += step->progress_bytes;
        EXPECT_LE(step->memory_bytes, std::max(limit, size.largest_unit_bytes));
        for (const RowStrip& strip : step->strips) {
          for (const RowSource& from : strip.sources) {
            for (int64_t r = 0; r < strip.rows; ++r)
              EXPECT_TRUE(read.insert({step->file_group, from.source, from.row + r}).second) << seed;
          }
        }
        for (const TurnUnit& unit : step->turns) {
          for (const TurnSource& from : SourcesOf(job, unit)) {
            for (int64_t r = 0; r < from.rows; ++r)
              EXPECT_TRUE(turned.insert({step->file_group, from.source, from.row + r}).second) << seed;
          }
        }
      }
      EXPECT_EQ(progress, size.progress_bytes);
    }
  }
}

TEST(Rectangles, APlanAndItsDocumentAreTheSame) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    RandomPlan random(seed);
    Plan& plan = random.builder.plan;
    std::string text;
    const auto append = [&](std::string_view part) {
      text += part;
      return Status();
    };
    ASSERT_TRUE(WritePlanJson(random.checkpoint.catalogue, plan, append).ok());
    auto read = ParsePlanJson(random.checkpoint.catalogue, text, "plan.json");
    ASSERT_TRUE(read.ok()) << seed << ": " << read.error().Message();
    for (size_t o = 0; o < plan.outputs.size(); ++o) {
      const OutputArray &a = plan.outputs[o], &b = read.value().outputs[o];
      EXPECT_EQ(a.adjust, b.adjust);
      EXPECT_EQ(a.factor, b.factor);
      EXPECT_EQ(a.pad, b.pad);
      EXPECT_EQ(a.constant, b.constant);
      ASSERT_EQ(a.pieces.size(), b.pieces.size());
      for (size_t i = 0; i < a.pieces.size(); ++i) {
        const auto all = [](const Piece& p) {
          return std::tie(p.source, p.source_row, p.target_row, p.rows, p.source_col, p.target_col, p.cols);
        };
        EXPECT_EQ(all(a.pieces[i]), all(b.pieces[i]));
      }
    }
  }
}

// One matrix cut in columns to ranks, and put together again: what o_proj and down_proj go through.
TEST(Rectangles, ColumnsGoToRanksAndComeBackAndEveryByteIsReadOnce) {
  constexpr int64_t kN = 97, kK = 64, kRanks = 4, kPart = kK / kRanks;
  lab::Random random(9);
  const Bytes whole = random.Any(2 * kN * kK);
  Bytes parts[kRanks];
  lab::Checkpoint there, back;
  there.AddFile("w.safetensors", {{"w", DType::kBF16, {kN, kK}, whole}});
  lab::PlanBuilder fan_out(there);
  const uint32_t source = fan_out.Source("w");
  fan_out.File("rank0.safetensors");
  const uint32_t group = fan_out.Group("w");
  for (int64_t r = 0; r < kRanks; ++r) {
    if (r > 0) fan_out.File("rank" + std::to_string(r) + ".safetensors");
    fan_out.Output(group, "w", DType::kBF16, {kN, kPart}, Transform::kMove, {{source, 0, 0, kN, r * kPart, 0, kPart}});
  }
  fan_out.Finish();
  RunOptions options;
  options.output = there.output();
  for (const uint64_t memory : {1ull << 20, 3000ull}) {
    options.memory_bytes = memory;
    options.threads = 1;
    options.overwrite = std::filesystem::exists(options.output);
    const auto report = RunPlan(PosixFileSystem(), there.catalogue, fan_out.plan, options);
    ASSERT_TRUE(report.ok()) << report.error().Message();
    EXPECT_EQ(report.value().bytes_read, whole.size());
    for (int64_t r = 0; r < kRanks; ++r) {
      Bytes expected;
      for (int64_t row = 0; row < kN; ++row) {
        const auto begin = whole.begin() + 2 * (row * kK + r * kPart);
        expected.insert(expected.end(), begin, begin + 2 * kPart);
      }
      parts[r] = lab::Tensor(JoinPath(options.output, "rank" + std::to_string(r) + ".safetensors"), "w");
      ASSERT_EQ(parts[r], expected) << r;
    }
  }
  for (int64_t r = 0; r < kRanks; ++r) {
    const std::string name = "w" + std::to_string(r);
    back.AddFile(name + ".safetensors", {{name, DType::kBF16, {kN, kPart}, parts[r]}});
  }
  lab::PlanBuilder fan_in(back);
  std::vector<Piece> pieces;
  for (int64_t r = 0; r < kRanks; ++r)
    pieces.push_back({fan_in.Source("w" + std::to_string(r)), 0, 0, kN, 0, r * kPart, kPart});
  fan_in.File("w.safetensors");
  fan_in.Output(fan_in.Group("w"), "w", DType::kBF16, {kN, kK}, Transform::kMove, pieces);
  fan_in.Finish();
  options.output = back.output();
  options.overwrite = false;
  const auto report = RunPlan(PosixFileSystem(), back.catalogue, fan_in.plan, options);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_EQ(report.value().bytes_read, whole.size());
  EXPECT_EQ(lab::Tensor(JoinPath(options.output, "w.safetensors"), "w"), whole);
}

// Converted, with a factor, and turned over: each output takes some columns of a matrix with two NaN and two bad
// scales.
TEST(Rectangles, AnomaliesAreCountedInTheColumnsThatHoldThemHoweverRowsAreCut) {
  lab::Random random(12);
  Bytes codes = random.Codes(90 * 60), scales = random.Scales(9);
  codes[5 * 60 + 3] = 0x7F;
  codes[89 * 60 + 59] = 0xFF;
  const float bad = -1.0f;
  std::memcpy(&scales[4 * 3], &bad, 4);
  std::memcpy(&scales[4 * 5], &bad, 4);
  lab::Checkpoint checkpoint;
  checkpoint.AddFile("w.safetensors",
                     {{"w", DType::kF8E4M3, {90, 60}, codes}, {"w_scale_inv", DType::kF32, {3, 3}, scales}});
  lab::PlanBuilder builder(checkpoint);
  const uint32_t w = builder.Quantized("w", "w_scale_inv", 32);
  builder.plan.sources[w].block_cols = 20;
  builder.File("w.safetensors");
  const uint32_t group = builder.Group("g");
  builder.Output(group, "left", DType::kBF16, {90, 40}, Transform::kConvert, {{w, 0, 0, 90, 0, 0, 40}});
  const uint32_t right =
      builder.Output(group, "right", DType::kF32, {90, 20}, Transform::kConvert, {{w, 0, 0, 90, 40, 0, 20}});
  builder.plan.outputs[right].adjust = Adjust::kScale;
  builder.plan.outputs[right].factor = 0.5f;
  builder.Output(group, "turned", DType::kBF16, {40, 90}, Transform::kTranspose, {{w, 0, 0, 40, 20, 0, 90}});
  builder.Finish();
  const Job job{checkpoint.catalogue, builder.plan, std::vector<OutputMode>(3, OutputMode::kWrite)};
  RunOptions options;
  options.output = checkpoint.output();
  options.allow_anomalies = true;
  for (const uint64_t memory : {uint64_t{1} << 20, lab::MeasureJob(job).largest_unit_bytes}) {
    options.memory_bytes = memory;
    options.threads = 2;
    options.overwrite = std::filesystem::exists(options.output);
    const auto report = RunPlan(PosixFileSystem(), checkpoint.catalogue, builder.plan, options);
    ASSERT_TRUE(report.ok()) << report.error().Message();
    EXPECT_EQ(report.value().anomalies.nan_codes, 3u) << memory;   // left, right, turned
    EXPECT_EQ(report.value().anomalies.bad_scales, 3u) << memory;  // left, right, turned
  }
}

// Scalars put side by side in one row, and each inverted: one bundle of many sources.
TEST(Rectangles, ScalarsAreStackedAndInvertedFromTheSameBytes) {
  const float values[3] = {2, 4, 0.5f};
  lab::Checkpoint checkpoint;
  std::vector<lab::Stored> scalars;
  for (int i = 0; i < 3; ++i) {
    Bytes bytes(4);
    std::memcpy(bytes.data(), &values[i], 4);
    scalars.push_back({"s" + std::to_string(i), DType::kF32, {}, bytes});
  }
  checkpoint.AddFile("s.safetensors", scalars);
  lab::PlanBuilder builder(checkpoint);
  builder.File("x.safetensors");
  const uint32_t group = builder.Group("g");
  std::vector<Piece> row;
  for (int64_t i = 0; i < 3; ++i) row.push_back({builder.Source("s" + std::to_string(i)), 0, 0, 1, 0, i, 1});
  for (size_t i = 0; i < 3; ++i)
    builder.Output(group, "inverse" + std::to_string(i), DType::kF32, {1}, Transform::kInvert,
                   {{row[i].source, 0, 0, 1}});
  builder.Output(group, "row", DType::kF32, {3}, Transform::kMove, row);
  RunOptions options;
  options.output = checkpoint.output();
  const auto report = RunPlan(PosixFileSystem(), checkpoint.catalogue, builder.Finish(), options);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  const std::string file = JoinPath(options.output, "x.safetensors");
  const Bytes stacked = lab::Tensor(file, "row");
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(lab::FloatAt(&stacked[4 * i]), values[i]);
    EXPECT_EQ(lab::FloatAt(lab::Tensor(file, "inverse" + std::to_string(i)).data()), 1 / values[i]);
  }
}

TEST(Rectangles, WholeRowsAreWrittenFromWhereTheyWereRead) {
  lab::Random random(3);
  lab::Checkpoint checkpoint;
  checkpoint.AddFile("w.safetensors", {{"w", DType::kBF16, {64, 32}, random.Any(64 * 64)}});
  lab::PlanBuilder builder(checkpoint);
  const uint32_t w = builder.Source("w");
  builder.File("x.safetensors");
  const uint32_t group = builder.Group("g");
  // Whole rows, the second time by name of all columns.
  builder.Output(group, "a", DType::kBF16, {64, 32}, Transform::kMove, {{w, 32, 0, 32}, {w, 0, 32, 32}});
  builder.Output(group, "b", DType::kBF16, {64, 32}, Transform::kMove, {{w, 0, 0, 64, 0, 0, 32}});
  builder.Finish();
  const Job job{checkpoint.catalogue, builder.plan, std::vector<OutputMode>(2, OutputMode::kWrite)};
  PartLoader loader(job, UINT64_MAX);
  StepCutter cutter(job, loader, 1 << 20, uint64_t{1} << 40, lab::AllParts(job.plan));
  const auto step = cutter.Next();
  ASSERT_TRUE(step.has_value());
  EXPECT_EQ(step->strips.size(), 2u);
  for (const RowStrip& strip : step->strips) {
    for (const RowTarget& target : strip.targets) EXPECT_NE(DirectSource(job, strip, target), kNone);
    EXPECT_LE(StripMemory(job, strip), 32 * 64 + 64u);
  }
}

}  // namespace
}  // namespace mimo::bundles_test
