// Says of each safetensors file whose path comes on a line of stdin what our reader thinks of its header: "ok", or the
// error's message on one line. For test_headers.py, which asks the reference package the same.
#include <iostream>
#include <string>

#include "lib/io/safetensors/safetensors.h"
#include "lib/json/bytes.h"

int main() {
  for (std::string path; std::getline(std::cin, path);) {
    const auto header = mimo::ReadSafetensorsHeader(mimo::PosixFileSystem(), path);
    std::cout << (header.ok() ? "ok" : mimo::Printable(header.error().Message())) << std::endl;
  }
  return 0;
}
