// Text that comes out of files of strangers, and what is said about such files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lib/base/status.h"

namespace mimo {

// At most 80 bytes of it, with '?' for what is not printable ASCII: for error messages.
std::string PrintableText(std::string_view text);

// Whether `name` stays below the directory it is joined to: not empty, not absolute, no empty, "." or ".." component,
// no NUL.
bool StaysBelow(std::string_view name);
// And whether it has no backslash and no control character.
bool IsInnerPath(std::string_view name);

// kBadInput: `path` is not what PyTorch or Megatron write.
Error BadTorchFile(const std::string& path, std::string what);
// kBadInput: `what` ("entry archive/data.pkl") of `path` has another CRC-32 than the file says.
Error BadChecksum(const std::string& path, const std::string& what, uint32_t expected, uint32_t found);

}  // namespace mimo
