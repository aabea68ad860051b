#include "lib/io/torch/pickle_reader.h"

#include <algorithm>
#include <array>
#include <bit>

#include "lib/io/torch/pickle_items.h"
#include "lib/io/torch/pickle_long.h"
#include "lib/io/torch/text.h"
#include "lib/json/bytes.h"

namespace mimo {

class PickleMachine {
 public:
  PickleMachine(std::string_view in, const std::string& path, UnknownNames unknown)
      : in_(in), path_(path), unknown_(unknown) {
    small_integers_.fill(kNobody);
    New(PickleKind::kNone);
    New(PickleKind::kBool).integer = 0;
    New(PickleKind::kBool).integer = 1;
  }

  Result<Pickle> Run() {
    if (!Header()) return std::move(error_);
    while (!stopped_) {
      if (!Step()) return std::move(error_);
    }
    Pickle pickle;
    pickle.bytes_ = in_;
    pickle.nodes_ = std::move(nodes_);
    pickle.items_ = std::move(items_);
    pickle.root_ = stack_.back();
    return pickle;
  }

 private:
  static constexpr PickleId kNobody = ~PickleId{0};
  static constexpr PickleId kNoneId = 0;
  static constexpr PickleId kFalseId = 1;
  static constexpr PickleId kTrueId = 2;

  Error Bad(const std::string& what) const {
    return BadTorchFile(path_, "pickle: " + what + " (byte " + std::to_string(start_) + ")");
  }
  bool Fail(Error error) { return error_ = std::move(error), false; }
  bool Fail(const std::string& what) { return Fail(Bad(what)); }
  bool Truncated(std::string expected) { return Fail(Bad("truncated").Expected(std::move(expected)).Found("the end")); }

  bool Bytes(uint64_t count, std::string_view* out) {
    if (count > in_.size() - at_) return Truncated(std::to_string(count) + " more bytes");
    *out = in_.substr(at_, count);
    at_ += count;
    return true;
  }
  bool Number(int bytes, uint64_t* out) {
    std::string_view raw;
    if (!Bytes(static_cast<uint64_t>(bytes), &raw)) return false;
    *out = 0;
    for (int i = bytes; i-- > 0;) *out = *out << 8U | static_cast<unsigned char>(raw[static_cast<size_t>(i)]);
    return true;
  }
  bool Line(std::string_view* out) {
    const size_t end = in_.find('\n', at_);
    if (end == std::string_view::npos) return Truncated("the end of a name");
    *out = in_.substr(at_, end - at_);
    at_ = end + 1;
    return true;
  }

  bool Header() {
    if (in_.size() > kMaxPickleBytes)
      return Fail(Bad("too long").Expected(std::to_string(kMaxPickleBytes) + " bytes at most"));
    if (in_.size() < 2 || static_cast<unsigned char>(in_[0]) != 0x80)
      return Fail(Bad("no protocol").Expected("protocol 2 to 5"));
    const int protocol = static_cast<unsigned char>(in_[1]);
    if (protocol < 2 || protocol > 5) return Fail(Bad("unknown protocol").Expected("2 to 5").Found(protocol));
    at_ = 2;
    return true;
  }

  // ---- values. References into nodes_ hold until the next New.

  PickleNode& New(PickleKind kind) {
    nodes_.emplace_back().kind = kind;
    return nodes_.back();
  }
  PickleId Last() const { return static_cast<PickleId>(nodes_.size() - 1); }
  bool PushLast() {
    stack_.push_back(Last());
    return true;
  }
  bool PushEmpty(PickleKind kind) {
    New(kind);
    return PushLast();
  }
  bool Push(PickleId id) {
    stack_.push_back(id);
    return true;
  }
  bool PushInt(int64_t value) {
    const bool small = value >= 0 && value < static_cast<int64_t>(small_integers_.size());
    if (small && small_integers_[static_cast<size_t>(value)] != kNobody) {
      return Push(small_integers_[static_cast<size_t>(value)]);
    }
    New(PickleKind::kInt).integer = value;
    if (small) small_integers_[static_cast<size_t>(value)] = Last();
    return PushLast();
  }
  bool PushText(PickleKind kind, int length_bytes) {
    uint64_t length = 0;
    std::string_view text;
    if (!Number(length_bytes, &length) || !Bytes(length, &text)) return false;
    if (kind == PickleKind::kString && !IsUtf8(text)) return Fail("a string is not UTF-8");
    PickleNode& node = New(kind);
    node.first = static_cast<uint32_t>(text.data() - in_.data());
    node.count = static_cast<uint32_t>(text.size());
    return PushLast();
  }

