// mimo-convert bench CKPT OUT: what this machine reads, writes and computes, and what a conversion will wait for.
#pragma once

#include <string>
#include <vector>

namespace mimo {

// `words` are those of the command line, "bench" the second. Returns the exit code.
int RunBench(std::vector<std::string> words);

}  // namespace mimo
