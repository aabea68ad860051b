// Tables of the words that values of an enumeration have in options, JSON and messages: one table each, used by whoever
// writes them and by whoever reads them.
#pragma once

#include <array>
#include <cstddef>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
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

// Whether an enumeration has a name for this value. Compilers write a template argument as the enumerator where there
// is one, else as a cast: "(mimo::kernels::Codec)7". Not for enumerations of unnamed namespaces.
template <auto Value>
constexpr bool IsEnumerator() {
  return std::string_view(__PRETTY_FUNCTION__).find("Value = (") == std::string_view::npos;
}

// How many enumerators an enumeration has below `Limit`.
template <class T, size_t Limit = 64>
constexpr size_t Enumerators() {
  return []<size_t... I>(std::index_sequence<I...>) {
    return (size_t{IsEnumerator<static_cast<T>(I)>()} + ...);
  }
  (std::make_index_sequence<Limit>());
}

// Whether a table of pairs has each value of its enumeration once: a new one then fails to compile without its word.
template <class Table>
constexpr bool NamesEach(const Table& table) {
  using T = std::remove_cvref_t<decltype(std::begin(table)->first)>;
  for (auto row = std::begin(table); row != std::end(table); ++row)
    for (auto other = std::begin(table); other != row; ++other)
      if (row->first == other->first) return false;
  return std::size(table) == Enumerators<T>();
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
