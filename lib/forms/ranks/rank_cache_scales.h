// Scales of the KV cache in the files of ranks: constants of the engine's state (attn.k_scale: -1, not set) that take a
// number where the model has one, the same on every rank.
#pragma once

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/forms/ranks/rank_form.h"
#include "lib/forms/ranks/rank_places.h"
#include "lib/forms/view.h"

namespace mimo {

// ---- as an output

// The planned scales of a conversion, until arrays of ranks take them.
class RankCacheScales {
 public:
  // Both outlive it.
  RankCacheScales(const RankPlaces& places, const Catalogue& catalogue) : places_(places), catalogue_(catalogue) {}

  // A planned output of a cache role, which outlives this. kBadInput: its layer has another of its kind.
  Status Add(DraftOutput* output);
  // The scale that fills a constant in a layer; null when there is none.
  const DraftOutput* Take(const RankConstant& constant, int32_t layer);
  // Adds a group: the constant of every rank, as a scalar of the scale's own type, or of the one that a template asks
  // for. Errors of RankPlaces::NameOf.
  Status Fill(const RankConstant& constant, const DraftOutput& scale, int32_t layer, Draft* draft,
              RankOutputs* outputs) const;
  // Those that nothing has taken.
  std::vector<DraftOutput*> Rest() const;

 private:
  const RankPlaces& places_;
  const Catalogue& catalogue_;
  std::map<std::tuple<bool, int32_t, Role>, DraftOutput*> scales_;
  std::set<const DraftOutput*> taken_;
};

// ---- as a source

// Names (without the rank) of the arrays of rank 0 that hold a scale and not the constant: their values are read, some
// bytes each. kIo.
Result<std::set<std::string>> FilledCacheScales(FileSystem& fs, const Catalogue& stored, const RankForm& form);

// What the scales that constants hold are called in the shown checkpoint.
class ShownCacheScales {
 public:
  // `stored` outlives it.
  explicit ShownCacheScales(const Catalogue& stored);
  // Name and id of what the constant of a layer holds: as the index of the origin has it, else beside fused attention.
  // nullopt: the origin has one scale for keys and values, which another constant shows.
  std::optional<StoredArray> Show(const RankConstant& constant, int32_t layer) const;
  // Whether it had the shape [1] there.
  bool WasVector(const TensorId& id) const;

 private:
  const ModelTable& table_;
  bool all_vectors_ = false;
  std::set<std::tuple<bool, int32_t, Role>> vectors_;
  std::map<std::tuple<bool, int32_t, Role>, std::string> origin_;
};

}  // namespace mimo
