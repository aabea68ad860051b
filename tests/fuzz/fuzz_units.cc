// What parts of a run read of each other in OUT/.mimo-partial: a byte that says which document and how it is asked for,
// then the record of a unit or the list of files. A document counts as not written, or what it says is whole and of
// this plan: it survives being written and read again, and names no byte outside of the files.
// --seeds=FOLDER writes documents to begin with there, as the product writes them, and ends.
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/model/file_names.h"
#include "lib/run/claim.h"
#include "lib/run/partial.h"
#include "lib/run/record_json.h"
#include "lib/run/unit_records.h"
#include "tests/fuzz/memory_file_system.h"
#include "tests/fuzz/own_seeds.h"

namespace {

using mimo::PartialDirectory;

constexpr char kOut[] = "out";
constexpr uint64_t kUnitBytes = 64;

// Two files; a group that is encoded and has a new grid, and one that is a list of items.
struct World {
  mimo::Plan plan;
  mimo::Units units;
  mimo::MemoryFileSystem fs;
  mimo::RunOptions options;
  std::unique_ptr<mimo::OutputClaim> claim;

  World() {
    plan.tool_version = "1";
    plan.digest.low = 1;
    plan.file_groups = 1;
    plan.groups.resize(2);
    plan.groups[0].cells.resize(1);
    for (const auto& [transform, group, file] :
         {std::tuple(mimo::Transform::kEncode, 0u, 0u), std::tuple(mimo::Transform::kBeside, 0u, 0u),
          std::tuple(mimo::Transform::kMove, 1u, 1u)}) {
      mimo::OutputArray output;
      output.name = std::to_string(plan.outputs.size());
      output.transform = transform;
      output.file = file;
      output.group = group;
      output.end = 8;
      plan.groups[group].outputs.push_back(static_cast<uint32_t>(plan.outputs.size()));
      plan.outputs.push_back(output);
    }
    for (uint32_t f = 0; f < 2; ++f) {
      mimo::PlanFile& file = plan.files.emplace_back();
      file.name = std::string(1, static_cast<char>('a' + f)) + ".safetensors";
      file.bytes = 10 + f;
    }
    units.list = {{0, 0, {{0, 0, mimo::kNone}}, 16, 32}, {0, 1, {{1, 0, 1}}, 8, 16}};
    options.output = kOut;
    options.lease.renew = options.lease.patience = options.lease.stale = std::chrono::hours(100'000);
    auto taken = mimo::OutputClaim::Take(fs, options);
    Require(taken.ok());
    claim = std::move(taken).value();
    uint64_t inode = 100;
    const PartialDirectory partial(*claim);
    for (const mimo::PlanFile& file : plan.files) {
      mimo::FileInfo info;
      info.inode = ++inode;
      info.mtime_ns = info.ctime_ns = info.birth_ns = 7;
      fs.Put(mimo::JoinPath(kOut, partial.FilePath(file.name)), std::string(file.bytes, 'x'), info);
    }
  }
  static std::string Path(const std::string& name) {
    return mimo::JoinPath(mimo::JoinPath(kOut, mimo::kPartialDirectory), name);
  }
};

World& TheWorld() {
  static World* const world = new World;
  return *world;
}

std::string UnitName(uint32_t unit) {
  return "units/00000" + std::to_string(unit) + ".json";
}

void NoteFiles(PartialDirectory& partial, const mimo::UnitRecord& record) {
  for (const auto& [file, written] : record.files) partial.TakeNote(TheWorld().plan.files[file].name, written);
}

bool CheckUnit(std::string_view text, uint32_t unit, const std::vector<uint8_t>& linked,
               const mimo::RecordNeeds& needs) {
  World& world = TheWorld();
  world.fs.Put(World::Path(UnitName(unit)), mimo::SealedRecord(std::string(text)));
  PartialDirectory partial(*world.claim);
  const mimo::UnitRecords records(partial, world.plan, world.units, kUnitBytes);
  const auto loaded = records.Load(unit, needs, linked);
  Require(loaded.ok());
  if (!loaded.value()) return false;
  const mimo::UnitRecord& record = *loaded.value();
  for (const uint32_t o : record.result.results.outputs)
    Require(o < world.plan.outputs.size() && world.plan.outputs[o].group == unit);
  for (const mimo::EdgeBytes& edge : record.result.edges)
    Require(linked[edge.file] == 0 && edge.offset + edge.bytes.size() <= world.plan.files[edge.file].bytes);
  NoteFiles(partial, record);
  Require(records.Write(unit, record.result, linked).ok());
  const std::string first = world.fs.Get(World::Path(UnitName(unit)));
  const auto again = records.Load(unit, needs, linked);
  Require(again.ok() && again.value().has_value());
  Require(records.Write(unit, again.value()->result, linked).ok());
  Require(world.fs.Get(World::Path(UnitName(unit))) == first);
  return true;
}

bool CheckFiles(std::string_view text, const std::vector<uint8_t>& linked) {
  World& world = TheWorld();
  world.fs.Put(World::Path("files.json"), mimo::SealedRecord(std::string(text)));
  PartialDirectory partial(*world.claim);
  const auto loaded = partial.LoadFiles(world.plan, linked, kUnitBytes);
  if (!loaded.ok()) Require(loaded.error().code == mimo::ErrorCode::kUsage);
  const bool taken = loaded.ok() && loaded.value();
  for (const mimo::PlanFile& file : world.plan.files) {
    const auto note = partial.NoteOf(file.name);
    Require(note.has_value() == taken);
    if (!note) continue;
    const auto now = mimo::Look(world.claim->files(), partial.FilePath(file.name));
    Require(now.ok() && now.value() && note->Is(*now.value()));
  }
  return taken;
}

bool Check(uint8_t how, std::string_view text) {
  const std::vector<uint8_t> linked{0, static_cast<uint8_t>((how & 4) != 0 ? 1 : 0)};
  if ((how & 1) == 0) return CheckFiles(text, linked);
  return CheckUnit(text, (how & 2) != 0 ? 1 : 0, linked, {(how & 8) != 0, (how & 16) != 0});
}

// ---- what the product writes

void WriteSeed(const std::string& folder, uint8_t how, const std::string& text) {
  Require(Check(how, text));
  std::ofstream file(folder + "/seed-" + std::to_string(how), std::ios::binary);
  file << static_cast<char>(how) << text;
  Require(file.good());
}

void WriteSeeds(const std::string& folder) {
  World& world = TheWorld();
  PartialDirectory partial(*world.claim);
  for (const mimo::PlanFile& file : world.plan.files)
    partial.TakeNote(file.name, *mimo::Look(world.claim->files(), partial.FilePath(file.name)).value());
  for (const uint8_t how : {0, 4}) {
    Require(partial.WriteFiles(world.plan, {0, static_cast<uint8_t>(how / 4)}, kUnitBytes).ok());
    WriteSeed(folder, how, world.fs.Get(World::Path("files.json")));
  }
  const mimo::UnitRecords records(partial, world.plan, world.units, kUnitBytes);
  for (const uint8_t how : {1, 3, 9, 17, 25, 27}) {
    mimo::UnitOutcome outcome;
    const uint32_t unit = (how & 2) != 0 ? 1 : 0;
    for (const uint32_t o : world.plan.groups[unit].outputs) {
      outcome.results.outputs.push_back(o);
      mimo::TensorResult& tensor = outcome.results.tensors.emplace_back();
      tensor.hash = mimo::Hash128{o, 5};
      tensor.anomalies.nan_codes = o % 2;
      if (world.plan.outputs[o].transform != mimo::Transform::kEncode) continue;
      tensor.counts.encoded_blocks = 9;
      tensor.counts.exact_blocks = 2;
      if ((how & 16) != 0) tensor.error.emplace(mimo::kernels::ErrorSums{.error = 0.25, .source = 3, .target = 4});
    }
    if (unit == 0) outcome.results.grids[0].moved_blocks = 4;
    outcome.crcs[unit == 0 ? 0 : 2] = 77;
    outcome.items = {{3, 99, {{5, 9}, {12, 13}}}};
    outcome.edges = {{unit, 3, "abc"}};
    Require(records.Write(unit, outcome, {0, 0}).ok());
    WriteSeed(folder, how, world.fs.Get(World::Path(UnitName(unit))));
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  return WriteSeedsIfAsked(*argc, *argv, WriteSeeds);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0) Check(data[0], {reinterpret_cast<const char*>(data) + 1, size - 1});
  return 0;
}
