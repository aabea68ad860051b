// Encoded weights: strips, the shared global scale and its two passes, exact paths, errors and thresholds. That the
// codes themselves are right is proven in tests/unit/kernels and, from outside, in tests/cli.
#include "lib/run/encode_work.h"

#include <gtest/gtest.h>

#include "lib/results/manifest.h"
#include "lib/run/encode_strips.h"
#include "lib/run/executor.h"
#include "lib/verify/check.h"
#include "tests/unit/run/lab.h"

namespace mimo::encode_work_test {
namespace {

using kernels::Encoding;
using kernels::ScaleRule;

// gate (BF16, from two arrays) and up (block FP8) share a global; down is MXFP8, o is block FP8 with 64-row blocks,
// exact is NVFP4 from MXFP4.
class EncodedModel {
 public:
  EncodedModel() {
    lab::Random random(5);
    checkpoint.AddFile("m.safetensors", {
                                            {"gate_a", DType::kBF16, {300, 64}, random.Bf16(300 * 64)},
                                            {"gate_b", DType::kBF16, {212, 64}, random.Bf16(212 * 64)},
                                            {"up", DType::kF8E4M3, {512, 64}, random.Codes(512 * 64)},
                                            {"up_scale_inv", DType::kF32, {4, 1}, random.Scales(4)},
                                            {"down", DType::kF8E4M3, {200, 96}, random.Codes(200 * 96)},
                                            {"down_scale_inv", DType::kF32, {2, 1}, random.Scales(2)},
                                            {"o", DType::kBF16, {130, 70}, random.Bf16(130 * 70)},
                                            {"four", DType::kU8, {140, 32}, random.Any(140 * 32)},
                                            {"four_scale", DType::kU8, {140, 2}, Exponents()},
                                        });
    checkpoint.catalogue.arrays[checkpoint.catalogue.by_name.at("four_scale")].id.part = Part::kScale;
    builder.File("m.safetensors");
    const uint32_t experts = builder.Group("experts.0");
    const uint32_t gate_a = builder.Source("gate_a"), gate_b = builder.Source("gate_b");
    const uint32_t up = builder.Quantized("up", "up_scale_inv");
    // gate's halves change places, and are cut where no block ends.
    Encode(experts, "gate", Nvfp4(), 512, 64, {{gate_b, 0, 0, 212}, {gate_a, 0, 212, 300}});
    Encode(experts, "up", Nvfp4(), 512, 64, {{up, 0, 0, 512}});
    Encoding mx;
    mx.codec = Codec::kMxfp8;
    mx.rule = ScaleRule::kRceil;
    Encode(builder.Group("down"), "down", mx, 200, 96, {{builder.Quantized("down", "down_scale_inv"), 0, 0, 200}});
    Encoding fp8;
    fp8.codec = Codec::kFp8Block;
    fp8.block_rows = 64;
    fp8.block_cols = 32;
    Encode(builder.Group("o"), "o", fp8, 130, 70, {{builder.Source("o"), 0, 0, 130}});
    // Three chunks of 100 rows: two rows of scales each.
    Encode(builder.Group("qkv"), "qkv", fp8, 300, 64, {{gate_a, 0, 0, 300}}, 100);
    Encode(builder.Group("four"), "four", Nvfp4(), 140, 64, {{builder.Quantized("four", "four_scale"), 0, 0, 140}});
    builder.Finish();
  }

  static lab::Bytes Exponents() {
    lab::Bytes bytes(280);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(110 + i % 9);
    return bytes;
  }
  static Encoding Nvfp4() { return {}; }

  void Encode(uint32_t group, const std::string& name, const Encoding& encoding, int64_t rows, int64_t cols,
              std::vector<Piece> pieces, int64_t period = 0) {
    const bool packed = encoding.codec == Codec::kNvfp4;
    const bool cells = encoding.codec == Codec::kFp8Block;
    const int64_t columns = kernels::GroupColumns(encoding);
    EncodedWeight weight;
    weight.encoding = encoding;
    weight.period = period;
    const auto add = [&](const std::string& suffix, DType dtype, std::vector<int64_t> shape, Transform transform,
                         std::vector<Piece> from) {
      const uint32_t output = builder.Output(group, name + suffix, dtype, std::move(shape), transform, std::move(from));
      builder.plan.outputs[output].target_codec = encoding.codec;
      return output;
    };
    weight.codes = add(".weight", packed ? DType::kU8 : DType::kF8E4M3, {rows, packed ? cols / 2 : cols},
                       Transform::kEncode, std::move(pieces));
    weight.scales =
        add(".weight_scale",
            cells    ? DType::kF32
            : packed ? DType::kF8E4M3
                     : DType::kU8,
            {cells ? BlockRowsOf(rows, weight) : rows, (cols + columns - 1) / columns}, Transform::kBeside, {});
    if (packed) weight.global = add(".weight_scale_2", DType::kF32, {}, Transform::kBeside, {});
    if (name == "up") {
      weight.input = add(".input_scale", DType::kF32, {}, Transform::kBeside, {});
      weight.input_value = 0.25f;
    }
    builder.plan.groups[group].encoded.push_back(weight);
  }

