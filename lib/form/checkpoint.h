// A checkpoint understood: what is stored, as what, and in which layout. The usual first step of every tool. Rank
// files, Neuron directories and what Megatron saved are understood through a view (lib/form/view.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "lib/base/file_system.h"
#include "lib/form/view.h"
#include "lib/layout/decide.h"
#include "lib/layout/survey.h"
#include "lib/model/catalogue.h"
#include "lib/model/inventory.h"

namespace mimo {

struct Like;

struct Checkpoint {
  Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();
  Catalogue stored;
  std::unique_ptr<View> view;  // null for Hugging Face directories
  Inventory inventory;         // of catalogue()
  SurveyFacts facts;
  LayoutVerdict layout;
  std::unique_ptr<Like> like;  // of a checkpoint that is merged with another (lib/form/like.h)
  // What the checkpoint is as a Hugging Face directory: `stored`, or what the view shows.
  const Catalogue& catalogue() const { return view ? view->catalogue : stored; }
};

struct OpenOptions {
  std::optional<QkvWish> source_qkv = {};  // --source-qkv; nullopt: decided
  bool allow_anomalies = false;            // NaN codes and bad scales in the sample are counted, not refused
  // Whose config is that of a training checkpoint without one: a catalogue that outlives the call, or a directory,
  // which is opened for whatever is no Hugging Face directory.
  const Catalogue* like = nullptr;
  std::string like_root = {};
};

// How far the steps of OpenCatalogue, TakeInventory, Survey and DecideLayout came, in this order. A view has all of
// them or nothing: without it, nothing that is stored means anything.
struct OpenedCheckpoint {
  enum class Reached : uint8_t {
    kNothing,
    kStored,     // Checkpoint::stored
    kInventory,  // and its inventory
    kLayout,     // everything
  };
  Checkpoint checkpoint;
  Reached reached = Reached::kNothing;
  Status status;  // the error that stopped it; ok with kLayout only
};
OpenedCheckpoint OpenAsFarAsPossible(FileSystem& fs, const std::string& root, const OpenOptions& options = {});

// The whole checkpoint, or the error of the step that failed; kUsage for a --source-qkv that contradicts a view, which
// knows its layout.
Result<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& root, const OpenOptions& options = {});

}  // namespace mimo
