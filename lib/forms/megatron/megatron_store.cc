#include "lib/forms/megatron/megatron_store.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <tuple>

#include "lib/forms/megatron/megatron_files.h"
#include "lib/io/torch/dcp_metadata.h"
#include "lib/io/torch/item.h"
#include "lib/json/parse.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

constexpr uint64_t kMaxTrackerBytes = 4096;
constexpr uint64_t kMaxJsonBytes = 64 << 20;
constexpr uint64_t kMaxMetadataBytes = 4ull << 30;
constexpr char kCommonStateItem[] = "common_state";
constexpr char kHalfWritten[] = "the save is not complete: take another iteration, or save again";

Result<bool> Exists(FileSystem& fs, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(path));
  return info.has_value();
}

// What the tracker of Megatron-LM names: "iter_0000100" or "release".
Result<std::string> Tracked(FileSystem& fs, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(std::string text, ReadWholeFile(fs, path, kMaxTrackerBytes));
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.pop_back();
  if (text == "release") return text;
  int64_t iteration = -1;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), iteration);
  if (problem != std::errc() || end != text.data() + text.size() || iteration < 0)
    return BadInput("the tracker names no iteration")
        .File(path)
        .Expected("a number, or release")
        .Found("\"" + text.substr(0, 80) + "\"")
        .Advice("name the iteration's directory itself");
  return MegatronIterationDirectory(iteration);
}

// The step in the tracker of Megatron-Bridge.
Result<std::string> TrackedByBridge(FileSystem& fs, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(path));
  MIMO_ASSIGN_OR_RETURN(const TorchFile saved, ReadTorchFile(*file, path));
  const auto* tensor = saved.value.Find<TorchTensor>("step");
  if (tensor == nullptr || tensor->dtype != DType::kI64)
    return BadInput("the tracker names no step")
        .File(path)
        .Expected("an int64 tensor \"step\"")
        .Found("none")
        .Advice("name the iteration's directory itself");
  MIMO_ASSIGN_OR_RETURN(const TensorPlace place, PlaceOf(saved, *tensor, path));
  int64_t value = -1;
  MIMO_ASSIGN_OR_RETURN(const std::string bytes, ReadSmallTensor(*file, place, path));
  if (bytes.size() == sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
  if (value < 0)
    return BadInput("the tracker names no step")
        .File(path)
        .Expected("a step of 0 or more")
        .Found(std::to_string(value));
  return MegatronIterationDirectory(value);
}

// Whether there is a metadata.json of Megatron-Core's, not some other file of that name. kBadInput: of another back
// end.
Result<bool> HasBackend(FileSystem& fs, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const bool there, Exists(fs, path));
  if (!there) return false;
  MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, path, kMaxJsonBytes));
  // Some other file of that name need not be JSON.
  const Result<nlohmann::json> json = ParseJson<nlohmann::json>(text, path, {.string_bytes = kMaxJsonBytes});
  if (!json.ok()) return false;
  const auto backend = json.value().find("sharded_backend");  // the end where this is no object
  if (backend == json.value().end()) return false;
  if (*backend == "torch_dist") return true;
  return BadInput("a distributed checkpoint of another back end")
      .File(path)
      .Expected("\"sharded_backend\": \"torch_dist\"")
      .Found(backend->dump())
      .Advice("save it with --ckpt-format torch_dist");
}

// nullopt when the directory is of no format.
Result<std::optional<FormKind>> FormatOf(FileSystem& fs, const std::string& directory) {
  MIMO_ASSIGN_OR_RETURN(const bool json, HasBackend(fs, JoinPath(directory, kMegatronMetadataName)));
  MIMO_ASSIGN_OR_RETURN(const bool metadata, Exists(fs, JoinPath(directory, kDcpMetadataName)));
  const auto lacks_metadata = [&](const std::string& beside) {
    return BadInput("a distributed checkpoint without its metadata")
        .File(JoinPath(directory, kDcpMetadataName))
        .Expected(".metadata beside " + beside)
        .Found("no such file")
        .Advice(kHalfWritten);
  };
  if (json && !metadata) return lacks_metadata(kMegatronMetadataName);
  if (metadata) return std::optional(json ? FormKind::kTorchDist : FormKind::kDcp);
  MIMO_ASSIGN_OR_RETURN(const auto names, fs.List(directory));
  for (const std::string& name : names) {
    if (name.starts_with("mp_rank_")) return std::optional(FormKind::kTorch);
    if (name.ends_with(".distcp")) return lacks_metadata(name);
  }
  return std::optional<FormKind>();
}

