#include "lib/layout/trial.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "lib/layout/grid_cells.h"

namespace mimo {
namespace {

constexpr uint64_t kLeastCells = 16;
// Halves decide only where weights run on smoothly over borders that nobody doubts, up to this (natural logarithms of
// norms), and where the one reading is as smooth and the other is not.
constexpr double kSmooth = 0.25, kJump = 0.2, kTimesAsRough = 3;
constexpr size_t kLeastHalves = 16;

double Median(std::vector<double> values) {
  if (values.empty()) return NAN;
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::string Saturated(const SaturationTally& tally) {
  return std::to_string(tally.cells - tally.unsaturated) + " of " + std::to_string(tally.cells);
}

std::string Rounded(double value) {
  std::string text = std::to_string(value);
  return text.substr(0, text.find('.') + 3);
}

// One layout that the shapes allow, and its grids over the layers.
struct Contender {
  Tried* tried = nullptr;
  std::vector<GridOfLayer> grids;
  SaturationTally q, kv, cut;
  std::set<const Contender*> beaten;  // those that fall to it
  bool fallen = false;
  bool won_by_rows = false;

  const TestedLayout& tested() const { return tried->candidate.tested; }
  std::string Name() const { return tested().ToString(); }
  // Whether blocks of Q, which hardly any reading doubts, are of a quantizer that divides by the largest value.
  bool Holds() const { return q.cells >= kLeastCells && q.Holds(); }
  void Say(TrialTest test, Says says, std::string text) { tried->evidence.push_back({test, says, std::move(text)}); }
};

// Layers of one kind may tell what those of the other do not: blocks that were quantized again lie in one of them.
enum class Kinds : uint8_t { kBoth, kGlobal, kWindowed };

// The grids of two contenders, layer by layer.
template <class Body>
void ForEachLayer(const Contender& a, const Contender& b, Kinds kinds, Body body) {
  for (size_t i = 0; i < a.grids.size(); ++i)
    if (kinds == Kinds::kBoth || a.grids[i].windowed() == (kinds == Kinds::kWindowed)) body(a.grids[i], b.grids[i]);
}

bool SameGrids(const Contender& a, const Contender& b) {
  bool same = true;
  ForEachLayer(a, b, Kinds::kBoth, [&](const GridOfLayer& x, const GridOfLayer& y) {
    for (uint32_t tile = 0; tile < x.tiles() && same; ++tile) same = x.SameScale(y, tile);
  });
  return same;
}

// How far apart the halves of heads lie whose scales `a` and `b` find in different places, under each of the two; and
// how far apart neighbours in a head of Q lie across borders of blocks that both have.
struct Roughness {
  std::vector<double> a, b;
  std::array<std::vector<double>, 256> ordinary;  // by place in the head: heads may change along their rows
  double Ordinary() const {
    std::vector<double> all;
    for (const std::vector<double>& steps : ordinary) {
      const double usual = Median(steps);
      for (const double step : steps) all.push_back(std::abs(step - usual));
    }
    return all.size() < kLeastHalves ? INFINITY : Median(std::move(all));
  }
};

void AddRoughness(const GridOfLayer& a, const GridOfLayer& b, Roughness* rough) {
  const auto in_one_head = [&](uint32_t s, uint32_t t) {
    return a.place(s).projection == a.place(t).projection && a.place(s).head == a.place(t).head;
  };
  for (uint32_t tile = 0; tile + 1 < a.tiles(); ++tile) {
    const uint32_t next = tile + 1;
    if (!in_one_head(tile, next)) continue;
    const bool here = a.SameScale(b, tile), there = a.SameScale(b, next);
    for (int64_t column = 0; column < a.columns(); ++column) {
      const double step = a.Level(next, column) - a.Level(tile, column);
      const double other = b.Level(next, column) - b.Level(tile, column);
      if (std::isnan(step) || std::isnan(other)) continue;
      if (here != there) {
        rough->a.push_back(std::abs(step));
        rough->b.push_back(std::abs(other));
      } else if (here && &a.cell(tile) != &a.cell(next) && a.place(tile).projection == Projection::kQ) {
        rough->ordinary[static_cast<size_t>(a.place(tile).place) % rough->ordinary.size()].push_back(step);
      }
    }
  }
}

class Trial {
 public:
  Trial(const std::vector<Candidate>& candidates, const TrialData& data) : data_(data) {
    for (const Candidate& candidate : candidates) tried_.push_back({candidate, Standing::kUndecided, {}});
    for (Tried& tried : tried_) {
      if (!tried.candidate.fits()) {
        tried.standing = Standing::kContradicted;
        tried.evidence.push_back({TrialTest::kShapes, Says::kAgainst, tried.candidate.misfit});
        continue;
      }
      Enter(&tried);
    }
    for (Contender& c : contenders_)
      c.Say(TrialTest::kShapes, contenders_.size() == 1 ? Says::kFor : Says::kNothing,
            "rows and rows of scales of all layers are as it has them");
  }

  std::vector<Tried> Run() {
    CompareSaturation();
    CompareHalves();
    CompareRowNorms();
    Judge();
    return std::move(tried_);
  }

 private:
  void Enter(Tried* tried) {
    Contender contender;
    contender.tried = tried;
    for (const LayerTiles& layer : data_.tiles) {
      const AttentionShape& shape = layer.windowed ? data_.window : data_.global;
      contender.grids.emplace_back(layer, MapOf(tried->candidate.tested, shape, data_.block_rows), shape);
      contender.q.Add(contender.grids.back().Q());
      contender.kv.Add(contender.grids.back().Kv());
      contender.cut.Add(contender.grids.back().CutInTwo());
    }
    contenders_.push_back(std::move(contender));
  }

  void Beat(Contender* winner, Contender* loser) {
    winner->beaten.insert(loser);
    loser->fallen = true;
  }

  // What both say of the pair, for every ordered pair.
  void ForEachPair(const std::function<void(Contender*, Contender*)>& body) {
    for (Contender& a : contenders_)
      for (Contender& b : contenders_)
        if (&a != &b) body(&a, &b);
  }

  void CompareSaturation() {
    if (data_.tiles.empty()) return;
    for (Contender& c : contenders_) {
      const bool shown = c.Holds() && c.cut.Fails();
      std::string text = Saturated(c.q) + " blocks with rows of Q hold a saturated code, " + Saturated(c.kv) +
                         " of K and V alone, " + Saturated(c.cut) + " halves of blocks";
      if (c.Holds() && !shown) text += ": all look alike, which tells nothing";
      if (!c.Holds()) text += ": not what a quantizer leaves that divides by the largest value";
      if (shown && !c.kv.Holds()) text += ": K and V were quantized again, or lie otherwise";
      c.Say(TrialTest::kSaturation, shown ? Says::kFor : Says::kNothing, std::move(text));
    }
    for (const Kinds kinds : {Kinds::kBoth, Kinds::kGlobal, Kinds::kWindowed})
      ForEachPair([&](Contender* a, Contender* b) { CompareBlocks(a, b, kinds); });
  }

  void CompareBlocks(Contender* a, Contender* b, Kinds kinds) {
    if (!a->Holds() || a->beaten.contains(b)) return;
    SaturationTally own, telling, common;
    CutCells cut;
    ForEachLayer(*a, *b, kinds, [&](const GridOfLayer& x, const GridOfLayer& y) {
      own.Add(x.Differing(y));
      common.Add(x.Common(y));
      telling.Add(y.Telling(x));
      cut.Add(x.CutOutOf(y));
    });
    // If b were right: as many of its blocks damaged, and the cells of a, cut out of blocks, still nearly all with
    // one.
    const double chance = BinomialTail(telling.cells, telling.unsaturated, DamageOf(common)) * cut.Chance();
    const bool many = telling.unsaturated >= 2 && telling.unsaturated * 8 >= telling.cells;
    if (own.cells == 0 || !own.Holds() || !many || chance > kNoChance) return;
    b->Say(TrialTest::kSaturation, Says::kAgainst,
           "where " + a->Name() + " cuts otherwise, " + Saturated(telling) + " of its blocks hold a saturated code, " +
               Saturated(own) + " of the other's");
    Beat(a, b);
  }

  void CompareHalves() {
    for (const Kinds kinds : {Kinds::kBoth, Kinds::kGlobal, Kinds::kWindowed})
      ForEachPair([&](Contender* a, Contender* b) { CompareSmoothness(a, b, kinds); });
  }

  void CompareSmoothness(Contender* a, Contender* b, Kinds kinds) {
    const bool same_rows = a->tested().layout == b->tested().layout || !a->tested().layout.fused();
    if (!same_rows || !a->Holds() || a->beaten.contains(b) || b->beaten.contains(a)) return;
    Roughness rough;
    SaturationTally own;
    ForEachLayer(*a, *b, kinds, [&](const GridOfLayer& x, const GridOfLayer& y) {
      AddRoughness(x, y, &rough);
      own.Add(x.Differing(y));
    });
    const double ordinary = rough.Ordinary(), mine = Median(rough.a), its = Median(rough.b);
    if (!own.Holds() || rough.a.size() < kLeastHalves || !(ordinary <= kSmooth) || !(mine <= 2.5 * ordinary + 0.1) ||
        !(its >= std::max(kJump, kTimesAsRough * std::max(mine, ordinary))))
      return;
    const std::string figures = "halves of heads on both sides of its borders differ by a factor of e^" +
                                Rounded(mine) + " under " + a->Name() + " and of e^" + Rounded(its) + " under " +
                                b->Name() + "; neighbours elsewhere by e^" + Rounded(ordinary);
    a->Say(TrialTest::kHalves, Says::kFor, figures);
    b->Say(TrialTest::kHalves, Says::kAgainst, figures);
    Beat(a, b);
  }

  // Norms under a grid, the columns' own size taken away.
  RowProfile ProfileOf(const GridOfLayer& grid, const LayerTiles& layer) const {
    RowProfile profile{layer.windowed, layer.tile_rows, {}};
    std::vector<std::vector<double>> of_tile(grid.tiles());
    for (int64_t column = 0; column < grid.columns(); ++column) {
      std::vector<double> levels;
      for (uint32_t tile = 0; tile < grid.tiles(); ++tile)
        if (const double level = grid.Level(tile, column); !std::isnan(level)) levels.push_back(level);
      const double usual = Median(levels);
      for (uint32_t tile = 0; tile < grid.tiles(); ++tile)
        if (const double level = grid.Level(tile, column); !std::isnan(level)) of_tile[tile].push_back(level - usual);
    }
    for (std::vector<double>& levels : of_tile) profile.tiles.push_back(static_cast<float>(Median(std::move(levels))));
    return profile;
  }

  // Whether row_order.h has a label for every place in the heads.
  bool Labelled(const LayerTiles& layer) const {
    const AttentionShape& shape = layer.windowed ? data_.window : data_.global;
    return (2 * shape.head_dim + shape.v_head_dim) / layer.tile_rows <= 255;
  }

  RowOrder OrderUnder(const Contender& c) const {
    std::vector<RowProfile> profiles;
    for (size_t i = 0; i < c.grids.size(); ++i)
      if (Labelled(data_.tiles[i])) profiles.push_back(ProfileOf(c.grids[i], data_.tiles[i]));
    return OrderOfRows(profiles, data_.global, data_.window);
  }

  void CompareRowNorms() {
    std::vector<std::pair<const Contender*, RowOrder>> known;  // one of each grid
    const auto order_of = [&](const Contender& c) -> const RowOrder& {
      for (const auto& [one, order] : known)
        if (SameGrids(*one, c)) return order;
      return known.emplace_back(&c, OrderUnder(c)).second;
    };
    std::set<Contender*> compared;
    ForEachPair([&](Contender* a, Contender* b) {
      if (!a->tested().layout.fused()) return;
      const RowDuel duel{a->tested().layout.chunks, b->tested().layout.chunks};
      if (duel.better == duel.worse) return;
      const auto holds = [&](const RowOrder& order) {
        return std::find(order.duels.begin(), order.duels.end(), duel) != order.duels.end();
      };
      const bool one_grid = SameGrids(*a, *b);
      if (one_grid || !data_.rows.chunks.empty()) compared.insert({a, b});
      if (!holds(data_.rows) && !(one_grid && !data_.tiles.empty() && holds(order_of(*a)))) return;
      b->Say(TrialTest::kRowNorms, Says::kAgainst,
             "rows of Q, K and V mix along its borders, and do not along those of " + a->Name());
      a->won_by_rows = true;
      Beat(a, b);
    });
    for (Contender* c : compared) {
      if (c->won_by_rows && !c->fallen)
        c->Say(TrialTest::kRowNorms, Says::kFor, "norms of rows set Q, K and V apart along its borders");
      if (!c->won_by_rows && !c->fallen)
        c->Say(TrialTest::kRowNorms, Says::kNothing, "norms of rows do not tell it from the others");
    }
  }

  void Judge() {
    const auto left =
        std::count_if(contenders_.begin(), contenders_.end(), [](const Contender& c) { return !c.fallen; });
    for (Contender& c : contenders_) {
      if (c.fallen) c.tried->standing = Standing::kContradicted;
      const bool borne_out =
          c.won_by_rows || (c.Holds() && c.cut.Fails()) || (!data_.in_blocks && contenders_.size() == 1);
      if (left == 1 && !c.fallen && borne_out && c.beaten.size() + 1 == contenders_.size())
        c.tried->standing = Standing::kProven;
    }
  }

  const TrialData& data_;
  std::vector<Tried> tried_;
  std::vector<Contender> contenders_;
};

}  // namespace

std::vector<Tried> TryCandidates(const std::vector<Candidate>& candidates, const TrialData& data) {
  return Trial(candidates, data).Run();
}

}  // namespace mimo
