// Encoded weights that are put together from rectangles and padding, and several in one array: they are what the same
// matrices are when they are stored whole, and encoded each in an array of its own.
#include "lib/run/assembled_rows.h"

#include <gtest/gtest.h>

#include "lib/model/file_names.h"
#include "lib/run/executor.h"
#include "lib/verify/check.h"
#include "tests/unit/run/lab.h"

namespace mimo::assembled_rows_test {
namespace {

using kernels::Encoding;

constexpr int64_t kRows = 200, kCols = 192, kLeft = 128, kBlock = 64;
constexpr int64_t kKept = 192;  // rows of those that are padded: whole blocks

// Columns [col, col + cols) of rows of `width` bytes.
lab::Bytes Columns(const lab::Bytes& from, size_t width, size_t col, size_t cols) {
  lab::Bytes bytes;
  for (size_t at = col; at < from.size(); at += width)
    bytes.insert(bytes.end(), from.begin() + static_cast<ptrdiff_t>(at),
                 from.begin() + static_cast<ptrdiff_t>(at + cols));
  return bytes;
}

// Rows of `width` bytes behind which each has `more` copies of `fill`.
lab::Bytes Widened(const lab::Bytes& from, size_t width, const lab::Bytes& fill, size_t more) {
  lab::Bytes bytes;
  for (size_t at = 0; at < from.size(); at += width) {
    bytes.insert(bytes.end(), from.begin() + static_cast<ptrdiff_t>(at),
                 from.begin() + static_cast<ptrdiff_t>(at + width));
    for (size_t i = 0; i < more; ++i) bytes.insert(bytes.end(), fill.begin(), fill.end());
  }
  return bytes;
}

const lab::Bytes kOne{0, 0, 0x80, 0x3F};  // FP32

// One matrix of each codec, whole, as its left and right columns, and with zeros behind.
class Matrices {
 public:
  Matrices() {
    lab::Random random(77);
    AddFp8("fp8", random.Codes(kRows * kCols), random.Scales(4 * 3));
    lab::Bytes powers = random.Scales(4 * 3);
    for (size_t i = 0; i < powers.size(); i += 4) powers[i] = powers[i + 1] = 0, powers[i + 2] &= 0x80;
    AddFp8("pow", random.Codes(kRows * kCols), powers);
    lab::Bytes exponents = random.Any(kRows * 6);
    for (uint8_t& e : exponents) e = static_cast<uint8_t>(110 + e % 9);
    AddMxfp4("four", random.Any(kRows * kCols / 2), exponents);
    const lab::Bytes values = random.Bf16(kRows * kCols);
    lab::Bytes padded = Widened(values, 2 * kCols, {0, 0}, 32);
    padded.resize(size_t{kKept} * (kCols + 32) * 2);
    padded.resize(size_t{210} * (kCols + 32) * 2);
    stored_.push_back({"bf16", DType::kBF16, {kRows, kCols}, values});
    stored_.push_back({"bf16_l", DType::kBF16, {kRows, kLeft}, Columns(values, 2 * kCols, 0, 2 * kLeft)});
    stored_.push_back({"bf16_r", DType::kBF16, {kRows, 64}, Columns(values, 2 * kCols, 2 * kLeft, 128)});
    stored_.push_back({"bf16_p", DType::kBF16, {210, kCols + 32}, padded});
    checkpoint.AddFile("m.safetensors", stored_);
    for (StoredArray& array : checkpoint.catalogue.arrays)
      if (array.name.ends_with("_scale")) array.id.part = Part::kScale;
    builder.File("m.safetensors");
  }

  uint32_t Source(const std::string& name) {
    if (name.starts_with("bf16")) return builder.Source(name);
    return builder.Quantized(name, name + (name.starts_with("four") ? "_scale" : "_scale_inv"), kBlock);
  }

  // The arrays of a weight; several weights are put into them.
  EncodedWeight Arrays(uint32_t group, const std::string& name, const Encoding& encoding, std::vector<int64_t> shape,
                       int64_t scale_rows, std::vector<int64_t> scalars, std::vector<Piece> pieces) {
    const bool packed = IsPacked(encoding.codec), cells = encoding.codec == Codec::kFp8Block;
    const int64_t group_columns = kernels::GroupColumns(encoding), cols = shape.back();
    EncodedWeight weight;
    weight.encoding = encoding;
    const auto add = [&](const std::string& suffix, DType dtype, std::vector<int64_t> of, std::vector<Piece> from) {
      const uint32_t output = builder.Output(group, name + suffix, dtype, std::move(of),
                                             suffix == ".weight" ? Transform::kEncode : Transform::kBeside, from);
      builder.plan.outputs[output].target_codec = encoding.codec;
      return output;
    };
    if (packed) shape.back() /= 2;
    weight.codes = add(".weight", packed ? DType::kU8 : DType::kF8E4M3, std::move(shape), std::move(pieces));
    const DType scales = cells ? DType::kF32 : encoding.codec == Codec::kNvfp4 ? DType::kF8E4M3 : DType::kU8;
    weight.scales = add(".weight_scale", scales, {scale_rows, (cols + group_columns - 1) / group_columns}, {});
    if (HasGlobal(encoding.codec)) weight.global = add(".weight_scale_2", DType::kF32, std::move(scalars), {});
    return weight;
  }