  size_t Floor() const { return marks_.empty() ? 0 : marks_.back(); }
  bool Pop(PickleId* out) {
    if (stack_.size() <= Floor()) return Fail("the stack is empty");
    *out = stack_.back();
    stack_.pop_back();
    return true;
  }
  // What lies above the last mark, which goes; the values stay until Drop.
  bool Marked(size_t* begin) {
    if (marks_.empty()) return Fail("no mark");
    *begin = marks_.back();
    marks_.pop_back();
    return true;
  }

  std::span<const PickleId> ItemsOf(PickleId id) const {
    return std::span(items_).subspan(nodes_[id].first, nodes_[id].count);
  }
  std::string_view TextOf(PickleId id) const { return in_.substr(nodes_[id].first, nodes_[id].count); }
  bool Is(PickleId id, PickleKind kind) const { return nodes_[id].kind == kind; }

  // Adds items. Cycles grow the depth until it is too much, here or where they are walked.
  bool Add(PickleId parent, std::span<const PickleId> children) {
    PickleNode& node = nodes_[parent];
    int depth = node.depth;
    for (const PickleId child : children) depth = std::max(depth, nodes_[child].depth + 1);
    if (depth > kMaxPickleDepth) {
      return Fail(
          Bad("values are nested too deeply").Expected("at most " + std::to_string(kMaxPickleDepth) + " levels"));
    }
    node.depth = static_cast<uint8_t>(depth);
    GrowItems(&node, static_cast<uint32_t>(children.size()), &items_);
    std::copy(children.begin(), children.end(), items_.begin() + node.first + node.count);
    node.count += static_cast<uint32_t>(children.size());
    return true;
  }
  // A tuple of the values of the stack from `begin` on.
  bool PushTuple(size_t begin) {
    New(PickleKind::kTuple);
    if (!Add(Last(), std::span(stack_).subspan(begin))) return false;
    stack_.resize(begin);
    return PushLast();
  }
  bool PushTupleOf(size_t count) {
    if (stack_.size() - Floor() < count) return Fail("the stack is empty");
    return PushTuple(stack_.size() - count);
  }
  // Appends the values of the stack from `begin` on to the container below them.
  bool Extend(PickleKind kind, size_t begin) {
    if (begin <= Floor()) return Fail("the stack is empty");
    const PickleId container = stack_[begin - 1];
    if (IsInert(container)) return stack_.resize(begin), true;
    if (nodes_[container].kind != kind)
      return Fail(kind == PickleKind::kList ? "no list to append to" : "no dict to set");
    if (kind == PickleKind::kDict && (stack_.size() - begin) % 2 != 0) return Fail("a key without a value");
    if (!Add(container, std::span(stack_).subspan(begin))) return false;
    stack_.resize(begin);
    return true;
  }

  // ---- memo

  bool Put(uint64_t index) {
    if (stack_.size() <= Floor()) return Fail("the stack is empty");
    if (index > memo_.size()) return Fail("memo entries are not in sequence");
    if (index == memo_.size()) memo_.push_back(kNobody);
    memo_[index] = stack_.back();
    return true;
  }
  bool PutNumbered(int bytes) {
    uint64_t index = 0;
    return Number(bytes, &index) && Put(index);
  }
  bool Get(int bytes) {
    uint64_t index = 0;
    if (!Number(bytes, &index)) return false;
    if (index >= memo_.size()) return Fail("memo entry that was never stored");
    return Push(memo_[index]);
  }

  // ---- names and calls

