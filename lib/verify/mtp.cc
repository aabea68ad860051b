#include "lib/verify/mtp.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/forms/registry/registry.h"
#include "lib/model/family.h"
#include "lib/verify/mtp_headers.h"
#include "lib/verify/mtp_repair.h"

namespace mimo {
namespace {

std::string Layers(int64_t count) {
  return std::to_string(count) + (count == 1 ? " layer" : " layers");
}

// What a layer's tensors are called without the rest: "model.layers.48".
std::string NameOfLayer(const MtpLayer& layer, const ModelConfig& config) {
  const MtpConvention& convention = config.family->mtp.conventions[layer.convention];
  return convention.prefix + std::to_string(layer.number + (convention.after_decoder ? config.layers : 0));
}

std::string_view AttentionWord(Storage storage) {
  switch (storage) {
    case Storage::kPlain:
      return "plain";
    case Storage::kFp8Block:
      return "fp8";
    case Storage::kMxfp4:
      return "mxfp4";
    case Storage::kMxfp8:
      return "mxfp8";
    case Storage::kNvfp4:
      return "nvfp4";
  }
  return "plain";
}

class Verifier {
 public:
  Verifier(FileSystem& fs, const std::string& root, const MtpOptions& options)
      : fs_(fs), root_(root), options_(options) {}

  Result<MtpReport> Verify() {
    MIMO_RETURN_IF_ERROR(Open());
    MIMO_ASSIGN_OR_RETURN(const std::vector<MtpLayer> layers, FindMtpLayers(*catalogue_));
    for (const MtpLayer& layer : layers) Describe(layer);
    const ModelConfig& config = catalogue_->config;
    report_.announced = config.nextn_layers;
    report_.released = config.family->mtp.released_layers;
    // What is announced and no release of the family holds is nowhere to be had.
    const bool never = report_.released == 0 && layers.empty();
    report_.wanted = never ? 0 : report_.announced.value_or(report_.released);
    if (never && report_.announced.value_or(0) > 0)
      Add("mtp.never", count_key(), Layers(*report_.announced) + " announced, and no release of the family holds any");
    for (const MtpLayer& layer : layers)
      if (layer.released() && layer.whole()) ++report_.whole;
    JudgeFiles();
    for (size_t i = 0; i < layers.size(); ++i) JudgeLayer(layers[i], report_.layers[i]);
    JudgeCount(layers);
    JudgeRest();
    report_.repairs = RepairsOf({root_, options_.reference, report_, headers_, rest_, has_place_, Detour()});
    if (viewed_) return std::move(report_);  // engines.json judges Hugging Face directories
    MIMO_ASSIGN_OR_RETURN(report_.engines, JudgeMtpEngines(catalogue_->config.family->name, FactsOf(layers)));
    return std::move(report_);
  }

 private:
  // The checkpoint as far as it opens, and the headers of a Hugging Face directory whatever is wrong with it.
  Status Open() {
    opened_ = OpenAsFarAsPossible(fs_, root_, {.like_root = options_.reference});
    const Status& status = opened_.status;
    if (!status.ok() && status.error().code == ErrorCode::kIo) return status.error();
    if (const View* view = opened_.checkpoint.view.get()) {
      viewed_ = true;
      catalogue_ = &view->catalogue;
      report_.form = view->form;
      has_place_ = FormOfStored(opened_.checkpoint.stored).traits().mtp;
      return {};
    }
    Result<MtpHeaders> headers = ReadMtpHeaders(fs_, root_);
    if (!headers.ok()) return status.ok() ? headers.error() : status.error();
    headers_ = std::move(*headers);
    catalogue_ = &headers_.catalogue;
    if (FormOfStored(*catalogue_).kind() != FormKind::kHf && !status.ok()) return status.error();
    const bool any = !headers_.catalogue.files.empty() || !headers_.unreadable.empty();
    if (!any && !status.ok()) return status.error();
    return {};
  }

  const std::vector<MtpConvention>& conventions() const { return catalogue_->config.family->mtp.conventions; }
  // Where the config says how many there are.
  std::string count_key() const {
    const std::string key = catalogue_->config.family->NameOf(Field::kMtpLayers);
    return key.empty() ? "config.json" : "config.json: " + key;
  }

  void Describe(const MtpLayer& layer) {
    MtpLayerReport one;
    one.number = layer.number;
    one.name = NameOfLayer(layer, catalogue_->config);
    one.convention = conventions()[layer.convention].id;
    one.whole = layer.whole();
    one.tensors = layer.arrays.size();
    one.fused = layer.fused;
    one.attention = layer.attention;
    one.problems = layer.problems;
    std::set<std::string> files;
    uint64_t listed = 0;
    for (const uint32_t i : layer.arrays) {
      const StoredArray& array = catalogue_->arrays[i];
      one.bytes += TensorBytes(array.dtype, array.shape).value_or(0);
      if (!viewed_) files.insert(catalogue_->files[array.file].name);
      if (!viewed_) listed += headers_.listed[i];
    }
    one.files.assign(files.begin(), files.end());
    if (!viewed_ && catalogue_->index.present)
      one.listed = listed == one.tensors ? MtpListed::kAll : listed > 0 ? MtpListed::kSome : MtpListed::kUnnamed;
    for (const uint32_t i : layer.quantized) one.quantized.push_back(catalogue_->arrays[i].name);
    for (const uint32_t i : layer.unknown) one.unknown.push_back(catalogue_->arrays[i].name);
    report_.layers.push_back(std::move(one));
  }

