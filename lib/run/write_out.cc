#include "lib/run/write_out.h"

#include <algorithm>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "lib/base/transfers.h"

namespace mimo {
namespace {

// What of a write is on pages of this process; the rest is kept for whoever joins the parts.
void CutToOwn(const std::vector<FileRange>& pages, UnitRun& unit, const WriteJob& write, WritableFile* file,
              std::vector<WriteRequest>* requests) {
  const uint64_t end = write.offset + write.data.size();
  auto next =
      std::upper_bound(pages.begin(), pages.end(), std::tie(write.file, write.offset),
                       [](const auto& key, const FileRange& range) { return key < std::tie(range.file, range.begin); });
  if (next != pages.begin()) --next;
  uint64_t at = write.offset;
  const auto bytes = [&](uint64_t from, uint64_t to) { return write.data.subspan(from - write.offset, to - from); };
  for (; next != pages.end() && std::tie(next->file, next->begin) < std::tie(write.file, end); ++next) {
    const uint64_t first = std::max(at, next->begin), last = std::min(end, next->end);
    if (next->file != write.file || first >= last) continue;
    if (at < first) unit.AddEdge(write.file, at, bytes(at, first));
    requests->push_back({file, first, bytes(first, last)});
    at = last;
  }
  if (at < end) unit.AddEdge(write.file, at, bytes(at, end));
}

}  // namespace

Result<uint64_t> WriteOut(RunState& run, UnitRun& unit, const StepResult& result) {
  std::vector<std::shared_ptr<WritableFile>> files;  // open while they are written to
  std::vector<WriteRequest> requests;
  for (const WriteJob& write : result.writes) {
    MIMO_ASSIGN_OR_RETURN(auto file, run.writers.Get(write.file));
    if (run.own_pages)
      CutToOwn(*run.own_pages, unit, write, file.get(), &requests);
    else
      requests.push_back({file.get(), write.offset, write.data});
    if (files.empty() || files.back() != file) files.push_back(std::move(file));
    if (const auto part = run.completion.PartOf(write)) unit.AddCrc(part->output, part->crc);
  }
  MIMO_RETURN_IF_ERROR(WriteAll(requests));
  uint64_t written = 0;
  for (const WriteRequest& request : requests) written += request.data.size();
  return written;
}

}  // namespace mimo
