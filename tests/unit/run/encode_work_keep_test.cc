// Values that become codes under scales that are there already: weights whose rows are put together from column chunks,
// weights with a grid of several chunks, and cells that span several arrays. Bytes and counts against a scalar model,
// with little memory and much, one thread and several, in one run and in two.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lib/results/manifest.h"
#include "lib/run/encode_work.h"
#include "lib/run/executor.h"
#include "lib/run/step_work.h"
#include "tests/unit/run/lab.h"
#include "tests/unit/run/numbers.h"

namespace mimo::encode_work_keep_test {
namespace {

using kernels::Encoding;
using lab::Bytes;
using Matrix = std::vector<std::vector<float>>;

// ---- the scalar model
// -----------------------------------------------------------------------------------------------------------

Matrix Decoded(const Bytes& bytes, DType dtype, size_t rows, size_t cols) {
  Matrix values(rows, std::vector<float>(cols));
  for (size_t i = 0; i < rows * cols; ++i) {
    values[i / cols][i % cols] =
        dtype == DType::kF32 ? lab::FloatAt(&bytes[4 * i])
                             : std::bit_cast<float>(static_cast<uint32_t>(bytes[2 * i] | bytes[2 * i + 1] << 8) << 16);
  }
  return values;
}

struct Made {
  Bytes codes, scales;
  uint64_t kept = 0, fresh = 0;
};

// One block FP8 cell: the values of `rows`, columns [begin, end).
float CellScale(const std::vector<const std::vector<float>*>& rows, size_t begin, size_t end, const float* keep,
                bool* kept) {
  float amax = 0;
  for (const auto* row : rows) {
    for (size_t c = begin; c < end; ++c) amax = std::max(amax, std::fabs((*row)[c]));
  }
  *kept = keep != nullptr && *keep > 0 && amax / *keep <= 464;
  return *kept ? *keep : std::max(amax, 1e-12f) / 448.0f;
}

uint8_t Code(float x, float scale) {
  return lab::NearestE4m3(std::clamp(x / scale, -448.0f, 448.0f));
}

// Rows of blocks of 64 x 32; the grid begins anew every `period` rows. `keep`: a row of scales per row of blocks.
Made Fp8(const Matrix& values, size_t period, const Bytes& keep) {
  Made made;
  const size_t cols = values[0].size(), blocks = (cols + 31) / 32;
  made.codes.resize(values.size() * cols);
  for (size_t start = 0; start < values.size(); start += period) {
    for (size_t top = start; top < start + period; top += 64) {
      const size_t bottom = std::min(top + 64, start + period);
      for (size_t b = 0; b < blocks; ++b) {
        std::vector<const std::vector<float>*> rows;
        for (size_t r = top; r < bottom; ++r) rows.push_back(&values[r]);
        const size_t end = std::min(cols, 32 * (b + 1));
        const float old = keep.empty() ? 0 : lab::FloatAt(&keep[made.scales.size()]);
        bool kept = false;
        const float scale = CellScale(rows, 32 * b, end, keep.empty() ? nullptr : &old, &kept);
        ++(kept ? made.kept : made.fresh);
        made.scales.resize(made.scales.size() + 4);
        std::memcpy(made.scales.data() + made.scales.size() - 4, &scale, 4);
        for (size_t r = top; r < bottom; ++r) {
          for (size_t c = 32 * b; c < end; ++c) made.codes[r * cols + c] = Code(values[r][c], scale);
        }
      }
    }
  }
  return made;
}

Made Mxfp4(const Matrix& values, const Bytes& keep) {
  Made made;
  for (const std::vector<float>& row : values) {
    for (size_t begin = 0; begin < row.size(); begin += 32) {
      float amax = 0;
      for (size_t i = 0; i < 32; ++i) amax = std::max(amax, std::fabs(row[begin + i]));
      int byte = keep[made.scales.size()];
      const bool kept = byte != 255 && std::ldexp(amax, 127 - byte) < 7;
      if (!kept) byte = static_cast<int>(std::ceil(std::log2(static_cast<double>(amax / 6.0f)))) + 127;
      ++(kept ? made.kept : made.fresh);
      made.scales.push_back(static_cast<uint8_t>(byte));
      for (size_t i = 0; i < 32; ++i) {
        const double x = std::ldexp(std::fabs(static_cast<double>(row[begin + i])), 127 - byte);
        uint8_t best = 0;
        for (uint8_t n = 1; n < 8; ++n) {
          const double a = std::fabs(x - lab::E2m1(n)), b = std::fabs(x - lab::E2m1(best));
          if (a < b || (a == b && n % 2 == 0)) best = n;
        }
        const float value = row[begin + i];
        const bool negative = kept ? std::signbit(value) : value < 0;
        const auto nibble = static_cast<uint8_t>(best | (negative ? 8 : 0));
        if (i % 2 == 0) {
          made.codes.push_back(nibble);
        } else {
          made.codes.back() = static_cast<uint8_t>(made.codes.back() | nibble << 4);
        }
      }
    }
  }
  return made;
}

// ---- the plan
// -----------------------------------------------------------------------------------------------------------

Bytes Floats(const std::vector<float>& values) {
  Bytes bytes(4 * values.size());
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Scales that lie above and below what is needed for values of magnitude 1 to 2.
Bytes SomeScales(lab::Random* random, size_t count) {
  std::vector<float> scales;
  for (const uint8_t choice : random->Any(count))
    scales.push_back(std::ldexp(1.0f + choice % 7 / 7.0f, choice % 3 - 9));
  return Floats(scales);
}

// "o": rows 0..199 of four column chunks, one of them FP32, 200..299 whole. "x": MXFP4 of two chunks. "qkv": three
// periods of 100 rows. "k" and "v" share rows of scales; the last row of cells has no scale to keep, and padding.
struct KeepModel {
  lab::Checkpoint checkpoint;
  lab::PlanBuilder builder{checkpoint};
  std::map<std::string, Bytes> stored;

  void Store(std::vector<lab::Stored>* file, const std::string& name, DType dtype, std::vector<int64_t> shape,
             Bytes bytes) {
    stored[name] = bytes;
    file->push_back({name, dtype, std::move(shape), std::move(bytes)});
  }

  KeepModel() {
    lab::Random random(77);
    std::vector<lab::Stored> file;
    const auto bf16 = [&](const char* name, int64_t rows, int64_t cols) {
      Store(&file, name, DType::kBF16, {rows, cols}, random.Bf16(static_cast<size_t>(rows * cols)));
    };
    bf16("o0", 200, 20);
    bf16("o1", 200, 30);
    std::vector<float> values(200 * 9);
    for (size_t i = 0; i < values.size(); ++i) values[i] = (static_cast<float>(i % 97) - 48) / 31.0f;
    Store(&file, "o2", DType::kF32, {200, 9}, Floats(values));
    bf16("wide", 210, 40);  // rows 10.., columns 5..15 are the last of o
    bf16("tail", 100, 70);
    Store(&file, "o_keep", DType::kF32, {5, 3}, SomeScales(&random, 15));
    bf16("x0", 200, 32);
    bf16("x1", 200, 32);
    Bytes bytes = random.Any(400);
    for (uint8_t& byte : bytes) byte = byte % 16 == 0 ? 255 : static_cast<uint8_t>(124 + byte % 4);
    Store(&file, "x_keep", DType::kU8, {200, 2}, bytes);
    bf16("qkv", 300, 64);
    Store(&file, "qkv_keep", DType::kF32, {6, 2}, SomeScales(&random, 12));
    bf16("k", 100, 50);
    bf16("v", 60, 50);
    Store(&file, "kv_keep", DType::kF32, {4, 2}, SomeScales(&random, 8));
    checkpoint.AddFile("m.safetensors", file);

    const Encoding fp8{.codec = Codec::kFp8Block, .block_rows = 64, .block_cols = 32};
    builder.File("a.safetensors", 0);
    Encode(builder.Group("o"), "o", fp8, 300, 70,
           {{builder.Source("o0"), 0, 0, 200, 0, 0, 20},
            {builder.Source("o1"), 0, 0, 200, 0, 20, 30},
            {builder.Source("o2"), 0, 0, 200, 0, 50, 9},
            {builder.Source("wide"), 10, 0, 200, 5, 59, 11},
            {builder.Source("tail"), 0, 200, 100}},
           builder.Source("o_keep"));
    const Encoding mx{.codec = Codec::kMxfp4, .rule = kernels::ScaleRule::kRceil};
    Encode(builder.Group("x"), "x", mx, 200, 64,
           {{builder.Source("x0"), 0, 0, 200, 0, 0, 32}, {builder.Source("x1"), 0, 0, 200, 0, 32, 32}},
           builder.Source("x_keep"));
    builder.File("b.safetensors", 1);
    Encode(builder.Group("qkv"), "qkv", fp8, 300, 64, {{builder.Source("qkv"), 0, 0, 300}}, builder.Source("qkv_keep"),
           100);
    const uint32_t group = builder.Group("kv");
    const uint32_t k = builder.Source("k"), v = builder.Source("v"), keep = builder.Source("kv_keep");
    builder.plan.sources[k].block_cols = builder.plan.sources[v].block_cols = 32;
    const uint32_t out_k = builder.Output(group, "k", DType::kF8E4M3, {100, 50}, Transform::kRelayout, {});
    const uint32_t out_s = builder.Output(group, "kv_scale_inv", DType::kF32, {3, 2}, Transform::kScales, {});
    const uint32_t out_v = builder.Output(group, "v", DType::kF8E4M3, {64, 50}, Transform::kRelayout, {});
    builder.plan.groups[group].cells = {
        {out_s, 0, false, {{k, 0, out_k, 0, 64}}, keep, 1},
        {out_s, 1, false, {{k, 64, out_k, 64, 36}, {v, 0, out_v, 0, 28}}, keep, 3},
        {out_s, 2, false, {{v, 28, out_v, 28, 32}, {kNone, 0, out_v, 60, 4}}},
    };
    builder.Finish();
  }

  void Encode(uint32_t group, const std::string& name, const Encoding& encoding, int64_t rows, int64_t cols,
              std::vector<Piece> pieces, uint32_t keep, int64_t period = 0) {
    const bool packed = encoding.codec == Codec::kMxfp4;
    EncodedWeight weight;
    weight.encoding = encoding;
    weight.period = period;
    weight.keep = keep;
    const auto add = [&](const std::string& suffix, DType dtype, std::vector<int64_t> shape, Transform transform,
                         std::vector<Piece> from) {
      const uint32_t output = builder.Output(group, name + suffix, dtype, std::move(shape), transform, std::move(from));
      builder.plan.outputs[output].target_codec = encoding.codec;
      return output;
    };
    weight.codes = add("", packed ? DType::kU8 : DType::kF8E4M3, {rows, packed ? cols / 2 : cols}, Transform::kEncode,
                       std::move(pieces));
    weight.scales = add("_scale", packed ? DType::kU8 : DType::kF32,
                        {packed ? rows : BlockRowsOf(rows, weight), (cols + 31) / 32}, Transform::kBeside, {});
    builder.plan.groups[group].encoded.push_back(weight);
  }

  Matrix Values(const char* name, size_t rows, size_t cols, DType dtype = DType::kBF16) const {
    return Decoded(stored.at(name), dtype, rows, cols);
  }

  // By tensor; what has no entry is not looked at.
  std::map<std::string, Made> Expected() const {
    std::map<std::string, Made> all;
    const Matrix o0 = Values("o0", 200, 20), o1 = Values("o1", 200, 30), o2 = Values("o2", 200, 9, DType::kF32);
    const Matrix wide = Values("wide", 210, 40);
    Matrix o;
    for (size_t r = 0; r < 200; ++r) {
      std::vector<float> row = o0[r];
      row.insert(row.end(), o1[r].begin(), o1[r].end());
      row.insert(row.end(), o2[r].begin(), o2[r].end());
      row.insert(row.end(), wide[r + 10].begin() + 5, wide[r + 10].begin() + 16);
      o.push_back(row);
    }
    for (const std::vector<float>& row : Values("tail", 100, 70)) o.push_back(row);
    all["o"] = Fp8(o, 300, stored.at("o_keep"));
    Matrix x = Values("x0", 200, 32);
    const Matrix x1 = Values("x1", 200, 32);
    for (size_t r = 0; r < 200; ++r) x[r].insert(x[r].end(), x1[r].begin(), x1[r].end());
    all["x"] = Mxfp4(x, stored.at("x_keep"));
    all["qkv"] = Fp8(Values("qkv", 300, 64), 100, stored.at("qkv_keep"));
    return all;
  }

  // k, v and their scales.
  std::array<Bytes, 3> ExpectedCells(uint64_t* kept, uint64_t* fresh) const {
    const Matrix k = Values("k", 100, 50), v = Values("v", 60, 50);
    std::array<Bytes, 3> made{Bytes(100 * 50), Bytes(64 * 50, 0), {}};
    const int keep_rows[] = {1, 3, -1};
    for (size_t cell = 0; cell < 3; ++cell) {
      for (size_t b = 0; b < 2; ++b) {
        std::vector<const std::vector<float>*> rows;
        std::vector<uint8_t*> out;
        for (size_t r = 64 * cell; r < std::min<size_t>(64 * cell + 64, 160); ++r) {
          rows.push_back(r < 100 ? &k[r] : &v[r - 100]);
          out.push_back(r < 100 ? &made[0][r * 50] : &made[1][(r - 100) * 50]);
        }
        const bool has = keep_rows[cell] >= 0;
        const float old =
            has ? lab::FloatAt(&stored.at("kv_keep")[8 * static_cast<size_t>(keep_rows[cell]) + 4 * b]) : 0;
        bool stays = false;
        const size_t end = b == 0 ? 32 : 50;
        const float scale = CellScale(rows, 32 * b, end, has ? &old : nullptr, &stays);
        ++(stays ? *kept : *fresh);
        for (size_t i = 0; i < rows.size(); ++i) {
          for (size_t c = 32 * b; c < end; ++c) out[i][c] = Code((*rows[i])[c], scale);
        }
        const Bytes bytes = Floats({scale});
        made[2].insert(made[2].end(), bytes.begin(), bytes.end());
      }
    }
    return made;
  }

  Job AllOf() const {
    return {checkpoint.catalogue, builder.plan,
            std::vector<OutputMode>(builder.plan.outputs.size(), OutputMode::kWrite)};
  }
};

nlohmann::json ManifestOf(const RunOptions& options) {
  const Bytes text = lab::ReadFile(options.output + "/" + kManifestName);
  return nlohmann::json::parse(text.begin(), text.end());
}

void ExpectModel(const KeepModel& model, const RunOptions& options, const RunReport& report) {
  uint64_t kept = 0, fresh = 0;
  const auto cells = model.ExpectedCells(&kept, &fresh);
  EXPECT_GT(kept, 0u);
  EXPECT_GT(fresh, 2u);  // some of those with a scale as well
  const std::string a = options.output + "/a.safetensors", b = options.output + "/b.safetensors";
  EXPECT_EQ(lab::Tensor(b, "k"), cells[0]);
  EXPECT_EQ(lab::Tensor(b, "v"), cells[1]);
  EXPECT_EQ(lab::Tensor(b, "kv_scale_inv"), cells[2]);
  const nlohmann::json manifest = ManifestOf(options);
  EXPECT_EQ(manifest["relayouts"].size(), 1u);
  EXPECT_EQ(manifest["relayouts"][0]["kept_blocks"], kept);
  EXPECT_EQ(manifest["relayouts"][0]["fresh_blocks"], fresh);
  EXPECT_GT(manifest["relayouts"][0]["squared_error"], 0.0);
  for (const auto& [name, made] : model.Expected()) {
    const std::string& file = name == "qkv" ? b : a;
    EXPECT_EQ(lab::Tensor(file, name), made.codes) << name;
    EXPECT_EQ(lab::Tensor(file, name + "_scale"), made.scales) << name;
    EXPECT_GT(made.kept, 0u) << name;
    EXPECT_GT(made.fresh, 0u) << name;
    kept += made.kept;
    fresh += made.fresh;
    bool found = false;
    for (const nlohmann::json& tensor : manifest["tensors"]) {
      if (tensor["name"] != name) continue;
      found = true;
      EXPECT_EQ(tensor["kept_blocks"], made.kept) << name;
      EXPECT_EQ(tensor["blocks"], made.kept + made.fresh) << name;
      const auto& sources = tensor["sources"];
      EXPECT_NE(std::find(sources.begin(), sources.end(), name + "_keep"), sources.end()) << name;
    }
    EXPECT_TRUE(found);
  }
  EXPECT_EQ(report.blocks.kept_blocks, kept);
  EXPECT_EQ(report.blocks.fresh_blocks, fresh);
  EXPECT_EQ(manifest["totals"]["kept_blocks"], kept);
  EXPECT_EQ(manifest["totals"]["fresh_blocks"], fresh);
}

RunOptions OptionsFor(const KeepModel& model, int threads, uint64_t memory) {
  RunOptions options;
  options.output = model.checkpoint.output();
  options.device = DeviceChoice::kCpu;
  options.threads = threads;
  options.memory_bytes = memory;
  options.measure_errors = true;
  return options;
}

TEST(Keep, EqualsTheModelWhateverTheMemoryAndTheThreads) {
  std::map<std::string, Bytes> first;
  for (const int threads : {1, 4}) {
    for (const uint64_t memory : {uint64_t{0}, uint64_t{1} << 20, uint64_t{300'000}}) {
      const KeepModel model;
      const uint64_t least = lab::MeasureJob(model.AllOf()).largest_unit_bytes;
      const RunOptions options = OptionsFor(model, threads, memory == 0 ? least : memory);
      const auto report = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
      ASSERT_TRUE(report.ok()) << report.error().Message();
      ExpectModel(model, options, report.value());
      const auto tree = lab::Tree(options.output);
      if (first.empty()) first = tree;
      EXPECT_EQ(tree, first) << threads << " threads, " << memory << " bytes";
    }
  }
}

// Stops once the first file group is recorded.
struct StopAfterARecord : ProgressObserver {
  explicit StopAfterARecord(std::string output) : records(output + "/.mimo-partial/records") {}
  void Start(uint64_t) override {}
  void Advance(uint64_t) override {
    if (std::filesystem::exists(records) && !std::filesystem::is_empty(records)) stop = 15;
  }
  void Step(const char*) override {}
  void Finish() override {}
  std::string records;
  std::atomic<int> stop{0};
};

TEST(Keep, CountsSurviveAnInterruption) {
  const KeepModel model;
  RunOptions options = OptionsFor(model, 1, lab::MeasureJob(model.AllOf()).largest_unit_bytes);
  StopAfterARecord observer(options.output);
  options.progress = &observer;
  options.stop = &observer.stop;
  const auto stopped = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kInterrupted);
  options = OptionsFor(model, 3, 1 << 20);
  options.resume = true;
  const auto report = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_EQ(report.value().groups_resumed, 1u);
  ExpectModel(model, options, report.value());
  // Once more, with nothing left to do: the counts come from the manifest.
  const auto again = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
  ASSERT_TRUE(again.ok()) << again.error().Message();
  EXPECT_EQ(again.value().blocks.kept_blocks, report.value().blocks.kept_blocks);
  EXPECT_EQ(again.value().blocks.fresh_blocks, report.value().blocks.fresh_blocks);
}

TEST(Keep, WithoutScalesToKeepAllAreFresh) {
  KeepModel model;
  for (FuseGroup& group : model.builder.plan.groups) {
    for (CellRow& cell : group.cells) cell.keep = kNone;
    for (EncodedWeight& weight : group.encoded) weight.keep = kNone;
  }
  const RunOptions options = OptionsFor(model, 2, 1 << 20);
  const auto report = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_EQ(report.value().blocks.kept_blocks, 0u);
  EXPECT_EQ(report.value().blocks.fresh_blocks, 15u + 400 + 12 + 6);
  const Made expected = Fp8(model.Values("qkv", 300, 64), 100, {});
  EXPECT_EQ(lab::Tensor(options.output + "/b.safetensors", "qkv"), expected.codes);
  const nlohmann::json manifest = ManifestOf(options);
  for (const nlohmann::json& tensor : manifest["tensors"]) EXPECT_FALSE(tensor.contains("kept_blocks"));
}

// What a step says it needs is what it takes, rows that are put together and kept scales included.
TEST(Keep, MemoryIsAccountedFor) {
  const KeepModel model;
  const Job job = model.AllOf();
  const uint64_t least = lab::MeasureJob(job).largest_unit_bytes;
  for (const uint64_t limit : {uint64_t{1}, least, 2 * least, uint64_t{1} << 30}) {
    PartLoader loader(job, UINT64_MAX);
    StepCutter cutter(job, loader, limit, limit, lab::AllParts(job.plan));
    uint64_t progress = 0;
    while (const auto step = cutter.Next()) {
      EXPECT_LE(step->memory_bytes, std::max(limit, least));
      EXPECT_LE(StepWork(job, *step, step->memory_bytes).buffer_bytes(), step->memory_bytes);
      progress += step->progress_bytes;
    }
    EXPECT_EQ(progress, lab::MeasureJob(job).progress_bytes);
  }
}

TEST(Keep, InfiniteValuesAreStillRefused) {
  KeepModel model;
  Bytes file = lab::ReadFile(model.checkpoint.path("m.safetensors"));
  const StoredArray& o1 = model.checkpoint.catalogue.arrays[model.checkpoint.catalogue.by_name.at("o1")];
  file[o1.begin + 100] = 0x80;
  file[o1.begin + 101] = 0x7F;
  lab::WriteFile(model.checkpoint.path("m.safetensors"), file);
  RunOptions options = OptionsFor(model, 1, 1 << 20);
  const auto refused = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().Message().find("1 infinite"), std::string::npos) << refused.error().Message();
  options.allow_anomalies = true;
  const auto allowed = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
  ASSERT_TRUE(allowed.ok()) << allowed.error().Message();
  EXPECT_EQ(allowed.value().anomalies.infinities, 1u);
}

}  // namespace
}  // namespace mimo::encode_work_keep_test
