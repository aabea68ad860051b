#include "lib/layout/code_tiles.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <span>

#include "kernels/codec/e4m3.h"
#include "lib/base/workers.h"
#include "lib/model/scale_values.h"

namespace mimo {
namespace {

constexpr int64_t kLeastCodeTile = 8;
constexpr int64_t kShareBytes = 4 << 20;

// Square roots of the magnitudes of codes; 0 for NaN.
std::array<float, 128> RootTable() {
  std::array<float, 128> roots{};
  for (size_t code = 0; code < kernels::kE4m3Nan; ++code)
    roots[code] = std::sqrt(kernels::E4m3ToFloat(static_cast<uint8_t>(code)));
  return roots;
}

// One row of tiles.
void SumUpTile(const uint8_t* codes, int64_t rows, int64_t columns, int64_t block, uint8_t* most, float* level) {
  static const std::array<float, 128> roots = RootTable();
  for (int64_t begin = 0, c = 0; begin < columns; begin += block, ++c) {
    const int64_t end = std::min(begin + block, columns);
    uint8_t largest = 0;
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row) {
      float of_row = 0;
      for (int64_t i = begin; i < end; ++i) {
        const uint8_t code = codes[row * columns + i] & 0x7F;
        of_row += roots[code];
        largest = std::max<uint8_t>(largest, code == kernels::kE4m3Nan ? 0 : code);
      }
      sum += static_cast<double>(of_row);
    }
    most[c] = largest;
    level[c] = sum > 0 ? static_cast<float>(2 * std::log(sum / static_cast<double>(rows * (end - begin)))) : NAN;
  }
}

CodeTiles EmptyTiles(int64_t rows, int64_t columns, int64_t tile_rows, int64_t block_columns) {
  CodeTiles tiles;
  tiles.tiles = rows / tile_rows;
  tiles.columns = (columns + block_columns - 1) / block_columns;
  tiles.most.resize(static_cast<size_t>(tiles.tiles * tiles.columns));
  tiles.level.resize(tiles.most.size());
  return tiles;
}

// Tiles [begin, end) of one array.
struct TileShare {
  size_t layer = 0, part = 0;
  uint32_t weight = kNone;
  int64_t begin = 0, end = 0;
};

class TileReader {
 public:
  TileReader(FileSystem& fs, const Catalogue& catalogue, const Inventory& inventory)
      : fs_(fs), catalogue_(catalogue), inventory_(inventory) {}

  Result<std::vector<LayerTiles>> Read(const std::vector<uint32_t>& layers, int threads) {
    for (const uint32_t layer : layers) MIMO_RETURN_IF_ERROR(Add(inventory_.attention[layer]));
    std::atomic<size_t> next = 0;
    Workers workers(threads > 0 ? threads : ThreadsOfMachine(), "try again with more memory");
    Status run = workers.Run([&](int) -> Status {
      std::vector<uint8_t> buffer;
      for (size_t i = next++; i < shares_.size() && !workers.stopped(); i = next++)
        MIMO_RETURN_IF_ERROR(SumUpShare(shares_[i], &buffer));
      return {};
    });
    MIMO_RETURN_IF_ERROR(std::move(run));
    return std::move(read_);
  }

 private:
  Status Open(uint32_t array) {
    std::unique_ptr<ReadableFile>& file = files_[catalogue_.arrays[array].file];
    if (file) return {};
    MIMO_ASSIGN_OR_RETURN(file, fs_.OpenForRead(catalogue_.PathOf(catalogue_.files[catalogue_.arrays[array].file])));
    return {};
  }

