#include "lib/foreign/evidence.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <tuple>

#include "lib/io/safetensors/safetensors.h"
#include "lib/json/parse.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr size_t kHeadBytes = 256;
constexpr uint64_t kMaxPointerBytes = 1024;  // of a Git LFS pointer, by its specification
constexpr size_t kMaxFiles = 20000;
constexpr uint64_t kMaxConfigBytes = 64ull << 20;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr uint64_t kMaxAllHeaderBytes = 1ull << 30;
constexpr char kSnapshots[] = "snapshots";

std::string HeadOf(FileSystem& fs, const std::string& path, uint64_t bytes) {
  const auto file = fs.OpenForRead(path);
  if (!file.ok()) return "";
  std::string head(std::min<uint64_t>(kHeadBytes, bytes), '\0');
  return file.value()->ReadAt(0, std::as_writable_bytes(std::span(head))).ok() ? head : "";
}

// "model.layers.7.mlp" -> "model.layers.#.mlp".
std::string Numberless(std::string_view name) {
  std::string out;
  for (size_t at = 0; at <= name.size();) {
    size_t end = name.find('.', at);
    if (end == std::string_view::npos) end = name.size();
    const std::string_view component = name.substr(at, end - at);
    const bool number = !component.empty() && component.find_first_not_of("0123456789") == std::string_view::npos;
    if (at != 0) out.push_back('.');
    out.append(number ? std::string_view("#") : component);
    at = end + 1;
  }
  return out;
}

