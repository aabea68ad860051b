// Documents that travel along: what of them is a difference, and what is another way to write the same.
#include "lib/verify/compare/carried_texts.h"

#include <gtest/gtest.h>

namespace mimo::carried_texts_test {
namespace {

constexpr TextMeaning kJson = TextMeaning::kJson, kText = TextMeaning::kText;

TEST(TextDifference, OfTextsNamesTheLine) {
  EXPECT_EQ(TextDifference("one\ntwo\n", "one\ntwo\n", kText), std::nullopt);
  EXPECT_EQ(TextDifference("one\ntwo\nx", "one\ntwice\nx", kText), "line 2: \"two\" against \"twice\"");
  EXPECT_EQ(TextDifference("one\n", "one", kText), "line 1: \"one\" against \"one\"");
  EXPECT_EQ(TextDifference("", "a", kText), "line 1: \"\" against \"a\"");
  EXPECT_EQ(TextDifference("a\n", "a\nb", kText), "line 2: \"\" against \"b\"");
}

TEST(TextDifference, OfJsonNamesTheMember) {
  EXPECT_EQ(TextDifference(R"({"a": {"b": [1, 2]}})", R"({"a": {"b": [1, 3]}})", kJson), "a.b.1: 2 against 3");
  EXPECT_EQ(TextDifference(R"({"a": [1, 2]})", R"({"a": [1]})", kJson), "a: 2 entries against 1");
  EXPECT_EQ(TextDifference(R"({"a": 1})", R"({"a": 1, "b": "x"})", kJson), R"(b: nothing against "x")");
  EXPECT_EQ(TextDifference(R"({"a": 1})", R"({})", kJson), "a: 1 against nothing");
}

TEST(TextDifference, OfJsonIsNotHowItIsWritten) {
  EXPECT_EQ(TextDifference(R"({"a": 1, "b": 2.0})", "{\n \"b\": 2.0,\n \"a\": 1\n}\n", kJson), std::nullopt);
  EXPECT_EQ(TextDifference(R"({"a": 1, "transformers_version": "4.57"})", R"({"a": 1, "name_or_path": "x"})", kJson),
            std::nullopt);
  // Every byte of what no reader of JSON takes, as a trailing comma.
  EXPECT_NE(TextDifference(R"({"a": 1,})", R"({"a": 1, })", kJson), std::nullopt);
  EXPECT_EQ(TextDifference(R"({"model": {"merges": ["a b", "c d"]}})",
                           R"({"model": {"merges": [["a", "b"], ["c", "d"]]}})", kJson),
            std::nullopt);
  EXPECT_NE(TextDifference(R"({"model": {"merges": ["a b"]}})", R"({"model": {"merges": [["a", "c"]]}})", kJson),
            std::nullopt);
}

TEST(ChatTemplates, AreFoundWhereverTheyLie) {
  const ChatTemplates one = {{"default", "{{ x }}"}};
  EXPECT_EQ(ChatTemplatesOf(std::nullopt, {}), ChatTemplates());
  EXPECT_EQ(ChatTemplatesOf(R"({"chat_template": "{{ x }}"})", {}), one);
  EXPECT_EQ(ChatTemplatesOf(std::nullopt, {{"chat_template.jinja", "{{ x }}"}}), one);
  EXPECT_EQ(ChatTemplatesOf(std::nullopt, {{"chat_template.json", R"({"chat_template": "{{ x }}"})"}}), one);
  // The file goes before the config.
  EXPECT_EQ(ChatTemplatesOf(R"({"chat_template": "{{ y }}"})", {{"chat_template.jinja", "{{ x }}"}}), one);
  const ChatTemplates two = {{"default", "d"}, {"tools", "t"}};
  EXPECT_EQ(
      ChatTemplatesOf(
          R"({"chat_template": [{"name": "default", "template": "d"}, {"name": "tools", "template": "t"}, 7]})", {}),
      two);
  EXPECT_EQ(ChatTemplatesOf("", {{"chat_template.jinja", "d"}, {"additional_chat_templates/tools.jinja", "t"}}), two);
}

TEST(CodeNamedBy, ReadsEveryWayToNameIt) {
  const std::set<std::string> expected = {"a.py", "b.py", "c.py"};
  EXPECT_EQ(CodeNamedBy(R"({"auto_map": {"A": "a.A", "B": "someone/model--b.B", "C": ["c.C", null]}})"), expected);
  EXPECT_TRUE(CodeNamedBy(R"({"auto_map": {}})").empty());
  EXPECT_TRUE(CodeNamedBy("no JSON").empty());
}

TEST(IsDerivedGeneration, IsWhatAPackageMade) {
  EXPECT_TRUE(IsDerivedGeneration(R"({"_from_model_config": true, "eos_token_id": 2})"));
  EXPECT_FALSE(IsDerivedGeneration(R"({"eos_token_id": 2})"));
  EXPECT_FALSE(IsDerivedGeneration("{"));
}

}  // namespace
}  // namespace mimo::carried_texts_test
