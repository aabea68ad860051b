// What a pickle holds, as looked up in its nodes and as a value of its own.
#include <algorithm>

#include "lib/io/tensor_info.h"
#include "lib/io/torch/pickle_reader.h"
#include "lib/io/torch/text.h"

namespace mimo {

std::optional<TorchGlobalId> Pickle::GlobalOf(const PickleNode& node) const {
  if (node.kind == PickleKind::kGlobal) return static_cast<TorchGlobalId>(node.integer);
  if (node.kind == PickleKind::kObject) return static_cast<TorchGlobalId>(at(ItemsOf(node)[0]).integer);
  return std::nullopt;
}

const PickleNode* Pickle::StateOf(const PickleNode& node, TorchGlobalId id) const {
  if (node.kind != PickleKind::kObject || node.count < 3 || GlobalOf(node) != id) return nullptr;
  return &at(ItemsOf(node)[2]);
}

const PickleNode* Pickle::Find(const PickleNode* dict, std::string_view key) const {
  if (dict == nullptr || dict->kind != PickleKind::kDict) return nullptr;
  const std::span<const PickleId> items = ItemsOf(*dict);
  for (size_t i = items.size(); i >= 2; i -= 2) {
    const PickleNode& name = at(items[i - 2]);
    if (name.kind == PickleKind::kString && TextOf(name) == key) return &at(items[i - 1]);
  }
  return nullptr;
}

std::optional<std::vector<int64_t>> Pickle::Integers(const PickleNode* node) const {
  if (node == nullptr || (node->kind != PickleKind::kTuple && node->kind != PickleKind::kList)) return std::nullopt;
  if (node->count > kMaxDimensions) return std::nullopt;  // one list may be named by any number of chunks
  std::vector<int64_t> out;
  out.reserve(node->count);
  for (const PickleId id : ItemsOf(*node)) {
    if (at(id).kind != PickleKind::kInt) return std::nullopt;
    out.push_back(at(id).integer);
  }
  return out;
}

std::optional<DType> Pickle::TensorDType(const PickleNode& tensor) const {
  const PickleId named = tensor.count > 3 ? ItemsOf(tensor)[3] : ItemsOf(at(ItemsOf(tensor)[0]))[0];
  return mimo::GlobalOf(static_cast<TorchGlobalId>(at(named).integer)).dtype;
}

namespace {

class Copier {
 public:
  Copier(const Pickle& pickle, const std::string& path)
      : pickle_(pickle),
        path_(path),
        values_left_(pickle.bytes() * 4 + 1024),
        text_left_(pickle.bytes() * 16 + 65536) {}

  // Fills `out`; false with error_ set.
  bool Copy(const PickleNode& node, int depth, TorchValue* out) {
    if (depth > kMaxPickleDepth) return Fail("values are nested too deeply, or hold themselves");
    if (values_left_ == 0) return Fail("values shared so often that they would fill the memory");
    --values_left_;
    switch (node.kind) {
      case PickleKind::kNone:
        return true;
      case PickleKind::kBool:
        out->data = node.integer != 0;
        return true;
      case PickleKind::kInt:
        out->data = node.integer;
        return true;
      case PickleKind::kFloat:
        out->data = node.real;
        return true;
      case PickleKind::kString:
      case PickleKind::kBytes:
        return Text(pickle_.TextOf(node), &out->data.emplace<std::string>());
      case PickleKind::kTuple:
        return Items(pickle_.ItemsOf(node), depth, &out->data.emplace<TorchValue::Tuple>().items);
      case PickleKind::kList:
        return Items(pickle_.ItemsOf(node), depth, &out->data.emplace<TorchValue::List>());
      case PickleKind::kDict:
        return Dict(node, depth, &out->data.emplace<TorchValue::Dict>());
      case PickleKind::kGlobal:
      case PickleKind::kObject:
        return Record(node, depth, &out->data.emplace<TorchRecord>());
      case PickleKind::kStorage:
        return Fail("a storage outside of a tensor");
      case PickleKind::kTensor:
        return Tensor(node, out);
    }
    return Fail("a value of no known kind");
  }

  Error TakeError() { return std::move(error_); }

 private:
  bool Fail(const std::string& what) {
    error_ = BadTorchFile(path_, "pickle: " + what);
    return false;
  }

  bool Text(std::string_view text, std::string* out) {
    if (text.size() > text_left_) return Fail("strings shared so often that they would fill the memory");
    text_left_ -= text.size();
    *out = text;
    return true;
  }

