#include "lib/layout/checkpoint.h"

#include <algorithm>

namespace mimo {

Result<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& root, const std::string& source_qkv,
                                  bool allow_anomalies) {
  Checkpoint checkpoint;
  MIMO_ASSIGN_OR_RETURN(checkpoint.catalogue, OpenCatalogue(fs, root));
  MIMO_ASSIGN_OR_RETURN(checkpoint.inventory, TakeInventory(checkpoint.catalogue));
  std::vector<QkvLayout> candidates;
  for (const LayoutCandidate& c : FeasibleLayouts(checkpoint.catalogue, checkpoint.inventory))
    candidates.push_back(c.layout);
  if (!source_qkv.empty()) {
    MIMO_ASSIGN_OR_RETURN(QkvLayout flagged, ParseLayoutFlag(source_qkv, checkpoint.catalogue));
    if (std::find(candidates.begin(), candidates.end(), flagged) == candidates.end()) candidates.push_back(flagged);
  }
  MIMO_ASSIGN_OR_RETURN(checkpoint.facts,
                        Survey(fs, checkpoint.catalogue, checkpoint.inventory, candidates, allow_anomalies));
  MIMO_ASSIGN_OR_RETURN(checkpoint.layout,
                        DecideLayout(checkpoint.catalogue, checkpoint.inventory, checkpoint.facts, source_qkv));
  return checkpoint;
}

}  // namespace mimo