class DcpReader {
 public:
  DcpReader(FileSystem& fs, const std::string& directory, MegatronStore* store)
      : fs_(fs), directory_(directory), store_(*store), stored_(store->stored) {}

  Status Read() {
    const std::string relative = Prefix() + kDcpMetadataName;
    const std::string path = JoinPath(stored_.root, relative);
    MIMO_ASSIGN_OR_RETURN(const std::string pickle, ReadWholeFile(fs_, path, kMaxMetadataBytes));
    MIMO_ASSIGN_OR_RETURN(const DcpMetadata metadata, ReadDcpMetadata(pickle, path));
    hash_ = HashBytes(std::as_bytes(std::span(pickle)));
    MIMO_ASSIGN_OR_RETURN(const MegatronForm* form, MegatronForm::Get(*stored_.config.family));
    for (const auto& foreign : metadata.foreign) {
      if (IsTrainingState(foreign.key) || !form->Identify(foreign.key)) {
        store_.skipped.push_back(foreign.key);
        continue;
      }
      return BadInput("a weight of a type that cannot be read")
          .File(path)
          .Tensor(foreign.key)
          .Expected("BF16, F32, F16 or FP8")
          .Found(foreign.dtype);
    }
    bool nested = false, model = false;
    std::vector<const DcpTensor*> wanted;
    for (const DcpTensor& tensor : metadata.tensors) {
      if (IsTrainingState(tensor.key)) {
        store_.skipped.push_back(tensor.key);
        continue;
      }
      const bool ours = form->Identify(tensor.key).has_value();
      model |= ours;
      const std::string top = tensor.key.substr(0, tensor.key.find('.'));
      nested |= ours && (top == "model" || top == "module" || VirtualPart(top) >= 0);
      wanted.push_back(&tensor);
    }
    if (!model)
      return BadInput("no tensor of a language model")
          .File(path)
          .Expected("keys such as decoder.layers.0.self_attention.linear_qkv.weight")
          .Found(wanted.empty() ? "no tensors" : wanted[0]->key)
          .Advice("name the directory of a Megatron checkpoint");
    // torch_dist writes metadata.json last; the formats without it name their tensors below "model".
    if (store_.format == FormKind::kDcp && !nested)
      return BadInput("a torch_dist checkpoint without metadata.json")
          .File(JoinPath(stored_.root, Prefix() + kMegatronMetadataName))
          .Expected("metadata.json beside .metadata")
          .Found("no such file")
          .Advice(kHalfWritten);
    MIMO_RETURN_IF_ERROR(CheckRanges(metadata, path));
    for (const DcpTensor* tensor : wanted) MIMO_RETURN_IF_ERROR(Add(*tensor, *form));
    return ReadArguments(metadata);
  }

 private:
  std::string Prefix() const { return directory_.empty() ? "" : directory_ + "/"; }

