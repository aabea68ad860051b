#include <algorithm>
#include <string>
#include <tuple>

#include "lib/io/tensor_info.h"
#include "lib/io/torch/dcp_metadata.h"
#include "lib/io/torch/dcp_tiling.h"
#include "lib/io/torch/pickle_reader.h"
#include "lib/io/torch/text.h"

namespace mimo {
namespace {

using Id = TorchGlobalId;

// An entry of storage_data.
struct Place {
  std::string_view key;
  bool chunk = false;  // of a tensor: has offsets
  std::vector<int64_t> offsets;
  DcpRange range;
};

bool Before(const Place& a, const Place& b) {
  return std::tie(a.key, a.chunk, a.offsets) < std::tie(b.key, b.chunk, b.offsets);
}

class MetadataReader {
 public:
  MetadataReader(const Pickle& pickle, const std::string& path) : pickle_(pickle), path_(path) {}

  Result<DcpMetadata> Read() {
    const PickleNode* state = pickle_.StateOf(pickle_.root(), Id::kMetadata);
    const PickleNode* items = pickle_.Find(state, "state_dict_metadata");
    const PickleNode* places = pickle_.Find(state, "storage_data");
    if (!Is(items, PickleKind::kDict) || !Is(places, PickleKind::kDict)) {
      return Bad("it is no metadata of a distributed checkpoint", "")
          .Expected("Metadata with state_dict_metadata, storage_data");
    }
    MIMO_RETURN_IF_ERROR(ReadItems(*items));
    MIMO_RETURN_IF_ERROR(ReadPlaces(*places));
    MIMO_RETURN_IF_ERROR(CheckKeys());
    MIMO_RETURN_IF_ERROR(PlaceAll());
    return std::move(metadata_);
  }

 private:
  Error Bad(std::string what, std::string_view key) const {
    return BadTorchFile(path_, std::move(what)).Tensor(PrintableText(key));
  }

  static bool Is(const PickleNode* node, PickleKind kind) { return node != nullptr && node->kind == kind; }

  Status CheckName(std::string_view key, std::string_view name) const {
    if (name.size() <= kMaxNameBytes) return {};
    return Bad("a name is too long", key)
        .Expected(std::to_string(kMaxNameBytes) + " bytes at most")
        .Found(std::to_string(name.size()));
  }

  // ---- state_dict_metadata

  Status ReadItems(const PickleNode& items) {
    for (size_t i = 0; i + 1 < items.count; i += 2) {
      const PickleNode& key = pickle_.at(pickle_.ItemsOf(items)[i]);
      const PickleNode& item = pickle_.at(pickle_.ItemsOf(items)[i + 1]);
      if (key.kind != PickleKind::kString) return Bad("a key of state_dict_metadata is no string", "");
      // Keys that differ take their room in the pickle; one that is named again and again would take it here.
      const std::string_view name = pickle_.TextOf(key);
      key_bytes_ += name.size();
      if (key_bytes_ > pickle_.bytes()) return Bad("it appears twice", name);
      MIMO_RETURN_IF_ERROR(CheckName(name, name));
      if (item.kind == PickleKind::kObject && pickle_.GlobalOf(item) == Id::kBytesStorageMetadata) {
        metadata_.bytes.push_back({std::string(pickle_.TextOf(key)), {}});
      } else {
        MIMO_RETURN_IF_ERROR(ReadTensor(pickle_.TextOf(key), item));
      }
    }
    return {};
  }

  Status ReadTensor(std::string_view key, const PickleNode& item) {
    const PickleNode* state = pickle_.StateOf(item, Id::kTensorStorageMetadata);
    const PickleNode* properties = pickle_.Find(state, "properties");
    const PickleNode* size = pickle_.Find(state, "size");
    const PickleNode* chunks = pickle_.Find(state, "chunks");
    if (properties == nullptr || size == nullptr || !Is(chunks, PickleKind::kList)) {
      return Bad("it is neither a tensor nor a byte item", key).Expected("properties, size and chunks");
    }
    DcpTensor tensor;
    tensor.key = key;
    const auto shape = pickle_.Integers(size);
    if (!shape || !ElementsOf(*shape)) return Bad("its size is no shape", key);
    tensor.shape = *shape;
    MIMO_ASSIGN_OR_RETURN(const TorchGlobal* dtype, ReadDType(key, *properties));
    tensor.dtype = dtype->dtype.value_or(DType::kU8);
    tensor.chunks.reserve(chunks->count);
    for (const PickleId id : pickle_.ItemsOf(*chunks)) {
      const PickleNode* chunk = pickle_.StateOf(pickle_.at(id), Id::kChunkStorageMetadata);
      auto offsets = pickle_.Integers(pickle_.Find(chunk, "offsets"));
      auto sizes = pickle_.Integers(pickle_.Find(chunk, "sizes"));
      if (!offsets || !sizes) return Bad("a chunk lacks its offsets or sizes", key);
      tensor.chunks.push_back({*std::move(offsets), *std::move(sizes), {}});
    }
    tensors_.push_back({std::move(tensor), dtype->dtype ? std::string_view() : dtype->name});
    return {};
  }

