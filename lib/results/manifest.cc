#include "lib/results/manifest.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "lib/json/document.h"
#include "lib/plan/containers.h"
#include "lib/plan/reads.h"
#include "lib/plan/words.h"
#include "lib/recipe/encoding_text.h"
#include "lib/results/manifest_hash.h"
#include "lib/results/result_json.h"

namespace mimo {
namespace {

class Writer {
 public:
  Writer(const Catalogue& catalogue, const Plan& plan, const RunResults& results, const TextSink& sink)
      : catalogue_(catalogue),
        plan_(plan),
        results_(results),
        sink_(HashingSink(sink)),
        out_(sink_, kBeginOfManifest + std::to_string(results.logical_hashes ? kManifestOfValues : kManifestOfBytes)) {}

  Status Write() {
    Head();
    Source();
    Files();
    OtherFiles();
    Tensors();
    if (results_.logical_hashes) out_.List("logical_hashes", *results_.logical_hashes, AppendLogicalHash);
    Dropped();
    Relayouts();
    Verdict();
    Totals();
    MIMO_RETURN_IF_ERROR(out_.Finish(""));
    return sink_(EndOfManifest(hash_.Digest()));
  }

 private:
  TextSink HashingSink(const TextSink& sink) {
    return [this, &sink](std::string_view piece) {
      hash_.Update(piece);
      return sink(piece);
    };
  }

  void Head() {
    out_.String("tool_version", plan_.tool_version);
    out_.String("form", plan_.form);
    out_.Key("options") += PlanOptionsJson(plan_.options);
    out_.String("plan_digest", plan_.digest.Hex());
  }

  void Source() {
    JsonObject layout(out_.Key("source_layout"));
    layout.String("layout", plan_.source_layout.layout.ToString());
    layout.String("basis", plan_.source_layout.basis);
    layout.Bool("assumed", plan_.source_layout.assumed);
    layout.StringList("evidence", plan_.source_layout.evidence);
    layout.Close();
    out_.String("target_layout", plan_.target_layout.ToString());
    out_.String("source_fingerprint", plan_.source_fingerprint.Hex());
    if (!plan_.notes.empty()) out_.List("notes", plan_.notes, AppendJsonString);
    out_.BeginList("source_files");
    for (const CatalogueFile& file : catalogue_.files)
      File({.name = file.name, .bytes = file.bytes, .hash = file.header_hash}, "header_hash");
    out_.EndList();
    if (!results_.checksums.any()) return;
    JsonObject checksums(out_.Key("source_checksums"));
    AddChecksums(checksums, results_.checksums);
  }

  void File(const ManifestFile& file, const char* hash_key) {
    JsonObject object(out_.Element());
    object.String("name", file.name);
    object.Number("bytes", file.bytes);
    if (file.container != Containers()[0]) object.String("container", file.container->word());
    if (file.hash) object.String(hash_key, file.hash->Hex());
    if (file.linked) object.Bool("linked", true);
  }

  void Files() {
    out_.BeginList("files");
    for (size_t i = 0; i < plan_.files.size(); ++i) {
      const PlanFile& file = plan_.files[i];
      std::optional<Hash128> hash;
      if (file.container->HasHeader()) {
        hash = file.HasHeaderOfSource() ? catalogue_.files[file.source_file].header_hash
                                        : HashBytes(std::as_bytes(std::span(file.header)));
      }
      File({file.name, file.bytes, results_.linked[i] != 0, file.container, hash}, "header_hash");
    }
    out_.EndList();
  }

  void OtherFiles() {
    out_.BeginList("texts");
    for (const TextFile& text : plan_.texts) {
      const Hash128 hash = HashBytes(std::as_bytes(std::span(text.content)));
      File({.name = text.name, .bytes = text.content.size(), .hash = hash}, "hash");
    }
    out_.EndList();
    out_.BeginList("carried");
    for (const CarriedResult& file : results_.carried)
      File({.name = file.name, .bytes = file.bytes, .linked = file.linked, .hash = file.hash}, "hash");
    out_.EndList();
  }

