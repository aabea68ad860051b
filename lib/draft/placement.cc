// Where outputs go: the source's own files (so that unchanged ones can be linked) or shards of a size; then offsets,
// headers and the file groups that workers and resume count in.
#include "lib/draft/placement.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "lib/model/file_names.h"
#include "lib/plan/reads.h"

namespace mimo {

namespace {

std::string ShardName(size_t index, size_t count) {
  const auto digits = [](size_t n) {
    std::string text = std::to_string(n);
    return text.size() < 5 ? std::string(5 - text.size(), '0') + text : text;
  };
  return "model-" + digits(index + 1) + "-of-" + digits(count) + ".safetensors";
}

class Placer {
 public:
  Placer(PlanBuilder& builder, const PlacementOptions& options)
      : builder_(builder),
        catalogue_(builder.catalogue()),
        plan_(builder.plan()),
        options_(options),
        container_(*options.container) {}

  void Place() {
    std::vector<std::string> file_of = options_.max_shard_bytes == 0 ? SourceFiles() : Shards(options_.max_shard_bytes);
    MakeFiles(file_of);
    for (PlanFile& file : plan_.files) LayOut(&file);
    SortOutputs();
    GroupFiles(plan_);
  }

 private:
  uint32_t SourceFile(uint32_t output) const { return catalogue_.arrays[builder_.near(output)].file; }

  std::vector<std::string> SourceFiles() const {
    std::vector<std::string> names(plan_.outputs.size());
    for (uint32_t i = 0; i < names.size(); ++i)
      names[i] = builder_.file(i).empty() ? catalogue_.files[SourceFile(i)].name : builder_.file(i);
    return names;
  }

  static std::string_view Module(const std::string& name) { return std::string_view(name).substr(0, name.rfind('.')); }

  // Shards are filled in source order; the arrays of one weight stay together.
  std::vector<std::string> Shards(uint64_t limit) const {
    std::vector<uint32_t> order(plan_.outputs.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return std::tuple(SourceFile(a), std::cref(plan_.outputs[a].name).get()) <
             std::tuple(SourceFile(b), std::cref(plan_.outputs[b].name).get());
    });
    std::vector<size_t> shard_of(plan_.outputs.size());
    size_t shard = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < order.size();) {
      size_t end = i + 1;
      const auto output = [&](size_t k) -> const OutputArray& { return plan_.outputs[order[k]]; };
      const auto size = [&](size_t k) { return output(k).end - output(k).begin; };
      uint64_t unit = size(i);
      while (end < order.size() && output(end).group == output(i).group &&
             Module(output(end).name) == Module(output(i).name))
        unit += size(end++);
      if (bytes > 0 && bytes + unit > limit) {
        ++shard;
        bytes = 0;
      }
      bytes += unit;
      for (; i < end; ++i) shard_of[order[i]] = shard;
    }
    std::vector<std::string> names(plan_.outputs.size());
    for (size_t i = 0; i < names.size(); ++i) names[i] = ShardName(shard_of[i], shard + 1);
    return names;
  }

  void MakeFiles(const std::vector<std::string>& file_of) {
    std::map<std::string, PlanFile> files;
    for (uint32_t i = 0; i < file_of.size(); ++i) {
      PlanFile& file = files[file_of[i]];
      file.outputs.push_back(i);
      if (container_.HasHeader() && catalogue_.files[SourceFile(i)].name == file_of[i])
        file.source_file = SourceFile(i);
    }
    std::vector<size_t> arrays_in(catalogue_.files.size(), 0);
    for (const StoredArray& array : catalogue_.arrays) ++arrays_in[array.file];
    for (auto& [name, planned] : files) {
      PlanFile& file = planned;
      file.name = name;
      file.container = &container_;
      file.unchanged = file.source_file != kNone && file.outputs.size() == arrays_in[file.source_file] &&
                       std::all_of(file.outputs.begin(), file.outputs.end(), [&](uint32_t i) {
                         return plan_.outputs[i].unchanged && SourceFile(i) == file.source_file;
                       });
      plan_.files.push_back(std::move(file));
    }
  }

  void LayOut(PlanFile* file) {
    if (file->unchanged || options_.as_near) {
      file->bytes = catalogue_.files[file->source_file].bytes;
      for (uint32_t i : file->outputs) {
        const StoredArray& array = catalogue_.arrays[builder_.near(i)];
        plan_.outputs[i].begin = array.begin;
        plan_.outputs[i].end = array.begin + array.bytes;
      }
    } else {
      if (container_.SortsByName())
        std::sort(file->outputs.begin(), file->outputs.end(),
                  [&](uint32_t a, uint32_t b) { return plan_.outputs[a].name < plan_.outputs[b].name; });
      std::vector<TensorInfo> arrays;
      for (uint32_t i : file->outputs) {
        const OutputArray& output = plan_.outputs[i];
        arrays.push_back({std::string(HeaderName(output.name)), output.dtype, output.shape});
      }
      const auto metadata = FileMetadata(file->source_file == kNone ? decltype(CatalogueFile::metadata){}
                                                                    : catalogue_.files[file->source_file].metadata,
                                         options_.layout);
      FileLayout layout = container_.LayOut(arrays, metadata);
      file->header = std::move(layout.header);
      file->bytes = layout.bytes;
      for (size_t k = 0; k < arrays.size(); ++k) {
        OutputArray& output = plan_.outputs[file->outputs[k]];
        output.begin = arrays[k].begin;
        output.end = arrays[k].end;
      }
    }
    std::sort(file->outputs.begin(), file->outputs.end(), [&](uint32_t a, uint32_t b) {
      const OutputArray &x = plan_.outputs[a], &y = plan_.outputs[b];
      return std::tie(x.begin, x.name) < std::tie(y.begin, y.name);
    });
  }

