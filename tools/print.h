// The one way to the terminal. Names and messages come from files of other people: what they hold is escaped where it
// is printed, so that no name can draw, move the cursor, or turn the direction of what stands beside it.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "lib/json/bytes.h"

namespace mimo::cli {

// printf, whose format is ours; of the arguments, texts are escaped (Printable) and numbers are as they are.
template <class... Arguments>
void Print(std::FILE* stream, const char* format, const Arguments&... arguments) {
  const auto held = [](const auto& argument) {
    if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(argument)>>)
      return argument;
    else
      return Printable(std::string_view(argument));
  };
  const auto passed = [](const auto& argument) {
    if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(argument)>>)
      return argument;
    else
      return argument.c_str();
  };
  if constexpr (sizeof...(arguments) == 0)
    std::fputs(format, stream);
  else
    std::apply([&](const auto&... argument) { std::fprintf(stream, format, passed(argument)...); },
               std::make_tuple(held(arguments)...));
}

// A text of several lines to stdout, each of them escaped.
void PrintLines(std::string_view text);

// A JSON document to stdout, and a newline. What would draw is escaped as JSON has it: the values are the same.
void PrintJson(std::string_view document);

// "NAME: error: WORDS" to stderr, both ours as they are: needs no memory.
void PrintLastWords(const char* name, const char* words);

// Ends standard output. `code` where everything that was printed has reached where it goes; else says why not on
// stderr, and the code of an I/O error stands in the place of 0. Needs no memory.
int FinishOutput(const char* name, int code);

}  // namespace mimo::cli
