// A checkpoint understood: what is stored, as what, and in which layout. The usual first step of every tool. Rank
// files, Neuron directories and what Megatron saved are understood through a view (lib/forms/view.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/forms/view.h"
#include "lib/layout/decide.h"
#include "lib/layout/gate_up.h"
#include "lib/layout/survey.h"
#include "lib/model/catalogue.h"
#include "lib/model/inventory.h"

namespace mimo {

// What a checkpoint that is merged with another (lib/forms/merge/merge.h) does not say in its view and its inventory.
// Arrays of the reference whose weights the run has are shown as "ref/NAME"; stored arrays of the run are "run/NAME",
// and so are those that are shown but are no weights.
inline constexpr char kReferencePrefix[] = "ref/";
inline constexpr char kRunPrefix[] = "run/";
struct Like {
  Inventory reference;            // every weight of the reference; arrays are those that the merged view shows
  QkvLayout layout;               // of the reference's attention
  uint32_t first_grafted = 0;     // weights from here on in the merged inventory are the reference's own
  std::vector<uint32_t> unknown;  // arrays of the reference that no table knows, as shown; and scales of its KV cache
  // The same of the run, shown as "run/NAME", and where they are stored, ascending.
  std::vector<uint32_t> run_unknown;
  std::vector<uint32_t> stored_run_unknown;
  // Arrays of MTP layers that the run has not whole, where they are stored, ascending: the reference's layers take
  // their place.
  std::vector<uint32_t> stored_run_broken_mtp;
};

struct Checkpoint {
  Catalogue stored;
  std::unique_ptr<View> view;  // null for Hugging Face directories
  Inventory inventory;         // of catalogue()
  SurveyFacts facts;
  LayoutVerdict layout;
  std::unique_ptr<Like> like;          // of a merged checkpoint
  std::vector<CutRows> cut_rows = {};  // beyond the vocabulary, counted
  // What the checkpoint is as a Hugging Face directory: `stored`, or what the view shows.
  const Catalogue& catalogue() const { return view ? view->catalogue : stored; }
};

struct OpenOptions {
  std::optional<QkvWish> source_qkv = {};  // --source-qkv; nullopt: decided
  GateUpWish gate_up = {};                 // --source-gate-up; what it leaves open: as the arguments of the run say
  bool allow_anomalies = false;            // NaN codes and bad scales in the sample are counted, not refused
  // Whose config is that of a training checkpoint without one: a catalogue that outlives the call, or a directory,
  // which is opened for whatever is no Hugging Face directory.
  const Catalogue* like = nullptr;
  std::string like_root = {};
  // Of a Hugging Face directory: MTP layers that are not whole are left out, for they will be another checkpoint's
  // (lib/forms/merge/merge.h).
  bool without_broken_mtp = false;
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

}  // namespace mimo
