#include "lib/layout/survey.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "kernels/convert.h"
#include "lib/layout/decide.h"
#include "lib/model/scale_values.h"

namespace mimo {

namespace {

constexpr uint8_t kSaturated = 0x7E;
constexpr uint64_t kReadBytes = 16u << 20;
constexpr int64_t kMaxCellsPerLayer = 32;  // rows of scales looked at per layer and candidate

class Surveyor {
 public:
  Surveyor(FileSystem& fs, const Catalogue& catalogue, const Inventory& inventory)
      : fs_(fs), catalogue_(catalogue), inventory_(inventory) {}

  Result<SurveyFacts> Run(const std::vector<QkvLayout>& candidates, bool allow_anomalies) {
    for (const AttentionWeights& a : inventory_.attention)
      for (uint32_t weight : a.in_order())
        if (weight != kNone && HasBlockGrid(inventory_.weights[weight].storage))
          MIMO_RETURN_IF_ERROR(ReadScales(inventory_.weights[weight].scale, allow_anomalies));
    for (uint32_t i = 0; i < inventory_.attention.size(); ++i) MIMO_RETURN_IF_ERROR(CompareTensors(i));
    for (const QkvLayout& layout : candidates) facts_.saturation.push_back({layout, 0, 0});
    for (const AttentionWeights* layer : Sample())
      for (SaturationCount& count : facts_.saturation) MIMO_RETURN_IF_ERROR(CountLayer(*layer, &count));
    return std::move(facts_);
  }

 private:
  Result<const ReadableFile*> FileOf(uint32_t array) {
    std::unique_ptr<ReadableFile>& file = files_[catalogue_.arrays[array].file];
    if (!file) {
      MIMO_ASSIGN_OR_RETURN(
          file, fs_.OpenForRead(JoinPath(catalogue_.root, catalogue_.files[catalogue_.arrays[array].file].name)));
    }
    return static_cast<const ReadableFile*>(file.get());
  }

  Status ReadScales(uint32_t array, bool allow_anomalies) {
    const StoredArray& stored = catalogue_.arrays[array];
    std::vector<float>& values = scales_[array];
    MIMO_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, Read(array));
    values.resize(bytes.size() * 8 / BitsPerElement(stored.dtype));
    WidenScales(stored.dtype, bytes.data(), values.size(), values.data());
    for (size_t i = 0; i < values.size(); ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(values[i]);
      ++facts_.attention_scales;
      facts_.power_of_two_scales += (bits & 0x007FFFFF) == 0 && values[i] > 0;
      facts_.zero_scales += values[i] == 0;
      if (allow_anomalies || (std::isfinite(values[i]) && values[i] >= 0)) continue;
      const auto cols = static_cast<size_t>(stored.shape.size() < 2 ? 1 : stored.shape[1]);
      return BadInput("a block scale that no quantizer writes")
          .File(JoinPath(catalogue_.root, catalogue_.files[stored.file].name))
          .Tensor(stored.name)
          .Expected("finite and not negative")
          .Found(std::to_string(values[i]) + " at [" + std::to_string(i / cols) + ", " + std::to_string(i % cols) + "]")
          .Advice(
              "compare the file's hash with that of the release; or pass --allow-anomalies to convert it all the same");
    }
    return {};
  }

  Result<std::vector<std::byte>> Read(uint32_t array) {
    const StoredArray& stored = catalogue_.arrays[array];
    std::vector<std::byte> bytes(stored.bytes);
    MIMO_ASSIGN_OR_RETURN(const ReadableFile* file, FileOf(array));
    MIMO_RETURN_IF_ERROR(file->ReadAt(stored.begin, std::span(bytes)));
    return bytes;
  }

  // Whether one array can take the places of those of q, k and v: bit for bit, a few bytes each.
  Status CompareTensors(uint32_t layer) {
    const AttentionWeights& a = inventory_.attention[layer];
    if (a.fused() || a.q == kNone || a.k == kNone || a.v == kNone) return {};
    const Weight* weights[] = {&inventory_.weights[a.q], &inventory_.weights[a.k], &inventory_.weights[a.v]};
    if (!HasBlockGrid(weights[0]->storage)) return {};
    for (const auto part : {&Weight::scale, &Weight::input}) {
      const bool scale = part == &Weight::scale;
      if (scale ? !weights[0]->per_tensor() : weights[0]->input == kNone) continue;
      std::vector<std::byte> first;
      bool equal = true;
      for (const Weight* weight : weights) {
        equal &= weight->*part != kNone && catalogue_.arrays[weight->*part].bytes <= sizeof(float);
        if (!equal) break;
        MIMO_ASSIGN_OR_RETURN(std::vector<std::byte> bytes, Read(weight->*part));
        if (weight == weights[0]) first = bytes;
        equal &= bytes == first;
      }
      if (equal) (scale ? facts_.equal_scales : facts_.equal_inputs).push_back(layer);
    }
    return {};
  }

  bool AllInBlocks(const AttentionWeights& a) const {
    for (const uint32_t weight : a.in_order())
      if (weight != kNone && !inventory_.weights[weight].in_blocks()) return false;
    return true;
  }

