#include "lib/verify/mtp_headers.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "lib/io/safetensors/safetensors.h"
#include "lib/model/family.h"
#include "lib/model/name_prefix.h"

namespace mimo {
namespace {

constexpr std::string_view kSuffix = ".safetensors";

class HeaderReader {
 public:
  HeaderReader(FileSystem& fs, const std::string& root) : fs_(fs), root_(root) {}

  Result<MtpHeaders> Read() {
    MIMO_ASSIGN_OR_RETURN(out_.catalogue, OpenWithoutTensors(fs_, root_));
    Catalogue& catalogue = out_.catalogue;
    if (catalogue.index.present) {
      MIMO_ASSIGN_OR_RETURN(ParsedIndex index, ParseIndex(catalogue.index.text, catalogue.root));
      weight_map_ = std::move(index.weight_map);
    }
    for (const CarriedFile& file : catalogue.carried)
      if (file.name.ends_with(kSuffix) && file.outside.empty()) MIMO_RETURN_IF_ERROR(ReadFile(file.name));
    MIMO_ASSIGN_OR_RETURN([[maybe_unused]] const ReleasedName released, ReleaseNames(&catalogue, &weight_map_));
    for (const auto& [tensor, file] : weight_map_) file_of_.emplace(tensor, file);
    KeepEachOnce();
    CompareWithIndex();
    return std::move(out_);
  }

 private:
  bool IsMtp(std::string_view tensor) const {
    return ReadMtpName(out_.catalogue.config.family->mtp, tensor, out_.catalogue.config.layers).has_value();
  }

  Status ReadFile(const std::string& name) {
    Result<SafetensorsHeader> header = ReadSafetensorsHeader(fs_, JoinPath(root_, name));
    const bool below = name.find('/') != std::string::npos;
    if (!header.ok()) {
      if (header.error().code == ErrorCode::kIo) return header.TakeError();
      if (!below) out_.unreadable.emplace_back(name, header.error().what + ": found " + header.error().found);
      return {};
    }
    if (below) {
      for (const TensorInfo& tensor : header->tensors) {
        if (!IsMtp(tensor.name)) continue;
        out_.nested.push_back({tensor.name, name, ""});
        break;
      }
      return {};
    }
    Catalogue& catalogue = out_.catalogue;
    const auto index = static_cast<uint32_t>(catalogue.files.size());
    catalogue.files.push_back({name, header->file_bytes, header->data_begin, {}, std::move(header->metadata)});
    for (TensorInfo& tensor : header->tensors) {
      StoredArray array;
      array.id = catalogue.table->Identify(tensor.name);
      array.name = std::move(tensor.name);
      array.dtype = tensor.dtype;
      array.shape = std::move(tensor.shape);
      array.file = index;
      array.begin = tensor.begin;
      array.bytes = tensor.end - tensor.begin;
      catalogue.arrays.push_back(std::move(array));
    }
    return {};
  }

  const std::string& FileOf(const StoredArray& array) const { return out_.catalogue.files[array.file].name; }
  bool IsWhereTheIndexSays(const StoredArray& array) const {
    const auto said = file_of_.find(array.name);
    return said != file_of_.end() && said->second == FileOf(array);
  }

  void KeepEachOnce() {
    std::vector<StoredArray>& arrays = out_.catalogue.arrays;
    std::stable_sort(arrays.begin(), arrays.end(), [&](const StoredArray& a, const StoredArray& b) {
      const bool first = !IsWhereTheIndexSays(a), second = !IsWhereTheIndexSays(b);
      return std::tie(a.name, first, FileOf(a)) < std::tie(b.name, second, FileOf(b));
    });
    std::vector<StoredArray> kept;
    for (StoredArray& array : arrays) {
      if (kept.empty() || kept.back().name != array.name) {
        kept.push_back(std::move(array));
      } else if (IsMtp(array.name)) {
        out_.twice.push_back({array.name, FileOf(kept.back()), FileOf(array)});
      }
    }
    arrays = std::move(kept);
    for (uint32_t i = 0; i < arrays.size(); ++i) out_.catalogue.by_name.emplace(arrays[i].name, i);
  }

  void CompareWithIndex() {
    const Catalogue& catalogue = out_.catalogue;
    for (const StoredArray& array : catalogue.arrays) {
      const auto said = file_of_.find(array.name);
      out_.listed.push_back(said != file_of_.end() ? 1 : 0);
      if (said != file_of_.end() && said->second != FileOf(array) && IsMtp(array.name))
        out_.listed_elsewhere.push_back({array.name, FileOf(array), said->second});
    }
    for (const auto& [tensor, file] : weight_map_)
      if (IsMtp(tensor) && catalogue.Find(tensor) == nullptr) out_.absent.emplace_back(tensor, file);
    std::sort(out_.absent.begin(), out_.absent.end());
  }

  FileSystem& fs_;
  const std::string root_;
  MtpHeaders out_;
  std::vector<std::pair<std::string, std::string>> weight_map_;
  std::unordered_map<std::string, std::string> file_of_;  // as the index has it
};

}  // namespace

Result<MtpHeaders> ReadMtpHeaders(FileSystem& fs, const std::string& root) {
  return HeaderReader(fs, root).Read();
}

}  // namespace mimo