  // Arrays that each relaid output, and each array beside encoded codes, is made from; other outputs say so in their
  // pieces.
  void CollectRelaid() {
    const auto add = [&](uint32_t output, uint32_t source) { AddArray(output, plan_.sources[source].array); };
    for (const FuseGroup& group : plan_.groups) {
      for (const CellRow& cell : group.cells) {
        for (const CellSegment& segment : cell.segments) {
          if (segment.source == kNone) continue;
          add(segment.output, segment.source);
          if (segment.scale != kNone) add(cell.scale_output, segment.scale);
          if (cell.moved) continue;
          if (segment.scale != kNone) add(segment.output, segment.scale);
          if (cell.keep != kNone) add(segment.output, cell.keep);
          add(cell.scale_output, segment.source);
        }
        if (cell.keep != kNone) add(cell.scale_output, cell.keep);
      }
      for (const EncodedWeight& weight : group.encoded) {
        encodings_[weight.codes] = &weight.encoding;
        if (weight.keep != kNone) {
          add(weight.codes, weight.keep);
          add(weight.scales, weight.keep);
          keeps_.insert(weight.codes);
        }
        for (const Piece& piece : PiecesOf(weight, plan_.outputs[weight.codes])) {
          const auto from = [&](uint32_t source) { add(weight.scales, source); };
          VisitDecoded(plan_.sources, piece.source, from);
        }
      }
      CollectGlobals(group);
    }
  }

  void AddArray(uint32_t output, uint32_t array) {
    if (seen_.insert(static_cast<uint64_t>(output) << 32 | array).second) relaid_[output].push_back(array);
  }

  // A shared global is made from all that share it; an input scale from none.
  void CollectGlobals(const FuseGroup& group) {
    if (!group.SharesGlobal()) return;
    std::unordered_map<uint32_t, std::vector<uint32_t>> arrays_of;  // by share, in order
    std::unordered_set<uint64_t> shared;                            // (share, array)
    for (const EncodedWeight& weight : group.encoded)
      for (const Piece& piece : PiecesOf(weight, plan_.outputs[weight.codes])) {
        if (piece.source == kNone) continue;
        const uint32_t array = plan_.sources[piece.source].array;
        if (shared.insert(static_cast<uint64_t>(weight.share) << 32 | array).second)
          arrays_of[weight.share].push_back(array);
      }
    for (const EncodedWeight& weight : group.encoded)
      for (const uint32_t array : arrays_of[weight.share]) AddArray(weight.global, array);
  }

  std::vector<std::string> SourceNames(uint32_t output) {
    std::vector<std::string> names;
    const auto add_array = [&](uint32_t array) {
      if (named_[array] == output) return;
      named_[array] = output;
      names.push_back(catalogue_.arrays[array].name);
    };
    const auto add = [&](uint32_t source) { add_array(plan_.sources[source].array); };
    if (auto relaid = relaid_.find(output); relaid != relaid_.end()) {
      for (const uint32_t a : relaid->second) add_array(a);
    }
    const OutputArray& array = plan_.outputs[output];
    if (array.keep != kNone) add(array.keep);
    for (const Piece& piece : array.pieces) {
      if (piece.source == kNone) continue;
      add(piece.source);
      const SourceArray& source = plan_.sources[piece.source];
      if (!Decodes(array, source) || !source.quantized) continue;
      if (source.bands.empty()) add(source.scale);
      if (source.global != kNone) add(source.global);
      const int64_t rows = array.transform == Transform::kTranspose ? piece.cols : piece.rows;
      for (const SourceBand& band : source.bands) {
        if (band.row_begin < piece.source_row + rows && band.row_end > piece.source_row) add(band.scale);
      }
    }
    return names;
  }