  void Encode(const std::string& name, const Encoding& encoding, int64_t rows, int64_t cols,
              std::vector<Piece> pieces) {
    const uint32_t group = builder.Group(name);
    const bool cells = encoding.codec == Codec::kFp8Block;
    const int64_t scale_rows = cells ? (rows + encoding.block_rows - 1) / encoding.block_rows : rows;
    builder.plan.groups[group].encoded.push_back(
        Arrays(group, name, encoding, {rows, cols}, scale_rows, {}, std::move(pieces)));
  }

  lab::Checkpoint checkpoint;
  lab::PlanBuilder builder{checkpoint};

 private:
  void AddFp8(const std::string& name, const lab::Bytes& codes, const lab::Bytes& scales) {
    const auto add = [&](const std::string& suffix, int64_t rows, int64_t cols, lab::Bytes c, lab::Bytes s) {
      stored_.push_back({name + suffix, DType::kF8E4M3, {rows, cols}, std::move(c)});
      stored_.push_back({name + suffix + "_scale_inv", DType::kF32, {4, (cols + 63) / 64}, std::move(s)});
    };
    add("", kRows, kCols, codes, scales);
    add("_l", kRows, kLeft, Columns(codes, kCols, 0, kLeft), Columns(scales, 12, 0, 8));
    add("_r", kRows, 64, Columns(codes, kCols, kLeft, 64), Columns(scales, 12, 8, 4));
    lab::Bytes padded = Widened(codes, kCols, {0}, 32);
    padded.resize(size_t{kKept} * (kCols + 32));
    padded.resize(size_t{210} * (kCols + 32));
    lab::Bytes padded_scales = Widened(scales, 12, kOne, 1);
    for (size_t i = 0; i < 4; ++i)
      std::copy(kOne.begin(), kOne.end(), padded_scales.begin() + 48 + 4 * static_cast<ptrdiff_t>(i));
    add("_p", 210, kCols + 32, padded, padded_scales);
  }
  void AddMxfp4(const std::string& name, const lab::Bytes& codes, const lab::Bytes& scales) {
    const auto add = [&](const std::string& suffix, int64_t rows, int64_t cols, lab::Bytes c, lab::Bytes s) {
      stored_.push_back({name + suffix, DType::kU8, {rows, cols / 2}, std::move(c)});
      stored_.push_back({name + suffix + "_scale", DType::kU8, {rows, cols / 32}, std::move(s)});
    };
    add("", kRows, kCols, codes, scales);
    add("_l", kRows, kLeft, Columns(codes, kCols / 2, 0, kLeft / 2), Columns(scales, 6, 0, 4));
    add("_r", kRows, 64, Columns(codes, kCols / 2, kLeft / 2, 32), Columns(scales, 6, 4, 2));
    lab::Bytes padded = Widened(codes, kCols / 2, {0}, 16), padded_scales = Widened(scales, 6, {127}, 1);
    padded.resize(size_t{kKept} * (kCols + 32) / 2);
    padded.resize(size_t{210} * (kCols + 32) / 2);
    padded_scales.resize(size_t{kKept} * 7);
    padded_scales.resize(size_t{210} * 7, 127);
    add("_p", 210, kCols + 32, padded, padded_scales);
  }

