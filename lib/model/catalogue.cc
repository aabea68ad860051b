#include "lib/model/catalogue.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <tuple>

#include "lib/base/checked.h"
#include "lib/base/workers.h"
#include "lib/io/safetensors/safetensors.h"
#include "lib/model/family.h"
#include "lib/model/file_names.h"
#include "lib/model/mtp_names.h"
#include "lib/model/name_prefix.h"
#include "lib/model/rank_files.h"
#include "lib/model/role_groups.h"

namespace mimo {

namespace {

constexpr char kSuffix[] = ".safetensors";
constexpr uint64_t kMaxConfigBytes = 64ull << 20;
constexpr uint64_t kMaxIndexBytes = 1ull << 30;

std::string Some(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 3; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > 3) text += ", ... (" + std::to_string(names.size()) + " in all)";
  return text;
}

class CatalogueBuilder {
 public:
  CatalogueBuilder(FileSystem& fs, const std::string& root, const CatalogueOptions& options)
      : fs_(fs), options_(options) {
    out_.root = root;
  }

  Result<Catalogue> BuildWithoutTensors() {
    MIMO_RETURN_IF_ERROR(ReadConfig());
    MIMO_RETURN_IF_ERROR(ListCarried(fs_, out_.root, &out_.carried, &out_.oddities));
    MIMO_RETURN_IF_ERROR(ReadIndexFile());
    MIMO_RETURN_IF_ERROR(ReadOrigin());
    MIMO_RETURN_IF_ERROR(ReadCacheScheme());
    return std::move(out_);
  }

  Result<Catalogue> Build() {
    MIMO_ASSIGN_OR_RETURN(out_, BuildWithoutTensors());
    MIMO_RETURN_IF_ERROR(ChooseTensorFiles());
    MIMO_RETURN_IF_ERROR(ReadShards());
    MIMO_ASSIGN_OR_RETURN(released_, ReleaseNames(&out_, &weight_map_));
    MIMO_RETURN_IF_ERROR(SortStrays());
    MIMO_RETURN_IF_ERROR(SortArrays(&out_));
    if (options_.without_mtp) ForgiveAbsentMtp();
    MIMO_RETURN_IF_ERROR(CrossCheckIndex());
    return std::move(out_);
  }

 private:
  Status ReadConfig() {
    MIMO_ASSIGN_OR_RETURN(std::optional<FileInfo> root, fs_.Stat(out_.root));
    if (!root || root->kind != FileKind::kDirectory)
      return BadInput("no such checkpoint directory")
          .File(out_.root)
          .Found(root ? "a file" : "nothing")
          .Advice("name the directory that holds config.json and the .safetensors files");
    const std::string path = JoinPath(out_.root, kConfigName);
    MIMO_ASSIGN_OR_RETURN(std::optional<FileInfo> info, fs_.Stat(path));
    if (!info)
      return BadInput("config.json is missing")
          .File(path)
          .Expected("the model's config.json beside its .safetensors files")
          .Found("no such file")
          .Id("files.no_config")
          .Advice("put the model's config.json there: geometry cannot be read from the tensors alone");
    MIMO_ASSIGN_OR_RETURN(std::string text, ReadWholeFile(fs_, path, kMaxConfigBytes));
    MIMO_ASSIGN_OR_RETURN(out_.config, ParseModelConfig(text, path));
    const Family& family = *out_.config.family;
    out_.table = family.table.Of(out_.config.layers);
    if (!family.IsCalled(out_.config.model_type, out_.config.architectures))
      out_.oddities.push_back("config.json says model_type \"" + out_.config.model_type + "\", not one of the " +
                              family.title + " family, whose keys it has");
    return {};
  }

  // Takes a file out of those that travel along; false when it is none of them.
  bool Take(const char* name) {
    return std::erase_if(out_.carried, [&](const CarriedFile& file) { return file.name == name; }) != 0;
  }

  // Leaves `index` empty when there is none of this name.
  Status TakeIndex(const char* name, std::optional<ParsedIndex>* index) {
    if (!Take(name)) return {};
    const std::string path = JoinPath(out_.root, name);
    MIMO_ASSIGN_OR_RETURN(std::string text, ReadWholeFile(fs_, path, kMaxIndexBytes));
    MIMO_ASSIGN_OR_RETURN(*index, ParseIndex(std::move(text), path));
    return {};
  }

