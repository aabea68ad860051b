#include "tools/print.h"

#include <cerrno>
#include <cstring>
#include <iostream>

#include "lib/base/status.h"

namespace mimo::cli {

void PrintLines(std::string_view text) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    Print(stdout, end == std::string_view::npos ? "%s" : "%s\n", text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
}

void PrintJson(std::string_view document) {
  const std::string text = PrintableJson(document);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
}

void PrintLastWords(const char* name, const char* words) {
  std::fprintf(stderr, "%s: error: %s\n", name, words);
}

int FinishOutput(const char* name, int code) {
  std::cout.flush();  // --help and --version
  errno = 0;
  const bool whole = std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout.good();
  int error_number = errno;
  // Some file systems tell only here that there was no space.
  if (std::fclose(stdout) == 0 && whole) return code;
  if (whole) error_number = errno;
  std::fprintf(stderr, "%s: error: cannot write to standard output%s%s\n", name, error_number != 0 ? ": " : "",
               error_number != 0 ? std::strerror(error_number) : "");
  return code == 0 ? static_cast<int>(ErrorCode::kIo) : code;
}

}  // namespace mimo::cli