  std::vector<lab::Stored> stored_;
};

std::vector<std::pair<std::string, Encoding>> Encodings() {
  Encoding mx{.codec = Codec::kMxfp8, .rule = kernels::ScaleRule::kRceil};
  Encoding fp8{.codec = Codec::kFp8Block, .block_rows = 64, .block_cols = 32};
  Encoding fp4{.codec = Codec::kMxfp4, .rule = kernels::ScaleRule::kRceil};
  return {{"nvfp4", {}}, {"mxfp8", mx}, {"fp8", fp8}, {"mxfp4", fp4}};
}

// Runs with much and with little memory; the trees are equal.
RunReport RunBoth(const Matrices& m, uint64_t little = 400'000) {
  RunOptions options;
  options.output = m.checkpoint.output();
  options.threads = 2;
  options.measure_errors = true;
  std::map<std::string, lab::Bytes> first;
  RunReport last;
  for (const uint64_t memory : {uint64_t{64} << 20, little}) {
    options.memory_bytes = memory;
    options.overwrite = !first.empty();
    auto report = RunPlan(PosixFileSystem(), m.checkpoint.catalogue, m.builder.plan, options);
    EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().Message());
    if (!report.ok()) return last;
    const auto tree = lab::Tree(options.output);
    if (first.empty()) first = tree;
    EXPECT_EQ(tree, first) << memory;
    last = std::move(report).value();
  }
  const auto check = CheckDirectory(PosixFileSystem(), options.output);
  EXPECT_TRUE(check.ok() && check.value().differences.empty());
  return last;
}

void ExpectSame(const Matrices& m, const std::string& a, const std::string& b, bool global) {
  const std::string file = m.checkpoint.output() + "/m.safetensors";
  for (const char* part : {".weight", ".weight_scale", ".weight_scale_2"})
    if (global || std::string(part) != ".weight_scale_2") {
      EXPECT_EQ(lab::Tensor(file, a + part), lab::Tensor(file, b + part)) << a << part;
    }
}

TEST(AssembledRows, RectanglesAndPaddingAreTheMatrixThatTheyMake) {
  Matrices m;
  for (const char* name : {"fp8", "pow", "four", "bf16"}) {
    const std::string from = name;
    const uint32_t whole = m.Source(from), left = m.Source(from + "_l"), right = m.Source(from + "_r");
    const uint32_t padded = m.Source(from + "_p");
    for (const auto& [codec, encoding] : Encodings()) {
      const std::string as = from + "." + codec;
      m.Encode(as + ".whole", encoding, kRows, kCols, {{whole, 0, 0, kRows}});
      m.Encode(as + ".joined", encoding, kRows, kCols,
               {{left, 0, 0, kRows, 0, 0, kLeft}, {right, 0, 0, kRows, 0, kLeft, 64}});
      m.Encode(as + ".padded", encoding, 210, kCols + 32,
               {{whole, 0, 0, kKept, 0, 0, kCols},
                {kNone, 0, 0, kKept, 0, kCols, 32},
                {kNone, 0, kKept, 210 - kKept, 0, 0, 0}});
      m.Encode(as + ".stored", encoding, 210, kCols + 32, {{padded, 0, 0, 210}});
      // A column of a rank: a rectangle that is whole rows of the output.
      m.Encode(as + ".cut", encoding, kRows, 64, {{whole, 0, 0, kRows, kLeft, 0, 64}});
      m.Encode(as + ".part", encoding, kRows, 64, {{right, 0, 0, kRows}});
    }
  }
  m.builder.Finish();
  const RunReport report = RunBoth(m);
  if (HasFailure()) return;
  for (const char* name : {"fp8", "pow", "four", "bf16"})
    for (const auto& [codec, encoding] : Encodings()) {
      const std::string as = std::string(name) + "." + codec;
      ExpectSame(m, as + ".joined", as + ".whole", codec == "nvfp4");
      ExpectSame(m, as + ".padded", as + ".stored", codec == "nvfp4");
      ExpectSame(m, as + ".cut", as + ".part", codec == "nvfp4");
    }
  // Exact paths see what was stored: both or none of a pair take them.
  EXPECT_GT(report.blocks.exact_blocks, 0u);
  EXPECT_EQ(report.blocks.exact_blocks % 2, 0u);
  const lab::Bytes bytes = lab::ReadFile(m.checkpoint.output() + "/" + kManifestName);
  const std::string manifest(bytes.begin(), bytes.end());
  for (const char* name : {"four.nvfp4", "pow.mxfp8"})
    for (const char* how : {".joined", ".padded", ".cut"}) {
      const size_t at = manifest.find(std::string(name) + how + ".weight\"");
      ASSERT_NE(at, std::string::npos);
      EXPECT_EQ(manifest.substr(manifest.find("\"exact_blocks\":", at), 17).find("\"exact_blocks\":0,"),
                std::string::npos)
          << name << how;
    }
}

TEST(AssembledRows, PiecesOfSeveralCodecsMeetAsTheirValues) {
  Matrices m;
  const uint32_t left = m.Source("fp8_l"), right = m.Source("bf16_r"), whole = m.Source("bf16");
  m.Encode("mixed", Encodings()[1].second, kRows, kCols,
           {{left, 0, 0, kRows, 0, 0, kLeft}, {right, 0, 0, kRows, 0, kLeft, 64}});
  m.Encode("a", Encodings()[1].second, kRows, kLeft, {{left, 0, 0, kRows}});
  m.Encode("b", Encodings()[1].second, kRows, 64, {{right, 0, 0, kRows}});
  m.Encode("c", Encodings()[1].second, kRows, 64, {{whole, 0, 0, kRows, kLeft, 0, 64}});
  m.builder.Finish();
  RunBoth(m);
  const std::string file = m.checkpoint.output() + "/m.safetensors";
  const lab::Bytes mixed = lab::Tensor(file, "mixed.weight"), scales = lab::Tensor(file, "mixed.weight_scale");
  EXPECT_EQ(Columns(mixed, kCols, 0, kLeft), lab::Tensor(file, "a.weight"));
  EXPECT_EQ(Columns(mixed, kCols, kLeft, 64), lab::Tensor(file, "b.weight"));
  EXPECT_EQ(Columns(scales, 6, 0, 4), lab::Tensor(file, "a.weight_scale"));
  EXPECT_EQ(Columns(scales, 6, 4, 2), lab::Tensor(file, "b.weight_scale"));
  ExpectSame(m, "b", "c", false);
}

// Two experts of two matrices each, in arrays of two ranks that hold half of each matrix.
TEST(AssembledRows, ExpertsInOneArrayHaveGlobalsOfTheirOwn) {
  for (const auto& [codec, encoding] : Encodings()) {
    Matrices m;
    const char* names[4] = {"fp8", "bf16", "pow", "four"};  // gate and up of expert 0, of expert 1
    const bool cells = codec == "fp8";
    const int64_t half = 128 / 2, scale_rows = cells ? 1 : half;
    const uint32_t stack = m.builder.Group("stack");
    uint32_t sources[4];
    for (size_t i = 0; i < 4; ++i) sources[i] = m.Source(names[i]);
    for (int64_t rank = 0; rank < 2; ++rank) {
      std::vector<Piece> pieces;
      for (int64_t i = 0; i < 4; ++i) pieces.push_back({sources[i], rank * half, i * half, half});
      const EncodedWeight arrays = m.Arrays(stack, "rank" + std::to_string(rank), encoding, {2, 2 * half, kCols},
                                            4 * scale_rows, {2, 2}, pieces);
      for (int64_t i = 0; i < 4; ++i) {
        EncodedWeight weight = arrays;
        weight.row = i * half;
        weight.rows = half;
        weight.scale_row = i * scale_rows;
        weight.share = static_cast<uint32_t>(i / 2);
        weight.scalar = i;
        m.builder.plan.groups[stack].encoded.push_back(weight);
      }
    }
    for (int64_t expert = 0; expert < 2; ++expert) {
      const uint32_t alone = m.builder.Group("alone");
      for (int64_t i = 2 * expert; i < 2 * expert + 2; ++i)
        m.builder.plan.groups[alone].encoded.push_back(m.Arrays(alone, "alone" + std::to_string(i), encoding,
                                                                {2 * half, kCols}, 2 * scale_rows, {},
                                                                {{sources[i], 0, 0, 2 * half}}));
    }
    m.builder.Finish();
    const RunReport report = RunBoth(m, 80'000);
    EXPECT_EQ(report.groups_read_twice > 0, codec == "nvfp4") << codec;
    const std::string file = m.checkpoint.output() + "/m.safetensors";
    for (size_t rank = 0; rank < 2; ++rank) {
      lab::Bytes codes, scales, globals;
      for (size_t i = 0; i < 4; ++i) {
        const std::string alone = "alone" + std::to_string(i);
        const auto take = [&](const std::string& part, lab::Bytes* to) {
          const lab::Bytes all = lab::Tensor(file, alone + part);
          const auto middle = static_cast<ptrdiff_t>(all.size() / 2);
          to->insert(to->end(), all.begin() + (rank == 0 ? 0 : middle), rank == 0 ? all.begin() + middle : all.end());
        };
        take(".weight", &codes);
        take(".weight_scale", &scales);
        if (codec != "nvfp4") continue;
        const lab::Bytes global = lab::Tensor(file, alone + ".weight_scale_2");
        globals.insert(globals.end(), global.begin(), global.end());
      }
      const std::string name = "rank" + std::to_string(rank);
      EXPECT_EQ(lab::Tensor(file, name + ".weight"), codes) << codec;
      EXPECT_EQ(lab::Tensor(file, name + ".weight_scale"), scales) << codec;
      if (codec != "nvfp4") continue;
      EXPECT_EQ(lab::Tensor(file, name + ".weight_scale_2"), globals);
      EXPECT_NE(lab::Bytes(globals.begin(), globals.begin() + 4),
                lab::Bytes(globals.begin() + 8, globals.begin() + 12));
    }
  }
}

}  // namespace
}  // namespace mimo::assembled_rows_test