  Status Add(const AttentionWeights& attention) {
    LayerTiles layer;
    layer.windowed = catalogue_.config.windowed_at(attention.layer, attention.mtp);
    layer.tile_rows = CodeTileRows(catalogue_.config.attention(layer.windowed), catalogue_.config.block_rows);
    layer.name = catalogue_.arrays[inventory_.weights[attention.first()].array].name;
    if (layer.tile_rows == 0) return {};
    const std::array<uint32_t, 3> weights = attention.in_order();
    for (size_t part = 0; part < (attention.fused() ? 1u : 3u); ++part) {
      const Weight& weight = inventory_.weights[weights[part]];
      if (weight.rows % layer.tile_rows != 0) return {};
      CodeTiles& tiles = layer.arrays[part];
      tiles = EmptyTiles(weight.rows, weight.cols, layer.tile_rows, weight.block_cols);
      MIMO_RETURN_IF_ERROR(Open(weight.array));
      MIMO_RETURN_IF_ERROR(Open(weight.scale));
      MIMO_RETURN_IF_ERROR(ReadScales(weight, &tiles));
      const int64_t step = std::max<int64_t>(1, kShareBytes / std::max<int64_t>(1, layer.tile_rows * weight.cols));
      for (int64_t tile = 0; tile < tiles.tiles; tile += step)
        shares_.push_back({read_.size(), part, weights[part], tile, std::min(tile + step, tiles.tiles)});
    }
    read_.push_back(std::move(layer));
    return {};
  }

  Status ReadScales(const Weight& weight, CodeTiles* tiles) {
    const StoredArray& stored = catalogue_.arrays[weight.scale];
    std::vector<std::byte> bytes(stored.bytes);
    MIMO_RETURN_IF_ERROR(files_[stored.file]->ReadAt(stored.begin, std::span(bytes)));
    tiles->scale_rows = stored.shape[0];
    tiles->scales.resize(bytes.size() * 8 / BitsPerElement(stored.dtype));
    WidenScales(stored.dtype, bytes.data(), tiles->scales.size(), tiles->scales.data());
    return {};
  }

  Status SumUpShare(const TileShare& share, std::vector<uint8_t>* buffer) {
    const Weight& weight = inventory_.weights[share.weight];
    const StoredArray& stored = catalogue_.arrays[weight.array];
    LayerTiles& layer = read_[share.layer];
    CodeTiles& tiles = layer.arrays[share.part];
    const int64_t tile_bytes = layer.tile_rows * weight.cols;
    buffer->resize(static_cast<size_t>((share.end - share.begin) * tile_bytes));
    MIMO_RETURN_IF_ERROR(files_.at(stored.file)
                             ->ReadAt(stored.begin + static_cast<uint64_t>(share.begin * tile_bytes),
                                      std::as_writable_bytes(std::span(*buffer))));
    for (int64_t tile = share.begin; tile < share.end; ++tile)
      SumUpTile(buffer->data() + (tile - share.begin) * tile_bytes, layer.tile_rows, weight.cols, weight.block_cols,
                &tiles.most[tiles.At(tile, 0)], &tiles.level[tiles.At(tile, 0)]);
    return {};
  }

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Inventory& inventory_;
  std::map<uint32_t, std::unique_ptr<ReadableFile>> files_;
  std::vector<LayerTiles> read_;
  std::vector<TileShare> shares_;
};

}  // namespace

int64_t CodeTileRows(const AttentionShape& shape, int64_t block_rows) {
  if (shape.head_dim <= 0 || shape.v_head_dim <= 0 || block_rows <= 0) return 0;
  const int64_t half = block_rows % 2 == 0 ? block_rows / 2 : block_rows;
  const int64_t rows = std::gcd(std::gcd(shape.head_dim, shape.v_head_dim), half);
  return rows < kLeastCodeTile ? 0 : rows;
}

CodeTiles SumUp(const uint8_t* codes, int64_t rows, int64_t columns, int64_t tile_rows, int64_t block_columns) {
  CodeTiles tiles = EmptyTiles(rows, columns, tile_rows, block_columns);
  for (int64_t tile = 0; tile < tiles.tiles; ++tile)
    SumUpTile(codes + tile * tile_rows * columns, tile_rows, columns, block_columns, &tiles.most[tiles.At(tile, 0)],
              &tiles.level[tiles.At(tile, 0)]);
  return tiles;
}

Result<std::vector<LayerTiles>> ReadCodeTiles(FileSystem& fs, const Catalogue& catalogue, const Inventory& inventory,
                                              const std::vector<uint32_t>& layers, int threads) {
  return TileReader(fs, catalogue, inventory).Read(layers, threads);
}

}  // namespace mimo