  Status ReadIndexFile() {
    Take(kConfigName);
    Take(kManifestName);
    std::optional<ParsedIndex> parsed;
    MIMO_RETURN_IF_ERROR(TakeIndex(kIndexName, &parsed));
    if (!parsed) return {};
    out_.index = std::move(parsed->info);
    weight_map_ = std::move(parsed->weight_map);
    return {};
  }

  Status ReadOrigin() {
    if (!Take(kOriginConfigName)) return {};
    const std::string path = JoinPath(out_.root, kOriginConfigName);
    CatalogueOrigin& origin = out_.origin.emplace();
    MIMO_ASSIGN_OR_RETURN(origin.config, ReadWholeFile(fs_, path, kMaxConfigBytes));
    if (auto parsed = ParseModelConfig(origin.config, path); !parsed.ok()) return parsed.TakeError();
    return TakeIndex(kOriginIndexName, &origin.index);
  }

  Status ReadCacheScheme() {
    for (const CarriedFile& file : out_.carried) {
      if (file.name != kQuantConfigName || !file.outside.empty() || file.bytes > kMaxConfigBytes) continue;
      MIMO_ASSIGN_OR_RETURN(out_.quant_config, ReadWholeFile(fs_, JoinPath(out_.root, file.name), kMaxConfigBytes));
    }
    out_.kv_cache = ReadKvCacheScheme(out_.config.text, out_.quant_config);
    return {};
  }

  // All top-level .safetensors files; with an index whose files all exist, those it names, and later what it forgot.
  Status ChooseTensorFiles() {
    std::set<std::string> on_disk, named;
    for (const CarriedFile& file : out_.carried)
      if (file.name.find('/') == std::string::npos && file.name.ends_with(kSuffix)) on_disk.insert(file.name);
    for (const auto& [tensor, file] : weight_map_) named.insert(file);
    for (const std::string& file : named)
      if (!on_disk.contains(file)) out_.index.missing_files.push_back(file);
    if (on_disk.empty())
      return BadInput("no .safetensors files")
          .File(out_.root)
          .Expected("the model's tensor files")
          .Found(named.empty() ? "none" : "an index that names " + Some(out_.index.missing_files))
          .Id("files.no_tensors")
          .Advice("bring the tensor files, or name the directory that holds them");
    if (!out_.index.missing_files.empty()) {
      out_.oddities.push_back("index names files that do not exist (" + Some(out_.index.missing_files) +
                              "): the shard headers win");
    } else if (!named.empty()) {
      for (const std::string& file : on_disk)
        if (!named.contains(file)) beside_.push_back(file);
      on_disk = std::move(named);
    }
    tensor_files_.assign(on_disk.begin(), on_disk.end());
    std::erase_if(out_.carried, [&](const CarriedFile& f) { return on_disk.contains(f.name); });
    return {};
  }

  // What lies beside the files of the checkpoint: their tensors are known, and nothing is sorted yet.
  Status SortStrays() {
    const std::vector<std::string> nested = NestedTensorFiles(out_.carried);
    for (const CarriedFile& file : out_.carried)
      if (file.name.find('/') == std::string::npos && IsForeignTensorFile(file.name))
        out_.strays.push_back({.file = file.name, .problem = "another format than safetensors"});
    if (!beside_.empty() || !nested.empty()) MIMO_RETURN_IF_ERROR(ClassifyStrays(nested));
    std::sort(out_.strays.begin(), out_.strays.end(),
              [](const StrayFile& a, const StrayFile& b) { return a.file < b.file; });
    bool read = false;
    for (const StrayFile& stray : out_.strays) {
      if (!stray.may_travel()) std::erase_if(out_.carried, [&](const CarriedFile& f) { return f.name == stray.file; });
      if (stray.kind != StrayKind::kForgotten) continue;
      MIMO_RETURN_IF_ERROR(ReadShard(stray.file));
      ReleaseNamesOfLastFile();
      forgotten_.insert(stray.file);
      read = true;
    }
    if (read) SortFiles();
    return {};
  }

  void ReleaseNamesOfLastFile() {
    CatalogueFile& last = out_.files.back();
    for (StoredArray& array : out_.arrays) {
      if (array.file + 1 != out_.files.size()) continue;
      std::string name = released_(array.name);
      if (name == array.name) continue;
      last.renamed = true;
      array.id = out_.table->Identify(name);
      array.name = std::move(name);
    }
  }

