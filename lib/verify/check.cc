#include "lib/verify/check.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "lib/model/file_names.h"
#include "lib/results/manifest.h"
#include "lib/results/manifest_hash.h"
#include "lib/verify/index_check.h"
#include "lib/verify/rehash.h"

namespace mimo {
namespace {

constexpr uint64_t kChunk = 4 << 20;
constexpr size_t kShownDifferences = 5;

// Every file below `directory`, relative. A symbolic link to a directory is not entered.
Status ListFiles(FileSystem& fs, const std::string& directory, const std::string& relative,
                 std::set<std::string>* out) {
  MIMO_ASSIGN_OR_RETURN(const auto names, fs.List(JoinPath(directory, relative)));
  for (const std::string& name : names) {
    const std::string path = relative.empty() ? name : relative + "/" + name;
    MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(JoinPath(directory, path)));
    if (info && info->kind == FileKind::kDirectory && !info->symlink) {
      MIMO_RETURN_IF_ERROR(ListFiles(fs, directory, path, out));
    } else if (info) {
      out->insert(path);
    }
  }
  return {};
}

class Checker {
 public:
  Checker(FileSystem& fs, const std::string& directory, const CheckOptions& options)
      : fs_(fs), directory_(directory), options_(options) {}

  Result<CheckReport> Check() {
    MIMO_RETURN_IF_ERROR(Open());
    if (!report_.differences.empty()) return std::move(report_);  // a changed manifest proves nothing
    MIMO_RETURN_IF_ERROR(CheckFileSet());
    size_t next = 0;
    for (uint32_t f = 0; f < manifest_.files.size(); ++f) {
      const size_t first = next;
      while (next < manifest_.tensors.size() && manifest_.tensors[next].file == f) ++next;
      MIMO_RETURN_IF_ERROR(CheckTensorFile(f, first, next));
    }
    if (next != manifest_.tensors.size())
      Differs(kManifestName, "", "tensors are not in the order of the files", "", "");
    MIMO_RETURN_IF_ERROR(CheckTensors());
    for (const ManifestFile& file : manifest_.other_files) MIMO_RETURN_IF_ERROR(CheckOtherFile(file));
    MIMO_RETURN_IF_ERROR(CheckIndexFile());
    report_.logical_hashes = std::move(manifest_.logical_hashes);
    for (const std::string& line : manifest_.rejections) Differs(kManifestName, "", "rejected: " + line, "", "");
    return std::move(report_);
  }

 private:
  void Differs(std::string file, std::string tensor, std::string what, std::string expected, std::string found) {
    report_.differences.push_back(
        {std::move(file), std::move(tensor), std::move(what), std::move(expected), std::move(found)});
  }
  std::string Path(const std::string& name) const { return JoinPath(directory_, name); }

  Status Open() {
    const std::string path = Path(kManifestName);
    MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(path));
    if (!info) {
      MIMO_ASSIGN_OR_RETURN(const auto partial, fs_.Stat(Path(kPartialDirectory)));
      return BadInput(partial ? "the output is incomplete"
                              : "there is no manifest: the directory is not an output of mimo-convert")
          .File(path)
          .Advice(partial ? "finish it with mimo-convert --resume" : "name the directory that mimo-convert wrote");
    }
    MIMO_ASSIGN_OR_RETURN(const std::string text, ReadManifestText(fs_, path));
    if (ManifestHashAgrees(text) == false) {
      const Error changed = ChangedManifest(path);
      Differs(kManifestName, "", changed.what, changed.expected, changed.found);
      return {};
    }
    MIMO_ASSIGN_OR_RETURN(manifest_, ParseManifest(text, path));
    report_.manifest_holds_hash = manifest_.holds_own_hash;
    return {};
  }

  Status CheckFileSet() {
    MIMO_RETURN_IF_ERROR(ListFiles(fs_, directory_, "", &present_));
    std::set<std::string> expected{kManifestName};
    for (const auto* list : {&manifest_.files, &manifest_.other_files}) {
      for (const ManifestFile& file : *list) expected.insert(file.name);
    }
    for (const std::string& name : expected) {
      if (!present_.contains(name)) Differs(name, "", "the file is missing", "", "");
    }
    for (const std::string& name : present_) {
      if (!expected.contains(name)) Differs(name, "", "the file is not in the manifest", "", "");
    }
    return {};
  }

  // Length, set of tensors and all bytes but the tensors' own, which wait in work_.
  Status CheckTensorFile(uint32_t f, size_t first, size_t last) {
    const ManifestFile& file = manifest_.files[f];
    MIMO_ASSIGN_OR_RETURN(const bool whole, IsWhole(file));
    if (!whole) return {};
    std::vector<TensorInfo> arrays;
    for (size_t i = first; i < last; ++i) {
      const ManifestTensor& tensor = manifest_.tensors[i];
      arrays.push_back({std::string(HeaderName(tensor.name)), tensor.dtype, tensor.shape});
    }
    MIMO_ASSIGN_OR_RETURN(const FoundArrays found, file.container->Find(fs_, Path(file.name), arrays));
    report_.bytes += found.bytes_read;
    if (found.header_bytes > 0) MIMO_RETURN_IF_ERROR(CheckHash(file, found.header_bytes, "hash of the header"));
    for (const FileProblem& p : found.problems)
      Differs(file.name, p.array < arrays.size() ? manifest_.tensors[first + p.array].name : p.tensor, p.what,
              p.expected, p.found);
    for (size_t i = 0; i < arrays.size(); ++i)
      if (found.begins[i]) QueueTensor(static_cast<uint32_t>(first + i), *found.begins[i]);
    return {};
  }

