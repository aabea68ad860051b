// Every layout that the shapes allow, tried against the data, whatever anybody declares: which one is proven, which are
// contradicted, and by what. A layout falls only to another that explains what it does not; where nothing decides, all
// that is left is undecided. Pure arithmetic: no files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/words.h"
#include "lib/layout/code_tiles.h"
#include "lib/layout/row_order.h"
#include "lib/layout/tested_layouts.h"

namespace mimo {

enum class TrialTest : uint8_t {
  kShapes,      // rows, and rows of scales, of all layers
  kSaturation,  // a code of magnitude 448 in every block
  kHalves,      // whether the halves of a head go on smoothly over the border of a block that two readings place apart
  kRowNorms,    // norms of rows by projection and place in the head
};
inline constexpr Words<TrialTest, 4> kTrialTests{{{TrialTest::kShapes, "shapes"},
                                                  {TrialTest::kSaturation, "saturation"},
                                                  {TrialTest::kHalves, "halves"},
                                                  {TrialTest::kRowNorms, "row norms"}}};
static_assert(NamesEach(kTrialTests));

enum class Says : uint8_t { kFor, kAgainst, kNothing };
inline constexpr Words<Says, 3> kSays{{{Says::kFor, "for"}, {Says::kAgainst, "against"}, {Says::kNothing, "nothing"}}};
static_assert(NamesEach(kSays));

struct TrialEvidence {
  TrialTest test = TrialTest::kShapes;
  Says says = Says::kNothing;
  std::string text;  // for people, with its figures
};

enum class Standing : uint8_t { kProven, kContradicted, kUndecided };
inline constexpr Words<Standing, 3> kStandings{
    {{Standing::kProven, "proven"}, {Standing::kContradicted, "contradicted"}, {Standing::kUndecided, "undecided"}}};
static_assert(NamesEach(kStandings));

struct Tried {
  Candidate candidate;
  Standing standing = Standing::kUndecided;
  std::vector<TrialEvidence> evidence;
};

// What the data of some layers says.
struct TrialData {
  AttentionShape global, window;  // as stored
  int64_t block_rows = 128;
  bool in_blocks = false;         // some attention lies under a grid of blocks, looked at or not
  std::vector<LayerTiles> tiles;  // of layers under a grid of blocks
  RowOrder rows;                  // of fused layers under none
};

// At most one is proven: the one that all others fall to, by shapes or by data, and that the data itself bears out
// (nothing has to, where there are neither blocks nor another order of rows).
std::vector<Tried> TryCandidates(const std::vector<Candidate>& candidates, const TrialData& data);

}  // namespace mimo
