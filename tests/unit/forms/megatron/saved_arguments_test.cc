#include "lib/forms/megatron/saved_arguments.h"

#include <gtest/gtest.h>

namespace mimo::saved_arguments_test {
namespace {

TEST(RunConfig, NumbersAndFlagsOfTheModelAlone) {
  SavedArguments arguments;
  TakeRunConfig(
      "checkpoint:\n  hidden_size: 1\n"
      "model:\n  _target_: megatron.bridge.models.Provider\n  hidden_size: 4096  # of the residual\n"
      "  gated_linear_unit: true\n  fp8: null\n  rotary_base: [1, 2]\n  layernorm_epsilon: 1.0e-05\n"
      "  activation_func:\n    _target_: torch.nn.functional.silu\n    hidden_size: 3\n"
      "\n  moe_mlp_glu_interleave_size: 32\r\n"
      "train:\n  num_layers: 7\n",
      &arguments);
  EXPECT_TRUE(arguments.bridge);
  EXPECT_EQ(arguments.Find("hidden_size"), 4096);
  EXPECT_EQ(arguments.Find("gated_linear_unit"), 1);
  EXPECT_EQ(arguments.Find("moe_mlp_glu_interleave_size"), 32);
  EXPECT_EQ(arguments.values.size(), 3u);
  for (const char* text : {"", "model:", "model: {hidden_size: 4}", "model:\n- a\n", ":\n :\n", "model:\n  :\n"}) {
    SavedArguments none;
    TakeRunConfig(text, &none);
    EXPECT_TRUE(none.values.empty()) << text;
  }
}

TorchValue ArgsOf(TorchValue::Dict values) {
  TorchRecord record;
  record.module = "argparse";
  record.name = "Namespace";
  record.state.emplace_back(std::move(values));
  TorchValue::Dict saved;
  saved.emplace_back(TorchValue(std::string("args")), TorchValue(std::move(record)));
  return TorchValue(std::move(saved));
}

TEST(SavedArguments, OfADictOrOfTheOneInAList) {
  TorchValue::Dict values;
  values.emplace_back(TorchValue(std::string("num_layers")), TorchValue(int64_t{48}));
  values.emplace_back(TorchValue(std::string("swiglu")), TorchValue(true));
  values.emplace_back(TorchValue(std::string("lr")), TorchValue(0.5));
  const TorchValue saved = ArgsOf(values);
  TorchValue::List list;
  list.push_back(saved);
  for (const TorchValue& value : {saved, TorchValue(std::move(list))}) {
    SavedArguments arguments;
    TakeArguments(value, "common.pt", &arguments);
    EXPECT_EQ(arguments.Find("num_layers"), 48);
    EXPECT_EQ(arguments.Find("swiglu"), 1);
    EXPECT_EQ(arguments.values.size(), 2u);
    EXPECT_EQ(arguments.values.at("num_layers").place, "common.pt");
    EXPECT_FALSE(arguments.bridge);
  }
  SavedArguments none;
  TakeArguments(TorchValue(), "common.pt", &none);
  TakeArguments(TorchValue(TorchValue::List()), "common.pt", &none);
  EXPECT_TRUE(none.values.empty());
}

}  // namespace
}  // namespace mimo::saved_arguments_test
