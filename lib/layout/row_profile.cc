#include "lib/layout/row_profile.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>

#include "kernels/codec/bf16.h"
#include "kernels/codec/e4m3.h"
#include "kernels/codec/fp16.h"
#include "lib/base/workers.h"

namespace mimo {
namespace {

constexpr uint64_t kWholeTile = 64u << 10;  // bytes: tiles up to this are read as they are
constexpr uint64_t kPiece = 2u << 10;       // bytes of a row of larger tiles
constexpr uint64_t kPieces = 8;             // rows of them

// The rows that tell the norms of one fused weight: its values, or its scales, one row for each of its own.
struct Rows {
  const StoredArray* array = nullptr;
  bool values = true;  // the norm of values; else the mean logarithm of multipliers
  bool windowed = false;
  int64_t tile_rows = 0;
};

template <class T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// NaN where an element of this type says nothing of a norm.
double Element(DType dtype, const std::byte* at) {
  using namespace kernels;
  if (dtype == DType::kBF16) return static_cast<double>(Bf16ToFloat(Load<uint16_t>(at)));
  if (dtype == DType::kF16) return static_cast<double>(Fp16ToFloat(Load<uint16_t>(at)));
  if (dtype == DType::kF32) return static_cast<double>(Load<float>(at));
  if (dtype == DType::kF8E4M3) return static_cast<double>(E4m3ToFloat(Load<uint8_t>(at)));
  if (dtype != DType::kU8 && dtype != DType::kF8E8M0) return NAN;
  const auto exponent = Load<uint8_t>(at);
  return exponent == 0xFF ? NAN : std::ldexp(1.0, exponent - 127);
}

// Logarithm of the norm that part of a row tells; NaN where it tells none (padding is zero, and so is not counted). Of
// values it is that of index 1/2, (mean |x|^1/2)^2, which the few large columns of a model do not make up alone.
double NormOf(const Rows& rows, std::span<const std::byte> part) {
  const uint64_t step = BitsPerElement(rows.array->dtype) / 8;
  double sum = 0, count = 0;
  for (uint64_t at = 0; at + step <= part.size(); at += step) {
    const double value = Element(rows.array->dtype, &part[at]);
    if (!std::isfinite(value)) continue;
    if (!rows.values && value <= 0) continue;
    sum += rows.values ? std::sqrt(std::abs(value)) : std::log(value);
    count += 1;
  }
  if (count == 0 || (rows.values && sum <= 0)) return NAN;
  return rows.values ? std::log(sum / count) * 2 : sum / count;
}

// What tells the norms of a weight; nullopt for those under a block grid, which tells the order itself.
std::optional<Rows> RowsOf(const Catalogue& catalogue, const Inventory& inventory, const AttentionWeights& layer) {
  if (!layer.fused()) return std::nullopt;
  const Weight& weight = inventory.weights[layer.qkv];
  Rows rows;
  rows.values = weight.storage == Storage::kPlain;
  if (HasBlockGrid(weight.storage)) {
    const uint64_t scales = catalogue.arrays[weight.scale].bytes;
    const uint64_t scale = BitsPerElement(catalogue.arrays[weight.scale].dtype) / 8;
    rows.values = scales == scale;  // one for the tensor: its codes tell as much as its values
    if (!rows.values && scales != scale * static_cast<uint64_t>(weight.rows)) return std::nullopt;
  }
  rows.array = &catalogue.arrays[rows.values ? weight.array : weight.scale];
  rows.windowed = catalogue.config.windowed_at(layer.layer, layer.mtp);
  const AttentionShape& shape = catalogue.config.attention(rows.windowed);
  const int64_t all = shape.q_rows() + shape.k_rows() + shape.v_rows();
  rows.tile_rows = TileRows(shape);
  const std::vector<int64_t>& stored = rows.array->shape;
  const bool by_row = !stored.empty() && stored[0] == all;
  if (rows.tile_rows == 0 || weight.rows != all || !by_row || BitsPerElement(rows.array->dtype) < 8)
    return std::nullopt;
  return rows;
}

// Evenly spread members of `all`, first and last among them.
std::vector<Rows> Spread(const std::vector<Rows>& all, size_t most) {
  if (all.size() <= most) return all;
  std::vector<Rows> some;
  for (size_t i = 0; i < most; ++i) some.push_back(all[i * (all.size() - 1) / std::max<size_t>(1, most - 1)]);
  return some;
}

Result<float> ReadTile(const ReadableFile& file, const Rows& rows, uint64_t tile, std::vector<std::byte>* buffer) {
  const auto tile_rows = static_cast<uint64_t>(rows.tile_rows);
  const uint64_t row_bytes = rows.array->bytes / static_cast<uint64_t>(rows.array->shape[0]);
  const uint64_t begin = rows.array->begin + tile * tile_rows * row_bytes;
  const bool whole = tile_rows * row_bytes <= kWholeTile;
  const uint64_t pieces = whole ? tile_rows : std::min(kPieces, tile_rows);
  const uint64_t piece = whole ? row_bytes : std::min(kPiece, row_bytes);
  buffer->resize(pieces * piece);
  if (whole) MIMO_RETURN_IF_ERROR(file.ReadAt(begin, std::span(*buffer)));
  double sum = 0, count = 0;
  for (uint64_t i = 0; i < pieces; ++i) {
    const std::span<std::byte> part = std::span(*buffer).subspan(i * piece, piece);
    if (!whole) MIMO_RETURN_IF_ERROR(file.ReadAt(begin + tile_rows * i / pieces * row_bytes, part));
    const double norm = NormOf(rows, part);
    if (std::isnan(norm)) continue;
    sum += norm;
    count += 1;
  }
  return static_cast<float>(count == 0 ? NAN : sum / count);
}

}  // namespace

Result<RowOrder> LookAtRows(FileSystem& fs, const Catalogue& catalogue, const Inventory& inventory,
                            const RowSample& sample) {
  std::array<std::vector<Rows>, 2> kinds;
  for (const AttentionWeights& layer : inventory.attention)
    if (const std::optional<Rows> rows = RowsOf(catalogue, inventory, layer)) kinds[rows->windowed].push_back(*rows);
  std::vector<Rows> sampled = Spread(kinds[0], sample.layers_of_a_kind);
  for (const Rows& rows : Spread(kinds[1], sample.layers_of_a_kind)) sampled.push_back(rows);
  if (sampled.empty()) return RowOrder();

  std::vector<std::unique_ptr<ReadableFile>> files;
  std::vector<RowProfile> profiles;
  std::vector<std::pair<size_t, uint64_t>> work;  // profile, tile
  for (const Rows& rows : sampled) {
    MIMO_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file,
                          fs.OpenForRead(catalogue.PathOf(catalogue.files[rows.array->file])));
    files.push_back(std::move(file));
    const auto tiles = static_cast<uint64_t>(rows.array->shape[0] / rows.tile_rows);
    for (uint64_t tile = 0; tile < tiles; ++tile) work.emplace_back(profiles.size(), tile);
    profiles.push_back({rows.windowed, rows.tile_rows, std::vector<float>(tiles, NAN)});
  }
  std::atomic<size_t> next = 0;
  Workers workers(sample.threads > 0 ? sample.threads : ThreadsOfMachine(), "try again with more memory");
  MIMO_RETURN_IF_ERROR(workers.Run([&](int) -> Status {
    std::vector<std::byte> buffer;
    for (size_t i = next++; i < work.size() && !workers.stopped(); i = next++) {
      const auto [profile, tile] = work[i];
      MIMO_ASSIGN_OR_RETURN(profiles[profile].tiles[tile], ReadTile(*files[profile], sampled[profile], tile, &buffer));
    }
    return {};
  }));
  RowOrder order = OrderOfRows(profiles, catalogue.config.global, catalogue.config.window);
  for (const Rows& rows : sampled) order.sampled.push_back(rows.array->name);
  return order;
}

}  // namespace mimo
