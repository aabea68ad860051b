#include "tools/print.h"

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

}  // namespace mimo::cli
