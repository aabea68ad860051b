#include "lib/run/bundles.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "lib/decode/row_bytes.h"

namespace mimo {
namespace {

// A piece between the rows of two arrays, both by position: sources in `sources_`, outputs after them.
struct Link {
  uint32_t from = kNone;  // kNone: padding
  uint32_t to = 0;
  int64_t from_row = 0;
  int64_t to_row = 0;
  int64_t rows = 0;
  int64_t from_col = 0;
  int64_t to_col = 0;
  int64_t cols = 0;
};

bool IsBundled(const Job& job, uint32_t output) {
  const OutputArray& array = job.plan.outputs[output];
  if (job.modes[output] == OutputMode::kSkip || array.row_bytes() == 0) return false;
  switch (array.transform) {
    case Transform::kMove:
    case Transform::kConvert:
    case Transform::kInvert:
    case Transform::kConstant:
      return true;
    case Transform::kEncode:  // encode_strips.h
    case Transform::kBeside:
    case Transform::kTranspose:  // turns.h
    case Transform::kRelayout:   // cells
    case Transform::kScales:
      break;
  }
  return false;
}

// Sorted row edges of every array of a group, in one list: those of array a are [begin[a], begin[a + 1]).
class Edges {
 public:
  explicit Edges(size_t arrays) : begin_(arrays + 1, 0) {}

  // Call Count for every edge, then Start, then Add for every edge again, then Settle.
  void Count(uint32_t array) { ++begin_[array + 1]; }
  void Start() {
    std::partial_sum(begin_.begin(), begin_.end(), begin_.begin());
    rows_.resize(begin_.back());
    next_.assign(begin_.begin(), begin_.end() - 1);
  }
  void Add(uint32_t array, int64_t row) { rows_[next_[array]++] = row; }
  void Settle() {
    size_t kept = 0;
    for (size_t a = 0; a + 1 < begin_.size(); ++a) {
      const auto first = rows_.begin() + static_cast<std::ptrdiff_t>(begin_[a]);
      const auto last = rows_.begin() + static_cast<std::ptrdiff_t>(next_[a]);
      if (!std::is_sorted(first, last)) std::sort(first, last);
      const size_t count = static_cast<size_t>(std::unique(first, last) - first);
      std::copy_n(first, count, rows_.begin() + static_cast<std::ptrdiff_t>(kept));
      begin_[a] = kept;
      kept += count;
    }
    begin_.back() = kept;
    rows_.resize(kept);
  }
  // Position in the list of edge `row`, which must be one.
  size_t Find(uint32_t array, int64_t row) const {
    const auto first = rows_.begin() + static_cast<std::ptrdiff_t>(begin_[array]);
    const auto last = rows_.begin() + static_cast<std::ptrdiff_t>(begin_[array + 1]);
    return static_cast<size_t>(std::lower_bound(first, last, row) - rows_.begin());
  }
  int64_t Row(size_t edge) const { return rows_[edge]; }
  size_t size() const { return rows_.size(); }
  // These edges and more, each (array, row).
  Edges With(const std::vector<std::pair<uint32_t, int64_t>>& more) const {
    Edges edges(begin_.size() - 1);
    for (uint32_t a = 0; a + 1 < begin_.size(); ++a) edges.begin_[a + 1] = begin_[a + 1] - begin_[a];
    for (const auto& [array, row] : more) edges.Count(array);
    edges.Start();
    for (uint32_t a = 0; a + 1 < begin_.size(); ++a) {
      for (size_t i = begin_[a]; i < begin_[a + 1]; ++i) edges.Add(a, rows_[i]);
    }
    for (const auto& [array, row] : more) edges.Add(array, row);
    edges.Settle();
    return edges;
  }

 private:
  std::vector<size_t> begin_;
  std::vector<size_t> next_;
  std::vector<int64_t> rows_;
};

// An interval is named by the position of its first edge.
class Intervals {
 public:
  explicit Intervals(size_t count) : parent_(count) { std::iota(parent_.begin(), parent_.end(), size_t{0}); }
  size_t Root(size_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  void Join(size_t a, size_t b) { parent_[Root(a)] = Root(b); }

 private:
  std::vector<size_t> parent_;
};

class Bundler {
 public:
  Bundler(const Job& job, uint32_t group) : job_(job) {
    for (const uint32_t o : job.plan.groups[group].outputs) {
      if (IsBundled(job, o)) outputs_.push_back(o);
    }
    for (const uint32_t o : outputs_) {
      for (const Piece& piece : job.plan.outputs[o].pieces) {
        if (piece.source != kNone && piece.rows > 0) sources_.push_back(piece.source);
      }
    }
    std::sort(sources_.begin(), sources_.end());
    sources_.erase(std::unique(sources_.begin(), sources_.end()), sources_.end());
    for (size_t i = 0; i < outputs_.size(); ++i) AddLinks(static_cast<uint32_t>(sources_.size() + i));
  }

