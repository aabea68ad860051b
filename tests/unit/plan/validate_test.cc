// Plans that are inconsistent are refused, whatever their digest.
#include <gtest/gtest.h>

#include <functional>

#include "tests/unit/plan/full_plan.h"

namespace mimo::validate_test {
namespace {

using namespace full_plan;

struct Damage {
  const char* name;
  std::function<void(Plan&)> apply;
};

// Damage that a correct digest does not excuse.
const std::vector<Damage>& Damages() {
  static const std::vector<Damage> kDamages = {
      {"file outside the output", [](Plan& p) { p.files[0].name = "../a.safetensors"; }},
      {"absolute file", [](Plan& p) { p.texts[0].name = "/etc/x"; }},
      {"file in the partial directory", [](Plan& p) { p.texts[0].name = ".mimo-partial/x"; }},
      {"manifest", [](Plan& p) { p.texts[0].name = "mimo-manifest.json"; }},
      {"a name of the tool's own", [](Plan& p) { p.texts[0].name = ".mimo-lease"; }},
      {"two files of one name", [](Plan& p) { p.texts[0].name = "b.safetensors"; }},
      {"a file that is a directory of another", [](Plan& p) { p.texts[0].name = "b.safetensors/x"; }},
      {"a text where a carried file goes", [](Plan& p) { p.texts[0].name = "tokenizer.json"; }},
      {"a carried file that is not there", [](Plan& p) { p.carried[0] = "dflash/other.json"; }},
      {"unknown carried file", [](Plan& p) { p.carried[0] = "dflash/none"; }},
      {"piece beyond its source", [](Plan& p) { p.outputs[2].pieces[0].source_row = 129; }},
      {"piece from a negative row", [](Plan& p) { p.outputs[2].pieces[0].source_row = -1; }},
      {"pieces with a hole", [](Plan& p) { p.outputs[2].pieces[1].target_row = 129; }},
      {"pieces that end early", [](Plan& p) { p.outputs[2].pieces.pop_back(); }},
      {"piece of another width", [](Plan& p) { p.outputs[2].pieces[0].source = 7; }},
      {"piece without a source", [](Plan& p) { p.outputs[5].pieces[0].source = 99; }},
      {"move to another dtype", [](Plan& p) { p.outputs[4].pieces[0].source = 3; }},
      {"codec that is not the dtype", [](Plan& p) { p.outputs[3].target_codec = Codec::kBf16; }},
      {"plain codec of FP8 codes",
       [](Plan& p) { p.sources[5].quantized = false, p.sources[5].codec = Codec::kBf16, p.sources[5].scale = kNone; }},
      {"bands with a hole", [](Plan& p) { p.sources[0].bands[1].row_begin = 101; }},
      {"bands that end early", [](Plan& p) { p.sources[0].bands.pop_back(); }},
      {"band beyond the scales", [](Plan& p) { p.sources[0].bands[2].scale_row = 3; }},
      {"band with scales of another width", [](Plan& p) { p.sources[0].bands[2].scale = 3; }},
      {"grid that needs more scales", [](Plan& p) { p.sources[5].block_rows = 1; }},
      {"grid of another width", [](Plan& p) { p.sources[5].block_cols = 8; }},
      {"block of no rows", [](Plan& p) { p.sources[5].block_rows = 0; }},
      {"MXFP4 without scales", [](Plan& p) { p.sources[2].scale = kNone; }},
      {"cell row missing", [](Plan& p) { p.groups[0].cells.pop_back(); }},
      {"cell row twice", [](Plan& p) { p.groups[0].cells[1].scale_row = 0; }},
      {"segment with other rows", [](Plan& p) { p.groups[0].cells[0].segments[1].rows = 27; }},
      {"segment beyond its source", [](Plan& p) { p.groups[0].cells[1].segments[0].source_row = 129; }},
      {"segment beyond the scales", [](Plan& p) { p.groups[0].cells[1].segments[0].scale_row = 3; }},
      {"segment into another group", [](Plan& p) { p.groups[0].cells[0].segments[0].output = 2; }},
      {"moved cell under two scales", [](Plan& p) { p.groups[0].cells[0].moved = true; }},
      {"straddling blocks", [](Plan& p) { p.groups[0].straddling_blocks = 3; }},
      {"linked file of another length", [](Plan& p) { p.files[1].bytes = 77; }},
      {"linked file without a source", [](Plan& p) { p.files[1].source_file = kNone; }},
      {"changed output in a linked file", [](Plan& p) { p.outputs[6].unchanged = false; }},
      {"unchanged output of another name", [](Plan& p) { p.outputs[4].name = "norm2"; }},
      {"outputs that overlap", [](Plan& p) { p.outputs[3].begin -= 4, p.outputs[3].end -= 4; }},
      {"file group beyond the count", [](Plan& p) { p.file_groups = 1; }},
      {"group across file groups", [](Plan& p) { p.groups[1].file_group = 0; }},
      {"output name twice", [](Plan& p) { p.outputs[3].name = "codes.fp32"; }},
      {"read array that is dropped",
       [](Plan& p) {
         p.fates[kNorm] = {kNorm, Fate::kDropped, "x"};
       }},
      {"dropped without a reason", [](Plan& p) { p.fates[kGone].reason = ""; }},
      {"used array that nothing reads",
       [](Plan& p) {
         p.fates[kGone] = {kGone, Fate::kUsed, ""};
       }},
      {"payload", [](Plan& p) { ++p.payload_bytes; }},
  };
  return kDamages;
}

TEST(ValidatePlan, InconsistentPlansAreRefusedWhateverTheirDigest) {
  const Catalogue catalogue = MakeCatalogue();
  for (const Damage& damage : Damages()) {
    SCOPED_TRACE(damage.name);
    Plan plan = MakePlan(catalogue);
    const Hash128 before = plan.digest;
    damage.apply(plan);
    EXPECT_FALSE(ValidatePlan(catalogue, plan).ok());
    plan.digest = PlanDigest(catalogue, plan);
    EXPECT_NE(plan.digest, before);
    ExpectRefused(catalogue, Json(catalogue, plan), "plan");
  }
}

TEST(ValidatePlan, IndicesOutOfRangeAreRefused) {
  const Catalogue catalogue = MakeCatalogue();
  const std::vector<Damage> damages = {
      {"array", [](Plan& p) { p.sources[1].array = 99; }},
      {"file", [](Plan& p) { p.outputs[0].file = 9; }},
      {"group", [](Plan& p) { p.outputs[0].group = 9; }},
      {"group's outputs", [](Plan& p) { p.groups[0].outputs.pop_back(); }},
      {"file's outputs", [](Plan& p) { std::swap(p.files[0].outputs[0], p.files[0].outputs[1]); }},
      {"header", [](Plan& p) { p.files[0].header[0] ^= 1; }},
      {"fates", [](Plan& p) { p.fates.pop_back(); }},
      {"order of outputs", [](Plan& p) { std::swap(p.outputs[0], p.outputs[1]); }},
  };
  for (const Damage& damage : damages) {
    Plan plan = MakePlan(catalogue);
    damage.apply(plan);
    EXPECT_FALSE(ValidatePlan(catalogue, plan).ok()) << damage.name;
  }
}

}  // namespace
}  // namespace mimo::validate_test
