// Text -> plan. Names are resolved against the catalogue; what is left out gets its usual value. ValidatePlan and the
// digest decide whether the result may run.
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "lib/io/safetensors/safetensors.h"
#include "lib/json/bytes.h"
#include "lib/json/members.h"
#include "lib/json/parse.h"
#include "lib/plan/containers.h"
#include "lib/plan/json_words.h"
#include "lib/plan/plan_json.h"
#include "lib/plan/words.h"
#include "lib/recipe/encoding_text.h"

namespace mimo {
namespace {

using Json = nlohmann::json;

constexpr char kAdvice[] = "make the plan again with --dry-run --plan-out";

const Container* ReadContainer(JsonMembers& members, JsonProblems& problems) {
  const Json* value = members.Find("container");
  if (value == nullptr) return Containers()[0];
  const Container* found = value->is_string() ? FindContainer(value->get_ref<const std::string&>()) : nullptr;
  if (found != nullptr) return found;
  std::string expected = "one of";
  for (const Container* container : Containers()) expected += " " + std::string(container->word());
  problems.Add(members.Place(), "container", expected, value);
  return Containers()[0];
}

QkvLayout ReadLayout(const Json& object, JsonProblems& problems, const char* place) {
  QkvLayout layout;
  JsonMembers members(object, problems, place);
  layout.kind = Word(members, problems, "qkv", kQkvKinds, std::optional<QkvKind>());
  layout.chunks = members.Integer<int64_t>("chunks");
  members.Close();
  return layout;
}

class PlanReader {
 public:
  PlanReader(const Catalogue& catalogue, const std::string& path) : catalogue_(catalogue), problems_(path, kAdvice) {}

  Result<Plan> Read(const Json& document) {
    JsonMembers members(document, problems_, "the plan");
    ReadHead(members);
    ReadFiles(members.Array("files"));
    ReadSources(members.Array("sources"));
    ReadGroups(members.Array("groups"));
    ReadOutputs(members.Array("outputs"));
    if (const Json* equal = members.Find("equal")) ReadEqual(*equal);
    ReadDropped(members.Array("dropped"));
    members.Close();
    MIMO_RETURN_IF_ERROR(problems_.Take());
    return std::move(plan_);
  }

 private:
  Hash128 ReadHash(JsonMembers& members, const char* key) {
    Hash128 hash;
    const std::string text = members.String(key);
    if (!Hash128::FromHex(text, &hash)) problems_.AddText(std::string("\"") + key + "\"", "32 hex digits", text);
    return hash;
  }

  void ReadHead(JsonMembers& members) {
    const std::string kind = members.String("kind");
    if (kind != "mimo-convert plan") problems_.AddText("\"kind\"", "mimo-convert plan", kind);
    const auto version = members.Integer<int64_t>("version");
    if (version != 1) problems_.AddText("\"version\"", "1", std::to_string(version));
    plan_.tool_version = members.String("tool_version");
    plan_.digest = ReadHash(members, "digest");
    plan_.form = members.String("form");
    plan_.options = ReadPlanOptions(members.Object("options"), problems_);
    plan_.source_fingerprint = ReadHash(members, "source_fingerprint");
    JsonMembers layout(members.Object("source_layout"), problems_, "source_layout");
    plan_.source_layout.layout = ReadLayout(layout.Object("layout"), problems_, "source_layout");
    plan_.source_layout.basis = layout.String("basis");
    plan_.source_layout.assumed = layout.Bool("assumed", std::nullopt);
    plan_.source_layout.evidence = layout.Strings("evidence");
    layout.Close();
    plan_.target_layout = ReadLayout(members.Object("target_layout"), problems_, "target_layout");
    JsonMembers totals(members.Object("totals"), problems_, "totals");
    plan_.payload_bytes = totals.Integer<uint64_t>("payload_bytes");
    plan_.straddling_blocks = totals.Integer<uint64_t>("straddling_blocks");
    plan_.lossless = totals.Bool("lossless", std::nullopt);
    plan_.file_groups = totals.Integer<uint32_t>("file_groups");
    totals.Close();
    plan_.notes = members.Strings("notes");
    plan_.carried = members.Strings("carried");
    const Json& texts = members.Array("texts");
    for (size_t i = 0; i < texts.size(); ++i) {
      JsonMembers text(texts[i], problems_, "texts", i);
      TextFile file;
      file.name = text.String("name");
      if (const Json* base64 = text.Find("base64")) {
        std::optional<std::string> bytes;
        if (base64->is_string()) bytes = BytesOfBase64(base64->get_ref<const std::string&>());
        if (!bytes) problems_.Add(text.Place(), "base64", "bytes as base64", base64);
        file.content = bytes.value_or("");
      } else {
        file.content = text.String("content");
      }
      text.Close();
      plan_.texts.push_back(std::move(file));
    }
  }