  lab::Checkpoint checkpoint;
  lab::PlanBuilder builder{checkpoint};
};

RunOptions OptionsFor(const EncodedModel& model, int threads, uint64_t memory) {
  RunOptions options;
  options.output = model.checkpoint.output();
  options.threads = threads;
  options.memory_bytes = memory;
  options.measure_errors = true;
  options.overwrite = std::filesystem::exists(options.output);
  return options;
}

TEST(Encode, ThreadsAndMemoryChangeNothingEvenWhereGroupsAreReadTwice) {
  const EncodedModel model;
  std::map<std::string, lab::Bytes> first;
  for (const int threads : {1, 4}) {
    for (const uint64_t memory : {64ull << 20, 160'000ull, 48'000ull}) {
      const RunOptions options = OptionsFor(model, threads, memory);
      const auto report = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
      ASSERT_TRUE(report.ok()) << report.error().Message();
      const auto tree = lab::Tree(options.output);
      if (first.empty()) first = tree;
      EXPECT_EQ(tree, first) << threads << " threads, " << memory << " bytes";  // errors in the manifest included
      EXPECT_EQ(report.value().groups_read_twice, memory == 48'000ull ? 1u : 0u);
      EXPECT_EQ(report.value().blocks.exact_blocks, 140u * 4);
      EXPECT_EQ(report.value().blocks.encoded_blocks, 2 * 512u * 4 + 200u * 3 + 3u * 3 + 3 * 2u * 2 + 140u * 4);
    }
  }
}

TEST(Encode, AGroupSharesOneGlobalAndOthersHaveTheirOwn) {
  const EncodedModel model;
  const RunOptions options = OptionsFor(model, 2, 1 << 20);
  ASSERT_TRUE(RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options).ok());
  const std::string file = options.output + "/m.safetensors";
  const auto scalar = [&](const std::string& name) {
    float value = 0;
    const lab::Bytes bytes = lab::Tensor(file, name);
    if (bytes.size() == 4) std::memcpy(&value, bytes.data(), 4);
    return value;
  };
  // The largest magnitude of gate and up together, from the stored bytes.
  float amax = 0;
  for (const char* name : {"gate_a", "gate_b"}) {
    const lab::Bytes bytes = lab::Tensor(model.checkpoint.path("m.safetensors"), name);
    for (size_t i = 0; i < bytes.size(); i += 2) {
      const uint32_t bits = static_cast<uint32_t>((bytes[i + 1] & 0x7F) << 24 | bytes[i] << 16);
      float value = 0;
      std::memcpy(&value, &bits, 4);
      amax = std::max(amax, value);
    }
  }
  const lab::Bytes codes = lab::Tensor(model.checkpoint.path("m.safetensors"), "up");
  const lab::Bytes scales = lab::Tensor(model.checkpoint.path("m.safetensors"), "up_scale_inv");
  for (size_t i = 0; i < codes.size(); ++i) {
    float scale = 0;
    std::memcpy(&scale, &scales[i / 64 / 128 * 4], 4);
    const int exponent = codes[i] >> 3 & 15, mantissa = codes[i] & 7;
    const double value = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    amax = std::max(amax, static_cast<float>(value) * scale);
  }
  EXPECT_EQ(scalar("gate.weight_scale_2"), amax / 2688.0f);
  EXPECT_EQ(scalar("up.weight_scale_2"), amax / 2688.0f);
  EXPECT_EQ(scalar("four.weight_scale_2"), std::ldexp(1.0f, 118 - 127 - 8));
  EXPECT_EQ(scalar("up.input_scale"), 0.25f);
  const auto check = CheckDirectory(PosixFileSystem(), options.output);
  ASSERT_TRUE(check.ok());
  EXPECT_TRUE(check.value().differences.empty());
}

TEST(Encode, EveryRowIsMadeOnceAndMeasuredBeforeIt) {
  const EncodedModel model;
  const Job job{model.checkpoint.catalogue, model.builder.plan,
                std::vector<OutputMode>(model.builder.plan.outputs.size(), OutputMode::kWrite)};
  for (const uint64_t limit : {uint64_t{1} << 30, uint64_t{40'000}, uint64_t{1}}) {
    for (const uint64_t group_limit : {uint64_t{1} << 30, uint64_t{60'000}}) {
      PartLoader loader(job, UINT64_MAX);
      StepCutter cutter(job, loader, limit, group_limit, lab::AllParts(job.plan));
      std::map<std::pair<uint32_t, uint32_t>, int64_t> next, measured;
      uint64_t progress = 0;
      while (const auto step = cutter.Next()) {
        progress += step->progress_bytes;
        for (const EncodeStrip& strip : step->encodes) {
          int64_t& row = (step->pass == GlobalPass::kMeasure ? measured : next)[{strip.group, strip.weight}];
          EXPECT_EQ(strip.row, row);
          row += strip.rows;
          const EncodedWeight& weight = model.builder.plan.groups[strip.group].encoded[strip.weight];
          EXPECT_EQ((weight.period > 0 ? strip.row % weight.period : strip.row) % EncodeUnit(weight), 0);
          if (step->pass != GlobalPass::kMeasured) continue;
          const auto& encoded = model.builder.plan.groups[strip.group].encoded;
          for (uint32_t w = 0; w < encoded.size(); ++w)
            EXPECT_EQ((measured[{strip.group, w}]), model.builder.plan.outputs[encoded[w].codes].rows());
        }
        if (step->pass != GlobalPass::kWhole) {
          EXPECT_TRUE(step->strips.empty() && step->cells.empty());
          for (const EncodeStrip& strip : step->encodes) EXPECT_EQ(strip.group, step->encodes[0].group);
        }
      }
      for (uint32_t g = 0; g < model.builder.plan.groups.size(); ++g)
        for (uint32_t w = 0; w < model.builder.plan.groups[g].encoded.size(); ++w)
          EXPECT_EQ((next[{g, w}]), model.builder.plan.outputs[model.builder.plan.groups[g].encoded[w].codes].rows());
      EXPECT_EQ(measured.empty(), group_limit > 60'000);
      EXPECT_EQ(progress, lab::MeasureJob(job).progress_bytes);
    }
  }
}

TEST(Encode, LosslessStopsWhereTheDataDoesNotTakeTheExactPath) {
  EncodedModel model;
  model.builder.plan.options.lossless = true;
  const RunOptions options = OptionsFor(model, 2, 1 << 20);
  const auto report = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kCheckFailed);
  EXPECT_NE(report.error().Message().find("without rounding"), std::string::npos) << report.error().Message();
  EXPECT_FALSE(std::filesystem::exists(options.output));
}

TEST(Encode, AThresholdThatDoesNotHoldIsPublishedAsRejected) {
  const EncodedModel model;
  RunOptions options = OptionsFor(model, 2, 1 << 20);
  options.thresholds = {{"all", 25.0}};
  const auto report = RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options);
  ASSERT_TRUE(report.ok()) << report.error().Message();
  ASSERT_EQ(report.value().rejections.size(), 2u);  // gate and up; MXFP8 and FP8 hold, the exact one has no error
  EXPECT_EQ(report.value().rejections[0].substr(0, 17), "gate.weight: SQNR");
  const auto manifest = ReadManifest(PosixFileSystem(), options.output + "/" + kManifestName);
  ASSERT_TRUE(manifest.ok());
  EXPECT_EQ(manifest.value().rejections, report.value().rejections);
  const auto check = CheckDirectory(PosixFileSystem(), options.output);
  ASSERT_TRUE(check.ok());
  EXPECT_EQ(check.value().differences.size(), 2u);

  options.overwrite = true;
  options.thresholds = {{"attn.q", 25.0}};
  EXPECT_EQ(RunPlan(PosixFileSystem(), model.checkpoint.catalogue, model.builder.plan, options).error().code,
            ErrorCode::kUsage);
}

}  // namespace
}  // namespace mimo::encode_work_test
