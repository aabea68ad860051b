// A directory of rank files or of Neuron's form, shown as the Hugging Face checkpoint that it holds: a catalogue of
// arrays that are rectangles of the stored ones. Whatever reads a checkpoint can plan from it; plans are resolved to
// the stored arrays afterwards (lib/planner/resolve.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
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
  std::vector<uint8_t> constants;  // by stored array: of the engine, not of the model
  int64_t chunks = 0;              // C of the fused(C) attention; 0: split with scales per row
  uint32_t real_files = 0;         // files of `catalogue` below this are stored files of the same index
  std::string skipped;             // what was left out unseen, for people; "" nothing
  bool trained = false;            // the values of a training run
  bool halved_codes = false;       // expert codes are half of what they were, and their scales twice
};

// The catalogue of a view before it has arrays: config, table, origin and carried files of `stored`.
Catalogue EmptyShown(const Catalogue& stored);
// Adds an array to a view; `file` is where the origin's index puts it, else `fallback`.
void ShowArray(View* view, StoredArray array, const std::string& fallback, std::vector<Fragment> fragments,
               bool transposed);
// Sorts the arrays by name and builds the lookup. The view is complete.
void FinishView(View* view);

}  // namespace mimo