  uint32_t ArrayNamed(const std::string& name, const std::string& place) {
    if (const uint32_t* array = catalogue_.by_name.find(name)) return *array;
    problems_.AddText(place, "the name of a stored array", name);
    return kNone;
  }

  void ReadFiles(const Json& files) {
    for (size_t i = 0; i < files.size(); ++i) {
      JsonMembers members(files[i], problems_, "files", i);
      PlanFile file;
      file.name = members.String("name");
      file.bytes = members.Integer<uint64_t>("bytes");
      file.file_group = members.Integer<uint32_t>("file_group");
      file.container = ReadContainer(members, problems_);
      file.unchanged = members.Bool("unchanged");
      if (const Json* source = members.Find("source")) {
        for (size_t f = 0; f < catalogue_.files.size() && file.source_file == kNone; ++f) {
          if (*source == catalogue_.files[f].name) file.source_file = static_cast<uint32_t>(f);
        }
        if (file.source_file == kNone) problems_.Add(members.Place(), "source", "a file of the checkpoint", source);
      }
      if (members.Has("header")) {
        const std::string text = members.String("header");
        for (int byte = 0; byte < 8; ++byte) file.header += static_cast<char>(text.size() >> (8 * byte) & 0xFF);
        file.header += text;
      }
      members.Close();
      plan_.files.push_back(std::move(file));
    }
  }

  void ReadSources(const Json& sources) {
    plan_.sources.reserve(sources.size());
    for (size_t i = 0; i < sources.size() && problems_.ok(); ++i) {
      SourceArray source;
      const std::string place = "sources[" + std::to_string(i) + "]";
      if (sources[i].is_string()) {
        source.array = ArrayNamed(sources[i].get_ref<const std::string&>(), place);
      } else {
        JsonMembers members(sources[i], problems_, "sources", i);
        source.array = ArrayNamed(members.String("array"), place);
        source.quantized = members.Bool("quantized");
        source.codec = Word(members, problems_, "codec", kCodecs, std::optional<Codec>());
        source.scale = members.Integer<uint32_t>("scale", kNone);
        source.global = members.Integer<uint32_t>("global", kNone);
        source.global_divides = members.Bool("global_divides");
        source.block_rows = members.Integer<int64_t>("block_rows", source.block_rows);
        source.block_cols = members.Integer<int64_t>("block_cols", source.block_cols);
        const std::string scale_type = members.String("scale_type", std::string(DTypeName(source.scale_type)));
        const std::optional<DType> type = DTypeFromName(scale_type);
        if (!type) problems_.AddText("unknown type of scales in " + place, "a type of elements", scale_type);
        source.scale_type = type.value_or(source.scale_type);
        source.scales_in_a_row = members.Bool("scales_in_a_row");
        if (const Json* bands = members.Find("bands")) {
          for (const Json& band : *bands) {
            const std::vector<int64_t> numbers = Numbers(band, 4, place + " \"bands\"");
            source.bands.push_back({numbers[0], numbers[1], Index(numbers[2]), numbers[3]});
          }
        }
        members.Close();
      }
      by_array_.try_emplace(source.array, static_cast<uint32_t>(i));
      plan_.sources.push_back(std::move(source));
    }
  }

  static uint32_t Index(int64_t number) { return number < 0 || number > kNone ? kNone : static_cast<uint32_t>(number); }

