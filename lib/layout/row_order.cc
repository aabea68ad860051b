#include "lib/layout/row_order.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "lib/layout/row_map.h"

namespace mimo {
namespace {

constexpr int64_t kLeastTileRows = 8;
// A layout wins when it is more likely by exp(kNats + kNatsPerRoot * sqrt(layers)) and by this many standard errors.
// Where rows of all classes are alike, twice the difference of two fits is that of two sums of squares with up to 7
// degrees of freedom a layer: a deviation of 2.6 * sqrt(layers) nats.
constexpr double kNats = 20, kNatsPerRoot = 13, kErrors = 2;
// Where the contrast between Q, K and V is taken to be the same in all layers of a kind, there are but two degrees of
// freedom a kind, however many layers: twice the difference is that of two chi-squares of 2, which passes 2 * t by
// chance in exp(-t) / 2 of cases, of both kinds together in less than (1 + t) * exp(-t). What is added covers that the
// size of the noise is an estimate.
constexpr double kSharedNats = 24, kLeastShared = 4;  // layers: what fewer have in common may be chance
// Tiles no more alike than this are taken to be equal: norms that were made equal differ by roundings only.
constexpr double kNoiseFloor = 0.003;
// Noise is taken to be independent where the next tiles, up to a head, have no more in common than this.
constexpr double kWhite = 0.2;
// Tiles of a head of 192 rows, which are not counted as independent; what they may say at most, however odd they are.
constexpr size_t kClusterTiles = 3;
constexpr double kMostNats = 10;
constexpr double kShareOfDrift = 4;  // correlations are followed over a quarter of the tiles of a layer

using Labels = std::vector<uint8_t>;  // by tile: the class and the place in its head

// Labels of every tile under fused(chunks).
Labels LabelsOf(const AttentionShape& shape, int64_t chunks, int64_t tile_rows) {
  const QkvMap map = BuildQkvMap({QkvKind::kFused, chunks}, shape);
  const int64_t head_tiles = shape.head_dim / tile_rows, v_tiles = shape.v_head_dim / tile_rows;
  Labels labels(static_cast<size_t>(map.rows[0] / tile_rows), 0);
  for (const RowRun& run : map.runs)
    for (int64_t row = 0; row < run.rows; row += tile_rows) {
      const int64_t tiles = run.projection == Projection::kV ? v_tiles : head_tiles;
      const int64_t before = static_cast<int64_t>(run.projection) * head_tiles;
      labels[static_cast<size_t>((run.array_row + row) / tile_rows)] =
          static_cast<uint8_t>(before + (run.logical_row + row) / tile_rows % tiles);
    }
  return labels;
}

// What is left of a layer's tiles when the mean of each label is taken away; NaN where there is no tile.
struct Fit {
  std::vector<double> residuals;
  double squares = 0;
};

Fit FitLabels(const std::vector<float>& tiles, const Labels& labels) {
  std::array<double, 256> sums{};
  std::array<uint64_t, 256> counts{};
  for (size_t i = 0; i < tiles.size(); ++i) {
    if (std::isnan(tiles[i])) continue;
    sums[labels[i]] += static_cast<double>(tiles[i]);
    ++counts[labels[i]];
  }
  Fit fit;
  fit.residuals.resize(tiles.size(), NAN);
  for (size_t i = 0; i < tiles.size(); ++i) {
    if (std::isnan(tiles[i])) continue;
    const double r = static_cast<double>(tiles[i]) - sums[labels[i]] / static_cast<double>(counts[labels[i]]);
    fit.residuals[i] = r;
    fit.squares += r * r;
  }
  return fit;
}

// The variance that a mean over many neighbouring tiles has, times their number: that of single tiles where neighbours
// are independent, more where heads or stretches of rows share a deviation (Bartlett's weights, Newey and West 1987;
// what neighbours share is counted twice, for means that were taken away hide some of it).
struct Noise {
  double squares = 0, products = 0, close = 0, tiles = 0, freedom = 0;
  void Add(const Fit& fit, size_t labels) {
    const std::vector<double>& r = fit.residuals;
    const auto lags = std::max<size_t>(6, static_cast<size_t>(static_cast<double>(r.size()) / kShareOfDrift));
    double used = 0;
    for (size_t i = 0; i < r.size(); ++i) {
      if (std::isnan(r[i])) continue;
      used += 1;
      for (size_t lag = 1; lag <= lags && lag <= i; ++lag) {
        if (std::isnan(r[i - lag])) continue;
        if (lag <= kClusterTiles) close += r[i] * r[i - lag];
        products += 2 * (1 - static_cast<double>(lag) / static_cast<double>(lags + 1)) * r[i] * r[i - lag];
      }
    }
    squares += fit.squares;
    tiles += used;
    freedom += std::max(0.0, used - static_cast<double>(labels));
  }
  double Floor() const { return tiles * kNoiseFloor * kNoiseFloor; }
  double Variance() const {
    if (freedom <= 0) return INFINITY;
    return std::max((squares + 2 * std::max(0.0, products)) / freedom, kNoiseFloor * kNoiseFloor);
  }
  // Whether tiles are as good as independent: close neighbours tell, for over long stretches the means that were taken
  // away hide what tiles share.
  bool IsWhite() const { return close <= kWhite * squares && products <= squares / 2; }
  // How many independent tiles would tell as much.
  double Independent() const {
    const double all = squares + Floor();
    return all <= 0 ? 0 : freedom * all / (all + 4 * std::max(0.0, products));
  }
};

// Two layouts held against each other over some layers.
// `least`: nats that chance does not give.
struct Contest {
  double sum = 0, squares = 0;  // of nats for the first, by cluster, if the noise were known
  double profile = 0;  // nats for the first where it is not: by how much less of the rows it leaves unexplained
  double layers = 0;
  void Add(const Fit& a, const Fit& b, double variance) {
    for (size_t begin = 0; begin < a.residuals.size(); begin += kClusterTiles) {
      double difference = 0;
      for (size_t i = begin; i < std::min(begin + kClusterTiles, a.residuals.size()); ++i)
        if (!std::isnan(a.residuals[i]))
          difference += b.residuals[i] * b.residuals[i] - a.residuals[i] * a.residuals[i];
      difference = std::clamp(difference / (2 * variance), -kMostNats, kMostNats);
      sum += difference;
      squares += difference * difference;
    }
    layers += 1;
  }
  bool FirstWins(double least) const { return std::min(sum, profile) >= least && sum >= kErrors * std::sqrt(squares); }
};

// What the layers of one kind leave unexplained under each C that they could have.
struct Fits {
  std::vector<std::vector<Fit>> by_chunks;  // then by layer
  Noise noise;                              // beside the best of them