  void Add(std::string_view id, const std::string& place, std::string evidence, uint64_t count = 1) {
    report_.findings.Add(id, place, std::move(evidence), count);
  }

  void JudgeFiles() {
    for (const auto& [file, why] : headers_.unreadable) Add("mtp.unreadable", file, why);
    for (const MtpElsewhere& one : headers_.nested) Add("mtp.nested", one.file, one.tensor);
    if (!headers_.twice.empty()) {
      const MtpElsewhere& first = headers_.twice.front();
      Add("mtp.stored_twice", first.tensor, "in " + first.file + " and in " + first.other, headers_.twice.size());
    }
    if (!headers_.absent.empty())
      Add("mtp.listed_absent", "the index",
          std::to_string(headers_.absent.size()) + " tensors, such as " + headers_.absent.front().first + " in " +
              headers_.absent.front().second,
          headers_.absent.size());
    if (!headers_.listed_elsewhere.empty()) {
      const MtpElsewhere& first = headers_.listed_elsewhere.front();
      Add("mtp.listed_elsewhere", "the index", first.tensor + " in " + first.other + ", and it is in " + first.file,
          headers_.listed_elsewhere.size());
    }
  }

  void JudgeLayer(const MtpLayer& layer, const MtpLayerReport& said) {
    const auto of_kind = [&](MtpProblemKind kind, std::string_view id) {
      std::vector<std::string> found;
      for (const MtpProblem& p : layer.problems)
        if (p.kind == kind)
          found.push_back((p.tensor.empty() ? "" : p.tensor + ": ") + "expected " + p.expected + ", found " + p.found);
      if (!found.empty()) Add(id, said.name, Examples(found), found.size());
    };
    std::vector<std::string> missing;
    for (const MtpProblem& problem : layer.problems)
      if (problem.kind == MtpProblemKind::kMissing) missing.push_back(problem.tensor);
    if (!missing.empty())
      Add("mtp.incomplete", said.name,
          std::to_string(missing.size()) + " of " + std::to_string(layer.needs) +
              " weights missing: " + Examples(missing),
          missing.size());
    of_kind(MtpProblemKind::kGeometry, "mtp.geometry");
    of_kind(MtpProblemKind::kShape, "mtp.shape");
    of_kind(MtpProblemKind::kWeight, "mtp.weight");
    of_kind(MtpProblemKind::kProjection, "mtp.projection");
    if (!said.quantized.empty()) Add("mtp.quantized", said.name, Examples(said.quantized), said.quantized.size());
    if (!said.unknown.empty()) Add("mtp.unknown_tensor", said.name, Examples(said.unknown), said.unknown.size());
    if (!layer.released())
      Add("mtp.names", said.name + ".*",
          "MTP layer " + std::to_string(layer.number) + ", named " + conventions()[layer.convention].name);
    if (said.listed == MtpListed::kSome || said.listed == MtpListed::kUnnamed)
      Add("mtp.unindexed", said.name + ".*",
          (said.listed == MtpListed::kUnnamed ? "none" : "some") + std::string(" of its tensors in ") +
              Examples(said.files) + (said.listed == MtpListed::kUnnamed ? " is" : " are") + " in the index");
  }

  void JudgeCount(const std::vector<MtpLayer>& layers) {
    std::set<int32_t> stored;
    for (const MtpLayer& layer : layers) stored.insert(layer.number);
    const std::string by = report_.announced
                               ? "announced are " + std::to_string(*report_.announced)
                               : "the config is silent, releases have " + std::to_string(report_.released);
    std::vector<std::string> absent, more;
    const int64_t last = stored.empty() ? 0 : std::min<int64_t>(*stored.rbegin() + 1, kMostNamed);
    for (int64_t n = 0; n < std::max(std::min(report_.wanted, kMostNamed), last); ++n)
      if (!stored.contains(static_cast<int32_t>(n))) absent.push_back(std::to_string(n));
    for (const int32_t n : stored)
      if (report_.announced && n >= *report_.announced) more.push_back(std::to_string(n));
    if (!has_place_ && !absent.empty()) Add("mtp.form", root_, "form " + std::string(WordOf(kForms, report_.form)));
    if (!absent.empty())
      Add("mtp.absent", count_key(),
          by + ", stored are " + std::to_string(stored.size()) + ": no " + (absent.size() == 1 ? "layer " : "layers ") +
              Examples(absent, 8),
          absent.size());
    if (!more.empty())
      Add("mtp.unannounced", count_key(),
          by + ", stored are " + std::to_string(stored.size()) + ": also " + (more.size() == 1 ? "layer " : "layers ") +
              Examples(more, 8),
          more.size());
    if (!report_.announced && report_.whole >= report_.released)
      Add("mtp.unsaid", count_key(), "absent, stored are " + Layers(report_.whole));
  }

