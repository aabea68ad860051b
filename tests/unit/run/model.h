// A miniature of everything at once: an FP8 projection split, converted and replicated, a relaid one, an unchanged
// file, carried files with a subdirectory, texts; three file groups.
#pragma once

#include "lib/run/executor.h"
#include "tests/unit/run/lab.h"

namespace mimo::lab {

struct Model {
  Checkpoint checkpoint;
  PlanBuilder builder{checkpoint};

  explicit Model(int64_t rows = 192, int64_t cols = 130, uint64_t seed = 7) {
    Random random(seed);
    const auto n = static_cast<size_t>(rows * cols);
    const int64_t scale_rows = (rows + 63) / 64;
    checkpoint.AddFile(
        "a.safetensors",
        {{"qkv", DType::kF8E4M3, {rows, cols}, random.Codes(n)},
         {"qkv_scale_inv", DType::kF32, {scale_rows, 3}, random.Scales(static_cast<size_t>(3 * scale_rows))},
         {"norm", DType::kBF16, {33}, random.Bf16(33)}});
    checkpoint.AddFile("b.safetensors", {{"w", DType::kF8E4M3, {192, 100}, random.Codes(19200)},
                                         {"w_scale_inv", DType::kF32, {3, 2}, random.Scales(6)}});
    checkpoint.AddFile("c.safetensors", {{"same", DType::kBF16, {40, 9}, random.Bf16(360)}});
    checkpoint.AddCarried("tokenizer.json", random.Any(500));
    checkpoint.AddCarried("dflash/deep/model.bin", random.Any(700));

    builder.File("a.safetensors", 0);
    const uint32_t attention = builder.Group("attention");
    const uint32_t qkv = builder.Quantized("qkv", "qkv_scale_inv", 64);
    const int64_t half = rows / 2;
    builder.Output(attention, "k", DType::kBF16, {2 * (rows - half), cols}, Transform::kConvert,
                   {{qkv, half, 0, rows - half}, {qkv, half, rows - half, rows - half}});  // replicated
    builder.Keep("norm");
    builder.Output(attention, "q", DType::kF32, {half + 10, cols}, Transform::kConvert, {{qkv, 0, 0, half + 10}});
    builder.File("b.safetensors", 1);
    const uint32_t layer = builder.Group("layer");
    const uint32_t w = builder.Source("w"), s = builder.Source("w_scale_inv");
    builder.plan.sources[w].block_cols = 64;
    const uint32_t out = builder.Output(layer, "w", DType::kF8E4M3, {192, 100}, Transform::kRelayout, {});
    const uint32_t out_s = builder.Output(layer, "w_scale_inv", DType::kF32, {3, 2}, Transform::kScales, {});
    builder.plan.groups[layer].cells = {
        {out_s, 0, true, {{w, 128, out, 0, 64, s, 2}}},
        {out_s, 1, false, {{w, 0, out, 64, 32, s, 0}, {w, 96, out, 96, 32, s, 1}}},
        {out_s, 2, false, {{w, 64, out, 128, 32, s, 1}, {w, 32, out, 160, 32, s, 0}}},
    };
    builder.UnchangedFile("c.safetensors", 2);
    builder.Text("config.json", "{\"model_type\": \"mimo\"}\n");
    builder.Text("model.safetensors.index.json", Index());
    builder.plan.carried = {"dflash/deep/model.bin", "tokenizer.json"};
    builder.Finish();
  }
  const Plan& plan() const { return builder.plan; }
  const Catalogue& catalogue() const { return checkpoint.catalogue; }

 private:
  static std::string Index() {
    return R"({"metadata": {}, "weight_map": {"k": "a.safetensors", "norm": "a.safetensors", "q": "a.safetensors",
            "w": "b.safetensors", "w_scale_inv": "b.safetensors", "same": "c.safetensors"}})";
  }
};

// To its own output unless the options name one.
inline Result<RunReport> Convert(const Model& model, RunOptions options) {
  if (options.output.empty()) options.output = model.checkpoint.output();
  return RunPlan(PosixFileSystem(), model.catalogue(), model.plan(), options);
}
// The code of the error that a run ends with; 0 when it succeeds.
inline ErrorCode CodeOf(const Model& model, const RunOptions& options) {
  const auto report = Convert(model, options);
  return report.ok() ? ErrorCode(0) : report.error().code;
}

}  // namespace mimo::lab
