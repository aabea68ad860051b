// Cells and encoded weights, made from values under scales that are there already, must fit their sources.
#include <gtest/gtest.h>

#include <functional>

#include "tests/unit/plan/kept_plan.h"

namespace mimo::validate_cells_test {
namespace {

using namespace kept_plan;

TEST(PlanKeep, InconsistentPlansAreRefused) {
  const Catalogue catalogue = MakeCatalogue();
  struct Case {
    const char* found;
    std::function<void(Plan&)> change;
  };
  const auto cell = [](Plan& p) -> CellRow& { return p.groups[0].cells[0]; };
  const std::vector<Case> cases = {
      {"kept scales", [](Plan& p) { p.groups[0].encoded[0].keep = 99; }},
      {"kept scales", [](Plan& p) { p.groups[0].encoded[0].keep = kKvKeep; }},  // of another shape
      {"kept scales", [](Plan& p) { p.groups[0].encoded[0].keep = kXKeep; }},   // of another dtype
      {"kept scales", [](Plan& p) { p.groups[0].encoded[1].keep = kOKeep; }},
      {"kept scales", [&](Plan& p) { cell(p).keep = 99; }},
      {"kept scales", [&](Plan& p) { cell(p).keep = kOKeep; }},
      {"kept scales", [&](Plan& p) { cell(p).keep = kXKeep; }},
      {"kept scales", [&](Plan& p) { cell(p).keep = kNone; }},  // with a row
      {"row of kept scales", [&](Plan& p) { cell(p).keep_row = 3; }},
      {"row of kept scales", [&](Plan& p) { cell(p).keep_row = -1; }},
      {"moved cell", [&](Plan& p) { cell(p).moved = true; }},
      {"all values or all codes", [&](Plan& p) { cell(p).segments[1] = {kCodes, 0, kOutV, 0, 28, kCodesScale, 0}; }},
      {"cell of values", [&](Plan& p) { cell(p).segments[0].factor = 0.5f; }},
      {"cell of values", [&](Plan& p) { cell(p).segments[0].scale_row = 1; }},
      {"source of a cell", [&](Plan& p) { cell(p).segments[1].source = kO0; }},  // of another width
      {"source of a cell", [&](Plan& p) { cell(p).segments[1].source = kCodes; }},
      {"source of a cell", [](Plan& p) { p.sources[kV].codec = Codec::kFp32; }},
      {"rows of a cell", [&](Plan& p) { cell(p).segments[1].source_row = 1; }},
      {"columns of scales", [](Plan& p) { p.sources[kK].block_cols = p.sources[kV].block_cols = 64; }},
      {"blocks of one width", [](Plan& p) { p.sources[kV].block_cols = 127; }},
      {"pieces", [](Plan& p) { p.outputs[kO].pieces[1].target_col = 39; }},
      {"pieces", [](Plan& p) { p.outputs[kO].pieces.pop_back(); }},
      {"columns of a piece", [](Plan& p) { p.outputs[kO].pieces[0].source_col = 1; }},
      {"padding", [](Plan& p) { p.outputs[kO].pieces[1] = {kNone, 1, 0, 130, 0, 40, 60}; }},
      {"items without a header", [](Plan& p) { p.files[1].header = "x"; }},
      {"begin of an output",
       [](Plan& p) {
         ++p.outputs[kItem1].begin;
         ++p.outputs[kItem1].end;
       }},
      {"length of", [](Plan& p) { ++p.files[1].bytes; }},
      {"a header, or a source file", [](Plan& p) { p.files[1].container = &SafetensorsContainer(); }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    Plan plan = MakePlan(catalogue);
    cases[i].change(plan);
    plan.digest = PlanDigest(catalogue, plan);
    const Status status = ValidatePlan(catalogue, plan);
    ASSERT_FALSE(status.ok()) << i;
    EXPECT_NE(status.error().Message().find(cases[i].found), std::string::npos) << i << " " << status.error().Message();
  }
}

}  // namespace
}  // namespace mimo::validate_cells_test