  // Named "module LF name" where these stand side by side in the pickle, else by the name.
  bool PushInert(std::string_view module, std::string_view name) {
    const bool joined = module.data() + module.size() + 1 == name.data();
    PickleNode& node = New(PickleKind::kGlobal);
    node.integer = static_cast<int64_t>(TorchGlobalId::kInert);
    node.first = static_cast<uint32_t>((joined ? module : name).data() - in_.data());
    node.count = static_cast<uint32_t>(name.size() + (joined ? module.size() + 1 : 0));
    return PushLast();
  }
  bool PushGlobal(std::string_view module, std::string_view name) {
    const auto id = FindTorchGlobal(module, name);
    if (!id && unknown_ == UnknownNames::kInert && !IsTrap(module)) return PushInert(module, name);
    if (!id)
      return Fail(Bad("it names " + PrintableText(std::string(module) + "." + std::string(name)) +
                      ", which is not one of the names these files use; nothing was run")
                      .Expected("classes and functions of tensors and checkpoints"));
    New(PickleKind::kGlobal).integer = static_cast<int64_t>(*id);
    return PushLast();
  }
  bool StackGlobal() {
    PickleId name = 0, module = 0;
    if (!Pop(&name) || !Pop(&module)) return false;
    if (!Is(name, PickleKind::kString) || !Is(module, PickleKind::kString)) return Fail("a name that is no string");
    return PushGlobal(TextOf(module), TextOf(name));
  }
  const TorchGlobal* NameOf(PickleId id) const {
    const PickleNode& node = nodes_[id];
    return node.kind == PickleKind::kGlobal ? &GlobalOf(static_cast<TorchGlobalId>(node.integer)) : nullptr;
  }
  // An object of a class that is no name of ours.
  bool IsInert(PickleId id) const {
    return Is(id, PickleKind::kObject) && NameOf(ItemsOf(id)[0])->use == TorchUse::kInert;
  }
  bool Refuse(const TorchGlobal& global, std::string_view doing) {
    return Fail(std::string(doing) + " " + std::string(global.module) + "." + std::string(global.name) +
                " in a way that is not known");
  }
  bool PushObject(PickleId global, PickleId arguments) {
    New(PickleKind::kObject);
    const PickleId object = Last();
    return Add(object, std::array{global, arguments}) && Push(object);
  }

  bool NewObject() {
    PickleId arguments = 0, cls = 0;
    if (!Pop(&arguments) || !Pop(&cls)) return false;
    const TorchGlobal* global = NameOf(cls);
    if (global == nullptr || !Is(arguments, PickleKind::kTuple)) return Fail("an object of something unknown");
    if (global->use != TorchUse::kClass && global->use != TorchUse::kInert) return Refuse(*global, "an object of");
    return PushObject(cls, arguments);
  }

  bool Build() {
    PickleId state = 0, target = 0;
    if (!Pop(&state) || !Pop(&target)) return false;
    // Attributes of an OrderedDict (torch keeps versions of modules there) are left out.
    if (Is(target, PickleKind::kDict)) return Push(target);
    if (!Is(target, PickleKind::kObject)) return Fail("a state for something that has none");
    if (IsInert(target) && nodes_[target].count != 2) return Push(target);
    const TorchGlobal& global = *NameOf(ItemsOf(target)[0]);
    if (global.use == TorchUse::kInert) return Add(target, std::array{state}) && Push(target);
    if (global.use != TorchUse::kClass || nodes_[target].count != 2) return Refuse(global, "a state for");
    return Add(target, std::array{state}) && Push(target);
  }

  bool Reduce() {
    PickleId arguments = 0, function = 0;
    if (!Pop(&arguments) || !Pop(&function)) return false;
    if (!Is(arguments, PickleKind::kTuple)) return Fail("arguments that are no tuple");
    const TorchGlobal* global = NameOf(function);
    if (global == nullptr) return Fail("a call of something that has no name");
    return Call(*global, function, arguments);
  }