  // Whether what keeps the checkpoint from opening has to do with MTP layers.
  void JudgeRest() {
    if (opened_.status.ok()) return;
    const OpenedCheckpoint rest = OpenAsFarAsPossible(fs_, root_, {.without_broken_mtp = true});
    if (rest.status.ok()) {
      if (!report_.ok()) return;
      const Finding refusal = FindingOf(opened_.status.error());
      Add("mtp.refused", refusal.place, refusal.evidence);
    } else if (headers_.unreadable.empty()) {
      rest_ = FindingOf(rest.status.error());
      Add("mtp.rest", rest_->place, rest_->id + ": " + rest_->evidence);
    }
  }

  // --like decodes and moves codes, but does not lay them out anew under blocks: another form is read back first, and
  // another layout of attention than that of a reference that was named is changed.
  std::string Detour() const {
    if (report_.ok() || opened_.reached != OpenedCheckpoint::Reached::kLayout) return "";
    const Inventory& inventory = opened_.checkpoint.inventory;
    const bool codes = std::any_of(inventory.weights.begin(), inventory.weights.end(),
                                   [](const Weight& weight) { return weight.storage != Storage::kPlain; });
    if (viewed_) return codes ? "--to hf" : "";
    if (!inventory.quantized_attention || options_.reference.empty()) return "";
    const OpenedCheckpoint reference = OpenAsFarAsPossible(fs_, options_.reference);
    const QkvLayout& wanted = reference.checkpoint.layout.layout;
    if (reference.reached != OpenedCheckpoint::Reached::kLayout || wanted == opened_.checkpoint.layout.layout)
      return "";
    if (wanted == kOwnGrids) return "--qkv split:independent";
    return (wanted.fused() ? "--qkv fused:" : "--qkv split:") + std::to_string(wanted.chunks);
  }

  Facts FactsOf(const std::vector<MtpLayer>& layers) const {
    std::set<int32_t> numbers;
    std::string first = "absent";
    bool released = layers.empty(), unlisted = false, o_proj = false, eh_proj = false;
    for (size_t i = 0; i < layers.size(); ++i) {
      const MtpLayer& layer = layers[i];
      numbers.insert(layer.number);
      released |= layer.released();
      unlisted |= report_.layers[i].listed == MtpListed::kSome || report_.layers[i].listed == MtpListed::kUnnamed;
      if (layer.released() && layer.number == 0) first = layer.whole() ? "complete" : "partial";
      for (const std::string& name : report_.layers[i].quantized)
        (name.find("eh_proj") == std::string::npos ? o_proj : eh_proj) = true;
    }
    const int64_t last = numbers.empty() ? -1 : *numbers.rbegin();
    const ModelConfig& config = catalogue_->config;
    const bool laid_out = opened_.reached == OpenedCheckpoint::Reached::kLayout;
    return {{"layers", static_cast<int64_t>(numbers.size())},
            {"whole", report_.whole},
            {"announced", report_.announced.value_or(-1)},
            {"first", first},
            {"gaps", report_.whole == last + 1 ? "no" : "yes"},
            {"names", released ? "released" : "other"},
            {"indexed", unlisted ? "no" : "yes"},
            {"quantized", o_proj || eh_proj ? "yes" : "no"},
            {"o_proj", o_proj ? "codes" : "values"},
            {"eh_proj", eh_proj ? "codes" : "values"},
            {"qkv", !layers.empty() && layers.front().fused ? "fused" : "split"},
            {"attention", std::string(AttentionWord(layers.empty() ? Storage::kPlain : layers.front().attention))},
            {"chunks", laid_out ? opened_.checkpoint.layout.layout.chunks : 0},
            {"kv_heads", config.global.kv_heads},
            {"swa_kv_heads", config.window.kv_heads}};
  }

  static constexpr int64_t kMostNamed = 64;  // layers that are looked for one by one

  FileSystem& fs_;
  const std::string root_;
  const MtpOptions options_;
  OpenedCheckpoint opened_;
  MtpHeaders headers_;                    // of a Hugging Face directory
  const Catalogue* catalogue_ = nullptr;  // under Hugging Face names: of the headers, or what a view shows
  bool viewed_ = false;
  bool has_place_ = true;  // the form holds MTP layers at all
  std::optional<Finding> rest_;
  MtpReport report_;
};

}  // namespace

Result<MtpReport> VerifyMtp(FileSystem& fs, const std::string& root, const MtpOptions& options) {
  return Verifier(fs, root, options).Verify();
}

}  // namespace mimo
