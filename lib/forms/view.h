// A directory of rank files or of Neuron's form, shown as the Hugging Face checkpoint that it holds: a catalogue of
// arrays that are rectangles of the stored ones. Whatever reads a checkpoint can plan from it; plans are resolved to
// the stored arrays afterwards (lib/planner/resolve.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/forms/cut_rows.h"
#include "lib/layout/gate_up.h"
#include "lib/model/catalogue.h"

namespace mimo {

// Rows [row, row + rows) of a shown array, columns [col, col + cols), and where they are stored. Columns are stored
// elements.
struct Fragment {
  uint32_t array = 0;  // into the stored catalogue
  int64_t row = 0, col = 0;
  int64_t rows = 0, cols = 0;
  int64_t stored_row = 0, stored_col = 0;
};

// Rows of two stored arrays that must be equal.
struct Replica {
  uint32_t first = 0, second = 0;  // into the stored catalogue
  int64_t first_row = 0, second_row = 0;
  int64_t rows = 0;
};

struct View {
  FormKind form =
      FormKind::kHf;    // of what is stored; kHf: of a run merged with its reference (lib/forms/merge/merge.h)
  Catalogue catalogue;  // what is shown; its files are those that it would have, none of them exists
  std::vector<std::vector<Fragment>> fragments;  // by shown array; ascending by (row, col)
  std::vector<uint8_t> transposed;               // by shown array: the stored rectangles are turned over
  std::vector<uint32_t> scale_of;                // by stored array: the stored scales of stored codes
  std::vector<Replica> replicas;
  std::vector<CutRows> cut_rows;   // beyond the vocabulary, which nothing shows
  std::vector<uint8_t> constants;  // by stored array: of the engine, not of the model
  int64_t chunks = 0;              // C of the fused(C) attention; 0: split with scales per row
  uint32_t real_files = 0;         // files of `catalogue` below this are stored files of the same index
  std::string skipped;             // what was left out unseen, for people; "" nothing
  std::vector<std::string> notes;  // what else people should know of what is shown
  // How gate and up lie that are shown in their places, and how those of experts do as the arguments of a run have it.
  GateUpOrder experts_order, dense_order;
  std::optional<GateUpOrder> said_gate_up;
  bool trained = false;       // the values of a training run
  bool halved_codes = false;  // expert codes are half of what they were, and their scales twice

  // Whether a shown array is one of those files', as it is stored.
  bool IsReal(uint32_t shown, const Catalogue& stored) const;
};

// A view of `stored` before it shows arrays: the catalogue has config, table, origin and carried files.
View EmptyView(const Catalogue& stored, FormKind form);

// An array of a view in the making.
struct Shown {
  StoredArray array;
  std::vector<Fragment> fragments;
  std::string file = {};  // where it goes when the origin's index does not say
  bool transposed = false;
};
// The whole of stored array `index`, which `shown` is in the view.
Fragment WholeOf(const StoredArray& shown, uint32_t index);
// Adds arrays by name, whose files are numbers already. The lookup is the caller's.
void AddShown(std::vector<Shown> shown, View* view);
// Adds arrays by name with their files, and builds the lookup. The view is complete.
void FinishView(std::vector<Shown> shown, View* view);

// Where an array goes whose file nothing names, as the family calls its files: by layer, -1 for those of none.
std::string FileOfLayer(bool mtp, int32_t layer);

}  // namespace mimo
