// What the interpreter of pickles makes of them, and what it refuses. Pickles are put together by hand here.
#include "lib/io/torch/pickle_reader.h"

#include <gtest/gtest.h>

#include "lib/io/torch/pickle_writer.h"
#include "tests/unit/io/torch/item_bytes.h"

namespace mimo::pickle_reader_test {
namespace {

std::string Number(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += i < 8 ? static_cast<char>(value >> (8 * i)) : '\0';
  return out;
}
std::string Pickled(const std::string& ops) {
  return std::string("\x80\x02", 2) + ops + ".";
}
std::string Text(const std::string& text) {
  return "X" + Number(text.size(), 4) + text;
}
std::string Name(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string Storage(const std::string& cls, uint64_t elements) {
  return "(" + Text("storage") + Name("torch", cls) + Text("0") + Text("cpu") + "M" + Number(elements, 2) + "tQ";
}

Result<TorchValue> Read(const std::string& pickle) {
  MIMO_ASSIGN_OR_RETURN(const Pickle nodes, ReadPickle(pickle, "here.pkl"));
  return ValueOf(nodes, "here.pkl");
}
std::string Refusal(const std::string& pickle) {
  const auto value = Read(pickle);
  if (value.ok()) return "accepted";
  EXPECT_EQ(value.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(value.error().file, "here.pkl");
  EXPECT_FALSE(value.error().advice.empty());
  return value.error().Message();
}
template <class T>
T As(const std::string& pickle) {
  auto value = Read(pickle);
  EXPECT_TRUE(value.ok()) << value.error().Message();
  if (!value.ok() || !std::holds_alternative<T>(value->data)) {
    ADD_FAILURE() << "another kind of value";
    return T{};
  }
  return std::get<T>(value->data);
}
bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(PickleReader, Integers) {
  EXPECT_EQ(As<int64_t>(Pickled("K\xff")), 255);
  EXPECT_EQ(As<int64_t>(Pickled("M\xff\xfe")), 0xfeff);
  EXPECT_EQ(As<int64_t>(Pickled("J\xfe\xff\xff\xff")), -2);
  EXPECT_EQ(As<int64_t>(Pickled(std::string("\x8a\x00", 2))), 0);
  EXPECT_EQ(As<int64_t>(Pickled("\x8a\x01\x80")), -128);
  EXPECT_EQ(As<int64_t>(Pickled("\x8a\x05" + FromHex("0000000001"))), int64_t{1} << 32U);
  EXPECT_EQ(As<int64_t>(Pickled("\x8a\x08" + FromHex("0000000000000080"))), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(As<int64_t>(Pickled("\x8a\x08" + FromHex("ffffffffffffff7f"))), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(As<int64_t>(Pickled("\x8a\x0a" + FromHex("feffffffffffffffffff"))), -2);
  EXPECT_TRUE(Contains(Refusal(Pickled("\x8a\x09" + FromHex("000000000000008000"))), "beyond 64 bits"));
  EXPECT_TRUE(Contains(Refusal(Pickled("\x8a\x09" + FromHex("000000000000000001"))), "beyond 64 bits"));
  EXPECT_TRUE(Contains(Refusal(Pickled("\x8a\x09" + FromHex("ffffffffffffff7fff"))), "beyond 64 bits"));
}

TEST(PickleReader, IntegersComeBackFromTheWriter) {
  for (int bit = 0; bit < 63; ++bit) {
    for (const int64_t near : {-1, 0, 1}) {
      for (const int64_t sign : {1, -1}) {
        PickleWriter writer;
        const int64_t value = sign * ((int64_t{1} << bit) + near);
        writer.Int(value);
        EXPECT_EQ(As<int64_t>(writer.Finish()), value);
      }
    }
  }
}

TEST(PickleReader, FloatsAreBigEndian) {
  EXPECT_EQ(As<double>(Pickled("G" + FromHex("3ff8000000000000"))), 1.5);
  EXPECT_EQ(As<double>(Pickled("G" + FromHex("c000000000000001"))), -2.0000000000000004);
}

TEST(PickleReader, Texts) {
  EXPECT_EQ(As<std::string>(Pickled(Text("caf\xc3\xa9"))), "caf\xc3\xa9");
  EXPECT_EQ(As<std::string>(Pickled("\x8c\x02hi")), "hi");
  EXPECT_EQ(As<std::string>(Pickled("\x8d" + Number(2, 8) + "hi")), "hi");
  EXPECT_EQ(As<std::string>(Pickled("C\x01\xff")), "\xff");
  for (const std::string bad : {"\xff", "\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80"}) {
    EXPECT_TRUE(Contains(Refusal(Pickled(Text(bad))), "not UTF-8"));
  }
}

TEST(PickleReader, Containers) {
  const auto dict = As<TorchValue::Dict>(
      Pickled("}q" + Number(0, 1) + "(" + Text("a") + "]K\x01\x61" + Text("b") + "(K\x01K\x02K\x03K\x04tuK\x05K\x06s"));
  ASSERT_EQ(dict.size(), 3u);
  EXPECT_EQ(std::get<std::string>(dict[0].first.data), "a");
  EXPECT_EQ(std::get<TorchValue::List>(dict[0].second.data).size(), 1u);
  EXPECT_EQ(std::get<TorchValue::Tuple>(dict[1].second.data).items.size(), 4u);
  EXPECT_EQ(std::get<int64_t>(dict[2].second.data), 6);
  const auto list =
      As<TorchValue::List>(Pickled("](K\x01K\x02"
                                   "eK\x03\x61(K\x04K\x05"
                                   "e"));
  ASSERT_EQ(list.size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(std::get<int64_t>(list[i].data), static_cast<int64_t>(i) + 1);
  EXPECT_TRUE(Contains(Refusal(Pickled("}(" + Text("a") + "K\x01" + Text("a") + "K\x02u")), "key a twice"));
  EXPECT_TRUE(Contains(Refusal(Pickled("}(K\x01u")), "key without a value"));
}

TEST(PickleReader, AFetchedValueIsTheStoredOne) {
  const auto list =
      As<TorchValue::List>(Pickled("](K\x07q" + Number(0, 1) + "K\x08\x94h" + Number(0, 1) + "j" + Number(1, 4) + "e"));
  ASSERT_EQ(list.size(), 4u);
  EXPECT_EQ(std::get<int64_t>(list[2].data), 7);
  EXPECT_EQ(std::get<int64_t>(list[3].data), 8);
  EXPECT_TRUE(Contains(Refusal(Pickled("Nh" + Number(0, 1) + "\x86")), "never stored"));
  EXPECT_TRUE(Contains(Refusal(Pickled("Nq" + Number(1, 1))), "not in sequence"));
}

TEST(PickleReader, Tensors) {
  const std::string rest = "K\x02K\x02K\x03\x86K\x03K\x01\x86\x89" + Name("collections", "OrderedDict") + ")R";
  const auto tensor = As<TorchTensor>(
      Pickled(Name("torch._utils", "_rebuild_tensor_v2") + "(" + Storage("FloatStorage", 8) + rest + "tR"));
  EXPECT_EQ(tensor.dtype, DType::kF32);
  EXPECT_EQ(tensor.storage, "0");
  EXPECT_EQ(tensor.storage_elements, 8);
  EXPECT_EQ(tensor.offset, 2);
  EXPECT_EQ(tensor.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensor.strides, (std::vector<int64_t>{3, 1}));
  const std::string bytes =
      "(" + Text("storage") + Name("torch.storage", "UntypedStorage") + Text("k") + Text("cpu") + "K\x10tQ";
  const auto fp8 = As<TorchTensor>(
      Pickled(Name("torch._utils", "_rebuild_tensor_v3") + "(" + bytes + rest + Name("torch", "uint16") + "tR"));
  EXPECT_EQ(fp8.dtype, DType::kU16);
  EXPECT_EQ(fp8.storage, "k");
  EXPECT_EQ(fp8.storage_elements, 8);
  // Bytes without a dtype, a dtype where none belongs, negative sizes, a shape without strides.
  const std::string v2 = Name("torch._utils", "_rebuild_tensor_v2") + "(";
  const std::string hooks = Name("collections", "OrderedDict") + ")R";
  const std::string storage = Storage("FloatStorage", 8);
  for (const std::string& call :
       {v2 + bytes + rest + "tR", v2 + storage + "K\x02J\xff\xff\xff\xff\x85K\x01\x85\x89" + hooks + "tR",
        v2 + storage + "J\xff\xff\xff\xffK\x01\x85K\x01\x85\x89" + hooks + "tR",
        v2 + storage + "K\x02K\x02\x85)\x89" + hooks + "tR", v2 + storage + "tR", v2 + "N" + rest + "tR",
        Name("torch._utils", "_rebuild_tensor_v3") + "(" + bytes + rest + Name("torch", "FloatStorage") + "tR"}) {
    EXPECT_TRUE(Contains(Refusal(Pickled(call)), "in a way that is not known"));
  }
}

TEST(PickleReader, KnownClassesAreRecords) {
  const auto record = As<TorchRecord>(Pickled(Name("argparse", "Namespace") + ")\x81}" + Text("lr") + "K\x02sb"));
  EXPECT_EQ(record.module, "argparse");
  EXPECT_EQ(record.name, "Namespace");
  EXPECT_TRUE(record.args.empty());
  ASSERT_EQ(record.state.size(), 1u);
  EXPECT_EQ(std::get<int64_t>(record.state[0].Find("lr")->data), 2);
  const auto member = As<TorchRecord>(Pickled(Name("megatron.core.transformer.enums", "AttnBackend") + "K\x02\x85R"));
  EXPECT_EQ(member.name, "AttnBackend");
  ASSERT_EQ(member.args.size(), 1u);
  EXPECT_EQ(As<TorchRecord>(Pickled("\x8c\x05torch\x8c\x08"
                                    "bfloat16\x93"))
                .name,
            "bfloat16");
}

// Whatever would run something when loaded by Python is refused by its name.
TEST(PickleReader, OtherNamesAreRefused) {
  const std::pair<const char*, const char*> names[] = {{"os", "system"},
                                                       {"posix", "system"},
                                                       {"nt", "system"},
                                                       {"builtins", "eval"},
                                                       {"builtins", "exec"},
                                                       {"__builtin__", "eval"},
                                                       {"builtins", "getattr"},
                                                       {"__builtin__", "getattr"},
                                                       {"subprocess", "Popen"},
                                                       {"importlib", "import_module"},
                                                       {"torch", "load"},
                                                       {"torch.hub", "load"},
                                                       {"torch.storage", "_load_from_bytes"},
                                                       {"functools", "partial"},
                                                       {"operator", "attrgetter"},
                                                       {"webbrowser", "open"},
                                                       {"argparse", "_sys.exit"},
                                                       {"torch", "Size "},
                                                       {"", ""}};
  for (const auto& [module, name] : names) {
    const std::string dotted = std::string(module) + "." + name;
    for (const std::string& how :
         {Name(module, name), Name(module, name) + Text("echo") + "\x85R", Name(module, name) + ")\x81",
          "\x8c" + Number(std::string(module).size(), 1) + module + "\x8c" + Number(std::string(name).size(), 1) +
              name + "\x93"}) {
      EXPECT_TRUE(Contains(Refusal(Pickled(how)), "it names " + dotted + ", which is not one")) << dotted;
    }
  }
}

TEST(PickleReader, KnownNamesAreCalledInKnownWaysOnly) {
  for (const std::string& call :
       {Name("torch", "bfloat16") + ")R", Name("torch", "FloatStorage") + "K\x05\x85R", Name("torch", "Tensor") + ")R",
        Name("collections", "OrderedDict") + "]\x85R", Name("torch", "Size") + "K\x05\x85R",
        Name("torch", "Size") + Text("x") + "\x85\x85R", Name("_codecs", "encode") + ")\x81",
        Name("torch._utils", "_rebuild_tensor_v2") + ")\x81", Name("_codecs", "encode") + Text("x") + "\x85R}b",
        Name("torch._utils", "_rebuild_parameter") + "(N\x89NtR"}) {
    EXPECT_TRUE(Contains(Refusal(Pickled(call)), "in a way that is not known")) << ToHex(call);
  }
  EXPECT_TRUE(Contains(Refusal(Pickled("N)R")), "no name"));
  EXPECT_TRUE(Contains(Refusal(Pickled("](K\x01"
                                       "e)R")),
                       "no name"));
  EXPECT_TRUE(Contains(Refusal(Pickled("N)\x81")), "unknown"));
  EXPECT_TRUE(Contains(Refusal(Pickled(Name("argparse", "Namespace") + "N\x81")), "unknown"));
  EXPECT_TRUE(Contains(Refusal(Pickled("N}b")), "has none"));
  EXPECT_TRUE(Contains(Refusal(Pickled(Name("argparse", "Namespace") + ")\x81}b}b")), "not known"));
  EXPECT_TRUE(Contains(Refusal(Pickled(Text("x") + "Q")), "persistent id"));
  EXPECT_TRUE(Contains(Refusal(Pickled("(" + Text("module") + "NNNNtQ")), "persistent id"));
  EXPECT_TRUE(Contains(Refusal(Pickled(Storage("FloatStorage", 8))), "outside of a tensor"));
}

// All 256 opcodes: those that are not listed are refused by number. A stack of plenty stands before each.
TEST(PickleReader, OtherOpcodesAreRefused) {
  const std::string known =
      "NKMJGXCB()t]}aseuqrhjcRbQ.\x80"  // PROTO again is not among them: see below
      "\x88\x89\x8a\x8b\x8c\x8d\x8e\x96\x85\x86\x87\x94\x93\x81\x95";
  for (int op = 0; op < 256; ++op) {
    const bool listed = op != 0x80 && known.find(static_cast<char>(op)) != std::string::npos;
    const std::string refusal = Refusal(std::string("\x80\x02", 2) + "NNN" + static_cast<char>(op));
    EXPECT_EQ(Contains(refusal, "opcode " + std::to_string(op) + " is not one"), !listed) << op;
  }
}

TEST(PickleReader, SharedValuesDoNotFillTheMemory) {
  std::string bomb = "]q" + Number(0, 1);  // each list holds the one before it twice
  for (int i = 1; i < 36; ++i) bomb += "](h" + Number(i - 1, 1) + "h" + Number(i - 1, 1) + "eq" + Number(i, 1);
  const std::string refusal = Refusal(Pickled("(" + bomb + "t"));
  EXPECT_TRUE(Contains(refusal, "shared so often")) << refusal;
  std::string tuples = "Nq" + Number(0, 1);
  for (int i = 1; i < 36; ++i) tuples += "h" + Number(i - 1, 1) + "h" + Number(i - 1, 1) + "\x86q" + Number(i, 1);
  EXPECT_TRUE(Contains(Refusal(Pickled("(" + tuples + "t")), "shared so often"));
  // One long string, ten thousand times.
  std::string strings = "](" + Text(std::string(100000, 'x')) + "q" + Number(0, 1);
  for (int i = 0; i < 10000; ++i) strings += "h" + Number(0, 1);
  EXPECT_TRUE(Contains(Refusal(Pickled(strings + "e")), "strings shared so often"));
}

TEST(PickleReader, DeepNestingIsRefused) {
  const auto lists = [](int depth) { return Pickled(std::string(depth + 1, ']') + std::string(depth, 'a')); };
  EXPECT_TRUE(Read(lists(kMaxPickleDepth - 1)).ok());
  EXPECT_TRUE(Contains(Refusal(lists(kMaxPickleDepth + 1)), "nested too deeply"));
  EXPECT_TRUE(Contains(Refusal(lists(1000000)), "nested too deeply"));
  EXPECT_TRUE(Contains(Refusal(Pickled("N" + std::string(1000000, '\x85'))), "nested too deeply"));
  EXPECT_TRUE(Contains(Refusal(Pickled(std::string(1000000, '('))), "nested too deeply"));
  EXPECT_FALSE(ReadPickle(lists(kMaxPickleDepth + 1), "here.pkl").ok());  // whether or not anything walks it
  // Lists that are filled after they were stored elsewhere: depths of what holds them are known too late.
  std::string late;
  for (int i = 0; i < 200; ++i) late += "]q" + Number(i, 1);
  for (int i = 198; i >= 0; --i)
    late += "h" + Number(i, 1) + "h" + Number(i + 1, 1) +
            "\x61"
            "h" +
            Number(i, 1);
  EXPECT_NE(Refusal(Pickled("(" + late + "t")), "accepted");
}

TEST(PickleReader, AValueThatHoldsItselfIsRefused) {
  EXPECT_TRUE(Contains(Refusal(Pickled("]q" + Number(0, 1) + "h" + Number(0, 1) + "a")), "nested too deeply"));
  EXPECT_TRUE(Contains(Refusal(Pickled("}q" + Number(0, 1) + "N(h" + Number(0, 1) + "K\x01ts")), "nested too deeply"));
}

TEST(PickleReader, EveryTruncationIsRefused) {
  PickleWriter writer;
  writer.BeginDict();
  writer.String("a");
  writer.Tensor(DType::kF8E4M3, {2, 300, 70000}, "0");
  writer.String("b");
  writer.Float(1.5);
  writer.Int(int64_t{1} << 40U);
  writer.NewObject(TorchGlobalId::kMetadata);
  writer.EndDict();
  const std::string whole = writer.Finish();
  ASSERT_TRUE(Read(whole).ok()) << Refusal(whole);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NE(Refusal(whole.substr(0, i)), "accepted") << i;
  EXPECT_TRUE(Contains(Refusal(whole + "N"), "bytes after"));
}

TEST(PickleReader, BrokenStructureIsRefused) {
  for (const std::string ops : {"",
                                "NN",
                                "(",
                                "t",
                                "e",
                                "a",
                                "]a",
                                "Na",
                                "NNs",
                                "N(Ne",
                                "(Ne",
                                "]((Nea",
                                "\x86",
                                "(N\x86t",
                                "R",
                                "NR",
                                "b",
                                "Q",
                                "q",
                                "\x94",
                                "\x93",
                                "(\x94t",
                                "](K\x01\x61"
                                "e"}) {
    EXPECT_NE(Refusal(Pickled(ops)), "accepted") << ToHex(ops);
  }
  EXPECT_NE(Refusal(""), "accepted");
  EXPECT_NE(Refusal("\x80"), "accepted");
  EXPECT_NE(Refusal(std::string("\x80\x01N.")), "accepted");
  EXPECT_NE(Refusal(std::string("\x80\x06N.")), "accepted");
  EXPECT_NE(Refusal(std::string("N.")), "accepted");
  EXPECT_NE(Refusal(std::string("\x80\x04\x95") + Number(100, 8) + "N."), "accepted");
  EXPECT_NE(Refusal(Pickled("X" + Number(0xffffffff, 4) + "abc")), "accepted");
  EXPECT_NE(Refusal(Pickled("\x8d" + Number(~uint64_t{0}, 8) + "abc")), "accepted");
  EXPECT_TRUE(Read(std::string("\x80\x05\x95") + Number(2, 8) + "N.").ok());
}

}  // namespace
}  // namespace mimo::pickle_reader_test