  std::vector<RowStrip> Make() {
    Edges edges = PieceEdges();
    for (auto more = Missing(edges); !more.empty(); more = Missing(edges)) edges = edges.With(more);
    std::vector<RowStrip> bundles = Gather(edges);
    for (const uint32_t o : outputs_) {
      const OutputArray& output = job_.plan.outputs[o];
      if (output.transform == Transform::kConstant) bundles.push_back({output.rows(), {}, {{o, 0, 0, 0}}, {}});
    }
    return Sorted(std::move(bundles));
  }

 private:
  void AddLinks(uint32_t to) {
    const OutputArray& output = job_.plan.outputs[outputs_[to - sources_.size()]];
    for (const Piece& piece : output.pieces) {
      if (piece.rows <= 0) continue;
      Link link{kNone,     to, piece.source_row, piece.target_row, piece.rows, piece.source_col, piece.target_col,
                piece.cols};
      if (piece.source != kNone) {
        link.from =
            static_cast<uint32_t>(std::lower_bound(sources_.begin(), sources_.end(), piece.source) - sources_.begin());
      }
      if (link.cols != 0 && IsWhole(output, piece)) link.cols = link.from_col = link.to_col = 0;
      links_.push_back(link);
    }
  }

  // Whether a piece that names its columns takes all of both rows.
  bool IsWhole(const OutputArray& output, const Piece& piece) const {
    if (piece.cols != RowElements(output.shape)) return false;
    if (piece.source == kNone) return true;
    const SourceArray& source = job_.plan.sources[piece.source];
    const StoredArray& array = job_.array(piece.source);
    if (output.transform != Transform::kConvert) return piece.cols == RowElements(array.shape);
    return static_cast<uint64_t>(piece.cols) == ValueColumns(source.codec, array.row_bytes());
  }

  Edges PieceEdges() const {
    Edges edges(sources_.size() + outputs_.size());
    const auto each = [&](auto&& visit) {
      for (const Link& link : links_) {
        if (link.from != kNone) {
          visit(link.from, link.from_row);
          visit(link.from, link.from_row + link.rows);
        }
        visit(link.to, link.to_row);
        visit(link.to, link.to_row + link.rows);
      }
    };
    each([&](uint32_t array, int64_t) { edges.Count(array); });
    edges.Start();
    each([&](uint32_t array, int64_t row) { edges.Add(array, row); });
    edges.Settle();
    return edges;
  }

  // Edges inside one side of a piece that the other side lacks.
  std::vector<std::pair<uint32_t, int64_t>> Missing(const Edges& edges) const {
    std::vector<std::pair<uint32_t, int64_t>> missing;
    for (const Link& link : links_) {
      if (link.from == kNone) continue;
      size_t from = edges.Find(link.from, link.from_row) + 1;
      size_t to = edges.Find(link.to, link.to_row) + 1;
      while (true) {
        const int64_t x = edges.Row(from) - link.from_row;
        const int64_t y = edges.Row(to) - link.to_row;
        if (x < y) missing.emplace_back(link.to, link.to_row + x);
        if (y < x) missing.emplace_back(link.from, link.from_row + y);
        if (std::min(x, y) == link.rows) break;
        from += x <= y ? 1 : 0;
        to += y <= x ? 1 : 0;
      }
    }
    return missing;
  }

  // Part of a link between two intervals of equal size.
  struct Atom {
    const Link* link = nullptr;
    size_t from = 0;
    size_t to = 0;
    size_t bundle = 0;
  };

