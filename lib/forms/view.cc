#include "lib/forms/view.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace mimo {

Catalogue EmptyShown(const Catalogue& stored) {
  Catalogue shown;
  shown.root = stored.root;
  shown.config = stored.config;
  shown.table = stored.table;
  shown.origin = stored.origin;
  shown.carried = stored.carried;
  if (stored.origin && stored.origin->index) shown.index = stored.origin->index->info;
  shown.index.missing_files.clear();
  return shown;
}

void ShowArray(View* view, StoredArray array, const std::string& fallback, std::vector<Fragment> fragments,
               bool transposed) {
  Catalogue& shown = view->catalogue;
  // By name for now; FinishView replaces it.
  CatalogueFile file;
  file.name = fallback;
  if (shown.files.empty() || shown.files.back().name != fallback) shown.files.push_back(std::move(file));
  array.file = static_cast<uint32_t>(shown.files.size() - 1);
  std::sort(fragments.begin(), fragments.end(),
            [](const Fragment& a, const Fragment& b) { return std::tie(a.row, a.col) < std::tie(b.row, b.col); });
  shown.arrays.push_back(std::move(array));
  view->fragments.push_back(std::move(fragments));
  view->transposed.push_back(transposed ? 1 : 0);
}

void FinishView(View* view) {
  Catalogue& shown = view->catalogue;
  std::unordered_map<std::string, std::string> home;
  if (shown.origin && shown.origin->index)
    for (const auto& [tensor, file] : shown.origin->index->weight_map) home.emplace(tensor, file);
  std::vector<std::string> file_of(shown.arrays.size());
  std::vector<std::string> names;
  for (size_t i = 0; i < shown.arrays.size(); ++i) {
    const auto found = home.find(shown.arrays[i].name);
    file_of[i] = found == home.end() ? shown.files[shown.arrays[i].file].name : found->second;
    names.push_back(file_of[i]);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  shown.files.clear();
  for (const std::string& name : names) {
    CatalogueFile file;
    file.name = name;
    shown.files.push_back(std::move(file));
  }
  std::vector<uint32_t> order(shown.arrays.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return shown.arrays[a].name < shown.arrays[b].name; });
  std::vector<StoredArray> arrays;
  std::vector<std::vector<Fragment>> fragments;
  std::vector<uint8_t> transposed;
  for (const uint32_t i : order) {
    StoredArray array = std::move(shown.arrays[i]);
    array.file = static_cast<uint32_t>(std::lower_bound(names.begin(), names.end(), file_of[i]) - names.begin());
    shown.by_name.emplace(array.name, static_cast<uint32_t>(arrays.size()));
    arrays.push_back(std::move(array));
    fragments.push_back(std::move(view->fragments[i]));
    transposed.push_back(view->transposed[i]);
  }
  shown.arrays = std::move(arrays);
  view->fragments = std::move(fragments);
  view->transposed = std::move(transposed);
}

}  // namespace mimo
