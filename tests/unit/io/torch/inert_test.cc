// What becomes of classes that only the trainer has, where a file holds more than is looked at.
#include <gtest/gtest.h>

#include "lib/io/torch/pickle_reader.h"

namespace mimo::inert_test {
namespace {

std::string Pickled(const std::string& ops) {
  return std::string("\x80\x02", 2) + ops + ".";
}
std::string Name(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}

Result<TorchValue> Read(const std::string& pickle, UnknownNames unknown = UnknownNames::kInert) {
  MIMO_ASSIGN_OR_RETURN(const Pickle nodes, ReadPickle(pickle, "here.pkl", unknown));
  return ValueOf(nodes, "here.pkl");
}

const std::string kSchedule = Name("my_trainer.args", "Schedule");

TEST(Inert, WhateverIsMadeOfAnUnknownClassIsARecordOfItsName) {
  for (const std::string& made : {kSchedule, kSchedule + ")R", kSchedule + "K\x01\x85R", kSchedule + ")\x81",
                                  kSchedule + ")\x81}b", kSchedule + ")\x81}b}b", kSchedule + ")R(K\x01K\x02" + "e",
                                  kSchedule + ")R(K\x01K\x02u", kSchedule + ")RK\x01" + "a", kSchedule + ")R]b"}) {
    const auto value = Read(Pickled(made));
    ASSERT_TRUE(value.ok()) << value.error().Message();
    const auto* record = std::get_if<TorchRecord>(&value.value().data);
    ASSERT_NE(record, nullptr);
    EXPECT_TRUE(record->inert);
    EXPECT_EQ(record->name, "my_trainer.args.Schedule");
    EXPECT_EQ(FindInert(value.value()), record);
    EXPECT_FALSE(Read(Pickled(made), UnknownNames::kRefuse).ok());
  }
  // By STACK_GLOBAL, module and name apart.
  const auto value =
      Read(Pickled("\x8c\x01m\x8c\x03"
                   "Abc\x93"));
  ASSERT_TRUE(value.ok()) << value.error().Message();
  EXPECT_EQ(std::get<TorchRecord>(value.value().data).name, "Abc");
}

TEST(Inert, IsFoundHoweverDeep) {
  for (const std::string& around : {"]" + kSchedule + "a", kSchedule + "\x85", "}K\x01" + kSchedule + "s",
                                    Name("argparse", "Namespace") + ")\x81}K\x01" + kSchedule + "sb",
                                    Name("types", "SimpleNamespace") + kSchedule + "\x85R"}) {
    const auto value = Read(Pickled(around));
    ASSERT_TRUE(value.ok()) << value.error().Message();
    ASSERT_NE(FindInert(value.value()), nullptr);
    EXPECT_EQ(FindInert(value.value())->name, "my_trainer.args.Schedule");
  }
  const auto plain =
      Read(Pickled("]K\x01"
                   "a"));
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(FindInert(plain.value()), nullptr);
}

TEST(Inert, TrapsAreRefusedByName) {
  for (const auto& [module, name] :
       {std::pair("os", "system"), std::pair("posix", "system"), std::pair("builtins", "eval"),
        std::pair("subprocess", "Popen"), std::pair("os.path", "join"), std::pair("importlib", "import_module")}) {
    const auto value = Read(Pickled(Name(module, name) + ")R"));
    ASSERT_FALSE(value.ok()) << module;
    EXPECT_NE(value.error().Message().find(std::string(module) + "." + name), std::string::npos);
  }
}

TEST(Inert, DoesNotMakeStoragesOrTensors) {
  const std::string storage = "(X\x07" + std::string(3, '\0') + "storage" + kSchedule + "X\x01" + std::string(3, '\0') +
                              "0X\x03" + std::string(3, '\0') + "cpuK\x04tQ";
  EXPECT_FALSE(Read(Pickled(storage)).ok());
  EXPECT_FALSE(Read(Pickled(Name("torch._utils", "_rebuild_tensor_v2") + "(" + kSchedule + "K\x01))\x89}tR")).ok());
}

}  // namespace
}  // namespace mimo::inert_test