  // Exactly `count` integers; zeros after a problem.
  std::vector<int64_t> Numbers(const Json& list, size_t count, const std::string& place) {
    std::vector<int64_t> numbers(count, 0);
    bool good = list.is_array() && list.size() == count;
    for (size_t i = 0; good && i < count; ++i) {
      const std::optional<int64_t> number = IntegerOf<int64_t>(list[i]);
      good = number.has_value();
      numbers[i] = number.value_or(0);
    }
    if (!good) problems_.Add(place, "", std::to_string(count) + " integers", &list);
    return numbers;
  }

  // A source by the name of its array, or by its position.
  uint32_t SourceOf(const Json& value, const std::string& place) {
    if (value.is_string()) {
      const uint32_t array = ArrayNamed(value.get_ref<const std::string&>(), place);
      auto it = by_array_.find(array);
      if (it != by_array_.end()) return it->second;
    } else if (std::optional<uint32_t> index = IntegerOf<uint32_t>(value)) {
      return *index;
    }
    problems_.Add(place, "source", "a source of the plan", &value);
    return kNone;
  }

  void ReadGroups(const Json& groups) {
    for (size_t i = 0; i < groups.size() && problems_.ok(); ++i) {
      JsonMembers members(groups[i], problems_, "groups", i);
      FuseGroup group;
      group.label = members.String("label");
      group.file_group = members.Integer<uint32_t>("file_group");
      group.straddling_blocks = members.Integer<uint64_t>("straddling_blocks", uint64_t{0});
      if (const Json* cells = members.Find("cells")) {
        for (const Json& cell : *cells) group.cells.push_back(ReadCell(cell, i));
      }
      if (const Json* encoded = members.Find("encoded")) {
        for (const Json& weight : *encoded) group.encoded.push_back(ReadEncoded(weight, i));
      }
      members.Close();
      plan_.groups.push_back(std::move(group));
    }
  }

  CellRow ReadCell(const Json& value, size_t group) {
    JsonMembers members(value, problems_, "cells of groups", group);
    CellRow cell;
    cell.scale_output = members.Integer<uint32_t>("scales");
    cell.scale_row = members.Integer<int64_t>("row");
    cell.moved = members.Bool("moved");
    cell.keep = members.Integer<uint32_t>("keep", kNone);
    cell.keep_row = members.Integer<int64_t>("keep_row", int64_t{0});
    for (const Json& part : members.Array("parts")) {
      cell.segments.push_back(ReadSegment(part, members.Place()));
    }
    members.Close();
    return cell;
  }

  // Padding has neither source nor scale; a factor of 1 is left out.
  CellSegment ReadSegment(const Json& part, const std::string& place) {
    CellSegment segment;
    const bool eight = part.is_array() && part.size() == 8;
    if (!part.is_array() || (part.size() != 7 && !eight) || (eight && !part[7].is_number())) {
      problems_.Add(place, "parts", "7 integers and perhaps a factor", &part);
      return segment;
    }
    const auto number = [&](size_t i) -> int64_t {
      if (part[i].is_null() && (i == 0 || i == 5)) return kNone;
      const std::optional<int64_t> n = IntegerOf<int64_t>(part[i]);
      if (!n) problems_.Add(place, "parts", "integers", &part);
      return n.value_or(0);
    };
    segment = {Index(number(0)), number(1), Index(number(2)), number(3), number(4), Index(number(5)), number(6), 1};
    if (eight) segment.factor = static_cast<float>(part[7].get<double>());
    return segment;
  }

