#include <string>

#include "lib/io/safetensors/safetensors.h"

namespace mimo {
namespace {

// As a JSON string. Bytes from 0x80 on are kept: names are UTF-8 already.
void AppendQuoted(std::string_view text, std::string* out) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  constexpr std::string_view kNamed = "\"\\\b\f\n\r\t", kNames = "\"\\bfnrt";
  *out += '"';
  for (const char c : text) {
    if (const size_t named = kNamed.find(c); named != std::string_view::npos) {
      *out += '\\';
      *out += kNames[named];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      *out += "\\u00";
      *out += kDigits[static_cast<unsigned char>(c) >> 4];
      *out += kDigits[c & 15];
    } else {
      *out += c;
    }
  }
  *out += '"';
}

void AppendTensor(const TensorInfo& tensor, std::string* out) {
  AppendQuoted(tensor.name, out);
  *out += ":{\"dtype\":\"";
  *out += DTypeName(tensor.dtype);
  *out += "\",\"shape\":[";
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    if (i != 0) *out += ',';
    *out += std::to_string(tensor.shape[i]);
  }
  *out += "],\"data_offsets\":[" + std::to_string(tensor.begin) + ',' + std::to_string(tensor.end) + "]}";
}

}  // namespace

std::string LayOutSafetensors(std::span<TensorInfo> tensors,
                              std::span<const std::pair<std::string, std::string>> metadata) {
  std::string out(kSafetensorsPrefixBytes, '\0');
  out += '{';
  if (!metadata.empty()) {
    out += "\"__metadata__\":{";
    for (size_t i = 0; i < metadata.size(); ++i) {
      if (i != 0) out += ',';
      AppendQuoted(metadata[i].first, &out);
      out += ':';
      AppendQuoted(metadata[i].second, &out);
    }
    out += '}';
  }
  uint64_t position = 0;  // relative to the data, as the header says it; absolute once its length is known
  for (TensorInfo& tensor : tensors) {
    tensor.begin = position;
    position += TensorBytes(tensor.dtype, tensor.shape).value_or(0);
    tensor.end = position;
    if (out.size() > kSafetensorsPrefixBytes + 1) out += ',';
    AppendTensor(tensor, &out);
  }
  out += '}';
  out.resize((out.size() + 7) / 8 * 8, ' ');
  for (TensorInfo& tensor : tensors) {
    tensor.begin += out.size();
    tensor.end += out.size();
  }
  const uint64_t length = out.size() - kSafetensorsPrefixBytes;
  for (size_t i = 0; i < kSafetensorsPrefixBytes; ++i) out[i] = static_cast<char>(length >> (8 * i) & 255);
  return out;
}

}  // namespace mimo
