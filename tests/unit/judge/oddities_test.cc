#include "lib/judge/oddities.h"

#include <gtest/gtest.h>

#include "tests/unit/planner/made_checkpoint.h"

namespace mimo::oddities_test {
namespace {

Catalogue Tidy() {
  Catalogue catalogue = made::Make(made::Quarter());
  catalogue.index.present = true;
  catalogue.index.total_size = catalogue.payload_bytes();
  catalogue.config.text = R"({"auto_map": {"AutoConfig": "configuration_x.Config"}})";
  catalogue.carried = {{"configuration_x.py", 1}};
  return catalogue;
}

TEST(Oddities, ATidyCheckpointHasNone) {
  const Verdict verdict = FindOddities(Tidy());
  EXPECT_TRUE(verdict.findings().empty()) << verdict.findings().front().Line();
}

TEST(Oddities, WhatIndexTowersAndCodeLackIsSaid) {
  Catalogue catalogue = Tidy();
  catalogue.oddities = {"from the catalogue"};
  catalogue.index.total_size.reset();
  catalogue.index.tp_size.reset();
  catalogue.config.has_vision = true;
  catalogue.carried = {{"dflash/config.json", 5}};
  const Verdict verdict = FindOddities(catalogue);
  EXPECT_EQ(verdict.findings().front().evidence, "from the catalogue");
  for (const char* id : {"files.odd", "files.no_total_size", "files.no_tp_size", "files.tower", "files.no_code",
                         "files.no_mask_embedding"})
    EXPECT_TRUE(verdict.Has(id)) << id;
  catalogue.index = {};
  catalogue.config.text = "{}";
  EXPECT_TRUE(FindOddities(catalogue).Has("files.no_index"));
  EXPECT_TRUE(FindOddities(catalogue).Has("files.no_auto_map"));
}

TEST(Oddities, UnknownTensorsAndPairsInDifferentFilesAreCounted) {
  Catalogue catalogue = Tidy();
  for (StoredArray& array : catalogue.arrays) {
    if (array.name == "model.layers.1.self_attn.qkv_proj.weight_scale_inv") array.file = 1;
    if (array.name == "model.embed_tokens.weight") array.id.role = Role::kUnknown;
  }
  const Verdict verdict = FindOddities(catalogue);
  EXPECT_TRUE(verdict.Has("files.scale_elsewhere"));
  EXPECT_TRUE(verdict.Has("files.unknown_tensors"));
  EXPECT_EQ(verdict.CountOf(Severity::kWarning), 1u);
}

TEST(Oddities, NamesAndLinksThatConversionsRefuseAreWarnings) {
  Catalogue catalogue = Tidy();
  catalogue.carried.push_back({"n\xe9.txt", 1});
  catalogue.carried.push_back({"linked", 1});
  catalogue.carried.back().outside = "/elsewhere";
  const Verdict verdict = FindOddities(catalogue);
  EXPECT_TRUE(verdict.Has("files.name"));
  EXPECT_TRUE(verdict.Has("files.link_outside"));
}

}  // namespace
}  // namespace mimo::oddities_test
