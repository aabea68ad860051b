// Whole files, written so that a failure at any point leaves nothing half-written under their name.
#pragma once

#include <string>
#include <string_view>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/base/text_sink.h"

namespace mimo {

// Writes all of `content` to a file that is empty, and syncs it. Returns the length in bytes.
Result<uint64_t> WriteWhole(WritableFile& file, const TextSource& content);

// Makes `path` anew and syncs it, but not its directory: for files of a directory that nobody takes as complete yet.
// What is at `path`, were it a directory, is removed first and never written through: it may be a link. Returns the
// length in bytes; `info`, if any, becomes what the file was when it was complete. On an error `path` may be missing or
// incomplete.
Result<uint64_t> WriteNewFile(FileSystem& fs, const std::string& path, const TextSource& content,
                              FileInfo* info = nullptr);
Status WriteNewFile(FileSystem& fs, const std::string& path, std::string_view content, FileInfo* info = nullptr);

// Puts a file in the place of what is at `path`: writes `path`.tmp beside it, syncs that, renames it and syncs the
// directory. On an error, or when power fails, `path` is what it was or wholly new.
Status WriteDurably(FileSystem& fs, const std::string& path, const TextSource& content);
Status WriteDurably(FileSystem& fs, const std::string& path, std::string_view content);

}  // namespace mimo
