// Writes the shards in pieces of a few MB, each made and written by one thread; index and config.json come last.
#include <algorithm>
#include <atomic>

#include "lib/base/durable_file.h"
#include "lib/base/workers.h"
#include "lib/model/file_names.h"
#include "lib/owner/lease.h"
#include "lib/synth/companions.h"
#include "lib/synth/fill.h"
#include "lib/synth/synth.h"

namespace mimo {
namespace {

constexpr uint64_t kPieceBytes = 4 << 20;

// Rows of one tensor; consecutive slices of a piece are consecutive in the file.
struct Slice {
  size_t tensor = 0;
  int64_t first = 0;
  int64_t rows = 0;
  uint64_t bytes = 0;
};
struct Piece {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  std::vector<Slice> slices;
};

struct LaidOut {
  std::string header;
  std::vector<TensorInfo> infos;
  uint64_t file_bytes = 0;
};

LaidOut LayOut(const SynthFile& file) {
  LaidOut out;
  out.infos.reserve(file.tensors.size());
  for (const SynthTensor& tensor : file.tensors) out.infos.push_back(tensor.info);
  const std::pair<std::string, std::string> metadata[] = {{"format", "pt"}};
  out.header = LayOutSafetensors(out.infos, metadata);
  out.file_bytes = out.infos.empty() ? out.header.size() : out.infos.back().end;
  return out;
}

std::vector<Piece> CutPieces(const LaidOut& layout) {
  std::vector<Piece> pieces;
  for (size_t t = 0; t < layout.infos.size(); ++t) {
    const TensorInfo& info = layout.infos[t];
    const int64_t rows = info.shape.empty() ? 1 : info.shape[0];
    if (rows == 0 || info.bytes() == 0) continue;
    const uint64_t row_bytes = info.bytes() / static_cast<uint64_t>(rows);
    for (int64_t row = 0; row < rows;) {
      if (pieces.empty() || pieces.back().bytes + row_bytes > kPieceBytes)
        pieces.push_back({info.begin + static_cast<uint64_t>(row) * row_bytes, 0, {}});
      Piece& piece = pieces.back();
      const uint64_t fit = std::max<uint64_t>(1, (kPieceBytes - std::min(kPieceBytes, piece.bytes)) / row_bytes);
      const int64_t take = std::min<int64_t>(rows - row, static_cast<int64_t>(fit));
      piece.slices.push_back({t, row, take, static_cast<uint64_t>(take) * row_bytes});
      piece.bytes += piece.slices.back().bytes;
      row += take;
    }
  }
  return pieces;
}

Status WriteData(WritableFile& out, const SynthFile& file, const LaidOut& layout, const Filler& filler, int threads) {
  const std::vector<Piece> pieces = CutPieces(layout);
  std::atomic<size_t> next = 0;
  Workers workers(static_cast<int>(std::min<size_t>(static_cast<size_t>(threads), pieces.size())), "lower --threads");
  return workers.Run([&](int) -> Status {
    std::vector<std::byte> buffer;
    for (size_t p = next++; p < pieces.size() && !workers.stopped(); p = next++) {
      const Piece& piece = pieces[p];
      buffer.resize(piece.bytes);
      uint64_t at = 0;
      for (const Slice& slice : piece.slices) {
        filler.Rows(file.tensors[slice.tensor], slice.first, slice.rows, std::span(buffer).subspan(at, slice.bytes));
        at += slice.bytes;
      }
      MIMO_RETURN_IF_ERROR(out.WriteAt(piece.offset, buffer));
    }
    return {};
  });
}

// Empties what `options` may write into; `files` is the output.
Status Prepare(FileSystem& files, const std::string& directory, const SynthOptions& options) {
  MIMO_ASSIGN_OR_RETURN(std::vector<std::string> names, files.List(""));
  // Of another's partial output everything that is not the lease taken now would be left: it is refused below.
  MIMO_ASSIGN_OR_RETURN(auto within, files.List(kPartialDirectory));
  std::erase_if(within, [](const std::string& name) { return BelongsToLease(kLeaseName, name); });
  if (within.empty()) std::erase(names, kPartialDirectory);
  if (names.empty()) return {};
  // A conversion carries these files along, and is not ours to remove.
  MIMO_ASSIGN_OR_RETURN(bool ours, HoldsCompanions(files));
  for (const std::string& name : names) ours = ours && name != kManifestName && name != kPartialDirectory;
  if (!options.overwrite || !ours)
    return UsageError("the output directory is not empty")
        .File(directory)
        .Advice(options.overwrite
                    ? "nothing shows that mimo-synth wrote it, so it is not removed: choose another path, or empty it"
                    : "choose another path or pass --overwrite");
  for (const std::string& name : names) MIMO_RETURN_IF_ERROR(files.RemoveAll(name));
  return {};
}

Status WriteFiles(FileSystem& files, const SynthPlan& plan, SynthReport* report) {
  const int threads = plan.options.threads > 0 ? plan.options.threads : ThreadsOfMachine();
  const Filler filler(plan.options.seed);
  for (const SynthFile& file : plan.files) {
    const LaidOut layout = LayOut(file);
    MIMO_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> out, files.OpenForWrite(file.name, OpenMode::kCreateNew));
    MIMO_RETURN_IF_ERROR(out->Truncate(layout.file_bytes));
    MIMO_RETURN_IF_ERROR(out->WriteAt(0, std::as_bytes(std::span(layout.header))));
    if (!plan.options.sparse) MIMO_RETURN_IF_ERROR(WriteData(*out, file, layout, filler, threads));
    MIMO_RETURN_IF_ERROR(out->Close());
    report->shard_bytes += layout.file_bytes;
  }
  MIMO_ASSIGN_OR_RETURN(const std::vector<SmallFile> companions, Companions(plan));
  for (const SmallFile& file : companions) {
    if (const size_t slash = file.name.rfind('/'); slash != std::string::npos)
      MIMO_RETURN_IF_ERROR(files.CreateDirectories(file.name.substr(0, slash)));
    MIMO_RETURN_IF_ERROR(WriteNewFile(files, file.name, file.content));
  }
  MIMO_RETURN_IF_ERROR(WriteNewFile(files, kIndexName, IndexText(plan)));
  return WriteNewFile(files, kConfigName, plan.config);
}

}  // namespace

Result<SynthReport> WriteSynthetic(FileSystem& fs, const SynthPlan& plan, const std::string& directory) {
  MIMO_ASSIGN_OR_RETURN(const std::optional<FileInfo> info, fs.Stat(directory));
  if (!info) MIMO_RETURN_IF_ERROR(fs.CreateDirectories(directory));
  if (info && info->kind != FileKind::kDirectory)
    return UsageError("the output is no directory").File(directory).Advice("choose another path");
  MIMO_ASSIGN_OR_RETURN(const std::unique_ptr<FileSystem> files, fs.Beneath(directory));
  MIMO_ASSIGN_OR_RETURN(const std::unique_ptr<Lease> lease, Lease::Take(*files, kLeaseName, LeaseOwner::Here({})));
  MIMO_RETURN_IF_ERROR(Prepare(*files, directory, plan.options));
  SynthReport report{.tensors = plan.tensors, .payload_bytes = plan.payload_bytes, .shards = plan.files.size()};
  MIMO_RETURN_IF_ERROR(WriteFiles(*files, plan, &report));
  MIMO_RETURN_IF_ERROR(lease->Confirm());
  MIMO_RETURN_IF_ERROR(lease->Release());
  return report;
}

}  // namespace mimo