  bool Call(const TorchGlobal& global, PickleId function, PickleId arguments) {
    const std::span<const PickleId> items = ItemsOf(arguments);
    switch (global.use) {
      case TorchUse::kClass:
      case TorchUse::kFunction:
      case TorchUse::kInert:
        return PushObject(function, arguments);
      case TorchUse::kTensor:
      case TorchUse::kTensorOfDType:
        return CallRebuildTensor(global, arguments);
      case TorchUse::kParameter:  // (tensor, requires_grad, hooks[, state])
        if (items.size() < 3 || items.size() > 4 || !Is(items[0], PickleKind::kTensor))
          return Refuse(global, "a call of");
        return Push(items[0]);
      case TorchUse::kTensorSubclass:
        return CallRebuildFromType(global, function, arguments);
      case TorchUse::kSize:
        if (items.size() != 1 || !Is(items[0], PickleKind::kTuple) || !AllIndices(items[0]))
          return Refuse(global, "a call of");
        return Push(items[0]);
      case TorchUse::kDict:
        if (!items.empty()) return Refuse(global, "a call of");
        return PushEmpty(PickleKind::kDict);
      case TorchUse::kValue:
      case TorchUse::kDType:
      case TorchUse::kStorage:
        break;
    }
    return Refuse(global, "a call of");
  }

  bool AllIndices(PickleId tuple) const {
    return Is(tuple, PickleKind::kTuple) && std::all_of(ItemsOf(tuple).begin(), ItemsOf(tuple).end(), [&](PickleId id) {
             return Is(id, PickleKind::kInt) && nodes_[id].integer >= 0;
           });
  }

  // (storage, offset, shape, strides, requires_grad, hooks[, dtype][, metadata])
  bool CallRebuildTensor(const TorchGlobal& global, PickleId arguments) {
    const bool typed = global.use == TorchUse::kTensorOfDType;
    const std::span<const PickleId> items = ItemsOf(arguments);
    const size_t least = typed ? 7 : 6;
    if (items.size() < least || items.size() > least + 1) return Refuse(global, "a call of");
    const PickleId storage = items[0];
    const PickleId offset = items[1];
    const PickleId shape = items[2];
    const PickleId strides = items[3];
    if (!Is(storage, PickleKind::kStorage) || !Is(offset, PickleKind::kInt) || nodes_[offset].integer < 0 ||
        !AllIndices(shape) || !AllIndices(strides) || nodes_[shape].count != nodes_[strides].count) {
      return Refuse(global, "a call of");
    }
    const PickleId cls = ItemsOf(storage)[0];
    const bool untyped = nodes_[cls].integer == static_cast<int64_t>(TorchGlobalId::kUntypedStorage);
    const PickleId dtype = typed ? items[6] : cls;
    if (typed && (NameOf(dtype) == nullptr || NameOf(dtype)->use != TorchUse::kDType))
      return Refuse(global, "a call of");
    if (typed != untyped) return Refuse(global, "a call of");
    New(PickleKind::kTensor).integer = nodes_[offset].integer;
    const PickleId tensor = Last();
    const std::array children = {storage, shape, strides, dtype};
    return Add(tensor, std::span(children).first(typed ? 4 : 3)) && Push(tensor);
  }

  // (function, type, arguments, state): attributes of a plain tensor are left out; another type stays a record.
  bool CallRebuildFromType(const TorchGlobal& global, PickleId function, PickleId arguments) {
    const std::span<const PickleId> items = ItemsOf(arguments);
    if (items.size() != 4 || !Is(items[2], PickleKind::kTuple)) return Refuse(global, "a call of");
    const TorchGlobal* inner = NameOf(items[0]);
    const TorchGlobal* type = NameOf(items[1]);
    if (inner == nullptr || type == nullptr) return Refuse(global, "a call of");
    const bool plain = type->use == TorchUse::kValue && (type->name == "Tensor" || type->name == "Parameter");
    const bool rebuilds =
        inner->use == TorchUse::kTensor || inner->use == TorchUse::kTensorOfDType || inner->use == TorchUse::kParameter;
    return plain && rebuilds ? Call(*inner, items[0], items[2]) : PushObject(function, arguments);
  }

