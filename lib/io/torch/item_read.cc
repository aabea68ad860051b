// What is read: items of one tensor, and whole files.
#include <algorithm>

#include "lib/base/checked.h"
#include "lib/base/crc32.h"
#include "lib/io/torch/item.h"
#include "lib/io/torch/pickle_reader.h"
#include "lib/io/torch/text.h"
#include "lib/io/torch/zip.h"

namespace mimo {
namespace {

constexpr uint64_t kMaxItemPickle = 1U << 20U;
constexpr uint64_t kMaxFilePickle = 1U << 28U;
constexpr uint64_t kMaxSmallTensor = 1U << 20U;

// A zip whose entries are those of one torch.save.
struct Archive {
  StoredZip zip;
  std::string base;  // with the slash
};

Result<Archive> OpenArchive(const ReadableFile& file, uint64_t offset, uint64_t length, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(StoredZip zip, StoredZip::Open(file, offset, length, path));
  if (zip.entries().empty()) return BadTorchFile(path, "the zip is empty");
  const std::string& any = zip.entries().front().name;
  const std::string base = any.substr(0, any.find('/')) + "/";
  for (const ZipEntry& entry : zip.entries()) {
    if (entry.name.starts_with(base)) continue;
    return BadTorchFile(path, "the zip has entries of two names")
        .Expected(PrintableText(base))
        .Found(PrintableText(entry.name));
  }
  if (zip.Find(base + "data.pkl") == nullptr) {
    return BadTorchFile(path, "the zip has no pickle").Expected(PrintableText(base) + "data.pkl");
  }
  const ZipEntry* version = zip.Find(base + "version");
  if (version == nullptr) return BadTorchFile(path, "the zip has no version");
  MIMO_ASSIGN_OR_RETURN(const std::string version_text, zip.Content(*version, 64));
  if (version_text != "3\n") {
    return BadTorchFile(path, "unknown version of torch.save").Expected("3").Found(PrintableText(version_text));
  }
  if (const ZipEntry* order = zip.Find(base + "byteorder")) {
    MIMO_ASSIGN_OR_RETURN(const std::string order_text, zip.Content(*order, 64));
    if (order_text != "little")
      return BadTorchFile(path, "unknown byte order").Expected("little").Found(PrintableText(order_text));
  }
  return Archive{std::move(zip), base};
}

Result<Pickle> ReadArchivePickle(const Archive& archive, uint64_t limit, const std::string& path, std::string* bytes,
                                 UnknownNames unknown = UnknownNames::kRefuse) {
  MIMO_ASSIGN_OR_RETURN(*bytes, archive.zip.Content(*archive.zip.Find(archive.base + "data.pkl"), limit));
  return ReadPickle(*bytes, path, unknown);
}

Result<TensorPlace> PlaceIn(const TorchTensor& tensor, TorchStorage storage, const std::string& path) {
  const uint64_t bytes = storage.bytes;
  const auto size = TensorBytes(tensor.dtype, tensor.shape);
  const uint64_t element = BitsPerElement(tensor.dtype) / 8;
  const auto offset = CheckedMul(static_cast<uint64_t>(tensor.offset), element);
  if (!size || !offset || *offset > bytes || *size > bytes - *offset) {
    return BadTorchFile(path, "a tensor reaches beyond its storage " + PrintableText(tensor.storage))
        .Expected(std::to_string(bytes) + " bytes at most");
  }
  if (CheckedMul(static_cast<uint64_t>(tensor.storage_elements), element) != bytes) {
    return BadTorchFile(path, "storage " + PrintableText(tensor.storage) + " has another size than its tensor says")
        .Expected(std::to_string(tensor.storage_elements) + " elements")
        .Found(std::to_string(bytes) + " bytes");
  }
  if (!tensor.contiguous()) return BadTorchFile(path, "a tensor is not contiguous");
  const uint64_t begin = storage.begin + *offset;
  return TensorPlace{tensor.dtype, tensor.shape, begin, *size, std::move(storage)};
}

}  // namespace

Result<TensorPlace> ReadTorchItem(ReadableFile& file, uint64_t offset, uint64_t length, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const Archive archive, OpenArchive(file, offset, length, path));
  std::string bytes;
  MIMO_ASSIGN_OR_RETURN(const Pickle pickle, ReadArchivePickle(archive, kMaxItemPickle, path, &bytes));
  MIMO_ASSIGN_OR_RETURN(const TorchValue value, ValueOf(pickle, path));
  const auto* tensor = std::get_if<TorchTensor>(&value.data);
  if (tensor == nullptr) {
    return BadTorchFile(path, "the item at byte " + std::to_string(offset) + " is not a tensor of a known dtype");
  }
  const ZipEntry* data = archive.zip.Find(archive.base + "data/" + tensor->storage);
  if (data == nullptr) return BadTorchFile(path, "no storage " + PrintableText(tensor->storage));
  return PlaceIn(*tensor, {tensor->storage, data->begin, data->bytes, data->crc}, path);
}

Result<TorchFile> ReadTorchFile(ReadableFile& file, const std::string& path) {
  return ReadTorchFile(file, 0, file.size(), path);
}

Result<TorchFile> ReadTorchFile(ReadableFile& file, uint64_t offset, uint64_t length, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const Archive archive, OpenArchive(file, offset, length, path));
  std::string bytes;
  MIMO_ASSIGN_OR_RETURN(const Pickle pickle,
                        ReadArchivePickle(archive, kMaxFilePickle, path, &bytes, UnknownNames::kInert));
  TorchFile out;
  MIMO_ASSIGN_OR_RETURN(out.value, ValueOf(pickle, path));
  const std::string prefix = archive.base + "data/";
  for (const ZipEntry& entry : archive.zip.entries()) {  // by name, so by key
    if (entry.name.starts_with(prefix)) {
      out.storages.push_back({entry.name.substr(prefix.size()), entry.begin, entry.bytes, entry.crc});
    }
  }
  return out;
}

Result<TensorPlace> PlaceOf(const TorchFile& file, const TorchTensor& tensor, const std::string& path) {
  const auto it =
      std::lower_bound(file.storages.begin(), file.storages.end(), tensor.storage,
                       [](const TorchStorage& storage, const std::string& key) { return storage.key < key; });
  if (it == file.storages.end() || it->key != tensor.storage) {
    return BadTorchFile(path, "no storage " + PrintableText(tensor.storage));
  }
  return PlaceIn(tensor, *it, path);
}

Result<std::string> ReadSmallTensor(const ReadableFile& file, const TensorPlace& place, const std::string& path) {
  const TorchStorage& storage = place.storage;
  if (storage.bytes > kMaxSmallTensor)
    return BadTorchFile(path, "storage " + PrintableText(storage.key) + " is too long")
        .Expected(std::to_string(kMaxSmallTensor) + " bytes at most")
        .Found(storage.bytes);
  std::string bytes(storage.bytes, '\0');
  MIMO_RETURN_IF_ERROR(file.ReadAt(storage.begin, std::as_writable_bytes(std::span(bytes))));
  const uint32_t found = Crc32(std::as_bytes(std::span(bytes)));
  if (HoldsChecksum(storage.crc, storage.bytes) && found != storage.crc)
    return BadChecksum(path, "storage " + PrintableText(storage.key), storage.crc, found);
  return bytes.substr(place.begin - storage.begin, place.bytes);
}

}  // namespace mimo
