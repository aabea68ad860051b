#include "lib/io/torch/container.h"

#include "lib/io/torch/item.h"

namespace mimo {
namespace {

// The CRC-32 that the head of an item says: it stands where heads for different CRCs differ.
uint32_t ChecksumIn(const std::string& head, const TensorInfo& array) {
  const TorchItemFrame zero = FrameOfTorchItem(array.dtype, array.shape, 0);
  const TorchItemFrame ones = FrameOfTorchItem(array.dtype, array.shape, 0xFFFFFFFFu);
  uint32_t crc = 0;
  for (size_t i = 0, bit = 0; i < head.size(); ++i) {
    if (zero.head[i] == ones.head[i]) continue;
    crc |= static_cast<uint32_t>(static_cast<unsigned char>(head[i])) << bit;
    bit += 8;
  }
  return crc;
}

// All of the item at `at` but its data is what dtype and shape say, with one CRC at both places.
Result<bool> HasFrame(const ReadableFile& in, uint64_t at, const TensorInfo& array, const TorchItemSize& size) {
  std::string head(size.head, '\0'), tail(size.tail, '\0');
  MIMO_RETURN_IF_ERROR(in.ReadAt(at, std::as_writable_bytes(std::span(head))));
  MIMO_RETURN_IF_ERROR(in.ReadAt(at + size.head + size.data, std::as_writable_bytes(std::span(tail))));
  const TorchItemFrame frame = FrameOfTorchItem(array.dtype, array.shape, ChecksumIn(head, array));
  return head == frame.head && tail == frame.tail;
}

class TorchItems final : public Container {
 public:
  std::string_view word() const override { return "torch-items"; }
  bool HasHeader() const override { return false; }
  bool SortsByName() const override { return false; }
  bool HoldsChecksums() const override { return true; }
  FrameSize FrameOf(DType dtype, const std::vector<int64_t>& shape) const override {
    const TorchItemSize size = SizeOfTorchItem(dtype, shape);
    return {size.head, size.tail};
  }

  FileLayout LayOut(std::span<TensorInfo> arrays,
                    std::span<const std::pair<std::string, std::string>> /*metadata*/) const override {
    FileLayout out;
    for (TensorInfo& array : arrays) {
      const TorchItemSize size = SizeOfTorchItem(array.dtype, array.shape);
      array.begin = out.bytes + size.head;
      array.end = array.begin + size.data;
      out.bytes += size.total();
    }
    return out;
  }

  Status CheckHeader(const PlannedHeader& planned) const override {
    if (!planned.linked && planned.header.empty()) return {};
    return BadInput("file " + std::string(planned.file)).Expected("items without a header").Found("others");
  }

  // Between two arrays lie the tail of one and the head of the next: one write.
  Status Complete(std::span<const TensorInfo> arrays, std::span<const uint32_t> crcs,
                  WritableFile& out) const override {
    std::string between;
    uint64_t at = 0;
    for (size_t i = 0; i < arrays.size(); ++i) {
      TorchItemFrame frame = FrameOfTorchItem(arrays[i].dtype, arrays[i].shape, crcs[i]);
      between += frame.head;
      MIMO_RETURN_IF_ERROR(out.WriteAt(at, std::as_bytes(std::span(between))));
      at = arrays[i].end;
      between = std::move(frame.tail);
    }
    return between.empty() ? Status() : out.WriteAt(at, std::as_bytes(std::span(between)));
  }

  Result<FoundArrays> Find(FileSystem& fs, const std::string& path, std::span<const TensorInfo> arrays) const override {
    FoundArrays out;
    out.begins.resize(arrays.size());
    MIMO_ASSIGN_OR_RETURN(const auto in, fs.OpenForRead(path));
    uint64_t at = 0;
    for (size_t i = 0; i < arrays.size(); ++i) {
      const TorchItemSize size = SizeOfTorchItem(arrays[i].dtype, arrays[i].shape);
      if (in->size() - at < size.total()) {
        out.problems.push_back({i, "", "the tensor is missing", "", ""});
        return out;
      }
      MIMO_ASSIGN_OR_RETURN(const bool whole, HasFrame(*in, at, arrays[i], size));
      if (!whole)
        out.problems.push_back({i, "", "the bytes around the data", "those of its dtype and shape", "others"});
      out.bytes_read += size.head + size.tail;
      out.begins[i] = at + size.head;
      at += size.total();
    }
    if (at != in->size())
      out.problems.push_back(
          {FileProblem::kNoArray, "", "length", std::to_string(at) + " bytes", std::to_string(in->size()) + " bytes"});
    return out;
  }
};

}  // namespace

const Container& TorchItemsContainer() {
  static const TorchItems container;
  return container;
}

}  // namespace mimo