  // common.pt, or else the item that megatron-core 0.19 has in its place, and run_config.yaml of Megatron-Bridge
  // (reference target-layouts.md 2.2, 2.3).
  Status ReadArguments(const DcpMetadata& metadata) {
    const auto path_of = [&](const std::string& name) { return JoinPath(stored_.root, Prefix() + name); };
    MIMO_ASSIGN_OR_RETURN(const bool common, Exists(fs_, path_of(kCommonStateName)));
    // What was saved with the weights may be anything: where it cannot be read, people are told.
    const auto take = [&](const Result<TorchFile>& saved, const std::string& place) -> Status {
      if (saved.ok())
        TakeArguments(saved.value().value, place, &store_.arguments);
      else if (saved.error().code == ErrorCode::kBadInput)
        store_.arguments.unread = saved.error().Message();
      else
        return saved.error();
      return {};
    };
    if (common) {
      MIMO_ASSIGN_OR_RETURN(const auto file, fs_.OpenForRead(path_of(kCommonStateName)));
      MIMO_RETURN_IF_ERROR(take(ReadTorchFile(*file, path_of(kCommonStateName)), kCommonStateName));
    }
    const auto is_state = [](const DcpBytes& item) { return item.key.starts_with(kCommonStateItem); };
    const auto item = std::find_if(metadata.bytes.begin(), metadata.bytes.end(), is_state);
    if (!common && item != metadata.bytes.end()) {
      const std::string path = path_of(item->range.file);
      MIMO_ASSIGN_OR_RETURN(const auto file, fs_.OpenForRead(path));
      MIMO_RETURN_IF_ERROR(take(ReadTorchFile(*file, item->range.offset, item->range.bytes, path), item->key));
    }
    MIMO_ASSIGN_OR_RETURN(const bool config, Exists(fs_, path_of(kRunConfigName)));
    if (!config) return {};
    MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs_, path_of(kRunConfigName), kMaxJsonBytes));
    TakeRunConfig(text, &store_.arguments);
    return {};
  }

  // Nothing is saved twice: a range that two parts name is the one of a damaged .metadata, which has no checksum.
  static Status CheckRanges(const DcpMetadata& metadata, const std::string& path) {
    struct Range {
      const DcpRange* range;
      const std::string* key;
    };
    std::vector<Range> ranges;
    for (const DcpTensor& tensor : metadata.tensors)
      for (const DcpChunk& chunk : tensor.chunks) ranges.push_back({&chunk.range, &tensor.key});
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
      return std::tie(a.range->file, a.range->offset) < std::tie(b.range->file, b.range->offset);
    });
    for (size_t i = 1; i < ranges.size(); ++i) {
      const DcpRange &a = *ranges[i - 1].range, &b = *ranges[i].range;
      if (a.file != b.file || b.offset - a.offset >= a.bytes) continue;
      return BadInput("parts of tensors that overlap in their file")
          .File(path)
          .Tensor(*ranges[i].key)
          .Expected("an item of its own")
          .Found("bytes of " + *ranges[i - 1].key + " in " + a.file)
          .Advice(kHalfWritten);
    }
    return {};
  }

  Status Add(const DcpTensor& tensor, const MegatronForm& form) {
    SavedTensor saved{tensor.key, form.Identify(tensor.key), tensor.dtype, tensor.shape, {}};
    for (const DcpChunk& chunk : tensor.chunks) {
      MIMO_ASSIGN_OR_RETURN(const uint32_t file, Open(chunk.range.file));
      const std::string path = JoinPath(stored_.root, stored_.files[file].name);
      const auto end = chunk.range.offset + chunk.range.bytes;
      if (end < chunk.range.offset || end > stored_.files[file].bytes)
        return BadInput("a file is shorter than .metadata says")
            .File(path)
            .Expected(std::to_string(end) + " bytes or more")
            .Found(std::to_string(stored_.files[file].bytes) + " bytes")
            .Advice(kHalfWritten);
      MIMO_ASSIGN_OR_RETURN(const TensorPlace place,
                            ReadTorchItem(*handle_, chunk.range.offset, chunk.range.bytes, path));
      const std::string name = ChunkName(tensor.key, chunk.offsets);
      if (place.dtype != tensor.dtype || place.shape != chunk.sizes)
        return BadInput("an item holds another tensor than .metadata says")
            .File(path)
            .Tensor(name)
            .Expected(std::string(DTypeName(tensor.dtype)))
            .Found(std::string(DTypeName(place.dtype)) + " or another shape")
            .Advice(kHalfWritten);
      saved.chunks.push_back({AddStored(name, file, place, &stored_), 0, chunk.offsets, chunk.sizes});
    }
    store_.tensors.push_back(std::move(saved));
    return {};
  }

  // Leaves the file open in handle_.
  Result<uint32_t> Open(const std::string& name) {
    const auto [known, fresh] = files_.emplace(name, static_cast<uint32_t>(stored_.files.size()));
    if (fresh) {
      CatalogueFile file;
      file.name = Prefix() + name;
      MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(JoinPath(stored_.root, file.name)));
      if (!info)
        return BadInput("a file that .metadata names is missing")
            .File(JoinPath(stored_.root, file.name))
            .Expected("the file")
            .Found("none")
            .Advice(kHalfWritten);
      file.bytes = info->size;
      file.stamp = {info->mtime_ns, info->inode};
      file.header_hash = hash_;
      stored_.files.push_back(std::move(file));
    }
    if (open_ != known->second) {
      MIMO_ASSIGN_OR_RETURN(handle_, fs_.OpenForRead(JoinPath(stored_.root, stored_.files[known->second].name)));
      open_ = known->second;
    }
    return known->second;
  }

  FileSystem& fs_;
  const std::string directory_;
  MegatronStore& store_;
  Catalogue& stored_;
  Hash128 hash_;
  std::map<std::string, uint32_t> files_;
  std::unique_ptr<ReadableFile> handle_;
  uint32_t open_ = kNone;
};

