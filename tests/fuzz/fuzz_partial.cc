// What a resumed run reads of OUT/.mimo-partial: a byte that says which document and how it is asked for, then
// state.json, publish.json or a record. A document counts as not written, or what it says is whole: it survives being
// written and read again, touches only what is its own, and lets nothing be moved or removed that it may not name.
// --seeds=FOLDER writes documents to begin with there, as the product writes them, and ends.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "lib/results/result_json.h"
#include "lib/run/claim.h"
#include "lib/run/partial.h"
#include "lib/run/publish.h"
#include "lib/run/record_json.h"
#include "tests/fuzz/memory_file_system.h"
#include "tests/fuzz/own_seeds.h"

namespace {

using mimo::PartialDirectory;

constexpr char kOut[] = "out";
constexpr char kThesis[] = "thesis.tex";  // stands in OUT, and is nobody's

// Three file groups: encoded and plain weights, cells of a new grid, a file that may be linked.
mimo::Plan SmallPlan() {
  mimo::Plan plan;
  plan.tool_version = "1";
  plan.digest.low = 1;
  plan.file_groups = 3;
  plan.groups.resize(4);
  const auto add = [&](uint32_t group, mimo::Transform transform) {
    mimo::OutputArray output;
    output.name = std::to_string(plan.outputs.size());
    output.transform = transform;
    output.file = static_cast<uint32_t>(plan.files.size() - 1);
    output.group = group;
    plan.groups[group].file_group = plan.files.back().file_group;
    plan.groups[group].outputs.push_back(static_cast<uint32_t>(plan.outputs.size()));
    plan.files.back().outputs.push_back(static_cast<uint32_t>(plan.outputs.size()));
    plan.outputs.push_back(output);
  };
  for (uint32_t f = 0; f < 4; ++f) {
    mimo::PlanFile& file = plan.files.emplace_back();
    file.name = std::string(f == 3 ? "deep/" : "") + static_cast<char>('a' + f) + ".safetensors";
    file.bytes = 10 + f;
    file.file_group = f == 0 ? 0 : f - 1;
    file.unchanged = f == 3;
    if (f < 2) {  // one group over two files
      add(0, mimo::Transform::kConvert);
      add(0, mimo::Transform::kEncode);
      add(0, mimo::Transform::kBeside);
    } else if (f == 2) {
      add(1, mimo::Transform::kRelayout);
      add(1, mimo::Transform::kScales);
      add(2, mimo::Transform::kMove);
    } else {
      add(3, mimo::Transform::kMove);
    }
  }
  plan.groups[1].cells.resize(2);
  plan.texts = {{"config.json", "{}\n"}, {"model.safetensors.index.json", "{}\n"}};
  plan.carried = {"tokenizer.json"};
  return plan;
}

const mimo::Plan& ThePlan() {
  static const mimo::Plan* const plan = new mimo::Plan(SmallPlan());
  return *plan;
}

// OUT with all files of the plan in its partial directory, taken.
struct Output {
  mimo::MemoryFileSystem fs;
  mimo::RunOptions options;
  std::unique_ptr<mimo::OutputClaim> claim;

