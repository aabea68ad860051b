#include "lib/synth/fill.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "lib/base/hash.h"

namespace mimo {
namespace {

constexpr int kQuantiles = 65536;
constexpr uint8_t kMaxCode = 0x7E;  // 448, the largest finite magnitude of E4M3

// Counter-based random words (the finalizer of splitmix64).
uint64_t Word(uint64_t key, uint64_t counter) {
  uint64_t x = key + counter * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Calls write(i - begin, random bits of element i) for i in [begin, end); kBits of a word belong to each element.
template <int kBits, class Write>
void ForEach(uint64_t key, uint64_t begin, uint64_t end, Write&& write) {
  constexpr uint64_t kPerWord = 64 / kBits;
  constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
  uint64_t i = begin;
  while (i < end) {
    const uint64_t word = Word(key, i / kPerWord);
    if (i % kPerWord == 0 && i + kPerWord <= end) {
      for (uint64_t lane = 0; lane < kPerWord; ++lane) write(i - begin + lane, (word >> (lane * kBits)) & kMask);
      i += kPerWord;
    } else {
      write(i - begin, (word >> (i % kPerWord * kBits)) & kMask);
      ++i;
    }
  }
}

uint16_t ToBf16(float value) {  // finite values only
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float E4m3Magnitude(int code) {
  const int exponent = code >> 3;
  const int mantissa = code & 7;
  return exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                       : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

// The nearest magnitude below 448.
uint8_t NearestE4m3(float magnitude) {
  int best = 0;
  for (int code = 0; code < kMaxCode; ++code) {
    if (std::fabs(E4m3Magnitude(code) - magnitude) < std::fabs(E4m3Magnitude(best) - magnitude)) best = code;
  }
  return static_cast<uint8_t>(best);
}

// Quantiles of the sum of four uniform bytes, normalized to mean 0 and variance 1: only integers and IEEE divisions, so
// the same on every machine.
std::vector<float> NormalQuantiles() {
  std::vector<uint64_t> count(1, 1);
  for (int byte = 0; byte < 4; ++byte) {
    std::vector<uint64_t> next(count.size() + 255, 0);
    for (size_t s = 0; s < count.size(); ++s) {
      for (size_t b = 0; b < 256; ++b) next[s + b] += count[s];
    }
    count = std::move(next);
  }
  const double deviation = std::sqrt(4.0 * (256.0 * 256.0 - 1.0) / 12.0);
  const double mean = 4.0 * 127.5;
  std::vector<float> quantiles(kQuantiles);
  size_t sum = 0;
  uint64_t below = 0;  // outcomes with a smaller sum
  for (uint64_t i = 0; i < kQuantiles; ++i) {
    const uint64_t target = i * 65536 + 32768;
    while (below + count[sum] <= target) below += count[sum++];
    const double fraction = static_cast<double>(target - below) / static_cast<double>(count[sum]);
    quantiles[i] = static_cast<float>((static_cast<double>(sum) - 0.5 + fraction - mean) / deviation);
  }
  return quantiles;
}

template <class T>
void Store(std::span<std::byte> out, uint64_t index, T value) {
  std::memcpy(out.data() + index * sizeof(T), &value, sizeof(T));
}

// A value in the type of the tensor; in F32 with bits below BF16, drawn from `random`.
void StoreValue(DType dtype, std::span<std::byte> out, uint64_t index, float value, uint64_t random) {
  if (dtype == DType::kF32)
    Store(out, index, value * (1.0f + static_cast<float>(random * 0x9E3779B97F4A7C15 >> 48) / 16777216.0f));
  else
    Store(out, index, ToBf16(value));
}

}  // namespace

Filler::Filler(uint64_t seed) : seed_(seed), normal_(NormalQuantiles()), codes_(kQuantiles), weights_(kQuantiles) {
  for (int i = 0; i < kQuantiles; ++i) {
    const float z = normal_[static_cast<size_t>(i)];
    const bool uniform = i % 8 == 0;
    const int spread = i / 8;
    const uint8_t magnitude =
        uniform ? static_cast<uint8_t>(spread % kMaxCode) : NearestE4m3(std::fabs(z) * (448.0f / 4.0f));
    const bool negative = uniform ? spread / kMaxCode % 2 == 1 : z < 0;
    codes_[static_cast<size_t>(i)] = static_cast<uint8_t>(magnitude | (negative ? 0x80 : 0));
    weights_[static_cast<size_t>(i)] = ToBf16(z * 0.02f);
  }
}

uint64_t Filler::Key(std::string_view name, std::string_view purpose) const {
  const std::string text = std::string(purpose) + ":" + std::string(name);
  return HashBytes(std::as_bytes(std::span(text)), seed_).low;
}

void Filler::Rows(const SynthTensor& tensor, int64_t first, int64_t rows, std::span<std::byte> out) const {
  if (tensor.fill == Fill::kFp8Codes) return Fp8Codes(tensor, first, rows, out);
  if (tensor.fill == Fill::kFp8Scales) return Fp8Scales(tensor, first, rows, out);
  uint64_t per_row = 1;
  for (size_t i = 1; i < tensor.info.shape.size(); ++i) per_row *= static_cast<uint64_t>(tensor.info.shape[i]);
  const uint64_t begin = static_cast<uint64_t>(first) * per_row;
  const uint64_t end = begin + static_cast<uint64_t>(rows) * per_row;
  const uint64_t key = Key(tensor.info.name, "data");
  const DType dtype = tensor.info.dtype;
  switch (tensor.fill) {
    case Fill::kMxfp4Codes:
      ForEach<8>(key, begin, end, [&](uint64_t i, uint64_t r) { out[i] = static_cast<std::byte>(r); });
      break;
    case Fill::kMxfp4Scales:
      ForEach<8>(key, begin, end, [&](uint64_t i, uint64_t r) { out[i] = static_cast<std::byte>(116 + r * 9 / 256); });
      break;
    case Fill::kNorm:
      ForEach<16>(key, begin, end,
                  [&](uint64_t i, uint64_t r) { StoreValue(dtype, out, i, 1.0f + 0.1f * normal_[r], r); });
      break;
    case Fill::kSink:
      ForEach<16>(key, begin, end, [&](uint64_t i, uint64_t r) { StoreValue(dtype, out, i, normal_[r], r); });
      break;
    case Fill::kRouterBias:
      ForEach<16>(key, begin, end, [&](uint64_t i, uint64_t r) { Store(out, i, 70.9f + 3e-4f * normal_[r]); });
      break;
    case Fill::kRouter:
      if (dtype == DType::kF32) {
        // The upper bits choose a quantile, the lower ones fill the mantissa below BF16 precision.
        ForEach<32>(key, begin, end, [&](uint64_t i, uint64_t r) {
          const float detail = 1.0f + static_cast<float>(r & 0xFFFF) / 8388608.0f;
          Store(out, i, normal_[r >> 16] * 0.02f * detail);
        });
        break;
      }
      [[fallthrough]];
    case Fill::kWeight:
      if (dtype == DType::kF32)
        ForEach<16>(key, begin, end, [&](uint64_t i, uint64_t r) { StoreValue(dtype, out, i, normal_[r] * 0.02f, r); });
      else
        ForEach<16>(key, begin, end, [&](uint64_t i, uint64_t r) { Store(out, i, weights_[r]); });
      break;
    case Fill::kFp8Codes:  // above
    case Fill::kFp8Scales:
      break;
  }
}

void Filler::Fp8Codes(const SynthTensor& tensor, int64_t first, int64_t rows, std::span<std::byte> out) const {
  const ChunkGrid& grid = tensor.grid;
  const uint64_t begin = static_cast<uint64_t>(first * grid.cols);
  const uint64_t end = begin + static_cast<uint64_t>(rows * grid.cols);
  ForEach<16>(Key(tensor.info.name, "data"), begin, end,
              [&](uint64_t i, uint64_t r) { out[i] = static_cast<std::byte>(codes_[r]); });
  // One code of magnitude 448 per cell. Its place is drawn over the whole cell, so of a cell that K and V share one has
  // it.
  const uint64_t key = Key(tensor.cells, "saturated");
  for (int64_t row = first; row < first + rows;) {
    const int64_t chunk = row / grid.part_rows;
    const int64_t local = grid.part_begin + row % grid.part_rows;
    const int64_t block = local / grid.block_rows;
    const int64_t block_begin = block * grid.block_rows;
    const int64_t block_end = std::min(block_begin + grid.block_rows, grid.chunk_rows);
    const int64_t part_end = std::min(block_end, grid.part_begin + grid.part_rows);
    const int64_t here = std::min(part_end - local, first + rows - row);  // rows of this block in the request
    for (int64_t col_block = 0; col_block < grid.col_blocks(); ++col_block) {
      const int64_t col_begin = col_block * grid.block_cols;
      const int64_t cols = std::min(grid.block_cols, grid.cols - col_begin);
      const int64_t cell = (chunk * grid.blocks() + block) * grid.col_blocks() + col_block;
      const uint64_t random = Word(key, static_cast<uint64_t>(cell));
      const int64_t hit =
          block_begin + static_cast<int64_t>((random & 0xFFFFFF) % static_cast<uint64_t>(block_end - block_begin));
      if (hit < local || hit >= local + here) continue;
      const int64_t col = col_begin + static_cast<int64_t>((random >> 24 & 0xFFFFFF) % static_cast<uint64_t>(cols));
      const uint8_t sign = random >> 63 != 0 ? 0x80 : 0;
      out[static_cast<size_t>((row - first + hit - local) * grid.cols + col)] = static_cast<std::byte>(kMaxCode | sign);
    }
    row += here;
  }
}

void Filler::Fp8Scales(const SynthTensor& tensor, int64_t first, int64_t rows, std::span<std::byte> out) const {
  const ChunkGrid& grid = tensor.grid;
  const uint64_t key = Key(tensor.cells, "amax");
  const int64_t per_chunk = grid.last_block() - grid.first_block();
  uint64_t i = 0;
  for (int64_t row = first; row < first + rows; ++row) {
    const int64_t chunk = row / per_chunk;
    const int64_t block = grid.first_block() + row % per_chunk;
    const int64_t local = block * grid.block_rows;
    // amax in [2^exponent, 2^(exponent + 3)): ranges of Q, K and V do not overlap.
    int exponent = -5;
    if (tensor.id.role == Role::kAttnQ) exponent = -4;  // each with a grid of its own
    if (tensor.id.role == Role::kAttnK) exponent = -1;
    if (tensor.id.role == Role::kAttnV) exponent = -7;
    if (grid.q_rows > 0) exponent = local < grid.q_rows ? -4 : local < grid.q_rows + grid.k_rows ? -1 : -7;
    for (int64_t col_block = 0; col_block < grid.col_blocks(); ++col_block) {
      const int64_t cell = (chunk * grid.blocks() + block) * grid.col_blocks() + col_block;
      const uint64_t random = Word(key, static_cast<uint64_t>(cell));
      const float mantissa = 1.0f + static_cast<float>(random & 0x7FFFFF) / 8388608.0f;
      const float amax = std::ldexp(mantissa, exponent + static_cast<int>((random >> 40) % 3));
      if (tensor.info.dtype == DType::kF32)
        Store(out, i++, amax / 448.0f);
      else
        Store(out, i++, ToBf16(amax / 448.0f));
    }
  }
}

}  // namespace mimo
