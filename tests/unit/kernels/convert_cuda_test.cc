// The GPU against the portable CPU path, byte for byte. Skipped without CUDA or without a device.
#include "kernels/cuda/convert_cuda.h"

#include <gtest/gtest.h>

#include "kernels/cuda/device_memory.h"
#include "tests/unit/kernels/random_case.h"

namespace mimo::kernels::convert_cuda_test {
namespace {

class ConvertCuda : public ::testing::Test {
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

  void ExpectEqualsPortable(CudaConverter* converter, const std::vector<RandomCase>& cases) {
    std::vector<std::vector<uint8_t>> expected, target;
    std::vector<Band> expected_bands, bands;
    for (const RandomCase& c : cases) {
      expected.push_back(c.blank_target());
      target.push_back(c.blank_target());
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      expected_bands.push_back(cases[i].BandInto(&expected[i]));
      bands.push_back(cases[i].BandInto(&target[i]));
    }
    const Anomalies wanted = ConvertBands(expected_bands, 1, Isa::kPortable);
    Anomalies anomalies;
    std::string error;
    ASSERT_TRUE(converter->Convert(bands, &anomalies, &error)) << error;
    ASSERT_EQ(anomalies, wanted);
    for (size_t i = 0; i < cases.size(); ++i)
      ASSERT_EQ(RandomCase::Content(&target[i]), RandomCase::Content(&expected[i])) << i;
  }
};

TEST_F(ConvertCuda, EveryPairOnRandomMatrices) {
  const auto converter = Converter(uint64_t{8} << 20);
  ASSERT_NE(converter, nullptr);
  for (const Codec from : kSources) {
    for (const Codec to : kTargets) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        std::vector<RandomCase> cases;
        cases.emplace_back(from, to, 40, 900, seed);
        ExpectEqualsPortable(converter.get(), cases);
        if (HasFatalFailure()) FAIL() << "from " << int(from) << " to " << int(to) << " seed " << seed;
      }
    }
  }
}

TEST_F(ConvertCuda, MixedBandsInOneCall) {
  const auto converter = Converter(uint64_t{8} << 20);
  ASSERT_NE(converter, nullptr);
  std::vector<RandomCase> cases;
  uint64_t seed = 100;
  for (const Codec from : kSources) {
    for (const Codec to : kTargets) {
      for (int i = 0; i < 4; ++i) cases.emplace_back(from, to, 50, 600, seed++);
    }
  }
  ExpectEqualsPortable(converter.get(), cases);
}

TEST_F(ConvertCuda, BandsLargerThanTheStagingAreCutByRowsAndColumns) {
  const auto converter = Converter(uint64_t{256} << 10);  // halves of 128 KiB
  ASSERT_NE(converter, nullptr);
  for (const Codec from : kSources) {
    std::vector<RandomCase> cases;
    cases.emplace_back(from, Codec::kBf16, 400, 1500, 7);
    cases.emplace_back(from, Codec::kFp32, 2, 150000, 8);  // one row exceeds the staging
    ExpectEqualsPortable(converter.get(), cases);
    if (HasFatalFailure()) FAIL() << "from " << int(from);
  }
}

TEST_F(ConvertCuda, DevicePointers) {
  const auto converter = Converter(uint64_t{1} << 20);
  ASSERT_NE(converter, nullptr);
  constexpr uint64_t kRows = 300, kCols = 1024;
  std::mt19937 random(3);
  std::vector<uint8_t> codes(kRows * kCols);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random());
  std::vector<float> scales(kCols / 128);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = i == 2 ? -1.0f : 0.001f * static_cast<float>(i + 1);
  std::vector<uint16_t> expected(kRows * kCols), actual(kRows * kCols);
  Band band;
  band.source = {.codec = Codec::kFp8Block, .data = codes.data(), .row_bytes = kCols, .scales = scales.data()};
  band.target = {.codec = Codec::kBf16, .data = expected.data(), .row_bytes = kCols * 2};
  band.rows = kRows;
  band.cols = kCols;
  const Anomalies wanted = ConvertBands({&band, 1}, 1, Isa::kPortable);
  std::string error;
  const auto device_codes = DeviceBuffer::Create(0, codes.size(), &error);
  const auto device_scales = DeviceBuffer::Create(0, scales.size() * 4, &error);
  const auto device_out = DeviceBuffer::Create(0, expected.size() * 2, &error);
  ASSERT_TRUE(device_codes && device_scales && device_out) << error;
  ASSERT_TRUE(device_codes->Upload(codes.data(), codes.size(), &error)) << error;
  ASSERT_TRUE(device_scales->Upload(scales.data(), scales.size() * 4, &error)) << error;
  band.source.data = device_codes->data();
  band.source.scales = device_scales->data();
  band.target.data = device_out->data();
  Anomalies anomalies;
  double seconds = 0;
  ASSERT_TRUE(converter->ConvertOnDevice({&band, 1}, &anomalies, &seconds, &error)) << error;
  EXPECT_GT(seconds, 0);
  EXPECT_EQ(anomalies, wanted);
  ASSERT_TRUE(device_out->Download(actual.data(), actual.size() * 2, &error)) << error;
  EXPECT_EQ(actual, expected);
}

TEST(ConvertCudaErrors, ADeviceThatDoesNotExist) {
  std::string error;
  EXPECT_EQ(CudaConverter::Create(CudaDeviceCount() + 7, uint64_t{1} << 20, &error), nullptr);
  EXPECT_FALSE(error.empty());
}

}  // namespace
}  // namespace mimo::kernels::convert_cuda_test
