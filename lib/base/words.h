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

// How many enumerators an enumeration has that counts from 0.
template <class T>
constexpr size_t Enumerators() {
  return []<size_t... I>(std::index_sequence<I...>) {
    return (size_t{IsEnumerator<static_cast<T>(I)>()} + ...);
  }
  (std::make_index_sequence<64>());
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

}  // namespace mimo
