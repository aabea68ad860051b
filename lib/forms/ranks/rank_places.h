// Where what a model has lies among the arrays of ranks: geometry and names, for whoever deals weights out.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/draft/cut_pieces.h"
#include "lib/forms/form.h"
#include "lib/forms/ranks/rank_form.h"

namespace mimo {

class RankPlaces {
 public:
  // Both outlive it. Divisibility was checked when the target was chosen.
  RankPlaces(const RankForm& form, const Planning& p);

  const RankForm& form() const { return form_; }
  int64_t tp() const { return tp_; }
  // Those that are written, ascending.
  const std::vector<int64_t>& ranks() const { return ranks_; }

  // The shape of a rank's array in `layer`, of elements (codes of a byte, values, scales), from that of one of the
  // arrays that make it.
  std::vector<int64_t> ShapeOnRank(const RankTensor& tensor, int32_t layer, const std::vector<int64_t>& shape) const;
  // Where the part of an array that `rank` holds goes in its own; nullopt: it holds none. Not for Cut::kScalars.
  std::optional<Placed> PlaceOf(const RankTensor& tensor, const TensorId& id, const std::vector<int64_t>& shape,
                                int64_t rank) const;
  // Which elements of a rank's scalars are those of `id`, counted through its shape; nullopt: none.
  std::optional<Range> ScalarsOf(const RankTensor& tensor, const TensorId& id, int64_t rank) const;

  // What an array of a rank is called, and its file. kUsage where a template has no place for it.
  Result<std::string> NameOf(const RankTensor& tensor, int32_t layer, DType dtype,
                             const std::vector<int64_t>& shape) const;
  Result<std::string> NameOf(bool mtp, const std::string& table_name, DType dtype,
                             const std::vector<int64_t>& shape) const;
  static std::string FileOf(bool mtp, int64_t rank, int32_t layer);

 private:
  // The vocabulary is padded.
  int64_t RowsWithTail(const RankTensor& tensor, int64_t rows) const;
  int64_t LocalExpert(int64_t expert, int64_t rank) const;  // -1: another rank's
  int64_t PartsOf(const RankTensor& tensor, int32_t layer) const;

  const RankForm& form_;
  const ModelConfig& model_;
  const int64_t tp_, ep_, experts_;
  std::vector<int64_t> ranks_;
};

// kUsage for an array of a rank, of `columns` values or stored elements a row, that its pieces do not fill: filters
// have left a part of what it holds.
Status CheckFilled(const OutputArray& array, int64_t columns, const std::string& table_name);

// Adds arrays of ranks to the last group of a draft.
class RankOutputs {
 public:
  // Both outlive it.
  RankOutputs(const RankPlaces& places, Draft* draft) : places_(places), draft_(*draft) {}

  // `name` is without the rank. Returns the place of the output in the group.
  uint32_t Add(OutputArray output, const std::string& name, bool mtp, int64_t rank, int32_t layer, uint32_t near);
  // A group of input scales that nothing uses: vLLM's classes for weights alone have them too, F32 of experts, BF16 NaN
  // of linear layers.
  Status AddUnused(const RankTensor& scalars, int32_t layer, uint32_t near);
  // Names of the arrays of the first rank that is written, drafters left out.
  const std::vector<std::string>& first_names() const { return first_names_; }

 private:
  const RankPlaces& places_;
  Draft& draft_;
  std::vector<std::string> first_names_;
};

}  // namespace mimo
