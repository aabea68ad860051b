#include "lib/run/write_out.h"

#include <algorithm>
#include <span>
#include <tuple>

namespace mimo {
namespace {

// What of a write is on pages of this process; the rest is kept for whoever joins the parts.
Result<uint64_t> WriteOwn(const std::vector<FileRange>& pages, UnitRun& unit, const WriteJob& write,
                          WritableFile& file) {
  const uint64_t end = write.offset + write.data.size();
  auto next =
      std::upper_bound(pages.begin(), pages.end(), std::tie(write.file, write.offset),
                       [](const auto& key, const FileRange& range) { return key < std::tie(range.file, range.begin); });
  if (next != pages.begin()) --next;
  uint64_t written = 0, at = write.offset;
  const auto bytes = [&](uint64_t from, uint64_t to) { return write.data.subspan(from - write.offset, to - from); };
  for (; next != pages.end() && std::tie(next->file, next->begin) < std::tie(write.file, end); ++next) {
    const uint64_t first = std::max(at, next->begin), last = std::min(end, next->end);
    if (next->file != write.file || first >= last) continue;
    if (at < first) unit.AddEdge(write.file, at, bytes(at, first));
    MIMO_RETURN_IF_ERROR(file.WriteAt(first, bytes(first, last)));
    written += last - first;
    at = last;
  }
  if (at < end) unit.AddEdge(write.file, at, bytes(at, end));
  return written;
}

}  // namespace

Result<uint64_t> WriteOut(RunState& run, UnitRun& unit, const StepResult& result) {
  uint64_t written = 0;
  for (const WriteJob& write : result.writes) {
    MIMO_ASSIGN_OR_RETURN(const auto file, run.writers.Get(write.file));
    if (run.own_pages) {
      MIMO_ASSIGN_OR_RETURN(const uint64_t own, WriteOwn(*run.own_pages, unit, write, *file));
      written += own;
    } else {
      MIMO_RETURN_IF_ERROR(file->WriteAt(write.offset, write.data));
      written += write.data.size();
    }
    if (const auto part = run.completion.PartOf(write)) unit.AddCrc(part->output, part->crc);
  }
  return written;
}

}  // namespace mimo
