#include "lib/io/torch/dcp_tiling.h"

#include <algorithm>
#include <numeric>

namespace mimo {
namespace {

constexpr int kMaxLevels = 64;         // of cuts within cuts
constexpr size_t kMaxPairwise = 2048;  // chunks that no cut separates

std::string Numbers(const std::vector<int64_t>& values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(values[i]);
  return out + "]";
}

class Overlap {
 public:
  Overlap(size_t axes, std::span<const DcpChunk> chunks) : axes_(axes), chunks_(chunks), order_(chunks.size()) {
    std::iota(order_.begin(), order_.end(), size_t{0});
  }

  // Why two chunks share an element, or may.
  std::string Find() { return Check(order_, 0); }

 private:
  using Group = std::span<size_t>;

  int64_t Begin(size_t chunk, size_t axis) const { return chunks_[chunk].offsets[axis]; }
  int64_t End(size_t chunk, size_t axis) const { return Begin(chunk, axis) + chunks_[chunk].sizes[axis]; }

  // Cuts `group` by planes across an axis that go through none of its chunks; chunks on two sides of one are apart.
  std::string Check(Group group, int level) {
    if (group.size() < 2) return {};
    if (level > kMaxLevels) return "chunks that are cut too irregularly to be checked";
    for (size_t axis = 0; axis < axes_; ++axis) {
      std::sort(group.begin(), group.end(), [&](size_t a, size_t b) { return Begin(a, axis) < Begin(b, axis); });
      const std::vector<size_t> cuts = CutsAlong(group, axis);
      if (cuts.size() < 3) continue;
      for (size_t i = 1; i < cuts.size(); ++i) {
        std::string why = Check(group.subspan(cuts[i - 1], cuts[i] - cuts[i - 1]), level + 1);
        if (!why.empty()) return why;
      }
      return {};
    }
    return Pairwise(group);
  }

  // Where the parts of a group sorted along `axis` begin, and its size.
  std::vector<size_t> CutsAlong(Group group, size_t axis) const {
    std::vector<size_t> cuts = {0};
    int64_t end = End(group[0], axis);
    for (size_t i = 1; i < group.size(); ++i) {
      if (Begin(group[i], axis) >= end) cuts.push_back(i);
      end = std::max(end, End(group[i], axis));
    }
    cuts.push_back(group.size());
    return cuts;
  }

  std::string Pairwise(Group group) const {
    if (group.size() > kMaxPairwise) return "chunks that are cut too irregularly to be checked";
    for (size_t i = 0; i < group.size(); ++i) {
      for (size_t k = i + 1; k < group.size(); ++k) {
        if (!Apart(group[i], group[k])) {
          return "chunks at " + Numbers(chunks_[group[i]].offsets) + " and " + Numbers(chunks_[group[k]].offsets) +
                 " that overlap";
        }
      }
    }
    return {};
  }

  bool Apart(size_t a, size_t b) const {
    for (size_t axis = 0; axis < axes_; ++axis) {
      if (End(a, axis) <= Begin(b, axis) || End(b, axis) <= Begin(a, axis)) return true;
    }
    return false;
  }

  size_t axes_;
  std::span<const DcpChunk> chunks_;
  std::vector<size_t> order_;
};

}  // namespace

std::optional<int64_t> ElementsOf(std::span<const int64_t> shape) {
  int64_t elements = 1;
  bool none = false;
  for (const int64_t size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) none = true;
    if (size != 0 && __builtin_mul_overflow(elements, size, &elements)) return std::nullopt;
  }
  return none ? 0 : elements;
}

std::string WhyNotTiled(std::span<const int64_t> shape, std::span<const DcpChunk> chunks) {
  int64_t covered = 0;
  for (const DcpChunk& chunk : chunks) {
    if (chunk.offsets.size() != shape.size() || chunk.sizes.size() != shape.size()) {
      return "a chunk of " + std::to_string(chunk.sizes.size()) + " dimensions";
    }
    for (size_t i = 0; i < shape.size(); ++i) {
      if (chunk.sizes[i] < 0 || chunk.offsets[i] < 0 || chunk.offsets[i] > shape[i] ||
          chunk.sizes[i] > shape[i] - chunk.offsets[i]) {
        return "a chunk at " + Numbers(chunk.offsets) + " of shape " + Numbers(chunk.sizes) + " that leaves the tensor";
      }
    }
    const auto elements = ElementsOf(chunk.sizes);
    if (!elements || __builtin_add_overflow(covered, *elements, &covered)) return "chunks of too many elements";
  }
  const auto elements = ElementsOf(shape);
  if (!elements) return "too many elements";
  // No overlap, and as many elements as the tensor has, within it: each of its elements once.
  std::string overlap = Overlap(shape.size(), chunks).Find();
  if (!overlap.empty()) return overlap;
  if (covered != *elements) {
    return "chunks of " + std::to_string(covered) + " elements together, where the tensor has " +
           std::to_string(*elements);
  }
  return {};
}

}  // namespace mimo