  void Tensors() {
    CollectRelaid();
    named_.assign(catalogue_.arrays.size(), kNone);
    out_.BeginList("tensors");
    for (uint32_t i = 0; i < plan_.outputs.size(); ++i) {
      const OutputArray& output = plan_.outputs[i];
      const TensorResult& result = results_.tensors[i];
      JsonObject object(out_.Element());
      object.String("name", output.name);
      object.Number("file", output.file);
      object.String("dtype", DTypeName(output.dtype));
      object.NumberList("shape", output.shape);
      if (result.hash) object.String("hash", result.hash->Hex());
      object.String("transform", output.unchanged ? "unchanged" : WordOf(kTransforms, output.transform));
      object.StringList("sources", SourceNames(i));
      if (result.anomalies != kernels::Anomalies()) Anomalies(object, result.anomalies);
      if (const auto encoding = encodings_.find(i); encoding != encodings_.end()) {
        object.String("encoding", EncodingText(*encoding->second));
        object.Number("blocks", result.counts.encoded_blocks);
        object.Number("exact_blocks", result.counts.exact_blocks);
        if (keeps_.contains(i)) object.Number("kept_blocks", result.counts.kept_blocks);
      }
      if (output.adjust != Adjust::kAsIs) {
        object.String("adjust", WordOf(kAdjusts, output.adjust));
        if (output.dtype == DType::kF8E4M3) object.Number("inexact_codes", result.counts.inexact_codes);
      }
      if (output.keep != kNone) object.Number("inexact_codes", result.counts.inexact_codes);
      if (result.error) {
        JsonObject error(object.Key("error"));
        AddError(error, *result.error);
      }
    }
    out_.EndList();
  }

  static void Anomalies(JsonObject& object, const kernels::Anomalies& anomalies) {
    JsonObject members(object.Key("anomalies"));
    AddAnomalies(members, anomalies);
  }

  void Dropped() {
    out_.BeginList("dropped");
    for (const SourceFate& fate : plan_.fates) {
      if (fate.fate != Fate::kDropped) continue;
      JsonObject object(out_.Element());
      object.String("name", catalogue_.arrays[fate.array].name);
      object.String("reason", fate.reason);
    }
    out_.EndList();
  }

  void Relayouts() {
    out_.BeginList("relayouts");
    for (size_t i = 0; i < plan_.groups.size(); ++i) {
      if (plan_.groups[i].cells.empty()) continue;
      JsonObject object(out_.Element());
      object.String("group", plan_.groups[i].label);
      AddGridCounts(object, results_.groups[i]);
    }
    out_.EndList();
  }

  void Verdict() {
    if (results_.thresholds.empty()) return;
    out_.Key("accepted") += results_.rejections.empty() ? "true" : "false";
    out_.List("thresholds", results_.thresholds, AppendThreshold);
    out_.List("rejections", results_.rejections, AppendJsonString);
  }

  void Totals() {
    kernels::Anomalies anomalies;
    for (const TensorResult& tensor : results_.tensors) anomalies += tensor.anomalies;
    JsonObject object(out_.Key("totals"));
    object.Number("tensors", plan_.outputs.size());
    object.Number("payload_bytes", plan_.payload_bytes);
    Anomalies(object, anomalies);
    AddCounts(object, TotalCounts(results_));
  }

  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunResults& results_;
  StreamHash hash_;
  const TextSink sink_;
  JsonDocument out_;
  std::unordered_map<uint32_t, std::vector<uint32_t>> relaid_;  // arrays by output
  std::unordered_set<uint64_t> seen_;                           // (output, array) of these
  std::vector<uint32_t> named_;  // per array of the catalogue: the last output that named it among its sources
  std::unordered_map<uint32_t, const kernels::Encoding*> encodings_;  // by output of codes
  std::unordered_set<uint32_t> keeps_;                                // outputs of codes whose scales are kept
};

}  // namespace

BlockCounts TotalCounts(const RunResults& results) {
  BlockCounts total;
  for (const BlockCounts& group : results.groups) total += group;
  for (const TensorResult& tensor : results.tensors) total += tensor.counts;
  return total;
}

Status WriteManifest(const Catalogue& catalogue, const Plan& plan, const RunResults& results, const TextSink& sink) {
  return Writer(catalogue, plan, results, sink).Write();
}

}  // namespace mimo