  Status ClassifyStrays(const std::vector<std::string>& nested) {
    std::unordered_map<std::string_view, uint32_t> file_of;
    for (const StoredArray& array : out_.arrays) file_of.emplace(array.name, array.file);
    const TensorHolder holder = [&](std::string_view tensor) {
      const auto found = file_of.find(tensor);
      return found == file_of.end() ? std::string() : out_.files[found->second].name;
    };
    for (const std::string& file : beside_) {
      MIMO_ASSIGN_OR_RETURN(StrayFile stray, ClassifyStray(fs_, out_.root, file, *out_.table, released_, holder));
      out_.strays.push_back(std::move(stray));
    }
    // What subdirectories hold is their own, unless all of it is here too.
    for (const std::string& file : nested) {
      MIMO_ASSIGN_OR_RETURN(StrayFile stray, ClassifyStray(fs_, out_.root, file, *out_.table, released_, holder));
      if (stray.kind == StrayKind::kStale && stray.tensors > 0) out_.strays.push_back(std::move(stray));
    }
    return {};
  }

  void SortFiles() {
    std::vector<uint32_t> order(out_.files.size()), place(out_.files.size());
    for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return out_.files[a].name < out_.files[b].name; });
    std::vector<CatalogueFile> sorted;
    for (uint32_t i = 0; i < order.size(); ++i) {
      place[order[i]] = i;
      sorted.push_back(std::move(out_.files[order[i]]));
    }
    out_.files = std::move(sorted);
    for (StoredArray& array : out_.arrays) array.file = place[array.file];
  }

  // A tensor file and its arrays, of which `file` is not set.
  struct Shard {
    CatalogueFile file;
    std::vector<StoredArray> arrays;
    Status status;
  };

  // All of tensor_files_, side by side: headers of a terabyte are 50 MB of JSON. The error is that of the first file.
  Status ReadShards() {
    std::vector<Shard> shards(tensor_files_.size());
    std::atomic<size_t> next = 0;
    const size_t threads = std::min(static_cast<size_t>(ThreadsOfMachine()), std::max<size_t>(1, shards.size()));
    Workers workers(static_cast<int>(threads), "try again with more memory");
    Status run = workers.Run([&](int) -> Status {
      for (size_t i = next++; i < shards.size() && !workers.stopped(); i = next++)
        shards[i].status = ReadOne(tensor_files_[i], &shards[i]);
      return {};
    });
    MIMO_RETURN_IF_ERROR(std::move(run));
    for (Shard& shard : shards) {
      MIMO_RETURN_IF_ERROR(std::move(shard.status));
      Append(std::move(shard));
    }
    return {};
  }

  Status ReadShard(const std::string& name) {
    Shard shard;
    MIMO_RETURN_IF_ERROR(ReadOne(name, &shard));
    Append(std::move(shard));
    return {};
  }

  void Append(Shard shard) {
    const auto index = static_cast<uint32_t>(out_.files.size());
    out_.files.push_back(std::move(shard.file));
    for (StoredArray& array : shard.arrays) {
      array.file = index;
      out_.arrays.push_back(std::move(array));
    }
  }

  // From any thread.
  Status ReadOne(const std::string& name, Shard* shard) const {
    const std::string path = JoinPath(out_.root, name);
    MIMO_ASSIGN_OR_RETURN(const std::optional<FileInfo> info, fs_.Stat(path));
    MIMO_ASSIGN_OR_RETURN(SafetensorsHeader header, ReadSafetensorsHeader(fs_, path));
    shard->file = {name, header.file_bytes, header.data_begin, {}, std::move(header.metadata)};
    shard->file.stamp = info ? StampOf(*info) : FileStamp();
    std::string bytes(header.data_begin, '\0');
    MIMO_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> in, fs_.OpenForRead(path));
    MIMO_RETURN_IF_ERROR(in->ReadAt(0, std::as_writable_bytes(std::span(bytes))));
    shard->file.header_hash = HashBytes(std::as_bytes(std::span(bytes)));
    const std::string rank = RankPrefix(name);
    shard->arrays.reserve(header.tensors.size());
    for (TensorInfo& tensor : header.tensors) {
      StoredArray& array = shard->arrays.emplace_back();
      if (rank.empty()) array.id = out_.table->Identify(tensor.name);
      array.name = rank.empty() ? std::move(tensor.name) : rank + tensor.name;
      array.dtype = tensor.dtype;
      array.shape = std::move(tensor.shape);
      array.begin = tensor.begin;
      array.bytes = tensor.end - tensor.begin;
    }
    return {};
  }

  // Tensors that config.json calls for are checked by TakeInventory. MTP layers and towers are optional there: where
  // the index lists them and the files that would hold them are missing, the download is incomplete.
  Status CheckOptionalParts() const {
    std::set<std::pair<Role, int>> present;
    const auto part_of = [](const TensorId& id) {
      return std::pair(IsTower(id.role) ? id.role : Role::kUnknown, id.mtp ? id.layer : -1);
    };
    for (const StoredArray& array : out_.arrays) present.insert(part_of(array.id));
    for (const auto& [tensor, file] : weight_map_) {
      const auto part = part_of(out_.table->Identify(tensor));
      if (part == std::pair(Role::kUnknown, -1) || present.contains(part)) continue;
      return BadInput("the index lists tensors of an MTP layer or tower that no file holds")
          .File(JoinPath(out_.root, kIndexName))
          .Tensor(tensor)
          .Expected("in " + file)
          .Found("no such file")
          .Id("index.lists_absent")
          .Advice("bring " + file +
                  ", which is not here; or, to convert without it, move the index out of the directory");
    }
    return {};
  }

  // The index is as if it did not list what is to come from elsewhere.
  void ForgiveAbsentMtp() {
    std::vector<std::string> absent;
    std::erase_if(weight_map_, [&](const auto& entry) {
      const bool forgiven = ReadMtpName(out_.config.family->mtp, entry.first, out_.config.layers).has_value() &&
                            out_.Find(entry.first) == nullptr;
      if (forgiven) absent.push_back(entry.first);
      return forgiven;
    });
    if (!absent.empty())
      out_.oddities.push_back("index lists tensors of MTP layers that no file holds: " + Some(absent));
  }

  Error Absent(const std::string& tensor, const std::string& file) const {
    return BadInput("the index lists a tensor that no file holds")
        .File(JoinPath(out_.root, kIndexName))
        .Tensor(tensor)
        .Expected("in " + file)
        .Found("not in any shard header")
        .Id("index.lists_absent")
        .Advice(file + " is whole, and the index is of other files: take the one that belongs to these, or move it " +
                "out of the directory, to go by the headers alone");
  }

  // Of files that are there, where others are not.
  Status CheckListed() const {
    const std::set<std::string> missing(out_.index.missing_files.begin(), out_.index.missing_files.end());
    for (const auto& [tensor, file] : weight_map_)
      if (!missing.contains(file) && out_.Find(tensor) == nullptr) return Absent(tensor, file);
    return {};
  }

  Status CrossCheckIndex() {
    if (!out_.index.present) return {};
    if (!out_.index.missing_files.empty()) {
      MIMO_RETURN_IF_ERROR(CheckListed());
      return CheckOptionalParts();
    }
    std::vector<std::string> elsewhere, unlisted;
    uint64_t listed = 0;
    for (const auto& [tensor, file] : weight_map_) {
      const StoredArray* array = out_.Find(tensor);
      if (array == nullptr) return Absent(tensor, file);
      ++listed;
      if (out_.files[array->file].name != file) elsewhere.push_back(tensor);
    }
    if (!elsewhere.empty()) out_.oddities.push_back("index gives the wrong file for: " + Some(elsewhere));
    uint64_t forgotten = 0;  // bytes; the files are named already
    for (const StoredArray& array : out_.arrays)
      if (forgotten_.contains(out_.files[array.file].name)) forgotten += array.bytes;
    if (listed < out_.arrays.size()) {
      std::set<std::string> names;
      for (const auto& [tensor, file] : weight_map_) names.insert(tensor);
      for (const StoredArray& array : out_.arrays)
        if (!names.contains(array.name) && !forgotten_.contains(out_.files[array.file].name))
          unlisted.push_back(array.name);
      if (!unlisted.empty()) out_.oddities.push_back("tensors missing from the index: " + Some(unlisted));
    }
    const std::optional<uint64_t>& total = out_.index.total_size;
    if (total && *total != out_.payload_bytes() && *total != out_.payload_bytes() - forgotten)
      out_.oddities.push_back("index total_size is " + std::to_string(*out_.index.total_size) +
                              ", the headers sum to " + std::to_string(out_.payload_bytes()));
    return {};
  }

  FileSystem& fs_;
  const CatalogueOptions options_;
  Catalogue out_;
  std::vector<std::pair<std::string, std::string>> weight_map_;
  std::vector<std::string> tensor_files_;
  std::vector<std::string> beside_;  // tensor files at the top that the index does not name
  ReleasedName released_;            // once the names of what the index names are
  std::set<std::string> forgotten_;  // of these, those that are read
};

}  // namespace

