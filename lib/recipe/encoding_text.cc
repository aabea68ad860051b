#include "lib/recipe/encoding_text.h"

#include <charconv>
#include <iterator>
#include <sstream>
#include <vector>

#include "lib/recipe/codec_words.h"
#include "lib/recipe/recipe_words.h"

namespace mimo {
namespace {

using kernels::Encoding;
using kernels::Ties;

// "128x64"
bool ParseBlock(std::string_view text, Encoding* encoding) {
  const char* end = text.data() + text.size();
  const auto rows = std::from_chars(text.data(), end, encoding->block_rows);
  if (rows.ec != std::errc() || rows.ptr == end || *rows.ptr != 'x') return false;
  const auto cols = std::from_chars(rows.ptr + 1, end, encoding->block_cols);
  return cols.ec == std::errc() && cols.ptr == end;
}

}  // namespace

std::string EncodingText(const Encoding& encoding) {
  std::string text(WordOf(kCodecs, encoding.codec));
  if (encoding.codec == Codec::kFp8Block) {
    text += " " + std::to_string(encoding.block_rows) + "x" + std::to_string(encoding.block_cols);
    if (encoding.power_of_two) text += " ue8m0";
    if (encoding.neuron) text += " neuron";
  } else {
    text += " " + std::string(WordOf(kScaleRules, encoding.rule));
  }
  if (encoding.ties == Ties::kTowardZero) text += " ties-to-zero";
  if (encoding.via_bf16) text += " via-bf16";
  return text;
}

std::optional<Encoding> EncodingFromText(std::string_view text) {
  std::istringstream stream{std::string(text)};
  const std::vector<std::string> words(std::istream_iterator<std::string>(stream), {});
  if (words.size() < 2) return std::nullopt;
  Encoding encoding;
  const auto codec = FromWord(kCodecs, words[0]);
  if (!codec) return std::nullopt;
  encoding.codec = *codec;
  if (*codec == Codec::kFp8Block) {
    if (!ParseBlock(words[1], &encoding)) return std::nullopt;
  } else {
    const auto rule = FromWord(kScaleRules, words[1]);
    if (!rule) return std::nullopt;
    encoding.rule = *rule;
  }
  for (size_t i = 2; i < words.size(); ++i) {
    if (words[i] == "ue8m0") encoding.power_of_two = true;
    if (words[i] == "neuron") encoding.neuron = true;
    if (words[i] == "ties-to-zero") encoding.ties = Ties::kTowardZero;
    if (words[i] == "via-bf16") encoding.via_bf16 = true;
  }
  if (EncodingText(encoding) != text) return std::nullopt;
  return encoding;
}

}  // namespace mimo