  // ('storage', class, key, location, elements[, view])
  bool PersistentId() {
    PickleId id = 0;
    if (!Pop(&id)) return false;
    if (!Is(id, PickleKind::kTuple)) return Fail("a persistent id that is no tuple");
    const std::span<const PickleId> items = ItemsOf(id);
    const auto is = [&](size_t i, PickleKind kind) { return nodes_[items[i]].kind == kind; };
    const bool known = items.size() == 5 && is(0, PickleKind::kString) && TextOf(items[0]) == "storage" &&
                       NameOf(items[1]) != nullptr && NameOf(items[1])->use == TorchUse::kStorage &&
                       is(2, PickleKind::kString) && is(3, PickleKind::kString) && is(4, PickleKind::kInt) &&
                       nodes_[items[4]].integer >= 0;
    if (!known)
      return Fail(Bad("a persistent id that is no storage").Expected("('storage', class, key, location, elements)"));
    New(PickleKind::kStorage).integer = nodes_[items[4]].integer;
    return Add(Last(), std::array{items[1], items[2]}) && PushLast();
  }

  // ---- opcodes

  bool Long(int length_bytes) {
    uint64_t length = 0;
    std::string_view raw;
    if (!Number(length_bytes, &length) || !Bytes(length, &raw)) return false;
    const std::optional<int64_t> value = IntegerOfLong(raw);
    return value ? PushInt(*value) : Fail("an integer beyond 64 bits");
  }
  bool Integer(int bytes) {
    uint64_t value = 0;
    if (!Number(bytes, &value)) return false;
    return PushInt(bytes == 4 ? static_cast<int64_t>(static_cast<int32_t>(value)) : static_cast<int64_t>(value));
  }
  bool Float() {
    uint64_t little = 0;
    if (!Number(8, &little)) return false;
    New(PickleKind::kFloat).real = std::bit_cast<double>(__builtin_bswap64(little));
    return PushLast();
  }
  bool Mark() {
    if (marks_.size() >= static_cast<size_t>(kMaxPickleDepth)) return Fail("marks are nested too deeply");
    marks_.push_back(stack_.size());
    return true;
  }
  bool Frame() {
    uint64_t length = 0;
    if (!Number(8, &length)) return false;
    return length <= in_.size() - at_ || Truncated("a frame of " + std::to_string(length) + " bytes");
  }
  bool Global() {
    std::string_view module, name;
    return Line(&module) && Line(&name) && PushGlobal(module, name);
  }
  bool MarkedTuple() {
    size_t begin = 0;
    return Marked(&begin) && PushTuple(begin);
  }
  bool MarkedItems(PickleKind kind) {
    size_t begin = 0;
    return Marked(&begin) && Extend(kind, begin);
  }
  bool LastItems(PickleKind kind, size_t count) {
    if (stack_.size() - Floor() < count + 1) return Fail("the stack is empty");
    return Extend(kind, stack_.size() - count);
  }
  bool Stop() {
    if (stack_.size() != 1 || !marks_.empty()) return Fail("it stops with more or less than one value");
    stopped_ = true;
    return at_ == in_.size() || Fail(Bad("bytes after the end of the pickle").Expected("nothing after STOP"));
  }

  bool Step() {
    start_ = at_;
    if (at_ == in_.size()) return Truncated("STOP");
    if (nodes_.size() >= kMaxPickleNodes)
      return Fail(Bad("too many values").Expected(std::to_string(kMaxPickleNodes) + " at most"));
    static const std::array<Opcode, 256> kOpcodes = Opcodes();
    const auto op = static_cast<unsigned char>(in_[at_++]);
    if (kOpcodes[op] != nullptr) return kOpcodes[op](*this);
    return Fail("opcode " + std::to_string(op) + " is not one that these files use");
  }

