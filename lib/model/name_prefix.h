// Tensor names under a prefix: omni classes put "language_model." in front of the text model's names, wrappers of
// training "module." or "_orig_mod.", PEFT "base_model.model.". Which prefixes are read is data (schemas/foreign.json,
// "prefixes", of which several may follow each other, and "renamed" for the towers beside).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lib/model/catalogue.h"

namespace mimo {

// Gives the arrays of `catalogue`, which are all that was read, and the names of `weight_map` the names under which the
// model's table knows them, and says so: Catalogue::name_prefix, CatalogueFile::renamed, an oddity. Modules that
// config.json and hf_quant_config.json list by name (ignored_layers, modules_to_not_convert, ignore, exclude_modules,
// quantized_layers) follow, in ModelConfig::text and Catalogue::quant_config. Nothing happens where any tensor of a
// layer has its released name, or where no prefix explains nine of ten names that have any. Returns what was done to
// names, for tensors that are found later.
Result<ReleasedName> ReleaseNames(Catalogue* catalogue, std::vector<std::pair<std::string, std::string>>* weight_map);

// Whether the table knows what is left of a name when prefixes that are read are taken off it.
bool IsReadUnderPrefix(const ModelTable& table, const std::string& name);

}  // namespace mimo
