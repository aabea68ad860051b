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

// An output and the number of its group, in the order in which they were planned.
struct Planned {
  DraftOutput* output;
  uint32_t group;
};

class Placer {
 public:
  Placer(Draft draft, const PlacementOptions& options)
      : draft_(std::move(draft)), catalogue_(draft_.catalogue()), options_(options), container_(*options.container) {}

  Plan Place() {
    std::erase_if(draft_.groups, [](const DraftGroup& group) { return group.outputs.empty(); });
    for (uint32_t g = 0; g < draft_.groups.size(); ++g)
      for (DraftOutput& output : draft_.groups[g].outputs) planned_.push_back({&output, g});
    if (options_.max_shard_bytes > 0) NameShards(options_.max_shard_bytes);
    MakeFiles();
    for (PlanFile& file : plan_.files) LayOut(&file);
    NumberOutputs();
    NumberGroups();
    NumberSources();
    GroupFiles(plan_);
    return std::move(plan_);
  }

 private:
  DraftOutput& output(uint32_t i) const { return *planned_[i].output; }
  uint32_t SourceFile(uint32_t i) const { return catalogue_.arrays[output(i).near].file; }

  // That of the source, where nothing else names one.
  const std::string& FileOf(uint32_t i) const {
    const std::string& name = output(i).file_name;
    return name.empty() ? catalogue_.files[SourceFile(i)].name : name;
  }

  static std::string_view Module(const std::string& name) { return std::string_view(name).substr(0, name.rfind('.')); }