  // TensorProperties: (dtype, layout, requires_grad, memory format, pin_memory[, strides]).
  Result<const TorchGlobal*> ReadDType(std::string_view key, const PickleNode& properties) const {
    const PickleNode* state = pickle_.StateOf(properties, Id::kTensorProperties);
    const bool known = Is(state, PickleKind::kTuple) && state->count >= 5 &&
                       pickle_.at(pickle_.ItemsOf(*state)[0]).kind == PickleKind::kGlobal;
    if (!known) return Bad("its properties are not known", key).Expected("(dtype, layout, ...)");
    const TorchGlobal& dtype = GlobalOf(static_cast<Id>(pickle_.at(pickle_.ItemsOf(*state)[0]).integer));
    if (dtype.use != TorchUse::kDType) {
      return Bad("its dtype is not one", key).Found(std::string(dtype.module) + "." + std::string(dtype.name));
    }
    return &dtype;
  }

  // ---- storage_data

  Status ReadPlaces(const PickleNode& places) {
    places_.reserve(places.count / 2);
    for (size_t i = 0; i + 1 < places.count; i += 2) {
      const PickleNode* index = pickle_.StateOf(pickle_.at(pickle_.ItemsOf(places)[i]), Id::kMetadataIndex);
      const PickleNode* info = pickle_.StateOf(pickle_.at(pickle_.ItemsOf(places)[i + 1]), Id::kStorageInfo);
      const PickleNode* key = pickle_.Find(index, "fqn");
      if (!Is(key, PickleKind::kString) || info == nullptr) {
        return Bad("storage_data is not as known", "").Expected("MetadataIndex and _StorageInfo");
      }
      Place place;
      place.key = pickle_.TextOf(*key);
      const PickleNode* offset = pickle_.Find(index, "offset");
      if (offset != nullptr && offset->kind != PickleKind::kNone) {
        auto offsets = pickle_.Integers(offset);
        if (!offsets) return Bad("a place has an offset that is none", pickle_.TextOf(*key));
        place.chunk = true;
        place.offsets = std::move(*offsets);
      }
      MIMO_ASSIGN_OR_RETURN(place.range, ReadRange(pickle_.TextOf(*key), *info));
      places_.push_back(std::move(place));
    }
    std::sort(places_.begin(), places_.end(), Before);
    for (size_t i = 1; i < places_.size(); ++i) {
      if (!Before(places_[i - 1], places_[i])) return Bad("it has two places for one chunk", places_[i].key);
    }
    return {};
  }

  Result<DcpRange> ReadRange(std::string_view key, const PickleNode& info) const {
    const PickleNode* file = pickle_.Find(&info, "relative_path");
    const PickleNode* offset = pickle_.Find(&info, "offset");
    const PickleNode* length = pickle_.Find(&info, "length");
    const auto count = [](const PickleNode* node) { return Is(node, PickleKind::kInt) && node->integer >= 0; };
    if (!Is(file, PickleKind::kString) || !count(offset) || !count(length)) {
      return Bad("its place is not as known", key).Expected("relative_path, offset and length");
    }
    MIMO_RETURN_IF_ERROR(CheckName(key, pickle_.TextOf(*file)));
    if (!IsInnerPath(pickle_.TextOf(*file))) {
      return Bad("its file name leaves the directory", key)
          .Expected("a name below it")
          .Found(PrintableText(pickle_.TextOf(*file)));
    }
    const PickleNode* transforms = pickle_.Find(&info, "transform_descriptors");
    if (transforms != nullptr && transforms->kind != PickleKind::kNone &&
        (transforms->kind != PickleKind::kList || transforms->count != 0)) {
      return Bad("it was stored through transforms (compression)", key).Expected("items as they are");
    }
    return DcpRange{std::string(pickle_.TextOf(*file)), static_cast<uint64_t>(offset->integer),
                    static_cast<uint64_t>(length->integer)};
  }

