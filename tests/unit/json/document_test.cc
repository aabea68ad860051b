// Documents: one member per line, lists with one element per line, handed on in pieces.
#include "lib/json/document.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mimo::document_test {
namespace {

Status WriteSample(const TextSink& sink, int elements) {
  JsonDocument document(sink, "{\"format\":\"sample\"");
  document.String("name", "a\nb");
  AppendInteger(document.Key("number"), 7);
  document.BeginList("empty");
  document.EndList();
  document.BeginList("list");
  for (int i = 0; i < elements; ++i) AppendInteger(document.Element(), i);
  document.EndList();
  return document.Finish("\n}\n");
}

TEST(JsonDocument, OneMemberAndOneElementPerLine) {
  std::string text;
  ASSERT_TRUE(WriteSample(
                  [&](std::string_view piece) {
                    text += piece;
                    return Status();
                  },
                  2)
                  .ok());
  EXPECT_EQ(text,
            "{\"format\":\"sample\",\n\"name\":\"a\\nb\",\n\"number\":7,\n\"empty\":[],\n\"list\":[\n0,\n1\n]\n}\n");
}

TEST(JsonDocument, LongListsComeInPiecesThatAreTheSameText) {
  std::string text;
  size_t pieces = 0, largest = 0;
  ASSERT_TRUE(WriteSample(
                  [&](std::string_view piece) {
                    ++pieces;
                    largest = std::max(largest, piece.size());
                    text += piece;
                    return Status();
                  },
                  100000)
                  .ok());
  EXPECT_GT(pieces, 5u);
  EXPECT_LT(largest, size_t{1} << 17);
  const nlohmann::json document = nlohmann::json::parse(text);
  ASSERT_EQ(document["list"].size(), 100000u);
  for (int i = 0; i < 100000; ++i) ASSERT_EQ(document["list"][static_cast<size_t>(i)], i);
}

TEST(JsonDocument, TheFirstErrorOfTheSinkEndsIt) {
  int calls = 0;
  const Status status = WriteSample(
      [&](std::string_view) -> Status {
        ++calls;
        return IoError("no space");
      },
      100000);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().what, "no space");
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace mimo::document_test