  // Outputs in (file, begin) order; every reference follows.
  void SortOutputs() {
    std::vector<uint32_t> new_index(plan_.outputs.size());
    std::vector<OutputArray> sorted;
    sorted.reserve(plan_.outputs.size());
    for (uint32_t f = 0; f < plan_.files.size(); ++f) {
      for (uint32_t& i : plan_.files[f].outputs) {
        new_index[i] = static_cast<uint32_t>(sorted.size());
        plan_.outputs[i].file = f;
        sorted.push_back(std::move(plan_.outputs[i]));
        i = new_index[i];
      }
    }
    plan_.outputs = std::move(sorted);
    for (FuseGroup& group : plan_.groups) {
      for (uint32_t& i : group.outputs) i = new_index[i];
      std::sort(group.outputs.begin(), group.outputs.end());
      for (CellRow& cell : group.cells) {
        cell.scale_output = new_index[cell.scale_output];
        for (CellSegment& s : cell.segments) s.output = new_index[s.output];
      }
      for (EncodedWeight& e : group.encoded)
        for (uint32_t* output : {&e.codes, &e.scales, &e.global, &e.input})
          if (*output != kNone) *output = new_index[*output];
      std::sort(group.encoded.begin(), group.encoded.end(),
                [](const EncodedWeight& a, const EncodedWeight& b) { return a.codes < b.codes; });
      std::sort(group.cells.begin(), group.cells.end(), [](const CellRow& a, const CellRow& b) {
        return std::pair(a.scale_output, a.scale_row) < std::pair(b.scale_output, b.scale_row);
      });
    }
    // Groups in the order of their first output, so that running them in order reads and writes forward.
    std::vector<uint32_t> order(plan_.groups.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return plan_.groups[a].outputs.front() < plan_.groups[b].outputs.front();
    });
    std::vector<FuseGroup> groups;
    groups.reserve(order.size());
    for (uint32_t old : order) {
      for (uint32_t i : plan_.groups[old].outputs) plan_.outputs[i].group = static_cast<uint32_t>(groups.size());
      groups.push_back(std::move(plan_.groups[old]));
    }
    plan_.groups = std::move(groups);
  }

  PlanBuilder& builder_;
  const Catalogue& catalogue_;
  Plan& plan_;
  const PlacementOptions& options_;
  const Container& container_;
};

}  // namespace

// Files that share a fuse group or a source array belong together.
void GroupFiles(Plan& plan) {
  std::vector<uint32_t> parent(plan.files.size());
  plan.file_groups = 0;
  std::iota(parent.begin(), parent.end(), 0u);
  const auto find = [&](uint32_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  const auto join = [&](uint32_t a, uint32_t b) {
    a = find(a);
    b = find(b);
    parent[std::max(a, b)] = std::min(a, b);
  };
  std::vector<uint32_t> first_file(plan.sources.size(), kNone);
  for (const FuseGroup& group : plan.groups) {
    const uint32_t file = plan.outputs[group.outputs.front()].file;
    for (uint32_t i : group.outputs) join(file, plan.outputs[i].file);
    VisitGroupReads(plan, group, [&](uint32_t source) {
      if (first_file[source] == kNone) first_file[source] = file;
      join(first_file[source], file);
    });
  }
  std::vector<uint32_t> number(plan.files.size(), kNone);
  for (uint32_t f = 0; f < plan.files.size(); ++f) {
    uint32_t& n = number[find(f)];
    if (n == kNone) n = plan.file_groups++;
    plan.files[f].file_group = n;
  }
  for (FuseGroup& group : plan.groups)
    group.file_group = plan.files[plan.outputs[group.outputs.front()].file].file_group;
}

void PlaceOutputs(PlanBuilder& builder, const PlacementOptions& options) {
  Placer(builder, options).Place();
}

std::vector<std::pair<std::string, std::string>> FileMetadata(
    const std::vector<std::pair<std::string, std::string>>& source, const std::string& layout) {
  std::vector<std::pair<std::string, std::string>> metadata = {{"format", "pt"}};
  for (const auto& entry : source)
    if (entry.first != "format" && entry.first != kLayoutKey) metadata.push_back(entry);
  if (!layout.empty()) metadata.emplace_back(kLayoutKey, layout);
  return metadata;
}

}  // namespace mimo