  // ---- both together

  Status CheckKeys() {
    const auto by_key = [](const auto& a, const auto& b) { return a.key < b.key; };
    std::sort(metadata_.bytes.begin(), metadata_.bytes.end(), by_key);
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorItem& a, const TensorItem& b) { return a.tensor.key < b.tensor.key; });
    std::vector<std::string_view> keys;
    keys.reserve(tensors_.size() + metadata_.bytes.size());
    for (const TensorItem& read : tensors_) keys.emplace_back(read.tensor.key);
    for (const DcpBytes& item : metadata_.bytes) keys.emplace_back(item.key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) return Bad("it appears twice", *twice);
    return {};
  }

  // Places and items are sorted by key; each key takes its run of places.
  Status PlaceAll() {
    auto tensor = tensors_.begin();
    auto bytes = metadata_.bytes.begin();
    size_t at = 0;
    while (tensor != tensors_.end() || bytes != metadata_.bytes.end()) {
      const bool is_tensor =
          bytes == metadata_.bytes.end() || (tensor != tensors_.end() && tensor->tensor.key < bytes->key);
      const std::string_view key = is_tensor ? tensor->tensor.key : bytes->key;
      if (at < places_.size() && places_[at].key < key) return Bad("it has a place but is not listed", places_[at].key);
      size_t end = at;
      while (end < places_.size() && places_[end].key == key) ++end;
      const std::span<Place> places(places_.data() + at, end - at);
      if (is_tensor) {
        MIMO_RETURN_IF_ERROR(PlaceTensor(&*tensor++, places));
      } else {
        if (places.size() != 1 || places[0].chunk) return Bad("a byte item needs one place without an offset", key);
        bytes++->range = std::move(places[0].range);
      }
      at = end;
    }
    if (at < places_.size()) return Bad("it has a place but is not listed", places_[at].key);
    return {};
  }

  struct TensorItem {
    DcpTensor tensor;
    std::string_view foreign;  // name of a dtype that is none of ours
  };

  // Chunks without elements may stand where others stand, and have a place or none.
  Status PlaceTensor(TensorItem* read, std::span<Place> places) {
    DcpTensor& tensor = read->tensor;
    std::vector<std::vector<int64_t>> empty;
    std::erase_if(tensor.chunks, [&](const DcpChunk& chunk) {
      const bool none = ElementsOf(chunk.sizes) == 0;
      if (none) empty.push_back(chunk.offsets);
      return none;
    });
    std::sort(empty.begin(), empty.end());
    const std::string why = WhyNotTiled(tensor.shape, tensor.chunks);
    if (!why.empty()) return Bad("its chunks do not tile it", tensor.key).Expected("each element once").Found(why);
    std::sort(tensor.chunks.begin(), tensor.chunks.end(),
              [](const DcpChunk& a, const DcpChunk& b) { return a.offsets < b.offsets; });
    auto chunk = tensor.chunks.begin();
    for (Place& place : places) {
      if (place.chunk && chunk != tensor.chunks.end() && chunk->offsets == place.offsets) {
        chunk++->range = std::move(place.range);
      } else if (!place.chunk || !std::binary_search(empty.begin(), empty.end(), place.offsets)) {
        return Bad("it has a place without a chunk, or a chunk without a place", tensor.key);
      }
    }
    if (chunk != tensor.chunks.end()) return Bad("a chunk has no place", tensor.key);
    if (read->foreign.empty()) {
      metadata_.tensors.push_back(std::move(tensor));
    } else {
      metadata_.foreign.push_back({std::move(tensor.key), std::string(read->foreign)});
    }
    return {};
  }

  const Pickle& pickle_;
  const std::string& path_;
  DcpMetadata metadata_;
  std::vector<TensorItem> tensors_;
  uint64_t key_bytes_ = 0;
  std::vector<Place> places_;
};

}  // namespace

Result<DcpMetadata> ReadDcpMetadata(std::string_view pickle, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const Pickle nodes, ReadPickle(pickle, path));
  return MetadataReader(nodes, path).Read();
}

}  // namespace mimo
