#include "lib/verify/compare/carried.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "lib/base/checked.h"
#include "lib/io/safetensors/safetensors.h"
#include "lib/model/file_names.h"
#include "lib/verify/compare/carried_bytes.h"
#include "lib/verify/compare/carried_class.h"
#include "lib/verify/compare/carried_texts.h"

namespace mimo {
namespace {

constexpr uint64_t kTextBytes = 256 << 20;  // more is compared as bytes
constexpr char kTokenizerName[] = "tokenizer.json";
constexpr char kTokenizerConfigName[] = "tokenizer_config.json";

// Where a tensor of a carried file lies.
struct CarriedTensor {
  std::string path;
  TensorInfo info;
};

// What one side carries.
struct CarriedSide {
  const LogicalCheckpoint* checkpoint = nullptr;
  std::map<std::string, const CarriedFile*> files;  // by name
  std::map<std::string, CarriedClass> classes;      // of those that are not ignored
  std::map<std::string, CarriedTensor> tensors;     // by "FOLDER/TENSOR"
  std::set<std::string> folders;                    // that have something in them

  std::string Path(const std::string& name) const { return JoinPath(checkpoint->checkpoint().stored.root, name); }
  bool Has(const std::string& name) const { return classes.contains(name); }
  Result<std::string> Text(const std::string& name) const {
    return ReadWholeFile(checkpoint->files(), Path(name), kTextBytes);
  }
  // Of its model: rank directories and training checkpoints keep the one of their source.
  const std::string& Config() const {
    const Catalogue& stored = checkpoint->checkpoint().stored;
    return stored.origin ? stored.origin->config : stored.config.text;
  }
  // Whether nothing travels with it but how to sample: what packages write that save a model and leave the rest to
  // whoever calls them.
  bool weights_alone() const {
    return std::all_of(classes.begin(), classes.end(),
                       [](const auto& entry) { return entry.second == CarriedClass::kGeneration; });
  }
  // Whether it has no place for what lies in a directory, and does not claim to have it.
  bool HasNoPlaceFor(const std::string& folder) const {
    const bool audio = folder + "/" == kAudioTokenizerDirectory;
    const bool tower = checkpoint->traits().towers && checkpoint->checkpoint().stored.config.has_audio;
    return !checkpoint->traits().companions || (audio && !tower);
  }
};

std::string_view KindOfText(CarriedClass of) {
  switch (of) {
    case CarriedClass::kTokenizer:
    case CarriedClass::kVocabulary:
      return "carried.tokenizer";
    case CarriedClass::kTemplate:
      return "carried.chat-template";
    case CarriedClass::kGeneration:
      return "carried.generation";
    case CarriedClass::kCode:
      return "carried.code";
    case CarriedClass::kSettings:
      return "carried.settings";
    case CarriedClass::kTensors:
    case CarriedClass::kBytes:
    case CarriedClass::kIgnored:
      break;
  }
  return "carried.bytes";
}

class CarriedComparer {
 public:
  CarriedComparer(const LogicalCheckpoint& a, const LogicalCheckpoint& b,
                  const std::function<bool(const std::string&)>& takes, int threads)
      : takes_(takes), threads_(threads) {
    a_.checkpoint = &a;
    b_.checkpoint = &b;
  }

  Result<CarriedComparison> Run() {
    ListFiles();
    for (const auto& [alone, other] : {std::pair(&a_, &b_), std::pair(&b_, &a_)}) {
      if (!alone->weights_alone() || other->weights_alone()) continue;
      result_.notes.push_back(alone->checkpoint->root() +
                              " holds weights and config alone: tokenizer, templates, code and other models that travel "
                              "with " + other->checkpoint->root() + " were not compared");
      return std::move(result_);
    }
    CompareFolders();
    MIMO_RETURN_IF_ERROR(ReadHeaders());
    PairTensors();
    MIMO_RETURN_IF_ERROR(CompareFiles());
    MIMO_RETURN_IF_ERROR(CompareTemplates());
    MIMO_RETURN_IF_ERROR(ComparePairs());
    for (const auto& [side, count] : {std::pair(&a_, without_place_in_a_), std::pair(&b_, without_place_in_b_)})
      if (count > 0)
        result_.notes.push_back(std::to_string(count) + " files and tensors that travel with the model are not in " +
                                side->checkpoint->root() + ", which has no place for them");
    return std::move(result_);
  }