// Tensors may be parts of one storage: an item for each becomes one for all, by place.
void JoinItems(Catalogue* stored) {
  const auto place = [](const StoredItem& item) { return std::tie(item.file, item.begin, item.bytes); };
  std::vector<uint32_t> order(stored->items.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return place(stored->items[a]) < place(stored->items[b]); });
  std::vector<StoredItem> joined;
  std::vector<uint32_t> moved(order.size());
  for (const uint32_t i : order) {
    if (joined.empty() || place(joined.back()) != place(stored->items[i])) joined.push_back(stored->items[i]);
    moved[i] = static_cast<uint32_t>(joined.size() - 1);
  }
  for (StoredArray& array : stored->arrays)
    if (array.item != kNone) array.item = moved[array.item];
  stored->items = std::move(joined);
}

// Arrays are sorted by name; chunks follow them.
Status Finish(MegatronStore* store) {
  JoinItems(&store->stored);
  const std::vector<StoredArray> before = store->stored.arrays;
  MIMO_RETURN_IF_ERROR(SortArrays(&store->stored));
  std::vector<uint32_t> moved(before.size());
  for (size_t i = 0; i < before.size(); ++i) moved[i] = store->stored.by_name.at(before[i].name);
  for (SavedTensor& tensor : store->tensors)
    for (MegatronChunk& chunk : tensor.chunks) chunk.array = moved[chunk.array];
  for (Replica& replica : store->replicas) {
    replica.first = moved[replica.first];
    replica.second = moved[replica.second];
  }
  return {};
}

// config.json, tokenizer and code lie in the root of an iteration, or nowhere: then `like` has them.
Result<Catalogue> Shell(FileSystem& fs, const std::string& root, const std::string& directory, const Catalogue* like) {
  MIMO_ASSIGN_OR_RETURN(const bool own, Exists(fs, JoinPath(root, kConfigName)));
  if (like == nullptr && !own)
    return BadInput("a training checkpoint does not say what model it is of")
        .File(root)
        .Expected("config.json beside it")
        .Found("none")
        .Advice("--like REF takes config, code and tokenizer from a Hugging Face checkpoint of the same model");
  if (like != nullptr) {
    Catalogue shell;
    shell.root = root;
    shell.config = like->config;
    shell.table = like->table;
    return shell;
  }
  MIMO_ASSIGN_OR_RETURN(Catalogue shell, OpenWithoutTensors(fs, root));
  std::erase_if(shell.carried, [&](const CarriedFile& file) {
    const std::string top = file.name.substr(0, file.name.find('/'));
    return top.starts_with("iter_") || top == "release" || top == directory || top == kTrackerName ||
           top == kLatestTrainStateName || top.starts_with("mp_rank_") || top.ends_with(".distcp") ||
           top == kDcpMetadataName || top == kMegatronMetadataName || top == kCommonStateName || top == "progress.txt";
  });
  return shell;
}

}  // namespace

uint32_t AddStored(std::string name, uint32_t file, const TensorPlace& place, Catalogue* stored) {
  const auto item = static_cast<uint32_t>(stored->items.size());
  stored->items.push_back({file, place.storage.begin, place.storage.bytes, place.storage.crc});
  stored->arrays.push_back({std::move(name), place.dtype, place.shape, file, place.begin, place.bytes, {}, item});
  return static_cast<uint32_t>(stored->arrays.size() - 1);
}

