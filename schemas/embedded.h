// The JSON files of this folder, embedded at build time: the tools need no data directory.
#pragma once

namespace mimo {

struct EmbeddedFile {
  const char* path;  // relative to schemas/, e.g. "models/mimo_v2.json"; null in the terminating entry
  const char* content;
};

extern const EmbeddedFile kEmbeddedFiles[];
extern const int kEmbeddedFileCount;

}  // namespace mimo