const StoredArray* Catalogue::Find(std::string_view name) const {
  const uint32_t* array = by_name.find(name);
  return array == nullptr ? nullptr : &arrays[*array];
}

uint64_t Catalogue::payload_bytes() const {
  uint64_t sum = 0;
  for (const StoredArray& array : arrays) sum += array.bytes;
  return sum;
}

Hash128 Catalogue::Fingerprint() const {
  StreamHash hash;
  const auto field = [&](std::string_view text) {
    hash.Update(std::to_string(text.size()) + ":");
    hash.Update(text);
  };
  field("catalogue 1");
  field(config.text);
  field(index.text);
  if (origin) {
    field(origin->config);
    field(origin->index ? origin->index->info.text : "");
  }
  for (const CatalogueFile& file : files) {
    field(file.name);
    field(std::to_string(file.bytes));
    field(file.header_hash.Hex());
  }
  for (const CarriedFile& file : carried) {
    field(file.name);
    field(std::to_string(file.bytes));
  }
  return hash.Digest();
}

namespace {

// By name, then by file. Every file has its arrays in order, mostly: what ascends already is merged, and no array moves
// twice.
void SortByName(std::vector<StoredArray>* arrays) {
  const auto before = [&](uint32_t a, uint32_t b) {
    const StoredArray &x = (*arrays)[a], &y = (*arrays)[b];
    const int order = x.name.compare(y.name);
    return order < 0 || (order == 0 && x.file < y.file);
  };
  std::vector<uint32_t> sorted(arrays->size());
  std::vector<size_t> runs = {0};  // where each begins, and where the last ends
  for (uint32_t i = 0; i < sorted.size(); ++i) {
    sorted[i] = i;
    if (i > 0 && before(i, i - 1)) runs.push_back(i);
  }
  if (runs.size() == 1) return;
  runs.push_back(sorted.size());
  while (runs.size() > 2) {
    std::vector<size_t> merged = {0};
    for (size_t i = 0; i + 1 < runs.size(); i += 2) {
      const size_t end = runs[std::min(i + 2, runs.size() - 1)];
      const auto at = [&](size_t place) { return sorted.begin() + static_cast<int64_t>(place); };
      std::inplace_merge(at(runs[i]), at(runs[i + 1]), at(end), before);
      merged.push_back(end);
    }
    runs = std::move(merged);
  }
  std::vector<StoredArray> moved;
  moved.reserve(sorted.size());
  for (const uint32_t i : sorted) moved.push_back(std::move((*arrays)[i]));
  *arrays = std::move(moved);
}

}  // namespace

Status SortArrays(Catalogue* catalogue) {
  std::vector<StoredArray>& arrays = catalogue->arrays;
  SortByName(&arrays);
  catalogue->by_name.clear();
  catalogue->by_name.reserve(arrays.size());
  for (uint32_t i = 0; i < arrays.size(); ++i) {
    if (catalogue->by_name.emplace(arrays[i].name, i).is_new) continue;
    return BadInput("the tensor is stored twice")
        .File(catalogue->PathOf(catalogue->files[arrays[i].file]))
        .Tensor(arrays[i].name)
        .Expected("each tensor in one file")
        .Found("also in " + catalogue->files[arrays[i - 1].file].name)
        .Advice(
            "write one of the files again without the tensor; where there is no index, one that names the right file "
            "for each tensor is enough: the other file is left out then")
        .Id("travel.stored_twice");
  }
  return {};
}

Result<Catalogue> OpenWithoutTensors(FileSystem& fs, const std::string& root) {
  return CatalogueBuilder(fs, root, {}).BuildWithoutTensors();
}

Result<Catalogue> OpenCatalogue(FileSystem& fs, const std::string& root, const CatalogueOptions& options) {
  return CatalogueBuilder(fs, root, options).Build();
}

}  // namespace mimo