 private:
  bool Takes(const std::string& place) const { return takes_(kCarriedPrefix + place); }

  void Differs(std::string_view kind, const std::string& place, std::string evidence) {
    result_.differences.push_back({std::string(kind), place, std::move(evidence), std::nullopt});
  }

  // What one side alone has.
  void IsIn(bool in_a, const std::string& place, const std::string& folder, const std::string& what) {
    const CarriedSide &with = in_a ? a_ : b_, &without = in_a ? b_ : a_;
    if (without.HasNoPlaceFor(folder)) {
      ++(in_a ? without_place_in_b_ : without_place_in_a_);
      return;
    }
    const std::string evidence = what + "in " + with.checkpoint->root() + " alone";
    if (in_a)
      Differs("carried.missing", place, evidence);
    else
      Differs("carried.added", place, evidence);
  }

  void ListFiles() {
    std::set<std::string> models;
    for (CarriedSide* side : {&a_, &b_})
      for (const CarriedFile& file : side->checkpoint->checkpoint().stored.carried) {
        if (!file.outside.empty()) continue;  // of which nothing may be read
        side->files.emplace(file.name, &file);
        if (IsModelFile(file.name)) models.insert(FolderOf(file.name));
      }
    for (CarriedSide* side : {&a_, &b_})
      for (const auto& [name, file] : side->files) {
        const CarriedClass of = ClassOfCarried(name, models);
        if (of == CarriedClass::kIgnored || !Takes(name)) continue;
        side->classes.emplace(name, of);
        if (of != CarriedClass::kTemplate || !IsOfModel(name)) side->folders.insert(FolderOf(name));
      }
  }

  // A directory that one side alone has is one difference, whatever is in it.
  void CompareFolders() {
    for (const bool in_a : {true, false}) {
      CarriedSide &with = in_a ? a_ : b_, &without = in_a ? b_ : a_;
      for (const std::string& folder : with.folders) {
        if (folder.empty() || without.folders.contains(folder)) continue;
        size_t count = 0;
        uint64_t bytes = 0;
        std::erase_if(with.classes, [&](const auto& entry) {
          if (FolderOf(entry.first) != folder) return false;
          ++count;
          bytes += with.files.at(entry.first)->bytes;
          return true;
        });
        IsIn(in_a, folder + "/", folder, std::to_string(count) + " files of " + FormatBytes(bytes) + " ");
      }
    }
  }

  // A file whose header cannot be read in either is bytes in both.
  Status ReadHeaders() {
    std::map<std::pair<const CarriedSide*, std::string>, SafetensorsHeader> headers;
    for (CarriedSide* side : {&a_, &b_}) {
      for (const auto& [name, of] : side->classes) {
        if (of != CarriedClass::kTensors) continue;
        Result<SafetensorsHeader> header = ReadSafetensorsHeader(side->checkpoint->files(), side->Path(name));
        if (header.ok())
          headers.emplace(std::pair(side, name), std::move(header).value());
        else if (header.error().code == ErrorCode::kIo)
          return header.TakeError();
        else
          unreadable_.insert(name);
      }
    }
    for (CarriedSide* side : {&a_, &b_})
      for (auto& [name, of] : side->classes) {
        if (of != CarriedClass::kTensors) continue;
        if (unreadable_.contains(name))
          of = CarriedClass::kBytes;
        else
          AddTensors(name, headers.at({side, name}), side);
      }
    return {};
  }

  static void AddTensors(const std::string& name, const SafetensorsHeader& header, CarriedSide* side) {
    const std::string folder = FolderOf(name);
    for (const TensorInfo& tensor : header.tensors) {
      std::string place = folder.empty() ? tensor.name : folder + "/" + tensor.name;
      if (side->tensors.contains(place)) place = name + ": " + tensor.name;  // in two files
      side->tensors.emplace(std::move(place), CarriedTensor{side->Path(name), tensor});
    }
  }

