// The plan under construction: outputs without a place in a file yet. Internal to lib/plan.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lib/model/inventory.h"
#include "lib/plan/plan.h"
#include "lib/recipe/codec_types.h"
#include "lib/recipe/dialect.h"

namespace mimo {

// A weight to be made in a block codec.
struct EncodedRequest {
  TensorId id;       // part kWeight
  std::string name;  // "....weight"
  int64_t rows = 0;  // logical elements
  int64_t cols = 0;
  kernels::Encoding encoding;
  int64_t period = 0;  // EncodedWeight::period
  WeightArrays arrays;
  std::optional<float> input_scale;  // of activations, as a multiplier
  std::vector<Piece> pieces;         // of decoded sources
  uint32_t keep = kNone;             // EncodedWeight::keep
};

// What was planned so far, taken out of a builder so that it can be planned anew; sources stay.
struct PlannedOutputs {
  std::vector<OutputArray> outputs;
  std::vector<FuseGroup> groups;
  std::vector<uint32_t> near;  // by output
};

class PlanBuilder {
 public:
  PlanBuilder(const Catalogue& catalogue, const Inventory& inventory) : catalogue_(catalogue), inventory_(inventory) {
    source_of_.assign(catalogue.arrays.size(), kNone);
  }

  const Catalogue& catalogue() const { return catalogue_; }
  const Inventory& inventory() const { return inventory_; }
  Plan& plan() { return plan_; }

  // The plan source of a stored array, added on first use.
  uint32_t Source(uint32_t array);
  // The plan source of a weight with its codec and uniform grid, so that its values can be decoded. Not for plain arrays
  // of a type that is none of values (ValueCodecOf).
  uint32_t DecodedSource(const Weight& weight);
  // The plan source of a weight with its block size alone: codes that keep their scales.
  uint32_t GridSource(const Weight& weight);

  // A new fuse group; outputs are added to the last one.
  void BeginGroup(std::string label);
  // An output in file `file`; "" for that of stored array `near` (placement may decide otherwise). Returns its index.
  uint32_t AddOutput(OutputArray output, uint32_t near, std::string file = "");
  // `array` as it is, under its own name.
  uint32_t AddUnchanged(uint32_t array);
  // Every array of a weight as it is.
  void AddKept(const Weight& weight);
  // A quantized weight whose arrays are named otherwise in the output; nothing but a global scale changes.
  void AddRenamed(const Weight& weight, const WeightArrays& arrays);
  // The arrays of an encoded weight, in the file of `near`.
  void AddEncoded(const EncodedRequest& request, uint32_t near);

  PlannedOutputs TakeOutputs();

  // Takes outputs out again, with groups and sources that nothing needs any more; `dropped(array, group)` is told of
  // every catalogue array that is no longer read (group: the index it had).
  void RemoveOutputs(const std::vector<uint8_t>& gone,
                     const std::function<void(uint32_t array, uint32_t group)>& dropped);

  FuseGroup& group() { return plan_.groups.back(); }
  uint32_t near(uint32_t output) const { return near_[output]; }
  const std::string& file(uint32_t output) const { return file_[output]; }
  void SetFile(uint32_t output, std::string file) { file_[output] = std::move(file); }
  void SetNear(uint32_t output, uint32_t array) { near_[output] = array; }
  bool used(uint32_t array) const { return source_of_[array] != kNone; }

 private:
  const Catalogue& catalogue_;
  const Inventory& inventory_;
  Plan plan_;
  std::vector<uint32_t> source_of_;  // catalogue array -> plan source
  std::vector<uint32_t> near_;       // output -> catalogue array whose file it belongs to
  std::vector<std::string> file_;    // output -> its file; "" where near_ decides
};

// An output that holds what `stored` does: its name, id, dtype and shape. Without pieces yet.
OutputArray OutputLike(const StoredArray& stored);
// An output that is made as `other` is: id, dtype, transform, codec, adjustment, factor and padding are the same. Name,
// shape, pieces and place are the caller's.
OutputArray OutputLike(const OutputArray& other);

uint64_t ArrayBytes(DType dtype, const std::vector<int64_t>& shape);

}  // namespace mimo
