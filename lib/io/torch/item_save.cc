// What is written: items of one tensor, items of extra state, small files.
#include <charconv>
#include <limits>

#include "lib/io/torch/item.h"
#include "lib/io/torch/pickle_writer.h"
#include "lib/io/torch/zip.h"

namespace mimo {
namespace {

constexpr std::string_view kArchive = "archive";  // the base name of what is saved to a stream

// The entries before and after the storages.
void Open(ZipFrame* zip, std::string_view base, std::string_view pickle) {
  zip->Add(std::string(base) + "/data.pkl", pickle);
  zip->Add(std::string(base) + "/byteorder", "little");
}
ZipFrame::Parts Close(ZipFrame* zip, std::string_view base) {
  zip->Add(std::string(base) + "/version", "3\n");
  return zip->Finish();
}

// Which of `scalars` a tensor is; none when it is not one of them.
std::optional<size_t> ScalarIndex(const TorchTensor& tensor, const std::vector<std::string>& scalars) {
  size_t index = 0;
  const char* end = tensor.storage.data() + tensor.storage.size();
  const auto parsed = std::from_chars(tensor.storage.data(), end, index);
  if (parsed.ec != std::errc() || parsed.ptr != end || index >= scalars.size() || !CanPickle(tensor.dtype)) return {};
  if (!tensor.shape.empty() || scalars[index].size() * 8 != BitsPerElement(tensor.dtype)) return {};
  return index;
}

class ValueWriter {
 public:
  explicit ValueWriter(const std::vector<std::string>& scalars) : scalars_(scalars) {}

  void Write(const TorchValue& value) {
    std::visit([&](const auto& data) { Put(data); }, value.data);
  }
  // Empty where a value was outside of the closed set.
  std::string Finish() { return known_ ? pickle_.Finish() : std::string(); }

 private:
  void Put(std::monostate /*none*/) { pickle_.None(); }
  void Put(bool value) { pickle_.Bool(value); }
  void Put(int64_t value) { pickle_.Int(value); }
  void Put(double value) { pickle_.Float(value); }
  void Put(const std::string& text) { pickle_.String(text); }
  void Put(const TorchValue::Tuple& tuple) {
    pickle_.BeginTuple(tuple.items.size());
    for (const TorchValue& item : tuple.items) Write(item);
    pickle_.EndTuple(tuple.items.size());
  }
  void Put(const TorchValue::List& list) {
    pickle_.BeginList(list.empty());
    for (const TorchValue& item : list) Write(item);
    pickle_.EndList(list.empty());
  }
  void Put(const TorchValue::Dict& dict) {
    pickle_.BeginDict(dict.empty());
    for (const auto& [key, value] : dict) {
      Write(key);
      Write(value);
    }
    pickle_.EndDict(dict.empty());
  }
  void Put(const TorchTensor& tensor) {
    const auto index = ScalarIndex(tensor, scalars_);
    if (index) pickle_.Tensor(tensor.dtype, {}, std::to_string(*index));
    known_ &= index.has_value();
  }
  void Put(const TorchRecord& /*record*/) { known_ = false; }

  const std::vector<std::string>& scalars_;
  PickleWriter pickle_;
  bool known_ = true;
};

}  // namespace

TorchItemFrame FrameOfTorchItem(DType dtype, const std::vector<int64_t>& shape, uint32_t data_crc) {
  PickleWriter pickle;
  pickle.Tensor(dtype, shape, "0");
  ZipFrame zip;
  Open(&zip, kArchive, pickle.Finish());
  zip.AddAbsent(std::string(kArchive) + "/data/0", TensorBytes(dtype, shape).value_or(0), data_crc);
  ZipFrame::Parts parts = Close(&zip, kArchive);
  return {std::move(parts.head), std::move(parts.tail)};
}

TorchItemSize SizeOfTorchItem(DType dtype, const std::vector<int64_t>& shape) {
  const TorchItemFrame frame = FrameOfTorchItem(dtype, shape, 0);
  return {frame.head.size(), TensorBytes(dtype, shape).value_or(0), frame.tail.size()};
}

std::string EmptyExtraStateItem() {
  PickleWriter pickle;
  pickle.BeginList();
  pickle.Tensor(DType::kU8, {0}, "0");
  pickle.EndList();
  ZipFrame zip;
  Open(&zip, kArchive, pickle.Finish());
  zip.Add(std::string(kArchive) + "/data/0", "");
  return Close(&zip, kArchive).head;
}

std::string TorchSaveFile(const TorchValue& value, const std::string& base, const std::vector<std::string>& scalars) {
  ValueWriter writer(scalars);
  writer.Write(value);
  const std::string pickle = writer.Finish();
  if (pickle.empty()) return {};
  ZipFrame zip;
  Open(&zip, base, pickle);
  for (size_t i = 0; i < scalars.size(); ++i) zip.Add(base + "/data/" + std::to_string(i), scalars[i]);
  return Close(&zip, base).head;
}

}  // namespace mimo
