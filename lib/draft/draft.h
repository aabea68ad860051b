// The plan under construction: groups that own their outputs. An output knows its file and what it lies near, nothing
// has a place yet, and all is numbered once, when it gets one (lib/draft/placement.h). Until then whoever plans erases
// and appends freely.
#pragma once

#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/model/inventory.h"
#include "lib/plan/plan.h"
#include "lib/plan/reads.h"
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

// An output before it has a place: its pieces name sources of the draft; group, file number and bytes are not set.
struct DraftOutput : OutputArray {
  uint32_t near = kNone;  // the catalogue array whose file it belongs to
  std::string file_name;  // its file; "" where `near` decides
};

// Outputs that are made together (FuseGroup). Cells and encoded weights name outputs by their place in `outputs`.
struct DraftGroup {
  DraftGroup() = default;
  explicit DraftGroup(std::pmr::memory_resource* memory) : outputs(memory) {}

  std::string label;
  std::pmr::vector<DraftOutput> outputs;
  std::vector<CellRow> cells;
  std::vector<EncodedWeight> encoded;
  uint64_t straddling_blocks = 0;

  bool SharesGlobal() const { return !encoded.empty() && HasGlobal(encoded[0].encoding.codec); }
  // Takes out the outputs that `gone` marks (by place), with encoded weights whose codes they are.
  void Erase(const std::vector<uint8_t>& gone);
};

// Calls visit(uint32_t&) with every number of an output that cells and encoded weights hold.
template <class Visit>
void VisitOutputNumbers(std::vector<CellRow>& cells, std::vector<EncodedWeight>& encoded, Visit visit) {
  for (CellRow& cell : cells) {
    visit(cell.scale_output);
    for (CellSegment& segment : cell.segments) visit(segment.output);
  }
  for (EncodedWeight& weight : encoded)
    for (uint32_t* output : {&weight.codes, &weight.scales, &weight.global, &weight.input})
      if (*output != kNone) visit(*output);
}

class Draft {
 public:
  // Both outlive the draft.
  Draft(const Catalogue& catalogue, const Inventory& inventory)
      : catalogue_(&catalogue),
        inventory_(&inventory),
        source_of_(catalogue.arrays.size(), kNone),
        reasons_(catalogue.arrays.size()) {}

  const Catalogue& catalogue() const { return *catalogue_; }
  const Inventory& inventory() const { return *inventory_; }

 private:
  // Outputs lie apart from what they own, which a plan takes over: what it walks stays close together. Large pages go
  // back to the system at once.
  struct Memory {
    std::pmr::monotonic_buffer_resource pages{4 << 20};
    std::pmr::unsynchronized_pool_resource outputs{&pages};
  };
  std::unique_ptr<Memory> memory_ = std::make_unique<Memory>();

 public:
  std::vector<DraftGroup> groups;
  // What is read, in the order of first use. What nothing reads in the end is left out of the plan.
  std::vector<SourceArray> sources;
  std::vector<EqualRows> equal;  // of two sources

  // The source of a stored array, added on first use.
  uint32_t Source(uint32_t array);
  // The source of a weight with its codec and uniform grid, so that its values can be decoded. Not for plain arrays of
  // a type that is none of values (ValueCodecOf).
  uint32_t DecodedSource(const Weight& weight);
  // The source of a weight with its block size alone: codes that keep their scales.
  uint32_t GridSource(const Weight& weight);

  // A new group; outputs are added to the last one.
  void BeginGroup(std::string label);
  DraftGroup& group() { return groups.back(); }
  // An output in file `file`; "" for that of stored array `near` (placement may decide otherwise). Returns its place in
  // the group.
  uint32_t AddOutput(OutputArray output, uint32_t near, std::string file = "");
  // `array` as it is, under its own name.
  void AddUnchanged(uint32_t array);
  // Every array of a weight as it is.
  void AddKept(const Weight& weight);
  // A quantized weight whose arrays are named otherwise in the output; nothing but a global scale changes.
  void AddRenamed(const Weight& weight, const WeightArrays& arrays);
  // The input scale that a kept NVFP4 weight lacks, as the dialect of `arrays` stores the multiplier `value`.
  void AddInputScale(const Weight& weight, const WeightArrays& arrays, float value);
  // The arrays of an encoded weight, in the file of `near`.
  void AddEncoded(const EncodedRequest& request, uint32_t near);

  // Ends the draft once a plan has taken its outputs over: groups have none any more, and their memory is free.
  void DropOutputs();

  // Every output, in order.
  template <class Visit>
  void VisitOutputs(Visit visit) {
    for (DraftGroup& group : groups)
      for (DraftOutput& output : group.outputs) visit(output);
  }
  // Calls visit(uint32_t) with every source that a group reads; some more than once.
  template <class Visit>
  void VisitReads(const DraftGroup& group, Visit visit) const {
    for (const DraftOutput& output : group.outputs) {
      for (const Piece& piece : output.pieces) VisitPiece(sources, output, piece, visit);
      if (output.keep != kNone) visit(output.keep);
    }
    for (const CellRow& cell : group.cells) VisitCell(cell, visit);
    for (const EncodedWeight& weight : group.encoded)
      if (weight.keep != kNone) visit(weight.keep);
  }

  // Why nothing reads a catalogue array, should that be so in the end; the last word counts.
  void SetReason(uint32_t array, std::string reason) { reasons_[array] = std::move(reason); }
  // The same for every array of a weight.
  void Drop(const Weight& weight, const std::string& reason);
  // By catalogue array; "": none was given.
  const std::vector<std::string>& reasons() const { return reasons_; }
  // The same, when the draft is done.
  std::vector<std::string> TakeReasons() { return std::move(reasons_); }

 private:
  // How the scales of a weight lie.
  void SetGrid(const Weight& weight, SourceArray* source) const;

  const Catalogue* catalogue_;
  const Inventory* inventory_;
  std::vector<uint32_t> source_of_;   // by catalogue array
  std::vector<std::string> reasons_;  // by catalogue array
};

// An output that holds what `stored` does: its name, id, dtype and shape. Without pieces yet.
OutputArray OutputLike(const StoredArray& stored);
// An output that is made as `other` is: id, dtype, transform, codec, adjustment, factor and padding are the same. Name,
// shape, pieces and place are the caller's.
OutputArray OutputLike(const OutputArray& other);

uint64_t ArrayBytes(DType dtype, const std::vector<int64_t>& shape);

}  // namespace mimo
