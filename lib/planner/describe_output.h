// What a planned directory, of whatever form, says about itself: config.json, the index, and what travels along.
#pragma once

#include "lib/planner/choice.h"
#include "lib/planner/target.h"

namespace mimo {

struct OutputDescription {
  const Catalogue& catalogue;
  const Inventory& inventory;
  const LayoutVerdict& verdict;
  const PlanOptions& options;
  const Target& target;
  const StorageChooser& chooser;
  bool viewed = false;  // the catalogue is what a view shows
};

// Fills Plan::texts, carried and payload_bytes; outputs are placed. Errors of EditHfConfig.
Status DescribeOutput(const OutputDescription& d, Plan* plan);

}  // namespace mimo