  void QueueTensor(uint32_t index, uint64_t begin) {
    const ManifestTensor& tensor = manifest_.tensors[index];
    if (!tensor.hash) {
      ++report_.unhashed_tensors;
      return;
    }
    const auto rows = static_cast<uint64_t>(MatrixRows(tensor.shape));
    const uint64_t bytes = TensorBytes(tensor.dtype, tensor.shape).value_or(0);
    work_.push_back({index, tensor.file, begin, rows, rows == 0 ? 0 : bytes / rows});
  }

  Status CheckTensors() {
    std::vector<std::string> paths;
    for (const ManifestFile& file : manifest_.files) paths.push_back(Path(file.name));
    MIMO_ASSIGN_OR_RETURN(const std::vector<Hash128> hashes,
                          RehashTensors(fs_, paths, work_, options_.threads, options_.progress));
    for (size_t i = 0; i < work_.size(); ++i) {
      const ManifestTensor& tensor = manifest_.tensors[work_[i].tensor];
      report_.bytes += work_[i].rows * work_[i].row_bytes;
      ++report_.tensors;
      if (hashes[i] == *tensor.hash) continue;
      Differs(manifest_.files[tensor.file].name, tensor.name, "hash", tensor.hash->Hex(), hashes[i].Hex());
    }
    return {};
  }

  // Whether a file of the manifest is there, with its length.
  Result<bool> IsWhole(const ManifestFile& file) {
    if (!present_.contains(file.name)) return false;
    ++report_.files;
    MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(Path(file.name)));
    if (!info || info->size == file.bytes) return true;
    Differs(file.name, "", "length", std::to_string(file.bytes) + " bytes", std::to_string(info->size) + " bytes");
    return false;
  }

  // The hash, where there is one, of the first `bytes` bytes.
  Status CheckHash(const ManifestFile& file, uint64_t bytes, const char* what) {
    if (!file.hash) return {};
    MIMO_ASSIGN_OR_RETURN(const auto in, fs_.OpenForRead(Path(file.name)));
    StreamHash hash;
    std::vector<std::byte> chunk(std::min(bytes, kChunk));
    for (uint64_t at = 0; at < bytes; at += chunk.size()) {
      chunk.resize(std::min(bytes - at, kChunk));
      MIMO_RETURN_IF_ERROR(in->ReadAt(at, chunk));
      hash.Update(chunk);
    }
    report_.bytes += bytes;
    const Hash128 found = hash.Digest();
    if (found != *file.hash) Differs(file.name, "", what, file.hash->Hex(), found.Hex());
    return {};
  }

  Status CheckOtherFile(const ManifestFile& file) {
    MIMO_ASSIGN_OR_RETURN(const bool whole, IsWhole(file));
    return whole ? CheckHash(file, file.bytes, "hash") : Status();
  }

  Status CheckIndexFile() {
    if (!present_.contains(kIndexName)) return {};
    std::map<std::string, std::string> expected;
    uint64_t total_size = 0;
    for (const ManifestTensor& tensor : manifest_.tensors) {
      expected[tensor.name] = manifest_.files[tensor.file].name;
      total_size += TensorBytes(tensor.dtype, tensor.shape).value_or(0);
    }
    MIMO_ASSIGN_OR_RETURN(const auto problems, CompareIndex(fs_, Path(kIndexName), std::move(expected), total_size));
    for (const IndexProblem& p : problems) Differs(kIndexName, p.tensor, p.what, p.expected, p.found);
    return {};
  }

  FileSystem& fs_;
  const std::string directory_;
  const CheckOptions options_;
  Manifest manifest_;
  CheckReport report_;
  std::set<std::string> present_;
  std::vector<RehashItem> work_;
};

}  // namespace

std::string Difference::Line() const {
  const std::string line = file + (tensor.empty() ? "" : " " + tensor) + ": " + what;
  return expected.empty() && found.empty() ? line : line + " (expected " + expected + ", found " + found + ")";
}

Status CheckReport::ToStatus() const {
  if (differences.empty()) return {};
  Error error = CheckFailed(std::to_string(differences.size()) + " difference(s)");
  for (size_t i = 0; i < differences.size() && i < kShownDifferences; ++i) {
    error.what += (i == 0 ? ": " : "; ") + differences[i].Line();
  }
  if (differences.size() > kShownDifferences) error.what += "; ...";
  error.advice = "convert again";
  return error;
}

Result<CheckReport> CheckDirectory(FileSystem& fs, const std::string& directory, const CheckOptions& options) {
  return Checker(fs, directory, options).Check();
}

}  // namespace mimo
