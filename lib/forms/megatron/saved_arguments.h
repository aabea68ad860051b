// What a training run was started with, as it saved it: an argparse.Namespace in common.pt, in the item common_state or
// in a legacy file, or run_config.yaml of Megatron-Bridge (reference target-layouts.md 2.1 to 2.3). Read as data; of
// all that is there, numbers and flags.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "lib/base/status.h"
#include "lib/io/torch/value.h"
#include "lib/model/config.h"

namespace mimo {

struct SavedArguments {
  struct Value {
    int64_t number = 0;  // 0 and 1 of a flag
    std::string place;   // "common.pt"
  };
  std::map<std::string, Value, std::less<>> values;  // by name
  std::string unread;                                // why what holds them could not be read; "" nothing
  bool bridge = false;                               // saved by Megatron-Bridge: there is a run_config.yaml

  std::optional<int64_t> Find(std::string_view name) const;
};

// "args" of a saved dict, or of the one in a saved list. Names that are there already stay.
void TakeArguments(const TorchValue& saved, const std::string& place, SavedArguments* arguments);
// What stands directly below "model:". What is no such mapping says nothing.
void TakeRunConfig(std::string_view yaml, SavedArguments* arguments);

// kBadInput [descent.arguments]: the arguments are of another model than the config, with both values. What they do not
// say is no contradiction.
Status CheckArguments(const SavedArguments& arguments, const ModelConfig& config, const std::string& root);

}  // namespace mimo
