// Tables of the words that values of an enumeration have in options, JSON and messages: one table each, used by whoever
// writes them and by whoever reads them.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace mimo {

template <class T, size_t N>
using Words = std::array<std::pair<T, std::string_view>, N>;

template <class T, size_t N>
constexpr std::string_view WordOf(const Words<T, N>& words, T value) {
  for (const auto& [v, word] : words) {
    if (v == value) return word;
  }
  return "?";
}

template <class T, size_t N>
constexpr std::optional<T> FromWord(const Words<T, N>& words, std::string_view text) {
  for (const auto& [v, word] : words) {
    if (word == text) return v;
  }
  return std::nullopt;
}

}  // namespace mimo