  std::vector<RowStrip> Gather(const Edges& edges) const {
    std::vector<Atom> atoms;
    atoms.reserve(links_.size());
    Intervals intervals(edges.size());
    for (const Link& link : links_) {
      size_t to = edges.Find(link.to, link.to_row);
      size_t from = link.from == kNone ? 0 : edges.Find(link.from, link.from_row);
      for (; edges.Row(to) < link.to_row + link.rows; ++to, ++from) {
        atoms.push_back({&link, from, to, 0});
        if (link.from != kNone) intervals.Join(from, to);
      }
    }
    // Bundles are numbered in the order of their first atom.
    std::vector<size_t> bundle_of(edges.size(), SIZE_MAX), sizes;
    for (Atom& atom : atoms) {
      size_t& bundle = bundle_of[intervals.Root(atom.to)];
      if (bundle == SIZE_MAX) {
        bundle = sizes.size();
        sizes.push_back(0);
      }
      atom.bundle = bundle;
      ++sizes[bundle];
    }
    std::vector<size_t> next(sizes.size(), 0);
    std::exclusive_scan(sizes.begin(), sizes.end(), next.begin(), size_t{0});
    std::vector<const Atom*> order(atoms.size());
    for (const Atom& atom : atoms) order[next[atom.bundle]++] = &atom;
    std::vector<uint32_t> place(edges.size(), kNone);  // of an interval among the rows of its bundle
    std::vector<RowStrip> bundles(sizes.size());
    for (size_t i = 0, b = 0; b < sizes.size(); i += sizes[b], ++b) {
      Fill(edges, std::span(order).subspan(i, sizes[b]), &place, &bundles[b]);
    }
    return bundles;
  }

  void Fill(const Edges& edges, std::span<const Atom* const> atoms, std::vector<uint32_t>* place,
            RowStrip* bundle) const {
    bundle->rows = edges.Row(atoms[0]->to + 1) - edges.Row(atoms[0]->to);
    bool whole = true;
    for (const Atom* atom : atoms) {
      const Link& link = *atom->link;
      if (link.from != kNone && (*place)[atom->from] == kNone) {
        (*place)[atom->from] = static_cast<uint32_t>(bundle->sources.size());
        const int64_t row = edges.Row(atom->from);
        bundle->sources.push_back({sources_[link.from], row, row});
      }
      if ((*place)[atom->to] == kNone) {
        (*place)[atom->to] = static_cast<uint32_t>(bundle->targets.size());
        bundle->targets.push_back({outputs_[link.to - sources_.size()], 0, 0, edges.Row(atom->to)});
      }
      whole &= link.cols == 0;
    }
    if (whole) return;
    bundle->copies.reserve(atoms.size());
    for (const Atom* atom : atoms) {
      const Link& link = *atom->link;
      bundle->copies.push_back({link.from == kNone ? kNone : (*place)[atom->from], (*place)[atom->to], link.from_col,
                                link.to_col, link.cols});
    }
    std::stable_sort(bundle->copies.begin(), bundle->copies.end(),
                     [](const RowCopy& a, const RowCopy& b) { return a.target < b.target; });
    for (size_t i = 0; i < bundle->copies.size(); ++i) {
      RowTarget& target = bundle->targets[bundle->copies[i].target];
      if (target.copies++ == 0) target.first_copy = static_cast<uint32_t>(i);
    }
  }

  std::vector<RowStrip> Sorted(std::vector<RowStrip> bundles) const {
    using Key = std::tuple<uint32_t, uint64_t, size_t>;
    std::vector<Key> keys;
    keys.reserve(bundles.size());
    for (const RowStrip& bundle : bundles) {
      Key key{UINT32_MAX, 0, keys.size()};
      for (const RowSource& from : bundle.sources) {
        const StoredArray& array = job_.array(from.source);
        const uint64_t at = array.begin + static_cast<uint64_t>(from.row) * array.row_bytes();
        key = std::min(key, Key{array.file, at, keys.size()});
      }
      keys.push_back(key);
    }
    if (std::is_sorted(keys.begin(), keys.end())) return bundles;
    std::vector<RowStrip> sorted;
    sorted.reserve(bundles.size());
    std::sort(keys.begin(), keys.end());
    for (const Key& key : keys) sorted.push_back(std::move(bundles[std::get<2>(key)]));
    return sorted;
  }

  const Job& job_;
  std::vector<uint32_t> sources_;  // ascending
  std::vector<uint32_t> outputs_;
  std::vector<Link> links_;
};

}  // namespace

std::vector<RowStrip> BundlesOf(const Job& job, uint32_t group) {
  return Bundler(job, group).Make();
}

std::vector<uint32_t> CellsOf(const Job& job, uint32_t group) {
  const FuseGroup& fuse = job.plan.groups[group];
  if (fuse.cells.empty() || job.modes[fuse.cells[0].scale_output] == OutputMode::kSkip) return {};
  std::vector<uint32_t> cells(fuse.cells.size());
  std::iota(cells.begin(), cells.end(), 0u);
  return cells;
}

}  // namespace mimo
