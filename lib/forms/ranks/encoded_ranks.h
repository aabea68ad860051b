// Weights that are quantized and cut in the same run: what each rank holds of one is an encoded weight of its own.
#pragma once

#include <map>
#include <tuple>
#include <vector>

#include "lib/forms/ranks/rank_places.h"

namespace mimo {

class EncodedRanks {
 public:
  // All outlive it.
  EncodedRanks(const RankPlaces& places, Dialect dialect, Draft* draft, RankOutputs* outputs)
      : places_(places), dialect_(dialect), draft_(*draft), outputs_(*outputs) {}

  // Whether the engine has a class whose arrays are called so: scales per group belong to ModelOpt, but for experts.
  bool HasClass(const TensorId& id) const {
    return id.part != Part::kScale || id.expert >= 0 || dialect_ == Dialect::kModelOpt;
  }

  // Takes note of the encoded weights of a planned group, which outlives this. kUsage for what the form has no place
  // for.
  Status Add(const DraftGroup& group);
  // Adds groups of arrays of ranks, in which those that shared a global scale share it still. FP8 grids begin with the
  // rank's part of each matrix.
  Status Make();

 private:
  struct Member {
    const DraftGroup* group = nullptr;
    const EncodedWeight* weight = nullptr;
    const DraftOutput& Array(uint32_t place) const { return group->outputs[place]; }
    const DraftOutput& Codes() const { return Array(weight->codes); }
  };
  // Arrays of one rank that are made together; places in the group, kNone where there is none.
  struct Arrays {
    uint32_t codes = kNone, scales = kNone, global = kNone, input = kNone;
  };

  Result<size_t> TensorOf(const DraftOutput& output) const;
  Status MakeStack(const RankTensor& tensor, int32_t layer, const std::vector<Member>& members);
  Result<uint32_t> AddArray(const DraftOutput& planned, int64_t rank);
  Result<Arrays> AddArrays(const Member& first, int64_t rank);
  Status Cut(const RankTensor& tensor, const Member& member, uint32_t share, int64_t rank, const Arrays& arrays);

  const RankPlaces& places_;
  const Dialect dialect_;
  Draft& draft_;
  RankOutputs& outputs_;
  std::map<std::tuple<bool, int32_t, size_t>, std::vector<Member>> stacks_;  // by (mtp, layer, tensor of the codes)
};

}  // namespace mimo
