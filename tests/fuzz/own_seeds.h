// Fuzz targets that make the documents they begin with: TARGET --seeds=FOLDER writes them there and ends.
#pragma once

#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>

// To be called from LLVMFuzzerInitialize.
inline int WriteSeedsIfAsked(int argc, char** argv, const std::function<void(const std::string& folder)>& write) {
  constexpr std::string_view kSeeds = "--seeds=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with(kSeeds)) continue;
    write(std::string(argument.substr(kSeeds.size())));
    std::exit(0);
  }
  return 0;
}

inline void Require(bool condition) {
  if (!condition) std::abort();
}
