// Encoding and measuring on the GPU against the CPU: bytes, counts and error sums. Skipped without CUDA or without a
// device; encode_tile_test.cc proves the code of the threads on the host.
#include "kernels/cuda/convert_cuda.h"
#include "kernels/cuda/device_memory.h"
#include "tests/unit/kernels/encode_lab.h"

namespace mimo::kernels::encode_cuda_test {
namespace {

// The target of a job, with gaps between rows that must stay as they are.
struct TargetBytes {
  TargetBytes(uint64_t rows, uint64_t cols, const Encoding& encoding, uint64_t gap) {
    const bool cells = encoding.codec == Codec::kFp8Block;
    const uint64_t groups = (cols + GroupColumns(encoding) - 1) / GroupColumns(encoding);
    code_row_bytes = (cells || encoding.codec == Codec::kMxfp8 ? cols : cols / 2) + gap;
    scale_row_bytes = (cells ? 4 * groups : groups) + gap;
    codes.assign(rows * code_row_bytes, 0xCD);
    const uint64_t scale_rows = cells ? (rows + encoding.block_rows - 1) / encoding.block_rows : rows;
    scales.assign(scale_rows * scale_row_bytes, 0xCD);
    errors.resize((rows + kStatRows - 1) / kStatRows);
  }
  EncodeJob JobOf(const std::vector<SourceRows>& from, uint64_t cols, const Encoding& encoding,
                  const Nvfp4Global& global, bool with_errors) {
    EncodeJob job;
    job.from = from;
    for (const SourceRows& rows : from) job.rows += rows.rows;
    job.cols = cols;
    job.encoding = encoding;
    job.global = global;
    job.codes = codes.data();
    job.code_row_bytes = code_row_bytes;
    job.scales = scales.data();
    job.scale_row_bytes = scale_row_bytes;
    job.errors = with_errors ? errors.data() : nullptr;
    return job;
  }
  uint64_t code_row_bytes, scale_row_bytes;
  std::vector<uint8_t> codes, scales;
  std::vector<ErrorSums> errors;
};

class EncodeCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CudaDeviceCount() == 0) GTEST_SKIP() << "no CUDA device";
  }

  std::unique_ptr<CudaConverter> Converter(uint64_t staging) {
    std::string error;
    auto converter = CudaConverter::Create(0, staging, &error);
    EXPECT_NE(converter, nullptr) << error;
    return converter;
  }

  void ExpectEqualsCpu(CudaConverter* converter, const std::vector<RandomCase>& cases, uint64_t cols,
                       const Encoding& encoding, bool with_errors, uint64_t gap = 0) {
    const std::string label = Label(encoding) + " from " + std::to_string(cases.size()) + " runs";
    std::vector<SourceRows> from;
    uint64_t rows = 0;
    std::vector<uint8_t> unused = cases[0].blank_target();
    for (const RandomCase& one : cases) {
      from.push_back(RowsOf(one.BandInto(&unused)));
      from.back().continues = from.size() % 3 == 0;
      rows += from.back().rows;
    }
    std::string error;
    Measured measured;
    ASSERT_TRUE(converter->Measure(from, cols, encoding.via_bf16, &measured, &error)) << error;
    ASSERT_EQ(measured, MeasureRows(from, cols, encoding.via_bf16)) << label;
    const Nvfp4Global global = ChooseNvfp4Global(measured, encoding.rule);
    TargetBytes wanted(rows, cols, encoding, gap), actual(rows, cols, encoding, gap);
    const EncodeCounts wanted_counts = EncodeRows(wanted.JobOf(from, cols, encoding, global, with_errors));
    EncodeCounts counts;
    ASSERT_TRUE(converter->Encode(actual.JobOf(from, cols, encoding, global, with_errors), &counts, &error)) << error;
    ASSERT_TRUE(actual.scales == wanted.scales) << label;
    ASSERT_TRUE(actual.codes == wanted.codes) << label;
    ASSERT_EQ(counts, wanted_counts) << label;
    if (encoding.codec == Codec::kFp8Block || encoding.codec == Codec::kMxfp4)
      ExpectKeptEqualsCpu(converter, wanted,
                          [&](TargetBytes& target) { return target.JobOf(from, cols, encoding, global, with_errors); });
    if (!with_errors) return;
    for (size_t i = 0; i < wanted.errors.size(); ++i) {  // NaN sums, of infinite targets, are equal bytes too
      ASSERT_EQ(std::memcmp(&actual.errors[i], &wanted.errors[i], sizeof(ErrorSums)), 0) << label;
    }
  }

  // The same job under given scales: those of `made`, a third of them too small for their blocks.
  template <typename JobOf>
  void ExpectKeptEqualsCpu(CudaConverter* converter, const TargetBytes& made, const JobOf& job_of) {
    std::vector<uint8_t> keep = made.scales;
    TargetBytes wanted = made, actual = made;
    EncodeJob job = job_of(wanted);
    if (job.encoding.codec == Codec::kMxfp4) {
      for (size_t i = 0; i < keep.size(); i += 3) keep[i] = static_cast<uint8_t>(keep[i] > 3 ? keep[i] - 3 : 0);
    } else {
      for (size_t i = 0; i + sizeof(float) <= keep.size(); i += 3 * sizeof(float)) {
        float scale = 0;
        std::memcpy(&scale, &keep[i], sizeof scale);
        scale *= 0.25f;
        std::memcpy(&keep[i], &scale, sizeof scale);
      }
    }
    job.keep = keep.data();
    const EncodeCounts wanted_counts = EncodeRows(job);
    job = job_of(actual);
    job.keep = keep.data();
    EncodeCounts counts;
    std::string error;
    ASSERT_TRUE(converter->Encode(job, &counts, &error)) << error;
    ASSERT_TRUE(actual.scales == wanted.scales);
    ASSERT_TRUE(actual.codes == wanted.codes);
    ASSERT_EQ(counts, wanted_counts);
  }
};