bool MatchesOne(std::string_view pattern, std::string_view text, bool within_component) {
  size_t p = 0, t = 0;
  size_t star = std::string_view::npos, taken = 0;  // of the last '*': where it stands, and where what it took ends
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos && !(within_component && text[taken] == '/')) {
      p = star + 1;
      t = ++taken;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

class Gatherer {
 public:
  Gatherer(FileSystem& fs, const std::string& root) : fs_(fs) { out_.root = root; }

  ForeignEvidence All(const Catalogue* opened) {
    const auto info = fs_.Stat(out_.root);
    if (!info.ok() || !info.value()) return std::move(out_);
    if (info.value()->kind == FileKind::kRegular) {
      out_.root_is_file = true;
      const std::string name = out_.root.substr(out_.root.rfind('/') + 1);
      out_.files.push_back({name, info.value()->size, false, HeadOf(fs_, out_.root, info.value()->size)});
      return std::move(out_);
    }
    List("", 0);
    ReadConfig();
    if (opened != nullptr && !opened->arrays.empty()) {
      for (const StoredArray& array : opened->arrays) Add(array.name, DTypeName(array.dtype), array.shape.size());
      for (const CatalogueFile& file : opened->files)
        for (const auto& [key, value] : file.metadata) metadata_.insert(key);
    } else {
      ReadHeaders();
    }
    return Finish();
  }

  ForeignEvidence OfOpened(const Catalogue& opened) {
    out_.config = opened.config.text;
    if (opened.index.present)
      out_.files.push_back({kIndexName, opened.index.text.size(), false, opened.index.text.substr(0, kHeadBytes)});
    for (const CarriedFile& file : opened.carried)
      if (file.bytes < kMaxPointerBytes && file.outside.empty()) AddFile(file.name, file.bytes);
    return Finish();
  }

 private:
  ForeignEvidence Finish() {
    for (auto& [key, arrays] : arrays_) out_.arrays.push_back(std::move(arrays));
    out_.metadata.assign(metadata_.begin(), metadata_.end());
    return std::move(out_);
  }

  void AddFile(const std::string& name, uint64_t bytes) {
    out_.files.push_back({name, bytes, false, HeadOf(fs_, JoinPath(out_.root, name), bytes)});
  }

  void List(const std::string& relative, int depth) {
    const auto names = fs_.List(relative.empty() ? out_.root : JoinPath(out_.root, relative));
    if (!names.ok()) return;
    for (const std::string& name : names.value()) {
      if (out_.files.size() >= kMaxFiles) return;
      const std::string path = relative.empty() ? name : JoinPath(relative, name);
      const auto info = fs_.Stat(JoinPath(out_.root, path));
      if (!info.ok()) continue;
      if (!info.value()) {
        out_.files.push_back({path, 0, true, ""});
      } else if (info.value()->kind == FileKind::kRegular) {
        AddFile(path, info.value()->size);
      } else if (info.value()->kind == FileKind::kDirectory && name != ".git" && name != ".cache") {
        // The Hugging Face cache has its checkpoints one level deeper: snapshots/REVISION.
        if (depth == 0 || (depth == 1 && relative == kSnapshots)) List(path, depth + 1);
      }
    }
  }

  void ReadConfig() {
    auto text = ReadWholeFile(fs_, JoinPath(out_.root, kConfigName), kMaxConfigBytes);
    if (text.ok()) out_.config = std::move(text).value();
  }

  void ReadHeaders() {
    uint64_t left = kMaxAllHeaderBytes;
    for (const SeenFile& file : out_.files) {
      if (file.name.find('/') != std::string::npos || !file.name.ends_with(".safetensors")) continue;
      ReadHeader(JoinPath(out_.root, file.name), &left);
    }
  }

  // Tolerant: types that no version of the format has are seen too.
  void ReadHeader(const std::string& path, uint64_t* left) {
    const auto file = fs_.OpenForRead(path);
    if (!file.ok()) return;
    uint64_t length = 0;
    std::string prefix(kSafetensorsPrefixBytes, '\0');
    if (!file.value()->ReadAt(0, std::as_writable_bytes(std::span(prefix))).ok()) return;
    for (size_t i = 0; i < prefix.size(); ++i)
      length |= static_cast<uint64_t>(static_cast<unsigned char>(prefix[i])) << (8 * i);
    if (length > kMaxHeaderBytes || length > *left) return;
    std::string text(length, '\0');
    if (!file.value()->ReadAt(prefix.size(), std::as_writable_bytes(std::span(text))).ok()) return;
    *left -= length;
    const JsonLimits limits = {.bytes = kMaxHeaderBytes, .string_bytes = kMaxHeaderBytes};
    const Result<Json> header = ParseJson<Json>(text, path, limits);
    if (!header.ok() || !header.value().is_object()) return;
    for (const auto& [name, entry] : header.value().items()) {
      if (!entry.is_object()) continue;
      if (name == "__metadata__") {
        for (const auto& [key, value] : entry.items()) metadata_.insert(key);
        continue;
      }
      const auto dtype = entry.find("dtype");
      const auto shape = entry.find("shape");
      if (dtype == entry.end() || !dtype->is_string() || shape == entry.end() || !shape->is_array()) continue;
      Add(name, dtype->get_ref<const std::string&>(), shape->size());
    }
  }

  void Add(const std::string& name, std::string_view dtype, size_t rank) {
    const std::string bare(HeaderName(name));
    SeenArrays& arrays = arrays_[{Numberless(bare), std::string(dtype), rank}];
    if (arrays.count++ > 0) return;
    arrays.name = Numberless(bare);
    arrays.dtype = dtype;
    arrays.rank = rank;
    arrays.example = bare;
  }

  FileSystem& fs_;
  ForeignEvidence out_;
  std::map<std::tuple<std::string, std::string, size_t>, SeenArrays> arrays_;
  std::set<std::string> metadata_;
};

}  // namespace

bool MatchesGlob(std::string_view pattern, std::string_view text, bool within_component) {
  for (size_t end = pattern.find('|'); end != std::string_view::npos; end = pattern.find('|')) {
    if (MatchesOne(pattern.substr(0, end), text, within_component)) return true;
    pattern.remove_prefix(end + 1);
  }
  return MatchesOne(pattern, text, within_component);
}

ForeignEvidence GatherForeignEvidence(FileSystem& fs, const std::string& root, const Catalogue* opened) {
  return Gatherer(fs, root).All(opened);
}

ForeignEvidence GatherOpenedEvidence(FileSystem& fs, const Catalogue& opened) {
  return Gatherer(fs, opened.root).OfOpened(opened);
}

}  // namespace mimo