  void PairTensors() {
    for (const auto& [place, tensor] : b_.tensors)
      if (!a_.tensors.contains(place)) IsIn(false, place, FolderOf(place), "");
    for (const auto& [place, a] : a_.tensors) {
      const auto found = b_.tensors.find(place);
      if (found == b_.tensors.end()) {
        IsIn(true, place, FolderOf(place), "");
        continue;
      }
      const CarriedTensor& b = found->second;
      if (a.info.dtype != b.info.dtype || a.info.shape != b.info.shape) {
        Differs("carried.tensor-type", place, TypeOf(a.info) + " against " + TypeOf(b.info));
        continue;
      }
      const uint64_t element = std::max<uint64_t>(1, BitsPerElement(a.info.dtype) / 8);
      pairs_.push_back({a.path, b.path, a.info.begin, b.info.begin, a.info.end - a.info.begin, element});
      pair_places_.push_back(place);
    }
  }

  static std::string TypeOf(const TensorInfo& info) {
    std::string text;
    for (const int64_t extent : info.shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
    return std::string(DTypeName(info.dtype)) + " [" + text + "]";
  }

  Status CompareFiles() {
    std::set<std::string> names;
    for (const CarriedSide* side : {&a_, &b_})
      for (const auto& [name, of] : side->classes) names.insert(name);
    MIMO_RETURN_IF_ERROR(FindCode());
    for (const std::string& name : names) {
      const auto in_a = a_.classes.find(name), in_b = b_.classes.find(name);
      const bool has_a = in_a != a_.classes.end(), has_b = in_b != b_.classes.end();
      const CarriedClass of = has_a ? in_a->second : in_b->second;
      const bool of_chats = of == CarriedClass::kTemplate && IsOfModel(name);
      if (of == CarriedClass::kTensors || of_chats) continue;
      if (has_a && has_b) {
        MIMO_RETURN_IF_ERROR(CompareFile(name, of));
        continue;
      }
      MIMO_ASSIGN_OR_RETURN(const bool counts, CountsAlone(name, of, has_a ? a_ : b_));
      if (counts)
        IsIn(has_a, name, FolderOf(name), "");
      else
        result_.notes.push_back(name + ": in " + (has_a ? a_ : b_).checkpoint->root() + " alone");
    }
    return {};
  }

  // Whether a file that one side alone has makes a difference in what is served.
  Result<bool> CountsAlone(const std::string& name, CarriedClass of, const CarriedSide& side) const {
    const std::string folder = FolderOf(name);
    const std::string tokenizer = folder.empty() ? kTokenizerName : folder + "/" + kTokenizerName;
    if (of == CarriedClass::kVocabulary) return !(a_.Has(tokenizer) && b_.Has(tokenizer));
    if (of == CarriedClass::kCode) return Runs(name);
    if (of != CarriedClass::kGeneration || side.files.at(name)->bytes > kTextBytes) return true;
    MIMO_ASSIGN_OR_RETURN(const std::string text, side.Text(name));
    return !IsDerivedGeneration(text);
  }

  Status CompareFile(const std::string& name, CarriedClass of) {
    const uint64_t bytes_a = a_.files.at(name)->bytes, bytes_b = b_.files.at(name)->bytes;
    const bool bytes = of == CarriedClass::kTensors || of == CarriedClass::kBytes;
    if (bytes || bytes_a > kTextBytes || bytes_b > kTextBytes) {
      if (bytes_a != bytes_b) {
        Differs("carried.bytes", name, std::to_string(bytes_a) + " bytes against " + std::to_string(bytes_b));
      } else {
        pairs_.push_back({a_.Path(name), b_.Path(name), 0, 0, bytes_a, 1});
        pair_places_.push_back(name);
      }
      return {};
    }
    MIMO_ASSIGN_OR_RETURN(const std::string a, a_.Text(name));
    MIMO_ASSIGN_OR_RETURN(const std::string b, b_.Text(name));
    const auto difference = TextDifference(a, b, name.ends_with(".json") ? TextMeaning::kJson : TextMeaning::kText);
    if (!difference) return {};
    if (of == CarriedClass::kCode && !Runs(name))
      result_.notes.push_back(name + ": " + *difference);
    else
      Differs(KindOfText(of), name, *difference);
    return {};
  }

  // Which code is named: by config.json, or by the tokenizer's and the processors'.
  Status FindCode() {
    for (const CarriedSide* side : {&a_, &b_}) {
      code_.merge(CodeNamedBy(side->Config()));
      for (const auto& [name, file] : side->files) {
        if (name != kTokenizerConfigName && !(FolderOf(name).empty() && name.ends_with("processor_config.json")))
          continue;
        if (file->bytes > kTextBytes) continue;
        MIMO_ASSIGN_OR_RETURN(const std::string text, side->Text(name));
        code_.merge(CodeNamedBy(text));
      }
    }
    return {};
  }

  // Whether somebody runs it: another model's, and whatever lies beside code that is named, for that imports it.
  bool Runs(const std::string& name) const { return !FolderOf(name).empty() || !code_.empty(); }

  // Whether a template is of the model itself: those are compared by what they are called, not by where they are.
  static bool IsOfModel(const std::string& name) {
    const std::string folder = FolderOf(name);
    return folder.empty() || folder == "additional_chat_templates";
  }

  Result<ChatTemplates> TemplatesOf(const CarriedSide& side, std::string* place) const {
    std::map<std::string, std::string> texts;
    std::optional<std::string> config;
    for (const auto& [name, of] : side.classes) {
      const bool chats = of == CarriedClass::kTemplate && IsOfModel(name);
      if ((!chats && name != kTokenizerConfigName) || side.files.at(name)->bytes > kTextBytes) continue;
      MIMO_ASSIGN_OR_RETURN(std::string text, side.Text(name));
      if (chats)
        texts.emplace(name, std::move(text));
      else
        config = std::move(text);
    }
    *place = texts.empty() ? kTokenizerConfigName : texts.begin()->first;
    return ChatTemplatesOf(config, texts);
  }

  // Wherever they lie: newer packages move them out of tokenizer_config.json.
  Status CompareTemplates() {
    std::string place_a, place_b;
    MIMO_ASSIGN_OR_RETURN(ChatTemplates a, TemplatesOf(a_, &place_a));
    MIMO_ASSIGN_OR_RETURN(ChatTemplates b, TemplatesOf(b_, &place_b));
    for (const auto& [name, text] : a) {
      const auto found = b.find(name);
      const std::string which = name == "default" ? "" : name + ": ";
      if (found == b.end())
        IsIn(true, place_a, "", "the chat template " + (which.empty() ? "" : which));
      else if (const auto difference = TextDifference(text, found->second, TextMeaning::kText))
        Differs("carried.chat-template", place_a, which + *difference);
    }
    for (const auto& [name, text] : b)
      if (!a.contains(name)) IsIn(false, place_b, "", "the chat template " + (name == "default" ? "" : name + ": "));
    return {};
  }

  Status ComparePairs() {
    MIMO_ASSIGN_OR_RETURN(const std::vector<ByteDifference> found,
                          CompareBytes(a_.checkpoint->files(), b_.checkpoint->files(), pairs_, threads_));
    for (size_t p = 0; p < pairs_.size(); ++p) {
      if (found[p].elements == 0) continue;
      const uint64_t size = pairs_[p].element_bytes;
      Differs("carried.bytes", pair_places_[p],
              std::to_string(found[p].elements) + " of " + std::to_string(pairs_[p].bytes / size) + " elements of " +
                  std::to_string(size) + " bytes differ, element " + std::to_string(found[p].first) + " first");
    }
    return {};
  }

  const std::function<bool(const std::string&)>& takes_;
  const int threads_;
  CarriedSide a_, b_;
  std::set<std::string> unreadable_;  // tensor files, in one of the two at least
  std::set<std::string> code_;        // that an auto_map names
  std::vector<BytePair> pairs_;
  std::vector<std::string> pair_places_;
  uint64_t without_place_in_a_ = 0, without_place_in_b_ = 0;
  CarriedComparison result_;
};

}  // namespace

Result<CarriedComparison> CompareCarried(const LogicalCheckpoint& a, const LogicalCheckpoint& b,
                                         const std::function<bool(const std::string&)>& takes, int threads) {
  return CarriedComparer(a, b, takes, threads).Run();
}

}  // namespace mimo