TEST_F(EncodeCuda, EveryPairOnRandomMatrices) {
  const auto converter = Converter(uint64_t{8} << 20);
  ASSERT_NE(converter, nullptr);
  for (const Codec from : kSources) {
    for (Encoding encoding : AllEncodings()) {
      for (uint64_t seed = 0; seed < 8; ++seed) {
        const uint64_t group = encoding.codec == Codec::kFp8Block ? 1 : GroupColumns(encoding);
        const uint64_t cols = group * (1 + seed * 7919 % (900 / group));
        encoding.via_bf16 = seed % 2 == 1;
        std::vector<RandomCase> cases;
        cases.emplace_back(from, Codec::kFp32, 40, 1, seed, cols);
        ExpectEqualsCpu(converter.get(), cases, cols, encoding, seed % 3 == 0, seed % 4 * 5);
        if (HasFatalFailure()) FAIL() << "from " << int(from) << " seed " << seed;
      }
    }
  }
}

TEST_F(EncodeCuda, RunsOfDifferentSources) {
  const auto converter = Converter(uint64_t{8} << 20);
  ASSERT_NE(converter, nullptr);
  for (const Encoding& encoding : AllEncodings()) {
    std::vector<RandomCase> cases;
    for (int round = 0; round < 2; ++round) {
      for (const Codec from : kSources) cases.emplace_back(from, Codec::kFp32, 60, 1, 70 + uint64_t(round), 576);
    }
    ExpectEqualsCpu(converter.get(), cases, 576, encoding, true);
    if (HasFatalFailure()) return;
  }
}

// Batches of whole rows (of blocks), and jobs of which not even one row (of blocks) fits.
TEST_F(EncodeCuda, JobsLargerThanTheStaging) {
  const auto converter = Converter(uint64_t{256} << 10);  // halves of 128 KiB
  ASSERT_NE(converter, nullptr);
  for (const Codec from : kSources) {
    for (const Encoding& encoding : AllEncodings()) {
      if (encoding.rule == ScaleRule::kSweep || encoding.rule == ScaleRule::kMse) continue;
      for (const uint64_t cols : {uint64_t{1536}, uint64_t{65536}}) {
        std::vector<RandomCase> cases;
        for (uint64_t i = 0; i < (cols == 1536 ? 3u : 1u); ++i) {
          cases.emplace_back(from, Codec::kFp32, cols == 1536 ? 200 : 3, 1, 11 + i, cols);
        }
        ExpectEqualsCpu(converter.get(), cases, cols, encoding, false);
        if (HasFatalFailure()) FAIL() << "from " << int(from) << " columns " << cols;
      }
    }
  }
}