  bool Items(std::span<const PickleId> items, int depth, TorchValue::List* out) {
    if (items.size() > values_left_) return Fail("values shared so often that they would fill the memory");
    out->resize(items.size());
    for (size_t i = 0; i < items.size(); ++i) {
      if (!Copy(pickle_.at(items[i]), depth + 1, &(*out)[i])) return false;
    }
    return true;
  }

  bool Dict(const PickleNode& node, int depth, TorchValue::Dict* out) {
    if (node.count > values_left_) return Fail("values shared so often that they would fill the memory");
    const std::span<const PickleId> items = pickle_.ItemsOf(node);
    out->resize(items.size() / 2);
    std::vector<std::string_view> names;
    for (size_t i = 0; i < out->size(); ++i) {
      const PickleNode& key = pickle_.at(items[2 * i]);
      if (key.kind == PickleKind::kString) names.push_back(pickle_.TextOf(key));
      if (!names.empty() && names.back().size() > kMaxNameBytes)
        return Fail("a dict has a key of more than " + std::to_string(kMaxNameBytes) + " bytes");
      if (!Copy(key, depth + 1, &(*out)[i].first)) return false;
      if (!Copy(pickle_.at(items[2 * i + 1]), depth + 1, &(*out)[i].second)) return false;
    }
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    return twice == names.end() || Fail("a dict has the key " + PrintableText(*twice) + " twice");
  }

  bool Record(const PickleNode& node, int depth, TorchRecord* out) {
    const TorchGlobal& global = GlobalOf(pickle_.GlobalOf(node).value_or(TorchGlobalId::kOrderedDict));
    out->module = global.module;
    out->name = global.name;
    if (global.use == TorchUse::kInert) {
      const bool bare = node.kind == PickleKind::kGlobal;
      if (!Text(pickle_.TextOf(bare ? node : pickle_.at(pickle_.ItemsOf(node)[0])), &out->name)) return false;
      std::replace(out->name.begin(), out->name.end(), '\n', '.');
      out->inert = true;
    }
    if (node.kind == PickleKind::kGlobal) return true;
    if (!Items(pickle_.ItemsOf(pickle_.at(pickle_.ItemsOf(node)[1])), depth, &out->args)) return false;
    if (node.count < 3) return true;
    out->state.resize(1);
    return Copy(pickle_.at(pickle_.ItemsOf(node)[2]), depth + 1, &out->state[0]);
  }

  bool Tensor(const PickleNode& node, TorchValue* out) {
    const auto dtype = pickle_.TensorDType(node);
    if (!dtype) {
      auto& record = out->data.emplace<TorchRecord>();
      record.module = "torch._utils";
      record.name = "_rebuild_tensor of another dtype";
      return true;
    }
    const std::span<const PickleId> items = pickle_.ItemsOf(node);
    const PickleNode& storage = pickle_.at(items[0]);
    const PickleNode& shape = pickle_.at(items[1]);
    if (shape.count > kMaxDimensions)
      return Fail("a tensor of more than " + std::to_string(kMaxDimensions) + " dimensions");
    if (2 * uint64_t{shape.count} > values_left_) return Fail("shapes shared so often that they would fill the memory");
    values_left_ -= 2 * uint64_t{shape.count};
    auto& tensor = out->data.emplace<TorchTensor>();
    tensor.dtype = *dtype;
    tensor.storage_elements = items.size() > 3 ? storage.integer / (BitsPerElement(*dtype) / 8) : storage.integer;
    tensor.offset = node.integer;
    tensor.shape = pickle_.Integers(&shape).value_or(std::vector<int64_t>());
    tensor.strides = pickle_.Integers(&pickle_.at(items[2])).value_or(std::vector<int64_t>());
    return Text(pickle_.TextOf(pickle_.at(pickle_.ItemsOf(storage)[1])), &tensor.storage);
  }

  const Pickle& pickle_;
  const std::string& path_;
  uint64_t values_left_;  // linear in the pickle, so that sharing cannot blow up
  uint64_t text_left_;
  Error error_;
};

}  // namespace

Result<TorchValue> ValueOf(const Pickle& pickle, const std::string& path) {
  TorchValue value;
  Copier copier(pickle, path);
  if (!copier.Copy(pickle.root(), 0, &value)) return copier.TakeError();
  return value;
}

}  // namespace mimo
