#include "lib/io/safetensors/container.h"

#include <map>

#include "lib/io/safetensors/safetensors.h"

namespace mimo {
namespace {

class Safetensors final : public Container {
 public:
  std::string_view word() const override { return "safetensors"; }
  bool HasHeader() const override { return true; }
  bool SortsByName() const override { return true; }
  bool HoldsChecksums() const override { return false; }
  FrameSize FrameOf(DType /*dtype*/, const std::vector<int64_t>& /*shape*/) const override { return {}; }

  FileLayout LayOut(std::span<TensorInfo> arrays,
                    std::span<const std::pair<std::string, std::string>> metadata) const override {
    FileLayout out{LayOutSafetensors(arrays, metadata)};
    out.bytes = arrays.empty() ? out.header.size() : arrays.back().end;
    return out;
  }

  Status CheckHeader(const PlannedHeader& planned) const override {
    const bool own = !planned.header.empty();
    if ((planned.linked && own) || (!own && !planned.has_source))
      return BadInput("file " + std::string(planned.file))
          .Expected("a header, or a source file that has it")
          .Found("both or none");
    uint64_t prefix = 0;
    for (size_t i = 0; i < 8 && i < planned.header.size(); ++i)
      prefix |= static_cast<uint64_t>(static_cast<unsigned char>(planned.header[i])) << (8 * i);
    if (own && (planned.header.size() < 8 || prefix != planned.header.size() - 8))
      return BadInput("header of " + std::string(planned.file)).Expected("its own length first").Found(prefix);
    return {};
  }

  Status Complete(std::span<const TensorInfo> /*arrays*/, std::span<const uint32_t> /*crcs*/,
                  WritableFile& /*out*/) const override {
    return {};
  }

  Result<FoundArrays> Find(FileSystem& fs, const std::string& path, std::span<const TensorInfo> arrays) const override {
    FoundArrays out;
    out.begins.resize(arrays.size());
    Result<SafetensorsHeader> header = ReadSafetensorsHeader(fs, path);
    if (!header.ok() && header.error().code != ErrorCode::kBadInput) return header.TakeError();
    if (!header.ok()) {
      const Error& e = header.error();
      out.problems.push_back({FileProblem::kNoArray, e.tensor, e.what, e.expected, e.found});
      return out;
    }
    out.header_bytes = header->data_begin;
    std::map<std::string_view, const TensorInfo*> stored;
    for (const TensorInfo& info : header->tensors) stored[info.name] = &info;
    for (size_t i = 0; i < arrays.size(); ++i) {
      const auto found = stored.find(arrays[i].name);
      if (found == stored.end()) {
        out.problems.push_back({i, "", "the tensor is missing", "", ""});
        continue;
      }
      const TensorInfo& info = *found->second;
      if (info.dtype == arrays[i].dtype && info.shape == arrays[i].shape)
        out.begins[i] = info.begin;
      else
        out.problems.push_back(
            {i, "", "dtype or shape", std::string(DTypeName(arrays[i].dtype)), std::string(DTypeName(info.dtype))});
      stored.erase(found);
    }
    for (const auto& [name, info] : stored)
      out.problems.push_back({FileProblem::kNoArray, std::string(name), "the tensor is not in the manifest", "", ""});
    return out;
  }
};

}  // namespace

const Container& SafetensorsContainer() {
  static const Safetensors container;
  return container;
}

}  // namespace mimo