// Weights as they are: the vector paths on every group, by device pointers, and every code of E4M3 through hardware
// packing.
TEST_F(EncodeCuda, DevicePointers) {
  const auto converter = Converter(uint64_t{1} << 20);
  ASSERT_NE(converter, nullptr);
  constexpr uint64_t kRows = 384, kCols = 2048, kBand = 128;
  std::mt19937 random(3);
  std::vector<uint8_t> codes(kRows * kCols);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % 3 == 0 ? random() & 0xBF : random());
  for (uint8_t& code : codes) code = (code & 0x7F) == 0x7F ? 0x55 : code;
  std::vector<uint16_t> halves(kRows * kCols);
  for (uint16_t& half : halves) half = static_cast<uint16_t>((random() & 0x80FF) | (0x3A00 + random() % 16 * 0x80));
  std::vector<float> scales(kRows / kBand * (kCols / 128));
  for (float& scale : scales) scale = 1e-4f * static_cast<float>(1 + random() % 97);
  std::string error;
  const auto device_codes = DeviceBuffer::Create(0, codes.size(), &error);
  const auto device_halves = DeviceBuffer::Create(0, 2 * halves.size(), &error);
  const auto device_scales = DeviceBuffer::Create(0, 4 * scales.size(), &error);
  const auto device_out = DeviceBuffer::Create(0, kRows * kCols, &error);
  const auto device_out_scales = DeviceBuffer::Create(0, kRows * kCols / 16, &error);
  ASSERT_TRUE(device_codes && device_halves && device_scales && device_out && device_out_scales) << error;
  ASSERT_TRUE(device_codes->Upload(codes.data(), codes.size(), &error)) << error;
  ASSERT_TRUE(device_halves->Upload(halves.data(), 2 * halves.size(), &error)) << error;
  ASSERT_TRUE(device_scales->Upload(scales.data(), 4 * scales.size(), &error)) << error;
  for (const bool fp8 : {true, false}) {
    std::vector<SourceRows> host, device;
    for (uint64_t row = 0; row < kRows; row += fp8 ? kBand : kRows) {
      SourceRows rows;
      rows.rows = fp8 ? kBand : kRows;
      rows.source.codec = fp8 ? Codec::kFp8Block : Codec::kBf16;
      rows.source.row_bytes = fp8 ? kCols : 2 * kCols;
      rows.source.data = fp8 ? static_cast<const void*>(codes.data() + row * kCols) : halves.data();
      rows.source.scales = scales.data() + row / kBand * (kCols / 128);
      host.push_back(rows);
      rows.source.data = fp8 ? device_codes->data() + row * kCols : device_halves->data();
      rows.source.scales = device_scales->data() + row / kBand * (kCols / 128) * 4;
      device.push_back(rows);
    }
    for (const Encoding& encoding : AllEncodings()) {
      Measured measured;
      double seconds = 0;
      ASSERT_TRUE(converter->MeasureOnDevice(device, kCols, false, &measured, &seconds, &error)) << error;
      EXPECT_GT(seconds, 0);
      ASSERT_EQ(measured, MeasureRows(host, kCols, false));
      const Nvfp4Global global = ChooseNvfp4Global(measured, encoding.rule);
      TargetBytes wanted(kRows, kCols, encoding, 0), actual(kRows, kCols, encoding, 0);
      const EncodeCounts wanted_counts = EncodeRows(wanted.JobOf(host, kCols, encoding, global, false));
      EncodeJob job = actual.JobOf(device, kCols, encoding, global, false);
      job.codes = device_out->data();
      job.scales = device_out_scales->data();
      if (actual.scales.size() > kRows * kCols / 16) continue;
      EncodeCounts counts;
      ASSERT_TRUE(converter->EncodeOnDevice(job, &counts, &seconds, &error)) << error;
      EXPECT_GT(seconds, 0);
      EXPECT_EQ(counts, wanted_counts) << Label(encoding);
      ASSERT_TRUE(device_out->Download(actual.codes.data(), actual.codes.size(), &error)) << error;
      ASSERT_TRUE(device_out_scales->Download(actual.scales.data(), actual.scales.size(), &error)) << error;
      ASSERT_EQ(actual.scales, wanted.scales) << Label(encoding) << (fp8 ? " fp8" : " bf16");
      ASSERT_EQ(actual.codes, wanted.codes) << Label(encoding) << (fp8 ? " fp8" : " bf16");
    }
  }
}

}  // namespace
}  // namespace mimo::kernels::encode_cuda_test