  Output() {
    options.output = kOut;
    options.lease.renew = options.lease.patience = options.lease.stale = std::chrono::hours(100'000);
    auto taken = mimo::OutputClaim::Take(fs, options);
    Require(taken.ok());
    claim = std::move(taken).value();
    uint64_t inode = 100;
    const auto put = [&](const std::string& path, uint64_t bytes) {
      mimo::FileInfo info;
      info.inode = ++inode;
      info.mtime_ns = info.ctime_ns = info.birth_ns = 7;
      fs.Put(mimo::JoinPath(kOut, path), std::string(bytes, 'x'), info);
    };
    const PartialDirectory partial(*claim);
    for (const mimo::PlanFile& file : ThePlan().files) put(partial.FilePath(file.name), file.bytes);
    for (const mimo::TextFile& text : ThePlan().texts) put(partial.FilePath(text.name), text.content.size());
    for (const std::string& name : ThePlan().carried) put(partial.FilePath(name), 9);
    put(partial.FilePath(mimo::kManifestName), 8);
    put("old.txt", 3);
    put(kThesis, 5);
  }

  // Whatever the text is, with the hash of it that one who wrote it so would have put there.
  void Put(const std::string& name, std::string_view text) {
    fs.Put(Path(name), mimo::SealedRecord(std::string(text)));
  }
  std::string Get(const std::string& name) const { return fs.Get(Path(name)); }
  bool Has(const std::string& path) { return fs.Stat(mimo::JoinPath(kOut, path)).value().has_value(); }
  mimo::WrittenFile Written(const std::string& path) {
    return mimo::WrittenFileOf(*fs.Stat(mimo::JoinPath(kOut, path)).value());
  }

 private:
  static std::string Path(const std::string& name) {
    return mimo::JoinPath(mimo::JoinPath(kOut, mimo::kPartialDirectory), name);
  }
};

// One for all inputs, never destroyed: what is read changes nothing else in it.
Output& TheOutput() {
  static Output* const output = new Output;
  return *output;
}

bool Same(const mimo::WrittenFile& a, const mimo::WrittenFile& b) {
  return a.Is(b) && a.mtime_ns == b.mtime_ns && a.ctime_ns == b.ctime_ns;
}

// ---- state.json

// Here and below: whether the document counts as one.
bool CheckState(std::string_view text) {
  TheOutput().Put("state.json", text);
  PartialDirectory partial(*TheOutput().claim);
  const auto state = partial.ReadState();
  Require(state.ok());
  if (!state.value()) return false;
  static Output* const other = new Output;
  PartialDirectory begun(*other->claim);
  Require(begun.Start(ThePlan(), *state.value()).ok());
  const auto again = begun.ReadState();
  Require(again.ok() && again.value().has_value());
  const PartialDirectory::State &a = *state.value(), &b = *again.value();
  Require(a.plan_digest == b.plan_digest && a.tool_version == b.tool_version && a.sources == b.sources);
  Require(a.created_output == b.created_output && a.overwrite == b.overwrite);
  Require(a.unit_bytes == b.unit_bytes && a.asked == b.asked && a.command == b.command);
  return true;
}

// ---- publish.json

using Names = std::vector<std::pair<std::string, mimo::WrittenFile>>;

void CheckSame(const Names& a, const Names& b) {
  Require(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) Require(a[i].first == b[i].first && Same(a[i].second, b[i].second));
}

// The publication that an accepted list leads to, in an output of its own.
void CheckPublished(std::string_view text, bool overwrite, const PartialDirectory::Publication& publication) {
  Output output;
  output.Put("publish.json", text);
  PartialDirectory partial(*output.claim);
  const auto named = [&](const std::string& name) {
    for (const auto& [old, was] : publication.old)
      if (old == name && was.inode == output.Written(name).inode) return true;
    return false;
  };
  const bool old_named = named("old.txt"), thesis_named = named(kThesis);
  const bool replaces = overwrite && publication.overwrite && !publication.cleared;
  const bool published = mimo::FinishPublication(ThePlan(), overwrite, partial).ok();
  Require(output.Has("old.txt") || (replaces && old_named));
  Require(output.Has(kThesis) || (replaces && thesis_named));
  for (const std::string& name : mimo::PublicationOrder(ThePlan())) {
    Require(output.Has(name) || output.Has(partial.FilePath(name)));
    Require(output.Has(name) || !published);
  }
}

bool CheckPublication(std::string_view text, bool overwrite) {
  TheOutput().Put("publish.json", text);
  PartialDirectory partial(*TheOutput().claim);
  const auto publication = partial.ReadPublication();
  Require(publication.ok());
  if (!publication.value()) return false;
  const PartialDirectory::Publication& a = *publication.value();
  Require(!a.files.empty());
  Require(partial.WritePublication(a).ok());
  const auto again = partial.ReadPublication();
  Require(again.ok() && again.value().has_value());
  const PartialDirectory::Publication& b = *again.value();
  Require(a.plan_digest == b.plan_digest && a.overwrite == b.overwrite && a.cleared == b.cleared);
  CheckSame(a.files, b.files);
  CheckSame(a.old, b.old);
  const mimo::Status names = mimo::CheckNames(partial, ThePlan(), a);
  if (!names.ok()) {
    Require(names.error().code == mimo::ErrorCode::kBadInput && !names.error().advice.empty());
    return false;
  }
  const std::vector<std::string> order = mimo::PublicationOrder(ThePlan());
  Require(a.files.size() == order.size());
  for (size_t i = 0; i < order.size(); ++i) Require(a.files[i].first == order[i]);
  for (const auto& [name, was] : a.old) {
    Require(!name.empty() && name != "." && name != ".." && name != mimo::kPartialDirectory);
    Require(name.find('/') == std::string::npos && name.find('\0') == std::string::npos);
  }
  Require(mimo::IsWhole(partial, a).ok());
  CheckPublished(text, overwrite, a);
  return true;
}

// ---- records

mimo::RunResults FreshResults(bool linked) {
  mimo::RunResults results;
  results.tensors.resize(ThePlan().outputs.size());
  results.groups.resize(ThePlan().groups.size());
  results.linked.assign(ThePlan().files.size(), 0);
  results.linked.back() = linked ? 1 : 0;
  return results;
}

// All that a run knows of `file_group`.
std::string TextOf(const mimo::RunResults& results, uint32_t file_group) {
  std::string text;
  const auto add_counts = [&](const mimo::BlockCounts& counts) {
    mimo::JsonObject object(text);
    mimo::AddCounts(object, counts);
  };
  for (size_t o = 0; o < results.tensors.size(); ++o) {
    if (ThePlan().files[ThePlan().outputs[o].file].file_group != file_group) continue;
    const mimo::TensorResult& tensor = results.tensors[o];
    text += tensor.hash ? tensor.hash->Hex() : "none";
    add_counts(tensor.counts);
    mimo::JsonObject object(text);
    mimo::AddAnomalies(object, tensor.anomalies);
    if (tensor.error) mimo::AddError(object, *tensor.error);
  }
  for (size_t g = 0; g < results.groups.size(); ++g)
    if (ThePlan().groups[g].file_group == file_group) add_counts(results.groups[g]);
  return text;
}

void CheckTaken(const PartialDirectory& partial, uint32_t file_group, const PartialDirectory::RecordNeeds& needs,
                const mimo::RunResults& results) {
  for (const mimo::PlanFile& file : ThePlan().files) {
    const auto note = partial.NoteOf(file.name);
    Require(note.has_value() == (file.file_group == file_group));
    if (note) Require(note->IsAsWritten(TheOutput().Written(partial.FilePath(file.name)), false));
  }
  for (size_t o = 0; o < ThePlan().outputs.size(); ++o) {
    const mimo::OutputArray& output = ThePlan().outputs[o];
    if (ThePlan().files[output.file].file_group != file_group) continue;
    const mimo::TensorResult& tensor = results.tensors[o];
    const bool encoded = output.transform == mimo::Transform::kEncode;
    Require(tensor.hash.has_value() == (needs.hash_linked || results.linked[output.file] == 0));
    Require(tensor.error.has_value() == (encoded && needs.errors));
    const mimo::BlockCounts& counts = tensor.counts;
    Require(counts.exact_blocks <= counts.encoded_blocks);
    Require(counts.kept_blocks <= counts.encoded_blocks - counts.exact_blocks);
    Require(counts.fresh_blocks == counts.encoded_blocks - counts.exact_blocks - counts.kept_blocks);
    Require(encoded || counts.encoded_blocks == 0);
  }
}

bool CheckRecord(std::string_view text, uint32_t file_group, bool linked, const PartialDirectory::RecordNeeds& needs) {
  const std::string name = "records/000" + std::to_string(file_group) + ".json";
  TheOutput().Put(name, text);
  PartialDirectory partial(*TheOutput().claim);
  const mimo::RunResults fresh = FreshResults(linked);
  mimo::RunResults results = fresh;
  const auto loaded = partial.LoadRecord(ThePlan(), file_group, needs, &results);
  Require(loaded.ok());
  for (uint32_t g = 0; g < ThePlan().file_groups; ++g)
    if (!loaded.value() || g != file_group) Require(TextOf(results, g) == TextOf(fresh, g));
  if (!loaded.value()) {
    for (const mimo::PlanFile& file : ThePlan().files) Require(!partial.NoteOf(file.name));
    return false;
  }
  CheckTaken(partial, file_group, needs, results);
  Require(partial.WriteRecord(ThePlan(), file_group, results).ok());
  mimo::RunResults again = fresh;
  const auto reloaded = partial.LoadRecord(ThePlan(), file_group, needs, &again);
  Require(reloaded.ok() && reloaded.value());
  Require(TextOf(again, file_group) == TextOf(results, file_group));
  return true;
}

bool Check(uint8_t how, std::string_view text) {
  if ((how & 3) == 0) return CheckState(text);
  if ((how & 3) == 1) return CheckPublication(text, (how & 4) != 0);
  return CheckRecord(text, (how >> 5) % ThePlan().file_groups, (how & 4) != 0, {(how & 8) != 0, (how & 16) != 0});
}

// ---- what the product writes

void WriteSeed(const std::string& folder, uint8_t how, const std::string& text) {
  Require(Check(how, text));
  std::ofstream file(folder + "/seed-" + std::to_string(how), std::ios::binary);
  file << static_cast<char>(how) << text;
  Require(file.good());
}

void WriteSeeds(const std::string& folder) {
  Output output;
  PartialDirectory partial(*output.claim);
  PartialDirectory::Publication publication{ThePlan().digest, true, false, {}, {}, {}};
  for (const std::string& name : mimo::PublicationOrder(ThePlan())) {
    partial.TakeNote(name, output.Written(partial.FilePath(name)));
    publication.files.emplace_back(name, *partial.NoteOf(name));
  }
  publication.old.emplace_back("old.txt", output.Written("old.txt"));
  for (const uint8_t how : {1, 5}) {
    Require(partial.WritePublication(publication).ok());
    WriteSeed(folder, how, output.Get("publish.json"));
  }
  for (uint8_t how = 2; how < 96; how = static_cast<uint8_t>(how + 4)) {
    const bool linked = (how & 4) != 0, hash_linked = (how & 8) != 0, errors = (how & 16) != 0;
    mimo::RunResults results = FreshResults(linked);
    for (size_t o = 0; o < results.tensors.size(); ++o) {
      const mimo::OutputArray& array = ThePlan().outputs[o];
      mimo::TensorResult& tensor = results.tensors[o];
      if (hash_linked || results.linked[array.file] == 0) tensor.hash = mimo::Hash128{o, 5};
      tensor.anomalies.nan_codes = o % 2;
      tensor.counts.inexact_codes = o % 3;
      if (array.transform != mimo::Transform::kEncode) continue;
      tensor.counts.encoded_blocks = 9;
      tensor.counts.exact_blocks = tensor.counts.kept_blocks = 2;
      if (errors) tensor.error.emplace(mimo::kernels::ErrorSums{.error = 0.25, .source = 3, .target = 4});
    }
    results.groups[1].moved_blocks = 4;
    results.groups[1].squared_sum = 0.5;
    Require(partial.WriteRecord(ThePlan(), how >> 5, results).ok());
    WriteSeed(folder, how, output.Get("records/000" + std::to_string(how >> 5) + ".json"));
  }
  PartialDirectory::State state{ThePlan().digest, "1", true, true, {{"a.safetensors", 10, {7, 101}}}, {}, 64,
                                {"--hash-linked"}};
  Require(partial.Start(ThePlan(), state).ok());
  WriteSeed(folder, 0, output.Get("state.json"));
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  return WriteSeedsIfAsked(*argc, *argv, WriteSeeds);
}

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// Every other time puts another number in the place of one: what is no JSON any more says little.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand random(seed);
  std::string text(reinterpret_cast<const char*>(data), size);
  std::vector<size_t> numbers;
  for (size_t i = 1; i < text.size(); ++i)
    if (text[i] >= '0' && text[i] <= '9' && std::string_view(":[,").find(text[i - 1]) != std::string_view::npos)
      numbers.push_back(i);
  if (numbers.empty() || random() % 2 == 0) return LLVMFuzzerMutate(data, size, max_size);
  static constexpr const char* kNumbers[] = {"0", "1", "2", "3", "4", "5", "9", "4294967295", "18446744073709551615"};
  const size_t begin = numbers[random() % numbers.size()];
  const size_t end = std::min(text.find_first_of(",]}", begin), text.size());
  text.replace(begin, end - begin, kNumbers[random() % std::size(kNumbers)]);
  if (text.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static_cast<void>(Check(data[0], std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1)));
  return 0;
}