  double Left(size_t c) const {
    double squares = noise.Floor();
    for (const Fit& fit : by_chunks[c]) squares += fit.squares;
    return squares;
  }
  void Add(Contest* contest, size_t a, size_t b) const {
    if (noise.tiles == 0) return;
    for (size_t i = 0; i < by_chunks.front().size(); ++i)
      contest->Add(by_chunks[a][i], by_chunks[b][i], noise.Variance());
    contest->profile += noise.Independent() / 2 * std::log(Left(b) / Left(a));
  }
};

// Layers of one kind. Each has a mean of its own for every class and place in the head; or, which is less to estimate
// and so sees a smaller contrast, a mean of its own, and Q, K and V differ by as much in all of them.
struct Kind {
  std::vector<int64_t> chunks;
  Fits own, shared;

  void Add(int64_t a, int64_t b, bool is_shared, Contest* contest) const {
    const auto place = [&](int64_t c) {
      return static_cast<size_t>(std::find(chunks.begin(), chunks.end(), c) - chunks.begin());
    };
    (is_shared ? shared : own).Add(contest, place(a), place(b));
  }
};

using Profiles = std::vector<const RowProfile*>;

// Labels of letters alone, in the place of those of places in the heads.
Labels LettersOf(Labels labels, const AttentionShape& shape, int64_t tile_rows) {
  const int64_t head_tiles = shape.head_dim / tile_rows;
  for (uint8_t& label : labels) label = static_cast<uint8_t>(label / head_tiles < 2 ? label / head_tiles : 2);
  return labels;
}

// The profiles less a mean each and less what their classes differ by in all of them.
std::vector<Fit> FitShared(const Profiles& profiles, const Labels& letters) {
  std::array<double, 3> sums{}, counts{};
  std::vector<double> means;
  for (const RowProfile* profile : profiles) {
    double sum = 0, count = 0;
    for (const float tile : profile->tiles)
      if (!std::isnan(tile)) sum += static_cast<double>(tile), count += 1;
    means.push_back(count == 0 ? 0 : sum / count);
    for (size_t i = 0; i < letters.size(); ++i) {
      if (std::isnan(profile->tiles[i])) continue;
      sums[letters[i]] += static_cast<double>(profile->tiles[i]) - means.back();
      counts[letters[i]] += 1;
    }
  }
  std::vector<Fit> fits;
  for (size_t layer = 0; layer < profiles.size(); ++layer) {
    const std::vector<float>& tiles = profiles[layer]->tiles;
    Fit& fit = fits.emplace_back();
    fit.residuals.resize(tiles.size(), NAN);
    for (size_t i = 0; i < tiles.size(); ++i) {
      if (std::isnan(tiles[i])) continue;
      const double r = static_cast<double>(tiles[i]) - means[layer] - sums[letters[i]] / counts[letters[i]];
      fit.residuals[i] = r;
      fit.squares += r * r;
    }
  }
  return fits;
}

// Takes the noise from the fits that leave least.
void AddFits(std::vector<Fit> fits, size_t means_of_a_layer, double* least, Fits* to) {
  double squares = 0;
  for (const Fit& fit : fits) squares += fit.squares;
  if (squares < *least) {
    *least = squares;
    to->noise = {};
    for (const Fit& fit : fits) to->noise.Add(fit, means_of_a_layer);
  }
  to->by_chunks.push_back(std::move(fits));
}

Kind FitKind(const Profiles& profiles, const AttentionShape& shape) {
  constexpr size_t kLetters = 3;
  Kind kind;
  double least_own = INFINITY, least_shared = INFINITY;
  for (int64_t c = 1; c <= shape.kv_heads; ++c) {
    if (!LayoutFits({QkvKind::kFused, c}, shape)) continue;
    const int64_t tile_rows = profiles.front()->tile_rows;
    const Labels named = LabelsOf(shape, c, tile_rows);
    std::vector<Fit> own;
    for (const RowProfile* profile : profiles) own.push_back(FitLabels(profile->tiles, named));
    AddFits(std::move(own), std::set<uint8_t>(named.begin(), named.end()).size(), &least_own, &kind.own);
    AddFits(FitShared(profiles, LettersOf(named, shape, tile_rows)), kLetters, &least_shared, &kind.shared);
    kind.chunks.push_back(c);
  }
  return kind;
}

void Compete(const std::vector<int64_t>& chunks, const std::vector<const Kind*>& kinds, std::vector<RowDuel>* duels) {
  for (int64_t a : chunks)
    for (int64_t b : chunks) {
      if (a == b) continue;
      Contest own, shared;
      bool is_white = true;
      for (const Kind* kind : kinds) {
        kind->Add(a, b, false, &own);
        kind->Add(a, b, true, &shared);
        is_white &= kind->shared.noise.IsWhite();
      }
      const RowDuel duel{a, b};
      const bool wins = own.FirstWins(kNats + kNatsPerRoot * std::sqrt(own.layers)) ||
                        (is_white && shared.layers >= kLeastShared && shared.FirstWins(kSharedNats));
      if (wins && std::find(duels->begin(), duels->end(), duel) == duels->end()) duels->push_back(duel);
    }
}

}  // namespace

bool RowOrder::Contradicts(int64_t c) const {
  return std::any_of(duels.begin(), duels.end(), [c](const RowDuel& d) { return d.worse == c; });
}

std::vector<int64_t> RowOrder::Unbeaten() const {
  std::vector<int64_t> left;
  for (int64_t c : chunks)
    if (!Contradicts(c)) left.push_back(c);
  return left;
}

std::optional<int64_t> RowOrder::Proven() const {
  const std::vector<int64_t> left = Unbeaten();
  if (left.size() != 1) return std::nullopt;
  for (int64_t other : chunks)
    if (other != left[0] && std::find(duels.begin(), duels.end(), RowDuel{left[0], other}) == duels.end())
      return std::nullopt;
  return left[0];
}

int64_t TileRows(const AttentionShape& shape) {
  if (shape.head_dim <= 0 || shape.v_head_dim <= 0) return 0;
  const int64_t rows = std::gcd(shape.head_dim, shape.v_head_dim);
  const int64_t labels = (2 * shape.head_dim + shape.v_head_dim) / rows;
  return rows < kLeastTileRows || labels > 255 ? 0 : rows;
}

RowOrder OrderOfRows(const std::vector<RowProfile>& profiles, const AttentionShape& global,
                     const AttentionShape& window) {
  std::map<bool, std::vector<const RowProfile*>> by_kind;
  for (const RowProfile& profile : profiles) by_kind[profile.windowed].push_back(&profile);
  std::vector<Kind> kinds;
  for (const auto& [windowed, members] : by_kind) kinds.push_back(FitKind(members, windowed ? window : global));
  RowOrder order;
  if (kinds.empty()) return order;
  order.chunks = kinds[0].chunks;
  std::vector<const Kind*> all;
  for (const Kind& kind : kinds) {
    all.push_back(&kind);
    std::erase_if(order.chunks,
                  [&](int64_t c) { return std::find(kind.chunks.begin(), kind.chunks.end(), c) == kind.chunks.end(); });
  }
  Compete(order.chunks, all, &order.duels);
  for (const Kind* kind : all) Compete(kind->chunks, {kind}, &order.duels);
  return order;
}

}  // namespace mimo