Result<std::optional<MegatronPlace>> FindMegatron(FileSystem& fs, const std::string& root) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(root));
  if (!info || info->kind != FileKind::kDirectory) return std::optional<MegatronPlace>();
  MIMO_ASSIGN_OR_RETURN(const bool tracker, Exists(fs, JoinPath(root, kTrackerName)));
  MIMO_ASSIGN_OR_RETURN(const bool bridge, Exists(fs, JoinPath(root, kLatestTrainStateName)));
  if (tracker || bridge) {
    MegatronPlace place;
    MIMO_ASSIGN_OR_RETURN(place.directory, tracker ? Tracked(fs, JoinPath(root, kTrackerName))
                                                   : TrackedByBridge(fs, JoinPath(root, kLatestTrainStateName)));
    const std::string path = JoinPath(root, place.directory);
    MIMO_ASSIGN_OR_RETURN(const bool there, Exists(fs, path));
    if (!there)
      return BadInput("the tracker names an iteration that is not there")
          .File(path)
          .Expected("its directory")
          .Found("none")
          .Advice("name another iteration's directory itself");
    MIMO_ASSIGN_OR_RETURN(const std::optional<FormKind> format, FormatOf(fs, path));
    if (!format)
      return BadInput("the iteration that the tracker names is not complete")
          .File(path)
          .Expected("metadata.json, or mp_rank_* directories")
          .Found("none")
          .Advice(kHalfWritten);
    place.format = *format;
    return std::optional(place);
  }
  MIMO_ASSIGN_OR_RETURN(const std::optional<FormKind> format, FormatOf(fs, root));
  if (format) return std::optional(MegatronPlace{"", *format});
  MIMO_ASSIGN_OR_RETURN(const auto names, fs.List(root));
  const auto is_tensors = [](const std::string& name) { return name.ends_with(".safetensors"); };
  if (std::any_of(names.begin(), names.end(), is_tensors)) return std::optional<MegatronPlace>();
  for (const std::string& name : names)
    if (name == "release" || (name.starts_with("iter_") && name.size() >= 12))
      return BadInput("iterations without a tracker")
          .File(JoinPath(root, kTrackerName))
          .Expected("the tracker that a complete save leaves")
          .Found("no such file")
          .Advice("name the iteration's directory itself, such as " + JoinPath(root, name));
  return std::optional<MegatronPlace>();
}

Result<MegatronStore> OpenMegatron(FileSystem& fs, const std::string& root, const MegatronPlace& place,
                                   const Catalogue* like) {
  MegatronStore store;
  store.format = place.format;
  MegatronPlace from = place;
  std::string base = root;
  if (place.directory.empty() && like == nullptr) {  // an iteration: its root may have the config
    MIMO_ASSIGN_OR_RETURN(const bool own, Exists(fs, JoinPath(root, kConfigName)));
    const auto last = [](const std::string& path) { return path.substr(path.rfind('/') + 1); };
    std::string bare = root;
    while (bare.size() > 1 && bare.back() == '/') bare.pop_back();
    if (last(bare) == "." || last(bare) == "..") {
      MIMO_ASSIGN_OR_RETURN(bare, fs.RealPath(bare));
    }
    const std::string name = last(bare);
    const size_t slash = bare.size() - name.size();  // behind it
    const std::string parent = slash == 0 ? "." : slash == 1 ? "/" : bare.substr(0, slash - 1);
    MIMO_ASSIGN_OR_RETURN(const bool beside, Exists(fs, JoinPath(parent, kConfigName)));
    if (!own && beside) {
      base = parent;
      from.directory = name;
    }
  }
  MIMO_ASSIGN_OR_RETURN(store.stored, Shell(fs, base, from.directory, like));
  if (place.format == FormKind::kTorch) {
    MIMO_RETURN_IF_ERROR(ReadLegacy(fs, from.directory, &store));
  } else {
    MIMO_RETURN_IF_ERROR(DcpReader(fs, from.directory, &store).Read());
  }
  MIMO_RETURN_IF_ERROR(Finish(&store));
  return store;
}

}  // namespace mimo