  // Shards are filled in source order; the arrays of one weight stay together.
  void NameShards(uint64_t limit) {
    std::vector<uint32_t> order(planned_.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return std::tuple(SourceFile(a), std::cref(output(a).name).get()) <
             std::tuple(SourceFile(b), std::cref(output(b).name).get());
    });
    std::vector<size_t> shard_of(planned_.size());
    size_t shard = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < order.size();) {
      size_t end = i + 1;
      const auto size = [&](size_t k) { return output(order[k]).end - output(order[k]).begin; };
      uint64_t unit = size(i);
      while (end < order.size() && planned_[order[end]].group == planned_[order[i]].group &&
             Module(output(order[end]).name) == Module(output(order[i]).name))
        unit += size(end++);
      if (bytes > 0 && bytes + unit > limit) {
        ++shard;
        bytes = 0;
      }
      bytes += unit;
      for (; i < end; ++i) shard_of[order[i]] = shard;
    }
    for (uint32_t i = 0; i < planned_.size(); ++i) output(i).file_name = ShardName(shard_of[i], shard + 1);
  }

  void MakeFiles() {
    std::map<std::string, PlanFile> files;
    for (uint32_t i = 0; i < planned_.size(); ++i) {
      PlanFile& file = files[FileOf(i)];
      file.outputs.push_back(i);
      if (container_.HasHeader() && catalogue_.files[SourceFile(i)].name == FileOf(i)) file.source_file = SourceFile(i);
    }
    std::vector<size_t> arrays_in(catalogue_.files.size(), 0);
    for (const StoredArray& array : catalogue_.arrays) ++arrays_in[array.file];
    for (auto& [name, planned] : files) {
      PlanFile& file = planned;
      file.name = name;
      file.container = &container_;
      file.unchanged = file.source_file != kNone && file.outputs.size() == arrays_in[file.source_file] &&
                       std::all_of(file.outputs.begin(), file.outputs.end(), [&](uint32_t i) {
                         return output(i).unchanged && SourceFile(i) == file.source_file;
                       });
      plan_.files.push_back(std::move(file));
    }
  }

  void LayOut(PlanFile* file) {
    if (file->unchanged || (options_.as_near && file->source_file != kNone)) {
      file->bytes = catalogue_.files[file->source_file].bytes;
      for (uint32_t i : file->outputs) {
        const StoredArray& array = catalogue_.arrays[output(i).near];
        output(i).begin = array.begin;
        output(i).end = array.begin + array.bytes;
      }
    } else {
      if (container_.SortsByName())
        std::sort(file->outputs.begin(), file->outputs.end(),
                  [&](uint32_t a, uint32_t b) { return output(a).name < output(b).name; });
      std::vector<TensorInfo> arrays;
      for (uint32_t i : file->outputs)
        arrays.push_back({std::string(HeaderName(output(i).name)), output(i).dtype, output(i).shape});
      const auto metadata = FileMetadata(file->source_file == kNone ? decltype(CatalogueFile::metadata){}
                                                                    : catalogue_.files[file->source_file].metadata,
                                         options_.layout);
      FileLayout layout = container_.LayOut(arrays, metadata);
      file->header = std::move(layout.header);
      file->bytes = layout.bytes;
      for (size_t k = 0; k < arrays.size(); ++k) {
        output(file->outputs[k]).begin = arrays[k].begin;
        output(file->outputs[k]).end = arrays[k].end;
      }
    }
    std::sort(file->outputs.begin(), file->outputs.end(), [&](uint32_t a, uint32_t b) {
      return std::tie(output(a).begin, output(a).name) < std::tie(output(b).begin, output(b).name);
    });
  }

  // By (file, begin).
  void NumberOutputs() {
    number_.resize(planned_.size());
    plan_.outputs.reserve(planned_.size());
    for (uint32_t f = 0; f < plan_.files.size(); ++f) {
      for (uint32_t& i : plan_.files[f].outputs) {
        number_[i] = static_cast<uint32_t>(plan_.outputs.size());
        plan_.outputs.push_back(std::move(output(i)));
        plan_.outputs.back().file = f;
        i = number_[i];
      }
    }
    for (const DraftGroup& group : draft_.groups) counts_.push_back(static_cast<uint32_t>(group.outputs.size()));
    planned_.clear();
    draft_.DropOutputs();
  }

  // In the order of their first output, so that running them in order reads and writes forward.
  void NumberGroups() {
    uint32_t first = 0;  // planned output of the group
    plan_.groups.reserve(draft_.groups.size());
    for (size_t g = 0; g < draft_.groups.size(); ++g) {
      DraftGroup& planned = draft_.groups[g];
      const uint32_t count = counts_[g];
      FuseGroup& group = plan_.groups.emplace_back();
      group.outputs.reserve(count);
      group.label = std::move(planned.label);
      group.straddling_blocks = planned.straddling_blocks;
      plan_.straddling_blocks += planned.straddling_blocks;
      for (uint32_t i = 0; i < count; ++i) group.outputs.push_back(number_[first + i]);
      std::sort(group.outputs.begin(), group.outputs.end());
      VisitOutputNumbers(planned.cells, planned.encoded, [&](uint32_t& output) { output = number_[first + output]; });
      group.cells = std::move(planned.cells);
      group.encoded = std::move(planned.encoded);
      std::sort(group.encoded.begin(), group.encoded.end(), [](const EncodedWeight& a, const EncodedWeight& b) {
        return std::pair(a.codes, a.row) < std::pair(b.codes, b.row);
      });
      std::sort(group.cells.begin(), group.cells.end(), [](const CellRow& a, const CellRow& b) {
        return std::pair(a.scale_output, a.scale_row) < std::pair(b.scale_output, b.scale_row);
      });
      first += count;
    }
    const auto before = [](const FuseGroup& a, const FuseGroup& b) { return a.outputs.front() < b.outputs.front(); };
    if (!std::is_sorted(plan_.groups.begin(), plan_.groups.end(), before))
      std::sort(plan_.groups.begin(), plan_.groups.end(), before);
    for (uint32_t g = 0; g < plan_.groups.size(); ++g)
      for (const uint32_t i : plan_.groups[g].outputs) plan_.outputs[i].group = g;
  }

  // Those that are read, in their order.
  void NumberSources() {
    plan_.sources = std::move(draft_.sources);
    std::vector<uint32_t> number(plan_.sources.size(), kNone);
    for (const FuseGroup& group : plan_.groups)
      VisitGroupReads(plan_, group, [&](uint32_t source) { number[source] = 0; });
    std::vector<SourceArray> read;
    for (uint32_t s = 0; s < number.size(); ++s) {
      if (number[s] == kNone) continue;
      number[s] = static_cast<uint32_t>(read.size());
      read.push_back(std::move(plan_.sources[s]));
    }
    const auto renumber = [&](uint32_t& source) {
      if (source != kNone) source = number[source];
    };
    plan_.sources = std::move(read);
    for (SourceArray& source : plan_.sources) {
      renumber(source.scale);
      renumber(source.global);
      for (SourceBand& band : source.bands) renumber(band.scale);
    }
    for (OutputArray& output : plan_.outputs) {
      for (Piece& piece : output.pieces) renumber(piece.source);
      renumber(output.keep);
    }
    for (FuseGroup& group : plan_.groups) {
      for (CellRow& cell : group.cells) {
        renumber(cell.keep);
        for (CellSegment& s : cell.segments)
          for (uint32_t* source : {&s.source, &s.scale}) renumber(*source);
      }
      for (EncodedWeight& e : group.encoded) renumber(e.keep);
    }
    for (EqualRows e : draft_.equal) {
      renumber(e.first);
      renumber(e.second);
      if (e.first != kNone && e.second != kNone) plan_.equal.push_back(e);
    }
  }

  Draft draft_;
  const Catalogue& catalogue_;
  const PlacementOptions& options_;
  const Container& container_;
  std::vector<Planned> planned_;
  std::vector<uint32_t> number_;  // of each planned output in the plan
  std::vector<uint32_t> counts_;  // of outputs, by group
  Plan plan_;
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

Plan PlaceOutputs(Draft draft, const PlacementOptions& options) {
  return Placer(std::move(draft), options).Place();
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
