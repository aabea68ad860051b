#include "lib/verify/check.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "lib/io/safetensors/safetensors.h"
#include "lib/io/torch/item.h"
#include "lib/model/file_names.h"
#include "lib/results/manifest.h"
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
    MIMO_ASSIGN_OR_RETURN(manifest_, ReadManifest(fs_, path));
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

  // Length, header bytes and tensor set; then its tensors wait in work_.
  Status CheckTensorFile(uint32_t f, size_t first, size_t last) {
    const ManifestFile& file = manifest_.files[f];
    if (!present_.contains(file.name)) return {};
    ++report_.files;
    MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(Path(file.name)));
    if (info && info->size != file.bytes) {
      Differs(file.name, "", "length", std::to_string(file.bytes) + " bytes", std::to_string(info->size) + " bytes");
      return {};
    }
    if (file.container == Container::kTorchItems) return CheckItems(file, first, last);
    auto header = ReadSafetensorsHeader(fs_, Path(file.name));
    if (!header.ok() && header.error().code == ErrorCode::kBadInput) {
      Differs(file.name, header.error().tensor, header.error().what, header.error().expected, header.error().found);
      return {};
    }
    if (!header.ok()) return header.TakeError();
    if (file.hash) {
      MIMO_ASSIGN_OR_RETURN(const Hash128 hash, HashFile(file.name, header->data_begin));
      if (hash != *file.hash) Differs(file.name, "", "hash of the header", file.hash->Hex(), hash.Hex());
    }
    CompareTensors(file.name, *header, first, last);
    return {};
  }

  // Items follow each other in the order of the manifest; all but their data follows from dtype and shape, and a CRC
  // that stands twice.
  Status CheckItems(const ManifestFile& file, size_t first, size_t last) {
    MIMO_ASSIGN_OR_RETURN(const auto in, fs_.OpenForRead(Path(file.name)));
    uint64_t at = 0;
    for (size_t i = first; i < last; ++i) {
      const ManifestTensor& tensor = manifest_.tensors[i];
      const TorchItemSize size = SizeOfTorchItem(tensor.dtype, tensor.shape);
      if (file.bytes - at < size.total()) {
        Differs(file.name, tensor.name, "the tensor is missing", "", "");
        return {};
      }
      MIMO_ASSIGN_OR_RETURN(const bool whole, HasFrame(*in, at, tensor, size));
      if (!whole)
        Differs(file.name, tensor.name, "the bytes around the data", "those of its dtype and shape", "others");
      const auto rows = static_cast<uint64_t>(MatrixRows(tensor.shape));
      if (tensor.hash) {
        work_.push_back(
            {static_cast<uint32_t>(i), tensor.file, at + size.head, rows, rows == 0 ? 0 : size.data / rows});
      } else {
        ++report_.unhashed_tensors;
      }
      at += size.total();
    }
    if (at != file.bytes)
      Differs(file.name, "", "length", std::to_string(at) + " bytes", std::to_string(file.bytes) + " bytes");
    return {};
  }

  Result<bool> HasFrame(ReadableFile& in, uint64_t at, const ManifestTensor& tensor, const TorchItemSize& size) {
    std::string head(size.head, '\0'), tail(size.tail, '\0');
    MIMO_RETURN_IF_ERROR(in.ReadAt(at, std::as_writable_bytes(std::span(head))));
    MIMO_RETURN_IF_ERROR(in.ReadAt(at + size.head + size.data, std::as_writable_bytes(std::span(tail))));
    report_.bytes += head.size() + tail.size();
    // The CRC stands where frames of different CRCs differ.
    const TorchItemFrame zero = FrameOfTorchItem(tensor.dtype, tensor.shape, 0);
    const TorchItemFrame ones = FrameOfTorchItem(tensor.dtype, tensor.shape, 0xFFFFFFFFu);
    uint32_t crc = 0;
    for (size_t i = 0, bit = 0; i < head.size(); ++i) {
      if (zero.head[i] == ones.head[i]) continue;
      crc |= static_cast<uint32_t>(static_cast<unsigned char>(head[i])) << bit;
      bit += 8;
    }
    const TorchItemFrame frame = FrameOfTorchItem(tensor.dtype, tensor.shape, crc);
    return head == frame.head && tail == frame.tail;
  }

  void CompareTensors(const std::string& file, const SafetensorsHeader& header, size_t first, size_t last) {
    std::map<std::string, const TensorInfo*> stored;
    for (const TensorInfo& tensor : header.tensors) stored[tensor.name] = &tensor;
    for (size_t i = first; i < last; ++i) {
      const ManifestTensor& tensor = manifest_.tensors[i];
      const auto found = stored.find(std::string(HeaderName(tensor.name)));
      if (found == stored.end()) {
        Differs(file, tensor.name, "the tensor is missing", "", "");
        continue;
      }
      const TensorInfo& info = *found->second;
      if (info.dtype != tensor.dtype || info.shape != tensor.shape) {
        Differs(file, tensor.name, "dtype or shape", std::string(DTypeName(tensor.dtype)),
                std::string(DTypeName(info.dtype)));
      } else if (tensor.hash) {
        const auto rows = static_cast<uint64_t>(MatrixRows(info.shape));
        work_.push_back({static_cast<uint32_t>(i), tensor.file, info.begin, rows, rows == 0 ? 0 : info.bytes() / rows});
      } else {
        ++report_.unhashed_tensors;
      }
      stored.erase(found);
    }
    for (const auto& [name, info] : stored) Differs(file, name, "the tensor is not in the manifest", "", "");
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

  // Of the first `bytes` bytes.
  Result<Hash128> HashFile(const std::string& name, uint64_t bytes) {
    MIMO_ASSIGN_OR_RETURN(const auto file, fs_.OpenForRead(Path(name)));
    StreamHash hash;
    std::vector<std::byte> chunk(std::min(bytes, kChunk));
    for (uint64_t at = 0; at < bytes; at += chunk.size()) {
      chunk.resize(std::min(bytes - at, kChunk));
      MIMO_RETURN_IF_ERROR(file->ReadAt(at, chunk));
      hash.Update(chunk);
    }
    report_.bytes += bytes;
    return hash.Digest();
  }

  Status CheckOtherFile(const ManifestFile& file) {
    if (!present_.contains(file.name)) return {};
    ++report_.files;
    MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(Path(file.name)));
    if (info && info->size != file.bytes) {
      Differs(file.name, "", "length", std::to_string(file.bytes) + " bytes", std::to_string(info->size) + " bytes");
      return {};
    }
    if (!file.hash) return {};
    MIMO_ASSIGN_OR_RETURN(const Hash128 hash, HashFile(file.name, file.bytes));
    if (hash != *file.hash) Differs(file.name, "", "hash", file.hash->Hex(), hash.Hex());
    return {};
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

Status CheckReport::ToStatus() const {
  if (differences.empty()) return {};
  Error error = CheckFailed(std::to_string(differences.size()) + " difference(s)");
  for (size_t i = 0; i < differences.size() && i < kShownDifferences; ++i) {
    const Difference& d = differences[i];
    error.what += i == 0 ? ": " : "; ";
    error.what += d.file + (d.tensor.empty() ? "" : " " + d.tensor) + ": " + d.what;
    if (!d.expected.empty() || !d.found.empty()) error.what += " (expected " + d.expected + ", found " + d.found + ")";
  }
  if (differences.size() > kShownDifferences) error.what += "; ...";
  error.advice = "convert again";
  return error;
}

Result<CheckReport> CheckDirectory(FileSystem& fs, const std::string& directory, const CheckOptions& options) {
  return Checker(fs, directory, options).Check();
}

}  // namespace mimo
