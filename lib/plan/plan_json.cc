// Plan -> text. One line per output, source, cell row and file; what has its usual value is left out
// (schemas/plan.schema.json).
#include "lib/plan/plan_json.h"

#include "lib/json/bytes.h"
#include "lib/json/document.h"
#include "lib/plan/containers.h"
#include "lib/plan/words.h"
#include "lib/recipe/encoding_text.h"

namespace mimo {
namespace {

// What will load the output; what was not asked for is left out.
void AppendTarget(JsonObject& object, const PlanOptions& options) {
  static const PlanOptions kUsual;
  const auto text = [&](const char* key, std::string_view value, std::string_view usual) {
    if (value != usual) object.String(key, value);
  };
  const auto number = [&](const char* key, int64_t value) {
    if (value != 0) object.Number(key, value);
  };
  text("to", WordOf(kTargets, options.to), WordOf(kTargets, kUsual.to));
  if (options.format) object.String("format", WordOf(kForms, *options.format));
  text("engine_version", options.engine_version, kUsual.engine_version);
  text("attention", WordOf(kAttentionStorages, options.attention), WordOf(kAttentionStorages, kUsual.attention));
  number("tp", options.tp);
  number("ep", options.ep);
  number("etp", options.etp);
  number("pp", options.pp);
  if (!options.ranks.empty()) object.NumberList("ranks", options.ranks);
  if (options.pad) object.Bool("pad", true);
  if (options.fold_value_scale) object.String("fold_value_scale", WordOf(kFoldIntos, *options.fold_value_scale));
  number("fp8_block_rows", options.fp8_block_rows);
  if (options.expert_codes) object.String("expert_codes", WordOf(kExpertCodes, *options.expert_codes));
  if (options.router_bias) object.String("router_bias", WordOf(kRouterBiases, *options.router_bias));
  text("form_template", options.form_template, kUsual.form_template);
  number("iteration", options.iteration);
  if (options.like) object.Bool("like", true);
}

void AppendOptions(std::string& out, const PlanOptions& options) {
  JsonObject object(out);
  object.String("dtype", WordOf(kDTypeChoices, options.dtype));
  if (options.recipe) object.String("recipe", RecipeJson(*options.recipe));
  object.String("qkv", options.qkv.text);
  object.String("source_qkv", options.source_qkv ? options.source_qkv->text : "");
  object.String("on_straddle", WordOf(kStraddlePolicies, options.on_straddle));
  object.Bool("lossless", options.lossless);
  object.String("scale_policy", WordOf(kScalePolicies, options.fresh_scales));
  object.Bool("text_only", options.text_only);
  object.String("unknown", WordOf(kUnknownPolicies, options.unknown));
  object.StringList("include", options.include);
  object.StringList("exclude", options.exclude);
  object.Number("max_shard_bytes", options.max_shard_bytes);
  AppendTarget(object, options);
}

void AppendLayout(std::string& out, const QkvLayout& layout) {
  JsonObject object(out);
  object.String("qkv", WordOf(kQkvKinds, layout.kind));
  object.Number("chunks", layout.chunks);
}

// The name of an array stands for the first source that reads it; further ones are named by their position.
class SourceNames {
 public:
  SourceNames(const Catalogue& catalogue, const Plan& plan) : catalogue_(catalogue), plan_(plan) {
    std::vector<bool> seen(catalogue.arrays.size(), false);
    first_.resize(plan.sources.size());
    for (size_t i = 0; i < plan.sources.size(); ++i) {
      const uint32_t array = plan.sources[i].array;
      first_[i] = array < seen.size() && !seen[array];
      if (array < seen.size()) seen[array] = true;
    }
  }
  bool IsName(uint32_t source) const { return source < first_.size() && first_[source]; }
  const std::string& Name(uint32_t source) const { return catalogue_.arrays[plan_.sources[source].array].name; }
  void Append(std::string& out, uint32_t source) const {
    if (IsName(source)) {
      AppendJsonString(out, Name(source));
    } else {
      AppendInteger(out, source);
    }
  }

