#include "lib/base/checked.h"

#include <gtest/gtest.h>

namespace mimo::checked_test {
namespace {

TEST(Checked, OverflowIsSeen) {
  EXPECT_EQ(CheckedAdd(UINT64_MAX - 1, 1), UINT64_MAX);
  EXPECT_EQ(CheckedAdd(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(CheckedMul(uint64_t{1} << 32, (uint64_t{1} << 32) - 1), 0xffffffff00000000u);
  EXPECT_EQ(CheckedMul(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
}

TEST(ParseSize, UnitsAndDecimals) {
  const struct {
    const char* text;
    uint64_t bytes;
  } kCases[] = {
      {"0", 0},
      {"1", 1},
      {"007", 7},
      {"123456", 123456},
      {"12B", 12},
      {"5GB", 5'000'000'000},
      {"5GiB", 5'368'709'120},
      {"5G", 5'368'709'120},
      {"5 GB", 5'000'000'000},
      {"5gb", 5'000'000'000},
      {"5gIb", 5'368'709'120},
      {"1K", 1024},
      {"1kB", 1000},
      {"1KiB", 1024},
      {"3M", 3'145'728},
      {"3MB", 3'000'000},
      {"2TB", 2'000'000'000'000},
      {"2TiB", 2'199'023'255'552},
      {"1.5GiB", 1'610'612'736},
      {"1.5GB", 1'500'000'000},
      {"0.25K", 256},
      {"0.001kB", 1},
      {"0.0019kB", 1},                                      // below a byte is dropped
      {"0.3333333333333333333333333333GB", 333'333'333},    // any number of digits
      {"2.999999999999999999999999TB", 2'999'999'999'999},  // exact, not through a double
      {"18446744073709551615", UINT64_MAX},
      {"16777215.99TiB", 18446744062714435338u},  // floor of an exact product
  };
  for (const auto& c : kCases) {
    const auto result = ParseSize(c.text);
    ASSERT_TRUE(result.ok()) << c.text << ": " << result.error().Message();
    EXPECT_EQ(result.value(), c.bytes) << c.text;
  }
}

TEST(ParseSize, RefusesWhatIsNotASize) {
  for (const char* text : {"",
                           " ",
                           "GB",
                           "-1",
                           "+1",
                           " 1",
                           "1 ",
                           "5XB",
                           "5GBB",
                           "5iB",
                           "5Gi",
                           "1e3",
                           "1.",
                           ".5GB",
                           "1.GB",
                           "1.5",
                           "1.5B",
                           "1,5GB",
                           "0x10",
                           "18446744073709551616",
                           "99999999999999999999999",
                           "16777216TiB",
                           "18446744073709552GB",
                           "nan",
                           "1.2.3GB"}) {
    const auto result = ParseSize(text);
    // Trailing blanks after a number are a blank before no unit.
    if (std::string_view(text) == "1 ") {
      EXPECT_TRUE(result.ok());
      continue;
    }
    ASSERT_FALSE(result.ok()) << text << " gave " << result.value();
    EXPECT_EQ(result.error().code, ErrorCode::kUsage);
    EXPECT_EQ(result.error().found, '"' + std::string(text) + '"');
    EXPECT_FALSE(result.error().advice.empty());
  }
}

TEST(FormatBytes, DecimalUnitsAndRounding) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1000), "1.00 kB");
  EXPECT_EQ(FormatBytes(1004), "1.00 kB");
  EXPECT_EQ(FormatBytes(1005), "1.01 kB");
  EXPECT_EQ(FormatBytes(999'994), "999.99 kB");
  EXPECT_EQ(FormatBytes(999'995), "1.00 MB");
  EXPECT_EQ(FormatBytes(1'234'567'890), "1.23 GB");
  EXPECT_EQ(FormatBytes(640'000'000'000), "640.00 GB");
  EXPECT_EQ(FormatBytes(1'024'000'000'000), "1.02 TB");
  EXPECT_EQ(FormatBytes(UINT64_MAX), "18.45 EB");
}

}  // namespace
}  // namespace mimo::checked_test