  EncodedWeight ReadEncoded(const Json& value, size_t group) {
    JsonMembers members(value, problems_, "encoded of groups", group);
    EncodedWeight weight;
    const std::string text = members.String("encoding");
    const std::optional<kernels::Encoding> encoding = EncodingFromText(text);
    if (!encoding) problems_.AddText(members.Place() + " \"encoding\"", "an encoding", text);
    weight.encoding = encoding.value_or(kernels::Encoding());
    weight.period = members.Integer<int64_t>("period", int64_t{0});
    weight.keep = members.Integer<uint32_t>("keep", kNone);
    weight.codes = members.Integer<uint32_t>("codes");
    weight.row = members.Integer<int64_t>("row", int64_t{0});
    weight.rows = members.Integer<int64_t>("rows", int64_t{0});
    weight.scales = members.Integer<uint32_t>("scales");
    weight.scale_row = members.Integer<int64_t>("scale_row", int64_t{0});
    weight.global = members.Integer<uint32_t>("global", kNone);
    weight.global_divides = members.Bool("global_divides");
    weight.share = members.Integer<uint32_t>("share", uint32_t{0});
    weight.scalar = members.Integer<int64_t>("scalar", int64_t{0});
    weight.scalars = members.Integer<int64_t>("scalars", int64_t{1});
    weight.input = members.Integer<uint32_t>("input", kNone);
    weight.input_value = static_cast<float>(members.Real("input_value", 1.0));
    members.Close();
    return weight;
  }

  void ReadOutputs(const Json& outputs) {
    plan_.outputs.reserve(outputs.size());
    for (size_t i = 0; i < outputs.size() && problems_.ok(); ++i) {
      JsonMembers members(outputs[i], problems_, "outputs", i);
      OutputArray output;
      output.name = members.String("name");
      ReadId(members, &output.id);
      const std::string dtype = members.String("dtype");
      const std::optional<DType> known = DTypeFromName(dtype);
      if (!known) problems_.AddText(members.Place() + " \"dtype\"", "a safetensors dtype", dtype);
      output.dtype = known.value_or(DType::kU8);
      for (const Json& dimension : members.Array("shape")) {
        const std::optional<int64_t> number = IntegerOf<int64_t>(dimension);
        if (!number || *number < 0) problems_.Add(members.Place(), "shape", "non-negative integers", &dimension);
        output.shape.push_back(number.value_or(0));
      }
      if (!TensorBytes(output.dtype, output.shape)) {
        problems_.AddText("the shape of " + output.name, "a whole number of bytes", "another or too many");
        output.shape.clear();  // products of its sizes may overflow
      }
      output.file = members.Integer<uint32_t>("file");
      output.begin = members.Integer<uint64_t>("begin", UsualBegin(output.file));
      output.group = members.Integer<uint32_t>("group");
      output.transform = Word(members, problems_, "transform", kTransforms, std::optional(Transform::kMove));
      output.target_codec = Word(members, problems_, "codec", kCodecs, std::optional(Codec::kBf16));
      output.unchanged = members.Bool("unchanged");
      output.adjust = Word(members, problems_, "adjust", kAdjusts, std::optional(Adjust::kAsIs));
      output.factor = static_cast<float>(members.Real("factor", 1.0));
      output.keep = members.Integer<uint32_t>("keep", kNone);
      output.pad = ReadBytes(members, "pad");
      output.constant = ReadBytes(members, "constant");
      ReadPieces(members, &output);
      members.Close();
      Place(std::move(output));
    }
  }

  std::string ReadBytes(JsonMembers& members, const char* key) {
    const std::string text = members.String(key, "");
    std::optional<std::string> bytes = BytesOfHex(text);
    if (!bytes) problems_.AddText(members.Place() + " \"" + key + "\"", "bytes as lower-case hex digits", text);
    return std::move(bytes).value_or("");
  }

  void ReadId(JsonMembers& members, TensorId* id) {
    const std::string role = members.String("role");
    const std::optional<Role> known = RoleFromName(role);
    if (!known) problems_.AddText(members.Place() + " \"role\"", "a role", role);
    id->role = known.value_or(Role::kUnknown);
    id->part = Word(members, problems_, "part", kParts, std::optional(Part::kWeight));
    id->mtp = members.Bool("mtp");
    id->layer = members.Integer<int32_t>("layer", -1);
    id->expert = members.Integer<int32_t>("expert", -1);
  }

  // Where an output begins unless it says otherwise: after its predecessor in the file, or after the header.
  uint64_t UsualBegin(uint32_t file) const {
    if (!plan_.outputs.empty() && plan_.outputs.back().file == file) return plan_.outputs.back().end;
    return file < plan_.files.size() ? plan_.files[file].header.size() : 0;
  }

