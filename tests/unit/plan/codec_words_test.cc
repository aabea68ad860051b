// What no compiler sees of a new codec: the words of the JSON Schemas.
#include "lib/recipe/codec_words.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "lib/recipe/codec_types.h"
#include "lib/recipe/recipe_words.h"
#include "schemas/embedded.h"

namespace mimo::codec_words_test {
namespace {

using Json = nlohmann::json;
using WordSet = std::set<std::string>;

// Every list of words with "nvfp4" among them.
void FindLists(const Json& json, std::vector<WordSet>* lists) {
  if (json.is_object()) {
    const auto list = json.find("enum");
    if (list != json.end() && std::find(list->begin(), list->end(), "nvfp4") != list->end())
      lists->push_back(list->get<WordSet>());
  }
  if (json.is_structured())
    for (const Json& child : json) FindLists(child, lists);
}

std::vector<WordSet> ListsOf(const std::string& schema) {
  std::vector<WordSet> lists;
  for (int i = 0; i < kEmbeddedFileCount; ++i)
    if (schema == kEmbeddedFiles[i].path) FindLists(Json::parse(kEmbeddedFiles[i].content), &lists);
  return lists;
}

TEST(CodecWords, SchemasListEveryCodec) {
  WordSet words;
  for (const auto& [codec, word] : kCodecs) words.emplace(word);
  EXPECT_EQ(ListsOf("plan.schema.json"), (std::vector<WordSet>{words, words}));
  words.insert("keep");
  EXPECT_EQ(ListsOf("recipe.schema.json"), std::vector<WordSet>{words});
}

// A codec that is only read needs no recipe: then it is an exception here.
TEST(CodecWords, RecipesKnowEveryCodecByTheSameWord) {
  for (const auto& [codec, word] : kCodecs) {
    const std::optional<StoredAs> stored_as = FromWord(kStoredAs, word);
    ASSERT_TRUE(stored_as) << word;
    EXPECT_EQ(CodecOf(*stored_as), codec) << word;
  }
}

TEST(CodecWords, TypesLeadBackToValues) {
  for (const auto& [codec, word] : kCodecs) {
    EXPECT_EQ(ScaleTypeOf(codec).has_value(), !IsValueCodec(codec)) << word;
    const std::optional<Codec> values = IsValueCodec(codec) ? std::optional(codec) : std::nullopt;
    EXPECT_EQ(ValueCodecOf(DTypeOf(codec)), values) << word;
  }
  for (const DType dtype : {DType::kBool, DType::kI8, DType::kU8, DType::kI16, DType::kI32, DType::kI64, DType::kF64})
    EXPECT_FALSE(ValueCodecOf(dtype)) << DTypeName(dtype);
}

}  // namespace
}  // namespace mimo::codec_words_test
