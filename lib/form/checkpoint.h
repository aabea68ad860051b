// A checkpoint understood: what is stored, as what, and in which layout. The usual first step of every tool. Rank files
// and Neuron directories are understood through a view (lib/form/view.h).
#pragma once

#include <memory>
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

// OpenCatalogue, the view where there is one, TakeInventory, Survey and DecideLayout, with their errors. `source_qkv`
// is
// --source-qkv, "" to decide; views know their layout, kUsage to contradict them. `like`: whose config is that of a
// training checkpoint; null where it must have its own.
Result<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& root, const std::string& source_qkv,
                                  bool allow_anomalies, const Catalogue* like = nullptr);

}  // namespace mimo
