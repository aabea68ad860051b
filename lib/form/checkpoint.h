// A checkpoint understood: what is stored, as what, and in which layout. The usual first step of every tool.
#pragma once

#include <string>

#include "lib/base/file_system.h"
#include "lib/layout/decide.h"
#include "lib/layout/survey.h"
#include "lib/model/catalogue.h"
#include "lib/model/inventory.h"

namespace mimo {

struct Checkpoint {
  Catalogue catalogue;
  Inventory inventory;
  SurveyFacts facts;
  LayoutVerdict layout;
};

// OpenCatalogue, TakeInventory, Survey and DecideLayout, with their errors. `source_qkv` is --source-qkv, "" to decide.
Result<Checkpoint> OpenCheckpoint(FileSystem& fs, const std::string& root, const std::string& source_qkv,
                                  bool allow_anomalies);

}  // namespace mimo