  using Opcode = bool (*)(PickleMachine&);
  static std::array<Opcode, 256> Opcodes() {
    using Kind = PickleKind;
    std::array<Opcode, 256> of{};
    of['N'] = [](PickleMachine& m) { return m.Push(kNoneId); };
    of[0x88] = [](PickleMachine& m) { return m.Push(kTrueId); };
    of[0x89] = [](PickleMachine& m) { return m.Push(kFalseId); };
    of['K'] = [](PickleMachine& m) { return m.Integer(1); };
    of['M'] = [](PickleMachine& m) { return m.Integer(2); };
    of['J'] = [](PickleMachine& m) { return m.Integer(4); };
    of[0x8a] = [](PickleMachine& m) { return m.Long(1); };
    of[0x8b] = [](PickleMachine& m) { return m.Long(4); };
    of['G'] = [](PickleMachine& m) { return m.Float(); };
    of[0x8c] = [](PickleMachine& m) { return m.PushText(Kind::kString, 1); };
    of['X'] = [](PickleMachine& m) { return m.PushText(Kind::kString, 4); };
    of[0x8d] = [](PickleMachine& m) { return m.PushText(Kind::kString, 8); };
    of['C'] = [](PickleMachine& m) { return m.PushText(Kind::kBytes, 1); };
    of['B'] = [](PickleMachine& m) { return m.PushText(Kind::kBytes, 4); };
    of[0x8e] = of[0x96] = [](PickleMachine& m) { return m.PushText(Kind::kBytes, 8); };
    of['('] = [](PickleMachine& m) { return m.Mark(); };
    of[')'] = [](PickleMachine& m) { return m.PushTuple(m.stack_.size()); };
    of['t'] = [](PickleMachine& m) { return m.MarkedTuple(); };
    of[0x85] = [](PickleMachine& m) { return m.PushTupleOf(1); };
    of[0x86] = [](PickleMachine& m) { return m.PushTupleOf(2); };
    of[0x87] = [](PickleMachine& m) { return m.PushTupleOf(3); };
    of[']'] = [](PickleMachine& m) { return m.PushEmpty(Kind::kList); };
    of['}'] = [](PickleMachine& m) { return m.PushEmpty(Kind::kDict); };
    of['a'] = [](PickleMachine& m) { return m.LastItems(Kind::kList, 1); };
    of['s'] = [](PickleMachine& m) { return m.LastItems(Kind::kDict, 2); };
    of['e'] = [](PickleMachine& m) { return m.MarkedItems(Kind::kList); };
    of['u'] = [](PickleMachine& m) { return m.MarkedItems(Kind::kDict); };
    of['q'] = [](PickleMachine& m) { return m.PutNumbered(1); };
    of['r'] = [](PickleMachine& m) { return m.PutNumbered(4); };
    of[0x94] = [](PickleMachine& m) { return m.Put(m.memo_.size()); };
    of['h'] = [](PickleMachine& m) { return m.Get(1); };
    of['j'] = [](PickleMachine& m) { return m.Get(4); };
    of['c'] = [](PickleMachine& m) { return m.Global(); };
    of[0x93] = [](PickleMachine& m) { return m.StackGlobal(); };
    of['R'] = [](PickleMachine& m) { return m.Reduce(); };
    of[0x81] = [](PickleMachine& m) { return m.NewObject(); };
    of['b'] = [](PickleMachine& m) { return m.Build(); };
    of['Q'] = [](PickleMachine& m) { return m.PersistentId(); };
    of[0x95] = [](PickleMachine& m) { return m.Frame(); };
    of['.'] = [](PickleMachine& m) { return m.Stop(); };
    return of;
  }

  std::string_view in_;
  const std::string& path_;
  const UnknownNames unknown_;
  size_t at_ = 0;
  size_t start_ = 0;  // of the opcode being read
  bool stopped_ = false;
  std::vector<PickleNode> nodes_;
  std::vector<PickleId> items_;
  std::vector<PickleId> stack_;
  std::vector<size_t> marks_;
  std::vector<PickleId> memo_;
  std::array<PickleId, 256> small_integers_;
  Error error_;
};

Result<Pickle> ReadPickle(std::string_view bytes, const std::string& path, UnknownNames unknown) {
  return PickleMachine(bytes, path, unknown).Run();
}

}  // namespace mimo
