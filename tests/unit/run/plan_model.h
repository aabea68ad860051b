// What a plan says its outputs hold, element by element: slow, from the definitions in lib/plan/plan.h alone.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/unit/run/lab.h"
#include "tests/unit/run/numbers.h"

namespace mimo::lab {

class PlanModel {
 public:
  // `stored`: the bytes of every array of the checkpoint.
  PlanModel(const Catalogue& catalogue, const Plan& plan, const std::map<std::string, Bytes>& stored)
      : catalogue_(catalogue), plan_(plan), stored_(stored) {}

  uint64_t inexact_codes = 0;  // of all outputs made so far
  uint64_t overflows = 0;

  // Outputs without cells that are moved, converted, transposed or constant.
  Bytes Output(uint32_t index) {
    const OutputArray& output = plan_.outputs[index];
    if (output.transform == Transform::kConstant) return Bytes(output.constant.begin(), output.constant.end());
    const size_t element = ElementBytes(output.dtype);
    const auto width = static_cast<size_t>(output.shape.empty() ? 1 : output.shape.back());
    Bytes bytes(static_cast<size_t>(output.end - output.begin), 0xEE);
    for (const Piece& piece : output.pieces) {
      const int64_t cols = piece.cols == 0 ? static_cast<int64_t>(width) : piece.cols;
      for (int64_t r = 0; r < piece.rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          const bool turned = output.transform == Transform::kTranspose;
          const Bytes made = piece.source == kNone ? (output.pad.empty() ? Bytes(element, 0)
                                                                         : Bytes(output.pad.begin(), output.pad.end()))
                                                   : Element(output, piece.source, piece.source_row + (turned ? c : r),
                                                             piece.source_col + (turned ? r : c));
          const size_t at =
              (static_cast<size_t>(piece.target_row + r) * width + static_cast<size_t>(piece.target_col + c)) * element;
          std::copy(made.begin(), made.end(), bytes.begin() + static_cast<ptrdiff_t>(at));
        }
      }
    }
    return bytes;
  }

 private:
  static bool IsValue(Codec codec) { return codec == Codec::kBf16 || codec == Codec::kFp16 || codec == Codec::kFp32; }
  const StoredArray& ArrayOf(uint32_t source) const { return catalogue_.arrays[plan_.sources[source].array]; }
  const uint8_t* At(uint32_t source, int64_t row, int64_t col, size_t element) const {
    const StoredArray& array = ArrayOf(source);
    const int64_t width = array.shape.empty() ? 1 : array.shape.back();
    return stored_.at(array.name).data() + static_cast<size_t>(row * width + col) * element;
  }

  Bytes Element(const OutputArray& output, uint32_t source, int64_t row, int64_t col) {
    const bool values = output.transform == Transform::kConvert ||
                        (output.transform == Transform::kTranspose && IsValue(output.target_codec));
    if (values) {
      float value = Value(source, row, col);
      if (output.adjust == Adjust::kScale) value *= output.factor;
      return Encode(output.target_codec, value);
    }
    const size_t element = ElementBytes(output.dtype);
    const uint8_t* from = At(source, row, col, element);
    Bytes bytes(from, from + element);
    if (output.adjust == Adjust::kScale) return Encode(Codec::kFp32, FloatAt(from) * output.factor);
    if (output.adjust != Adjust::kAsIs) bytes[0] = Adjusted(output.adjust, bytes[0]);
    return bytes;
  }

  uint8_t Adjusted(Adjust adjust, uint8_t code) {
    const float value = E4m3(code);
    if (adjust == Adjust::kDouble) {
      overflows += std::fabs(2 * value) > 448;
      return NearestE4m3(2.0 * value);
    }
    if (adjust == Adjust::kHalve) {
      const uint8_t half = NearestE4m3(value / 2.0);
      inexact_codes += 2 * E4m3(half) != value;
      return half;
    }
    const uint32_t rounded = static_cast<uint32_t>(ToBf16(value / static_cast<float>(448.0 / 240.0))) << 16;
    const uint8_t made = NearestE4m3(std::bit_cast<float>(rounded));
    inexact_codes += static_cast<double>(E4m3(made)) * 448 != static_cast<double>(value) * 240;
    return made;
  }

  float Value(uint32_t index, int64_t row, int64_t col) const {
    const SourceArray& source = plan_.sources[index];
    if (!source.quantized) {
      if (source.codec == Codec::kFp32) return FloatAt(At(index, row, col, 4));
      const uint8_t* at = At(index, row, col, 2);
      return std::bit_cast<float>(static_cast<uint32_t>(at[0] | at[1] << 8) << 16);  // BF16
    }
    uint32_t scale = source.scale;
    int64_t scale_row = row / source.block_rows;
    for (const SourceBand& band : source.bands) {
      if (row < band.row_begin || row >= band.row_end) continue;
      scale = band.scale;
      scale_row = band.scale_row;
    }
    return E4m3(*At(index, row, col, 1)) * FloatAt(At(scale, scale_row, col / source.block_cols, 4));
  }

  static Bytes Encode(Codec codec, float value) {
    Bytes bytes(codec == Codec::kFp32 ? 4 : 2);
    if (codec == Codec::kFp32) {
      std::memcpy(bytes.data(), &value, 4);
    } else {
      const uint16_t bits = ToBf16(value);
      bytes = {static_cast<uint8_t>(bits), static_cast<uint8_t>(bits >> 8)};
    }
    return bytes;
  }

  const Catalogue& catalogue_;
  const Plan& plan_;
  const std::map<std::string, Bytes>& stored_;
};

}  // namespace mimo::lab
