// What the kernel benchmarks work on: page-aligned memory, and numbers that are the same on every run.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace mimo::kernels {

using Buffer = std::unique_ptr<uint8_t, decltype(&std::free)>;

// Touched once, so that no page is new when it is timed. Ends the benchmark when there is no memory.
inline Buffer Allocate(uint64_t bytes) {
  Buffer buffer(static_cast<uint8_t*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)), &std::free);
  if (buffer == nullptr) {
    std::fprintf(stderr, "no memory for %llu bytes\n", static_cast<unsigned long long>(bytes));
    std::exit(1);
  }
  std::memset(buffer.get(), 1, bytes);
  return buffer;
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
  uint64_t Next() {  // xorshift64*
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Dull;
  }
  float Gaussian() {  // the sum of twelve uniforms
    float sum = -6;
    for (int i = 0; i < 3; ++i) {
      const uint64_t bits = Next();
      for (int k = 0; k < 4; ++k) sum += static_cast<float>(bits >> (16 * k) & 0xFFFF) / 65536.0f;
    }
    return sum;
  }

 private:
  uint64_t state_;
};

}  // namespace mimo::kernels
