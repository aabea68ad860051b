// Files that travel along, by their names as releases have them.
#include "lib/verify/compare/carried_class.h"

#include <gtest/gtest.h>

namespace mimo::carried_class_test {
namespace {

TEST(CarriedClass, IsByNameAndPlace) {
  const std::set<std::string> models = {"dflash"};
  const auto of = [&](const char* name) { return ClassOfCarried(name, models); };
  EXPECT_EQ(of("dflash/model.safetensors"), CarriedClass::kTensors);
  EXPECT_EQ(of("extra.safetensors"), CarriedClass::kTensors);
  EXPECT_EQ(of("dflash/mask_embedding.pt"), CarriedClass::kBytes);
  EXPECT_EQ(of("pytorch_model.bin"), CarriedClass::kIgnored);  // the same weights in another format
  EXPECT_EQ(of("dflash/config.json"), CarriedClass::kSettings);
  EXPECT_EQ(of("video_preprocessor_config.json"), CarriedClass::kSettings);
  EXPECT_EQ(of("tokenizer.json"), CarriedClass::kTokenizer);
  EXPECT_EQ(of("dflash/tokenizer_config.json"), CarriedClass::kTokenizer);
  EXPECT_EQ(of("merges.txt"), CarriedClass::kVocabulary);
  EXPECT_EQ(of("chat_template.jinja"), CarriedClass::kTemplate);
  EXPECT_EQ(of("additional_chat_templates/tools.jinja"), CarriedClass::kTemplate);
  EXPECT_EQ(of("generation_config.json"), CarriedClass::kGeneration);
  EXPECT_EQ(of("modeling_mimo_v2.py"), CarriedClass::kCode);
  for (const char* name : {"README.md", "LICENSE", ".gitattributes", "hf_quant_config.json", "figures/plot.py",
                           "figures/a.bin", "mimo-source/config.json", "dflash/model.safetensors.index.json"})
    EXPECT_EQ(of(name), CarriedClass::kIgnored) << name;
}

TEST(CarriedClass, FoldersAndModels) {
  EXPECT_EQ(FolderOf("a/b/c.json"), "a/b");
  EXPECT_EQ(FolderOf("c.json"), "");
  EXPECT_TRUE(IsModelFile("a/config.json") && IsModelFile("a/x.safetensors"));
  EXPECT_FALSE(IsModelFile("a/preprocessor_config.json"));
}

}  // namespace
}  // namespace mimo::carried_class_test
