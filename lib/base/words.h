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

// The words of `values` alone, in their order.
template <class T, size_t N, size_t M>
constexpr Words<T, M> Only(const Words<T, N>& words, const T (&values)[M]) {
  Words<T, M> some{};
  for (size_t i = 0; i < M; ++i) some[i] = {values[i], WordOf(words, values[i])};
  return some;
}

// "a, b or c" with `between` ", " and `last` " or ".
template <class T, size_t N>
std::string Joined(const Words<T, N>& words, std::string_view between, std::string_view last) {
  std::string text;
  for (size_t i = 0; i < N; ++i) {
    if (i > 0) text += i + 1 < N ? between : last;
    text += words[i].second;
  }
  return text;
}

}  // namespace mimo
