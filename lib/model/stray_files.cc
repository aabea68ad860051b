#include "lib/model/stray_files.h"

#include <algorithm>
#include <set>

#include "lib/io/safetensors/safetensors.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

constexpr std::string_view kTensorFileSuffix = ".safetensors";

// How other formats call the weights of a model: what a name begins with, and ends in.
constexpr std::pair<std::string_view, std::string_view> kForeignNames[] = {
    {"pytorch_model", ".bin"},
    {"model", ".bin"},
    {"consolidated", ".pth"},
    {"consolidated", ".pt"},
    {"", ".gguf"},
    {"tf_model", ".h5"},
    {"flax_model", ".msgpack"},
    {"adapter_model", ".bin"},
    {"mp_rank_", ".pt"},
    {"", ".safetensors.bak"},
};

}  // namespace

Result<StrayFile> ClassifyStray(FileSystem& fs, const std::string& root, const std::string& file,
                                const ModelTable& table, const ReleasedName& released, const TensorHolder& holder) {
  StrayFile stray;
  stray.file = file;
  Result<SafetensorsHeader> header = ReadSafetensorsHeader(fs, JoinPath(root, file));
  if (!header.ok()) {
    if (header.error().code == ErrorCode::kIo) return header.TakeError();
    stray.problem = header.error().what;
    return stray;
  }
  uint64_t own = 0;  // of this model, and held nowhere else
  std::string stranger;
  for (const TensorInfo& tensor : header->tensors) {
    ++stray.tensors;
    const std::string name = released(tensor.name);
    if (std::string other = holder(name); !other.empty()) {
      if (stray.held++ > 0) continue;
      stray.example = tensor.name;
      stray.holder = std::move(other);
    } else if (table.Identify(name).role == Role::kUnknown) {
      if (stray.unknown++ == 0) stranger = tensor.name;
    } else {
      ++own;
    }
  }
  if (stray.held == 0)
    stray.example = stray.unknown > 0 || header->tensors.empty() ? stranger : header->tensors[0].name;
  stray.kind = stray.held == stray.tensors ? StrayKind::kStale
               : stray.held > 0            ? (own > 0 ? StrayKind::kPartly : StrayKind::kMixed)
               : own > 0                   ? StrayKind::kForgotten
                                           : StrayKind::kUnknown;
  return stray;
}

bool IsForeignTensorFile(std::string_view name) {
  return std::any_of(std::begin(kForeignNames), std::end(kForeignNames), [&](const auto& form) {
    return name.size() > form.first.size() + form.second.size() - 1 && name.starts_with(form.first) &&
           name.ends_with(form.second);
  });
}

std::vector<std::string> NestedTensorFiles(const std::vector<CarriedFile>& carried) {
  const auto directory_of = [](const std::string& name) { return name.substr(0, name.rfind('/') + 1); };
  std::set<std::string> models;
  for (const CarriedFile& file : carried)
    if (file.name.ends_with(std::string("/") + kConfigName)) models.insert(directory_of(file.name));
  std::vector<std::string> nested;
  for (const CarriedFile& file : carried) {
    if (!file.name.ends_with(kTensorFileSuffix) || file.name.find('/') == std::string::npos || !file.outside.empty())
      continue;
    if (!models.contains(directory_of(file.name))) nested.push_back(file.name);
  }
  return nested;
}

}  // namespace mimo
