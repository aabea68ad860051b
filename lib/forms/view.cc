#include "lib/forms/view.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "lib/decode/row_bytes.h"

namespace mimo {

bool View::IsReal(uint32_t shown, const Catalogue& stored) const {
  return fragments[shown].size() == 1 && stored.arrays[fragments[shown][0].array].file < real_files;
}

View EmptyView(const Catalogue& stored, FormKind form) {
  View view;
  view.form = form;
  view.scale_of.assign(stored.arrays.size(), kNone);
  view.constants.assign(stored.arrays.size(), 0);
  Catalogue& shown = view.catalogue;
  shown.root = stored.root;
  shown.config = stored.config;
  shown.table = stored.table;
  shown.origin = stored.origin;
  shown.kv_cache = stored.kv_cache;
  shown.carried = stored.carried;
  if (stored.origin && stored.origin->index) shown.index = stored.origin->index->info;
  shown.index.missing_files.clear();
  return view;
}

Fragment WholeOf(const StoredArray& shown, uint32_t index) {
  return {index, 0, 0, shown.rows(), RowElements(shown.shape), 0, 0};
}

void AddShown(std::vector<Shown> shown, View* view) {
  std::sort(shown.begin(), shown.end(), [](const Shown& a, const Shown& b) { return a.array.name < b.array.name; });
  for (Shown& s : shown) {
    std::sort(s.fragments.begin(), s.fragments.end(),
              [](const Fragment& a, const Fragment& b) { return std::tie(a.row, a.col) < std::tie(b.row, b.col); });
    view->catalogue.arrays.push_back(std::move(s.array));
    view->fragments.push_back(std::move(s.fragments));
    view->transposed.push_back(s.transposed ? 1 : 0);
  }
}

void FinishView(std::vector<Shown> shown, View* view) {
  Catalogue& catalogue = view->catalogue;
  std::unordered_map<std::string, std::string> home;
  if (catalogue.origin && catalogue.origin->index)
    for (const auto& [tensor, file] : catalogue.origin->index->weight_map) home.emplace(tensor, file);
  std::map<std::string, uint32_t> files;
  for (Shown& s : shown) {
    if (const auto found = home.find(s.array.name); found != home.end()) s.file = found->second;
    files.emplace(s.file, 0);
  }
  for (auto& [name, number] : files) {
    number = static_cast<uint32_t>(catalogue.files.size());
    catalogue.files.emplace_back().name = name;
  }
  for (Shown& s : shown) s.array.file = files.at(s.file);
  AddShown(std::move(shown), view);
  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) catalogue.by_name.emplace(catalogue.arrays[i].name, i);
}

std::string FileOfLayer(bool mtp, int32_t layer) {
  if (mtp) return "model_mtp.safetensors";
  return layer < 0 ? "model_extras.safetensors" : "model_layer" + std::to_string(layer) + ".safetensors";
}

}  // namespace mimo
