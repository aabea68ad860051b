#include "lib/base/status.h"

#include <gtest/gtest.h>

namespace mimo::status_test {
namespace {

TEST(Error, MessageNamesEverythingInOrder) {
  const Error error{.what = "scale has the wrong shape",
                    .file = "model.safetensors",
                    .tensor = "a.b",
                    .expected = "[2, 3]",
                    .found = "[3, 2]",
                    .advice = "fetch the file again"};
  EXPECT_EQ(error.Message(),
            "model.safetensors: tensor a.b: scale has the wrong shape: expected [2, 3], found [3, 2]; "
            "fetch the file again");
}

Error With(std::string Error::*field, const char* text) {
  Error error;
  error.what = "no";
  error.*field = text;
  return error;
}

TEST(Error, MessageLeavesEmptyFieldsOut) {
  EXPECT_EQ(With(&Error::what, "no").Message(), "no");
  EXPECT_EQ(With(&Error::file, "f").Message(), "f: no");
  EXPECT_EQ(With(&Error::tensor, "t").Message(), "tensor t: no");
  EXPECT_EQ(With(&Error::expected, "x").Message(), "no: expected x");
  EXPECT_EQ(With(&Error::found, "y").Message(), "no: found y");
  EXPECT_EQ(With(&Error::advice, "do").Message(), "no; do");
  EXPECT_EQ(Error{}.Message(), "");
}

Status Fails() {
  Error error = With(&Error::what, "failed");
  error.code = ErrorCode::kIo;
  return error;
}
Result<int> Gives(bool ok) {
  if (!ok) return With(&Error::what, "none");
  return 7;
}
Result<int> Sum(bool first, bool second) {
  MIMO_ASSIGN_OR_RETURN(const int a, Gives(first));
  MIMO_ASSIGN_OR_RETURN(const int b, Gives(second));
  return a + b;
}
Result<int> AfterFailure() {
  MIMO_RETURN_IF_ERROR(Status());
  MIMO_RETURN_IF_ERROR(Fails());
  return 1;
}

TEST(Status, MacrosPassValuesAndErrorsOn) {
  EXPECT_TRUE(Status().ok());
  EXPECT_EQ(Sum(true, true).value(), 14);
  EXPECT_EQ(Sum(true, false).error().what, "none");
  EXPECT_EQ(AfterFailure().error().code, ErrorCode::kIo);
}

}  // namespace
}  // namespace mimo::status_test