 private:
  const Catalogue& catalogue_;
  const Plan& plan_;
  std::vector<bool> first_;
};

void AppendBand(std::string& out, const SourceBand& band) {
  AppendIntegers(out += '[', band.row_begin, band.row_end, band.scale, band.scale_row);
  out += ']';
}

void AppendSource(std::string& out, const Catalogue& catalogue, const SourceArray& source) {
  static const SourceArray kUsual;
  const std::string name = source.array < catalogue.arrays.size() ? catalogue.arrays[source.array].name : "";
  const bool usual = !source.quantized && source.codec == kUsual.codec && source.scale == kNone &&
                     source.global == kNone && source.block_rows == kUsual.block_rows &&
                     source.block_cols == kUsual.block_cols && source.scale_type == kUsual.scale_type &&
                     !source.scales_in_a_row && source.bands.empty();
  if (usual) return AppendJsonString(out, name);
  JsonObject object(out);
  object.String("array", name);
  if (source.quantized) object.Bool("quantized", true);
  object.String("codec", WordOf(kCodecs, source.codec));
  if (source.scale != kNone) object.Number("scale", source.scale);
  if (source.global != kNone) object.Number("global", source.global);
  if (source.global_divides) object.Bool("global_divides", true);
  if (source.block_rows != kUsual.block_rows) object.Number("block_rows", source.block_rows);
  if (source.block_cols != kUsual.block_cols) object.Number("block_cols", source.block_cols);
  if (source.scale_type != kUsual.scale_type) object.String("scale_type", DTypeName(source.scale_type));
  if (source.scales_in_a_row) object.Bool("scales_in_a_row", true);
  if (!source.bands.empty()) object.List("bands", source.bands, AppendBand);
}

// One piece that covers the output and begins at row 0 of its source is just "source".
bool IsWholeMove(const OutputArray& output) {
  if (output.pieces.size() != 1) return false;
  const Piece& piece = output.pieces[0];
  return piece.source != kNone && piece.source_row == 0 && piece.target_row == 0 && piece.rows == output.rows() &&
         piece.cols == 0 && piece.source_col == 0 && piece.target_col == 0;
}

// Reads back as the same float. Plans hold finite ones.
void AppendFloat(std::string& out, float value) {
  AppendInteger(out, static_cast<double>(value));
}

// Names are for people: lists that are too long to read get positions.
constexpr size_t kNamedPieces = 16;

void AppendPiece(std::string& out, const SourceNames& names, const Piece& piece, bool named) {
  out += '[';
  if (piece.source == kNone) {
    out += "null";
  } else if (named) {
    names.Append(out, piece.source);
  } else {
    AppendInteger(out, piece.source);
  }
  AppendIntegers(out += ',', piece.source_row, piece.target_row, piece.rows);
  if (piece.source_col != 0 || piece.target_col != 0 || piece.cols != 0)
    AppendIntegers(out += ',', piece.source_col, piece.target_col, piece.cols);
  out += ']';
}

void AppendOutput(std::string& out, const SourceNames& names, const OutputArray& output, bool follows, uint64_t begin) {
  JsonObject object(out);
  object.String("name", output.name);
  object.String("role", RoleName(output.id.role));
  if (output.id.part != Part::kWeight) object.String("part", WordOf(kParts, output.id.part));
  if (output.id.mtp) object.Bool("mtp", true);
  if (output.id.layer != -1) object.Number("layer", output.id.layer);
  if (output.id.expert != -1) object.Number("expert", output.id.expert);
  object.String("dtype", DTypeName(output.dtype));
  object.NumberList("shape", output.shape);
  object.Number("file", output.file);
  if (!follows || output.begin != begin) object.Number("begin", output.begin);
  object.Number("group", output.group);
  if (output.transform != Transform::kMove) object.String("transform", WordOf(kTransforms, output.transform));
  if (output.target_codec != Codec::kBf16) object.String("codec", WordOf(kCodecs, output.target_codec));
  if (output.unchanged) object.Bool("unchanged", true);
  if (output.adjust != Adjust::kAsIs) object.String("adjust", WordOf(kAdjusts, output.adjust));
  if (output.factor != 1) AppendFloat(object.Key("factor"), output.factor);
  if (output.keep != kNone) object.Number("keep", output.keep);
  if (!output.pad.empty()) object.String("pad", HexOf(output.pad));
  if (!output.constant.empty()) object.String("constant", HexOf(output.constant));
  if (IsWholeMove(output)) {
    names.Append(object.Key("source"), output.pieces[0].source);
  } else if (!output.pieces.empty()) {
    const bool named = output.pieces.size() <= kNamedPieces;
    object.List("pieces", output.pieces,
                [&](std::string& text, const Piece& piece) { AppendPiece(text, names, piece, named); });
  }
}

void AppendEncoded(std::string& out, const EncodedWeight& weight) {
  JsonObject object(out);
  object.String("encoding", EncodingText(weight.encoding));
  if (weight.period != 0) object.Number("period", weight.period);
  if (weight.keep != kNone) object.Number("keep", weight.keep);
  object.Number("codes", weight.codes);
  if (weight.row != 0) object.Number("row", weight.row);
  if (weight.rows != 0) object.Number("rows", weight.rows);
  object.Number("scales", weight.scales);
  if (weight.scale_row != 0) object.Number("scale_row", weight.scale_row);
  if (weight.global != kNone) object.Number("global", weight.global);
  if (weight.global_divides) object.Bool("global_divides", true);
  if (weight.share != 0) object.Number("share", weight.share);
  if (weight.scalar != 0) object.Number("scalar", weight.scalar);
  if (weight.scalars != 1) object.Number("scalars", weight.scalars);
  if (weight.input != kNone) {
    object.Number("input", weight.input);
    object.Number("input_value", static_cast<double>(weight.input_value));
  }
}

void AppendSegment(std::string& out, const CellSegment& part) {
  const auto source = [&](uint32_t index) {
    if (index == kNone) {
      out += "null";
    } else {
      AppendInteger(out, index);
    }
  };
  out += '[';
  source(part.source);
  AppendIntegers(out += ',', part.source_row, part.output, part.target_row, part.rows);
  out += ',';
  source(part.scale);
  AppendInteger(out += ',', part.scale_row);
  if (part.factor != 1) AppendFloat(out += ',', part.factor);
  out += ']';
}

void AppendCell(std::string& out, const CellRow& cell) {
  JsonObject row(out);
  row.Number("scales", cell.scale_output);
  row.Number("row", cell.scale_row);
  if (cell.moved) row.Bool("moved", true);
  if (cell.keep != kNone) row.Number("keep", cell.keep);
  if (cell.keep_row != 0) row.Number("keep_row", cell.keep_row);
  row.List("parts", cell.segments, AppendSegment);
}

void AppendGroup(std::string& out, const FuseGroup& group) {
  JsonObject object(out);
  object.String("label", group.label);
  object.Number("file_group", group.file_group);
  if (group.straddling_blocks != 0) object.Number("straddling_blocks", group.straddling_blocks);
  if (!group.cells.empty()) object.List("cells", group.cells, AppendCell, "\n ");
  if (!group.encoded.empty()) object.List("encoded", group.encoded, AppendEncoded);
}

void AppendFile(std::string& out, const Catalogue& catalogue, const PlanFile& file) {
  JsonObject object(out);
  object.String("name", file.name);
  object.Number("bytes", file.bytes);
  object.Number("file_group", file.file_group);
  if (file.container != Containers()[0]) object.String("container", file.container->word());
  if (file.unchanged) object.Bool("unchanged", true);
  if (file.source_file < catalogue.files.size()) object.String("source", catalogue.files[file.source_file].name);
  // The length prefix is not text; it is the length of the rest.
  if (file.header.size() >= 8) object.String("header", std::string_view(file.header).substr(8));
}

void AppendVerdict(std::string& out, const LayoutVerdict& verdict) {
  JsonObject object(out);
  AppendLayout(object.Key("layout"), verdict.layout);
  object.String("basis", verdict.basis);
  object.Bool("assumed", verdict.assumed);
  object.StringList("evidence", verdict.evidence);
}

void AppendTotals(std::string& out, const Plan& plan) {
  JsonObject object(out);
  object.Number("payload_bytes", plan.payload_bytes);
  object.Number("straddling_blocks", plan.straddling_blocks);
  object.Bool("lossless", plan.lossless);
  object.Number("file_groups", plan.file_groups);
}

void AppendText(std::string& out, const TextFile& text) {
  JsonObject object(out);
  object.String("name", text.name);
  if (IsUtf8(text.content)) {
    object.String("content", text.content);
  } else {
    object.String("base64", Base64Of(text.content));
  }
}

void AppendEqual(std::string& out, const EqualRows& equal) {
  AppendIntegers(out += '[', equal.first, equal.first_row, equal.second, equal.second_row, equal.rows);
  out += ']';
}

Status Write(const Catalogue& catalogue, const Plan& plan, const TextSink& sink, bool for_digest) {
  JsonDocument lines(sink, "{\"kind\":\"mimo-convert plan\",\n\"version\":1");
  if (!for_digest) {
    lines.String("tool_version", plan.tool_version);
    lines.String("digest", plan.digest.Hex());
  }
  lines.String("form", plan.form);
  AppendOptions(lines.Key("options"), plan.options);
  lines.String("source_fingerprint", plan.source_fingerprint.Hex());
  AppendVerdict(lines.Key("source_layout"), plan.source_layout);
  AppendLayout(lines.Key("target_layout"), plan.target_layout);
  AppendTotals(lines.Key("totals"), plan);
  lines.List("notes", plan.notes, AppendJsonString);
  lines.List("carried", plan.carried, AppendJsonString);
  lines.List("texts", plan.texts, AppendText);
  lines.List("files", plan.files, [&](std::string& out, const PlanFile& file) { AppendFile(out, catalogue, file); });
  lines.List("sources", plan.sources,
             [&](std::string& out, const SourceArray& source) { AppendSource(out, catalogue, source); });
  lines.List("groups", plan.groups, AppendGroup);

  const SourceNames names(catalogue, plan);
  lines.BeginList("outputs");
  const OutputArray* previous = nullptr;
  for (const OutputArray& output : plan.outputs) {
    const bool same_file = previous != nullptr && previous->file == output.file;
    const bool fresh = !same_file && output.file < plan.files.size() && !plan.files[output.file].header.empty();
    const uint64_t begin = same_file ? previous->end : fresh ? plan.files[output.file].header.size() : 0;
    AppendOutput(lines.Element(), names, output, same_file || fresh, begin);
    previous = &output;
  }
  lines.EndList();
  if (!plan.equal.empty()) lines.List("equal", plan.equal, AppendEqual);
  lines.BeginList("dropped");
  for (const SourceFate& fate : plan.fates) {
    if (fate.fate == Fate::kUsed || fate.array >= catalogue.arrays.size()) continue;
    JsonObject object(lines.Element());
    object.String("array", catalogue.arrays[fate.array].name);
    object.String("reason", fate.reason);
  }
  lines.EndList();
  return lines.Finish("}\n");
}

Status CheckUtf8(const Catalogue& catalogue, const std::string& name) {
  if (IsUtf8(name)) return {};
  return BadInput("the name of the file is not UTF-8, so that no plan or manifest can name it")
      .File(Printable(JoinPath(catalogue.root, name)))
      .Expected("a name in UTF-8")
      .Found(Printable(name))
      .Advice("rename it, or take it out of the checkpoint");
}

}  // namespace

std::string PlanOptionsJson(const PlanOptions& options) {
  std::string out;
  AppendOptions(out, options);
  return out;
}

// Tensor names come from JSON; names of files are whatever bytes the directory holds.
Status CheckFileNames(const Catalogue& catalogue, const std::vector<std::string>& carried) {
  for (const CatalogueFile& file : catalogue.files) MIMO_RETURN_IF_ERROR(CheckUtf8(catalogue, file.name));
  for (const std::string& name : carried) MIMO_RETURN_IF_ERROR(CheckUtf8(catalogue, name));
  return {};
}

Status WritePlanJson(const Catalogue& catalogue, const Plan& plan, const TextSink& sink) {
  MIMO_RETURN_IF_ERROR(CheckFileNames(catalogue, plan.carried));
  for (const PlanFile& file : plan.files) MIMO_RETURN_IF_ERROR(CheckUtf8(catalogue, file.name));
  return Write(catalogue, plan, sink, false);
}

Hash128 PlanDigest(const Catalogue& catalogue, const Plan& plan) {
  StreamHash hash;
  const TextSink sink = [&hash](std::string_view text) {
    hash.Update(text);
    return Status();
  };
  (void)Write(catalogue, plan, sink, true);  // this sink never fails
  return hash.Digest();
}

}  // namespace mimo