  // The first layer of each kind whose scales are those of blocks, MTP included.
  std::vector<const AttentionWeights*> Sample() {
    std::vector<const AttentionWeights*> sampled;
    std::set<std::pair<bool, bool>> seen;
    for (const AttentionWeights& a : inventory_.attention) {
      const bool windowed = catalogue_.config.windowed_at(a.layer, a.mtp);
      const uint32_t first = a.in_order()[0];
      if (first == kNone || !AllInBlocks(a) || !seen.insert({windowed, a.mtp}).second) continue;
      sampled.push_back(&a);
      facts_.sampled.push_back(catalogue_.arrays[inventory_.weights[first].array].name);
    }
    return sampled;
  }

  // The largest magnitude code of each column block, for rows [row, row + rows) of a weight.
  Result<std::vector<uint8_t>> MaxCodes(const Weight& weight, int64_t row, int64_t rows) {
    const StoredArray& array = catalogue_.arrays[weight.array];
    const auto cols = static_cast<uint64_t>(weight.cols);
    const auto block = static_cast<uint64_t>(weight.block_cols);
    std::vector<uint8_t> result((cols + block - 1) / block, 0), part(result.size());
    const int64_t step = std::max<int64_t>(1, static_cast<int64_t>(kReadBytes / std::max<uint64_t>(cols, 1)));
    MIMO_ASSIGN_OR_RETURN(const ReadableFile* file, FileOf(weight.array));
    for (int64_t done = 0; done < rows; done += step) {
      const int64_t n = std::min(step, rows - done);
      buffer_.resize(static_cast<uint64_t>(n) * cols);
      MIMO_RETURN_IF_ERROR(file->ReadAt(array.begin + static_cast<uint64_t>(row + done) * cols,
                                        std::as_writable_bytes(std::span(buffer_))));
      kernels::MaxCodes(buffer_.data(), cols, static_cast<uint64_t>(n), cols, static_cast<uint32_t>(block),
                        part.data());
      for (size_t i = 0; i < part.size(); ++i) result[i] = std::max(result[i], part[i]);
    }
    return result;
  }

  Status CountLayer(const AttentionWeights& layer, SaturationCount* count) {
    const AttentionShape shape = LogicalShape(catalogue_.config, catalogue_.config.windowed_at(layer.layer, layer.mtp));
    if (count->layout.fused() != layer.fused() || !LayoutFits(count->layout, shape)) return {};
    const QkvMap map = BuildQkvMap(count->layout, shape, catalogue_.config.block_rows);
    // Cells by scale row; those that hold Q rows tell nothing, since Q starts every layout.
    std::map<std::pair<uint8_t, int64_t>, std::vector<const ScaleBand*>> cells;
    std::set<std::pair<uint8_t, int64_t>> with_q;
    for (const ScaleBand& band : map.bands) {
      const std::pair key{band.scale_array, band.scale_row};
      cells[key].push_back(&band);
      for (const RowRun& run : map.runs)
        if (run.array == band.array && run.projection == Projection::kQ && run.array_row < band.row_end &&
            band.row_begin < run.array_row + run.rows)
          with_q.insert(key);
    }
    const std::array<uint32_t, 3> weights = layer.in_order();
    int64_t looked_at = 0;
    for (const auto& [key, bands] : cells) {
      if (with_q.contains(key)) continue;
      if (++looked_at > kMaxCellsPerLayer) break;
      std::vector<uint8_t> codes;
      for (const ScaleBand* band : bands) {
        MIMO_ASSIGN_OR_RETURN(std::vector<uint8_t> part, MaxCodes(inventory_.weights[weights[band->array]],
                                                                  band->row_begin, band->row_end - band->row_begin));
        if (codes.empty()) codes.resize(part.size(), 0);
        for (size_t i = 0; i < part.size(); ++i) codes[i] = std::max(codes[i], part[i]);
      }
      const std::vector<float>& scales = scales_[inventory_.weights[weights[key.first]].scale];
      for (size_t i = 0; i < codes.size(); ++i) {
        if (scales[static_cast<size_t>(key.second) * codes.size() + i] == 0 || codes[i] == 0) continue;
        ++count->cells;
        count->unsaturated += codes[i] < kSaturated;
      }
    }
    return {};
  }

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Inventory& inventory_;
  SurveyFacts facts_;
  std::map<uint32_t, std::unique_ptr<ReadableFile>> files_;
  std::map<uint32_t, std::vector<float>> scales_;
  std::vector<uint8_t> buffer_;
};

}  // namespace

Hash128 SurveyFacts::Digest() const {
  StreamHash hash;
  for (const SaturationCount& c : saturation)
    hash.Update(c.layout.ToString() + "," + std::to_string(c.cells) + "," + std::to_string(c.unsaturated) + ";");
  for (const std::string& name : sampled) hash.Update(name + ";");
  for (const RowDuel& d : rows.duels) hash.Update(std::to_string(d.better) + ">" + std::to_string(d.worse) + ";");
  for (const std::string& name : rows.sampled) hash.Update(name + ";");
  hash.Update(std::to_string(attention_scales) + "," + std::to_string(power_of_two_scales) + "," +
              std::to_string(zero_scales));
  for (const uint32_t layer : equal_scales) hash.Update(";scale " + std::to_string(layer));
  for (const uint32_t layer : equal_inputs) hash.Update(";input " + std::to_string(layer));
  return hash.Digest();
}

Result<SurveyFacts> Survey(FileSystem& fs, const Catalogue& catalogue, const Inventory& inventory,
                           const std::vector<QkvLayout>& candidates, bool allow_anomalies) {
  return Surveyor(fs, catalogue, inventory).Run(candidates, allow_anomalies);
}

}  // namespace mimo