  void ReadPieces(JsonMembers& members, OutputArray* output) {
    if (const Json* source = members.Find("source")) {
      output->pieces.push_back({SourceOf(*source, members.Place()), 0, 0, output->rows(), 0, 0, 0});
    }
    const Json* pieces = members.Find("pieces");
    if (pieces == nullptr) return;
    for (const Json& piece : *pieces) {
      if (!piece.is_array() || (piece.size() != 4 && piece.size() != 7)) {
        problems_.Add(members.Place(), "pieces", "[source, source row, target row, rows] and perhaps columns", &piece);
        return;
      }
      const auto number = [&](size_t i) {
        const std::optional<int64_t> n = IntegerOf<int64_t>(piece[i]);
        if (!n) problems_.Add(members.Place(), "pieces", "integers", &piece);
        return n.value_or(0);
      };
      const uint32_t source = piece[0].is_null() ? kNone : SourceOf(piece[0], members.Place());
      const bool columns = piece.size() == 7;
      output->pieces.push_back({source, number(1), number(2), number(3), columns ? number(4) : 0,
                                columns ? number(5) : 0, columns ? number(6) : 0});
    }
  }

  void ReadEqual(const Json& equal) {
    for (size_t i = 0; i < equal.size() && problems_.ok(); ++i) {
      const std::vector<int64_t> n = Numbers(equal[i], 5, "equal[" + std::to_string(i) + "]");
      plan_.equal.push_back({Index(n[0]), Index(n[2]), n[1], n[3], n[4]});
    }
  }

  // Ends the output, and enters it in its file and group.
  void Place(OutputArray output) {
    const std::optional<uint64_t> bytes = TensorBytes(output.dtype, output.shape);
    if (!bytes || __builtin_add_overflow(output.begin, *bytes, &output.end)) {
      problems_.AddText("the shape of " + output.name, "a whole number of bytes", "another or too many");
    }
    const auto index = static_cast<uint32_t>(plan_.outputs.size());
    if (output.file < plan_.files.size()) plan_.files[output.file].outputs.push_back(index);
    if (output.group < plan_.groups.size()) plan_.groups[output.group].outputs.push_back(index);
    plan_.outputs.push_back(std::move(output));
  }

  void ReadDropped(const Json& dropped) {
    for (uint32_t i = 0; i < catalogue_.arrays.size(); ++i) plan_.fates.push_back({i, Fate::kUsed, ""});
    for (size_t i = 0; i < dropped.size() && problems_.ok(); ++i) {
      JsonMembers members(dropped[i], problems_, "dropped", i);
      const uint32_t array = ArrayNamed(members.String("array"), members.Place());
      std::string reason = members.String("reason");
      members.Close();
      if (array < plan_.fates.size()) plan_.fates[array] = {array, Fate::kDropped, std::move(reason)};
    }
  }

  const Catalogue& catalogue_;
  JsonProblems problems_;
  Plan plan_;
  std::unordered_map<uint32_t, uint32_t> by_array_;  // catalogue array -> first source that reads it
};

}  // namespace

Result<Plan> ParsePlanJson(const Catalogue& catalogue, const std::string& text, const std::string& path) {
  Result<Json> document = ParseJson<Json>(text, path, kLongDocument);
  if (!document.ok()) return document.TakeError().Advice(kAdvice);
  MIMO_ASSIGN_OR_RETURN(Plan plan, PlanReader(catalogue, path).Read(*document));
  if (plan.source_fingerprint != catalogue.Fingerprint()) {
    return BadInput("the plan was made from another checkpoint, or this one has changed since")
        .File(path)
        .Expected("fingerprint " + plan.source_fingerprint.Hex())
        .Found(catalogue.Fingerprint().Hex() + " of " + catalogue.root)
        .Advice(kAdvice);
  }
  Status valid = ValidatePlan(catalogue, plan);
  if (!valid.ok()) return valid.TakeError().File(path).Advice(kAdvice);
  const Hash128 digest = PlanDigest(catalogue, plan);
  if (digest != plan.digest) {
    return BadInput("the plan was edited: its digest does not match")
        .File(path)
        .Expected(plan.digest.Hex())
        .Found(digest.Hex())
        .Advice(kAdvice);
  }
  return plan;
}

}  // namespace mimo
