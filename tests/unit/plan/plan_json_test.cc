// Plans as text: what is written is what is read, and nothing inconsistent gets through.
#include "lib/plan/plan_json.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

namespace mimo {
namespace {

constexpr char kOddName[] = "od\"d\\na\nme \x01 \xC3\xA9";  // a quote, a backslash, control characters, UTF-8

uint32_t AddArray(Catalogue& catalogue, const std::string& name, DType dtype, std::vector<int64_t> shape,
                  uint32_t file) {
  StoredArray array;
  array.name = name;
  array.dtype = dtype;
  array.shape = std::move(shape);
  array.file = file;
  array.bytes = BitsPerElement(dtype) / 8;
  for (int64_t n : array.shape) array.bytes *= static_cast<uint64_t>(n);
  array.begin = catalogue.files[file].bytes;
  catalogue.files[file].bytes += array.bytes;
  const auto index = static_cast<uint32_t>(catalogue.arrays.size());
  catalogue.by_name[name] = index;
  catalogue.arrays.push_back(std::move(array));
  return index;
}

enum Arrays : uint32_t { kCodes, kCodesScale, kGone, kMx, kMxScale, kNorm, kTile, kTileScale, kOdd };

Catalogue MakeCatalogue() {
  Catalogue catalogue;
  catalogue.root = "/models/x";
  catalogue.config.text = "{}";
  for (const char* name : {"a.safetensors", "b.safetensors"}) {
    CatalogueFile file;
    file.name = name;
    file.data_begin = file.bytes = 64;
    catalogue.files.push_back(file);
  }
  AddArray(catalogue, "codes", DType::kF8E4M3, {256, 256}, 0);
  AddArray(catalogue, "codes_scale_inv", DType::kF32, {3, 2}, 0);
  AddArray(catalogue, "gone", DType::kF32, {2}, 0);
  AddArray(catalogue, "mx", DType::kU8, {4, 16}, 0);
  AddArray(catalogue, "mx_scale", DType::kU8, {4, 1}, 0);
  AddArray(catalogue, "norm", DType::kBF16, {8}, 0);
  AddArray(catalogue, "tile", DType::kF8E4M3, {4, 8}, 0);
  AddArray(catalogue, "tile_scale_inv", DType::kF32, {2, 2}, 0);
  AddArray(catalogue, kOddName, DType::kBF16, {2, 3}, 1);
  catalogue.carried = {{"dflash/config.json", 3}, {"tokenizer.json", 9}};
  return catalogue;
}

std::string Header(const std::string& json) {
  std::string header;
  for (int i = 0; i < 8; ++i) header += static_cast<char>(json.size() >> (8 * i) & 0xFF);
  return header + json;
}

OutputArray Output(std::string name, DType dtype, std::vector<int64_t> shape, Transform transform, Codec codec) {
  OutputArray output;
  output.name = std::move(name);
  output.id = {Role::kExpertDown, Part::kWeight, false, 7, 255};
  output.dtype = dtype;
  output.shape = std::move(shape);
  output.transform = transform;
  output.target_codec = codec;
  return output;
}

// Enters the output at the end of its file and in its group.
void Add(Plan& plan, OutputArray output, uint32_t file, uint32_t group) {
  uint64_t bytes = BitsPerElement(output.dtype) / 8;
  for (int64_t n : output.shape) bytes *= static_cast<uint64_t>(n);
  output.file = file;
  output.begin = plan.files[file].bytes;
  output.end = plan.files[file].bytes = output.begin + bytes;
  output.group = group;
  const auto index = static_cast<uint32_t>(plan.outputs.size());
  plan.files[file].outputs.push_back(index);
  plan.groups[group].outputs.push_back(index);
  plan.payload_bytes += bytes;
  plan.outputs.push_back(std::move(output));
}

// Every field away from its default somewhere.
Plan MakePlan(const Catalogue& catalogue) {
  Plan plan;
  plan.tool_version = "9.9";
  plan.options.dtype = DTypeChoice::kFp16;
  plan.options.qkv = QkvWish("fused:8");
  plan.options.source_qkv = QkvWish("split");
  plan.options.on_straddle = StraddlePolicy::kBf16;
  plan.options.lossless = plan.options.fresh_scales = plan.options.text_only = true;
  plan.options.unknown = UnknownPolicy::kCarry;
  plan.options.include = {"a\\.b", "c\"d"};
  plan.options.exclude = {"^x"};
  plan.options.max_shard_bytes = 5'000'000'000;
  plan.source_fingerprint = catalogue.Fingerprint();
  plan.source_layout = {{QkvKind::kSplit, 4}, "index tp_size", true, {"line 1", "line \"2\""}};
  plan.target_layout = {QkvKind::kFused, 8};
  plan.notes = {"a note\nof two lines"};
  plan.carried = {"dflash/config.json", "tokenizer.json"};
  plan.texts = {{"config.json", "{\"a\": \"\\u00e9\"}\n"}, {"model.safetensors.index.json", ""}};
  plan.file_groups = 2;
  plan.lossless = false;

  auto source = [&](uint32_t array) -> PlanSource& {
    plan.sources.emplace_back().array = array;
    return plan.sources.back();
  };
  PlanSource& codes = source(kCodes);  // source 0
  codes.quantized = true;
  codes.codec = Codec::kFp8Block;
  codes.bands = {{0, 100, 1, 0}, {100, 128, 1, 1}, {128, 256, 1, 2}};
  source(kCodesScale);
  PlanSource& mx = source(kMx);  // source 2
  mx.quantized = true;
  mx.codec = Codec::kMxfp4;
  mx.scale = 3;
  source(kMxScale);
  source(kNorm).codec = Codec::kBf16;
  PlanSource& tile = source(kTile);  // source 5
  tile.quantized = true;
  tile.codec = Codec::kFp8Block;
  tile.scale = 6;
  tile.block_rows = 2;
  tile.block_cols = 4;
  source(kTileScale);
  source(kOdd);  // source 7

  plan.files.resize(2);
  plan.files[0].name = "a.safetensors";
  plan.files[0].header = Header("{\"quote\\\"\":1}");
  plan.files[0].bytes = plan.files[0].header.size();
  plan.files[0].source_file = 0;
  plan.files[0].file_group = 1;
  plan.files[1].name = "b.safetensors";
  plan.files[1].unchanged = true;
  plan.files[1].source_file = 1;
  plan.files[1].bytes = 64;
  plan.groups.resize(3);
  plan.groups[0].label = "layer \"0\"";
  plan.groups[0].file_group = plan.groups[1].file_group = 1;
  plan.groups[0].straddling_blocks = plan.straddling_blocks = 2;
  plan.groups[1].label = "rest";
  plan.groups[2].label = "odd";

  Add(plan, Output("codes", DType::kF8E4M3, {256, 256}, Transform::kRelayout, Codec::kFp8Block), 0, 0);
  Add(plan, Output("codes_scale_inv", DType::kF32, {2, 2}, Transform::kScales, Codec::kFp32), 0, 0);
  plan.outputs[1].id = {Role::kAttnQkv, Part::kScaleInv, true, 2, -1};
  plan.groups[0].cells = {{1, 0, false, {{0, 0, 0, 0, 100, 1, 0}, {0, 100, 0, 100, 28, 1, 1}}},
                          {1, 1, true, {{0, 128, 0, 128, 128, 1, 2}}}};
  OutputArray fp32 = Output("codes.fp32", DType::kF32, {256, 256}, Transform::kConvert, Codec::kFp32);
  fp32.pieces = {{0, 128, 0, 128}, {0, 0, 128, 128}};
  Add(plan, fp32, 0, 1);
  OutputArray mx16 = Output("mx.fp16", DType::kF16, {4, 32}, Transform::kConvert, Codec::kFp16);
  mx16.id = {Role::kEmbed, Part::kWeight, false, -1, -1};
  mx16.pieces = {{2, 0, 0, 4}};
  Add(plan, mx16, 0, 1);
  OutputArray norm = Output("norm", DType::kBF16, {8}, Transform::kMove, Codec::kBf16);
  norm.unchanged = true;
  norm.pieces = {{4, 0, 0, 1}};
  Add(plan, norm, 0, 1);
  OutputArray part = Output("tile.bf16", DType::kBF16, {1, 8}, Transform::kConvert, Codec::kBf16);
  part.pieces = {{5, 3, 0, 1}};
  Add(plan, part, 0, 1);
  OutputArray odd = Output(kOddName, DType::kBF16, {2, 3}, Transform::kMove, Codec::kBf16);
  odd.unchanged = true;
  odd.pieces = {{7, 0, 0, 2}};
  Add(plan, odd, 1, 2);

  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) plan.fates.push_back({i, Fate::kUsed, ""});
  plan.fates[kGone] = {kGone, Fate::kDropped, "because \"so\""};
  plan.digest = PlanDigest(catalogue, plan);
  return plan;
}

std::string Json(const Catalogue& catalogue, const Plan& plan) {
  std::string text;
  EXPECT_TRUE(WritePlanJson(catalogue, plan, [&](std::string_view piece) {
                text += piece;
                return Status();
              }).ok());
  return text;
}

void DumpLayout(std::ostream& out, const QkvLayout& layout) {
  out << static_cast<int>(layout.kind) << ',' << layout.chunks << ';';
}

// All fields, written down without help from the code under test.
std::string Dump(const Plan& plan) {
  std::ostringstream out;
  const PlanOptions& o = plan.options;
  out << plan.tool_version << '|' << plan.form << '|' << static_cast<int>(o.dtype) << o.qkv.text << '|'
      << o.source_qkv->text << static_cast<int>(o.on_straddle) << o.lossless << o.fresh_scales << o.text_only
      << static_cast<int>(o.unknown) << o.max_shard_bytes << '|';
  for (const auto& s : o.include) out << s << '|';
  for (const auto& s : o.exclude) out << s << '|';
  out << plan.source_fingerprint.Hex() << plan.digest.Hex();
  DumpLayout(out, plan.source_layout.layout);
  DumpLayout(out, plan.target_layout);
  out << plan.source_layout.basis << plan.source_layout.assumed;
  for (const auto& s : plan.source_layout.evidence) out << s << '|';
  for (const PlanSource& s : plan.sources) {
    out << "\nsource " << s.array << ' ' << s.quantized << static_cast<int>(s.codec) << ' ' << s.scale << ' '
        << s.block_rows << ' ' << s.block_cols;
    for (const SourceBand& b : s.bands)
      out << " [" << b.row_begin << ' ' << b.row_end << ' ' << b.scale << ' ' << b.scale_row;
  }
  for (const OutputArray& a : plan.outputs) {
    out << "\noutput " << a.name << static_cast<int>(a.id.role) << static_cast<int>(a.id.part) << a.id.mtp << ' '
        << a.id.layer << ' ' << a.id.expert << ' ' << static_cast<int>(a.dtype) << ' ' << a.file << ' ' << a.begin
        << ' ' << a.end << ' ' << static_cast<int>(a.transform) << static_cast<int>(a.target_codec) << a.unchanged
        << ' ' << a.group;
    for (int64_t n : a.shape) out << " x" << n;
    for (const Piece& p : a.pieces)
      out << " [" << p.source << ' ' << p.source_row << ' ' << p.target_row << ' ' << p.rows;
  }
  for (const FuseGroup& g : plan.groups) {
    out << "\ngroup " << g.label << ' ' << g.straddling_blocks << ' ' << g.file_group;
    for (uint32_t i : g.outputs) out << " o" << i;
    for (const CellRow& c : g.cells) {
      out << " {" << c.scale_output << ' ' << c.scale_row << ' ' << c.moved;
      for (const CellSegment& s : c.segments) {
        out << " [" << s.source << ' ' << s.source_row << ' ' << s.output << ' ' << s.target_row << ' ' << s.rows << ' '
            << s.scale << ' ' << s.scale_row;
      }
    }
  }
  for (const PlanFile& f : plan.files) {
    out << "\nfile " << f.name << ' ' << f.header << ' ' << f.bytes << ' ' << f.unchanged << ' ' << f.source_file << ' '
        << f.file_group;
    for (uint32_t i : f.outputs) out << " o" << i;
  }
  for (const SourceFate& f : plan.fates) out << "\nfate " << f.array << static_cast<int>(f.fate) << f.reason;
  for (const TextFile& t : plan.texts) out << "\ntext " << t.name << '|' << t.content;
  for (const auto& s : plan.carried) out << "\ncarried " << s;
  for (const auto& s : plan.notes) out << "\nnote " << s;
  out << '\n' << plan.file_groups << ' ' << plan.payload_bytes << ' ' << plan.straddling_blocks << ' ' << plan.lossless;
  return out.str();
}

TEST(PlanJson, RoundTripKeepsEveryField) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const Status valid = ValidatePlan(catalogue, plan);
  ASSERT_TRUE(valid.ok()) << valid.error().Message();
  const std::string text = Json(catalogue, plan);
  Result<Plan> read = ParsePlanJson(catalogue, text, "plan.json");
  ASSERT_TRUE(read.ok()) << read.error().Message() << "\n" << text;
  EXPECT_EQ(Dump(plan), Dump(*read));
  EXPECT_EQ(text, Json(catalogue, *read));
}

TEST(PlanJson, IsPlainJsonWithOneLinePerOutputAndEscapedNames) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const std::string text = Json(catalogue, plan);
  const nlohmann::json document = nlohmann::json::parse(text);
  ASSERT_EQ(document["outputs"].size(), plan.outputs.size());
  for (size_t i = 0; i < plan.outputs.size(); ++i) EXPECT_EQ(document["outputs"][i]["name"], plan.outputs[i].name);
  EXPECT_EQ(document["outputs"][6]["source"], kOddName);
  EXPECT_FALSE(document["outputs"][4].contains("pieces"));
  EXPECT_EQ(document["source_layout"]["layout"]["chunks"], 4);
  std::istringstream lines(text);
  std::string line;
  size_t found = 0;
  while (std::getline(lines, line))
    found += line.rfind("{\"name\":\"mx.fp16\"", 0) == 0 && line.find("\"F16\"") != std::string::npos;
  EXPECT_EQ(found, 1u);
}

TEST(PlanJson, OptionsRoundTrip) {
  const PlanOptions options = MakePlan(MakeCatalogue()).options;
  Result<PlanOptions> read = ParsePlanOptionsJson(PlanOptionsJson(options));
  ASSERT_TRUE(read.ok()) << read.error().Message();
  EXPECT_EQ(PlanOptionsJson(*read), PlanOptionsJson(options));
  EXPECT_EQ(read->include, options.include);
  EXPECT_TRUE(read->fresh_scales);
  EXPECT_FALSE(ParsePlanOptionsJson("{\"dtype\":\"fp7\"}").ok());
  EXPECT_FALSE(ParsePlanOptionsJson("{\"unheard\":1}").ok());
  EXPECT_FALSE(ParsePlanOptionsJson("[").ok());
}

TEST(PlanJson, TheSinkStopsTheWriting) {
  const Catalogue catalogue = MakeCatalogue();
  int calls = 0;
  const Status status = WritePlanJson(catalogue, MakePlan(catalogue), [&](std::string_view) -> Status {
    ++calls;
    return Error{ErrorCode::kIo, "no space", "", "", "", "", ""};
  });
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_EQ(calls, 1);
}

TEST(PlanJson, FileNamesThatAreNotUtf8AreRefused) {
  const Catalogue catalogue = MakeCatalogue();
  Plan plan = MakePlan(catalogue);
  plan.carried[0] = "bad\xFFname";
  EXPECT_FALSE(WritePlanJson(catalogue, plan, [](std::string_view) { return Status(); }).ok());
}

void ExpectRefused(const Catalogue& catalogue, const std::string& text, const std::string& clue) {
  Result<Plan> read = ParsePlanJson(catalogue, text, "plan.json");
  ASSERT_FALSE(read.ok()) << clue;
  EXPECT_EQ(read.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(read.error().file, "plan.json");
  EXPECT_NE(read.error().Message().find(clue), std::string::npos) << read.error().Message() << "\nwanted: " << clue;
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(PlanJson, EditedTextIsRefused) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const std::string text = Json(catalogue, plan);
  const std::string digest = plan.digest.Hex();
  ExpectRefused(catalogue, Replaced(text, digest, std::string(31, '0') + "1"), "digest");
  ExpectRefused(catalogue, Replaced(text, digest, "xyz"), "32 hex digits");
  ExpectRefused(catalogue, Replaced(text, "a note", "another"), "digest");
  ExpectRefused(catalogue, Replaced(text, "\"lossless\":false", "\"lossless\":true"), "digest");
  ExpectRefused(catalogue, Replaced(text, "\"chunks\":4", "\"chunks\":5"), "digest");
  ExpectRefused(catalogue, Replaced(text, "\"form\":\"hf\"", "\"form\":\"hx\""), "digest");
  ExpectRefused(catalogue, Replaced(text, "\"because", "\"as"), "digest");
  ExpectRefused(catalogue, Replaced(text, "[128,256,1,2]", "[128,256,1,1]"), "digest");
  ExpectRefused(catalogue, Replaced(text, "{\"array\":\"gone\"", "{\"array\":\"went\""), "stored array");
  ExpectRefused(catalogue, Replaced(text, "\"source\":\"norm\"", "\"source\":\"gone\""), "source of the plan");
  ExpectRefused(catalogue, Replaced(text, "\"source\":\"norm\"", "\"source\":99"), "inconsistent plan");
  ExpectRefused(catalogue, Replaced(text, "\"F16\"", "\"F17\""), "dtype");
  ExpectRefused(catalogue, Replaced(text, "\"version\":1", "\"version\":2"), "version");
  ExpectRefused(catalogue, Replaced(text, "\"unchanged\":true", "\"unchanged\":1"), "true or false");
  ExpectRefused(catalogue, Replaced(text, "\"group\":0", "\"group\":-1"), "integer");
  ExpectRefused(catalogue, Replaced(text, "\"group\":0", "\"grope\":0"), "group");
  ExpectRefused(catalogue, Replaced(text, "\"label\"", "\"more\":1,\"label\""), "known members");
  ExpectRefused(catalogue, text.substr(0, text.size() / 2), "not JSON");
  ExpectRefused(catalogue, "[]", "object");
}

TEST(PlanJson, AnotherCheckpointIsRefused) {
  const Catalogue catalogue = MakeCatalogue();
  const std::string text = Json(catalogue, MakePlan(catalogue));
  Catalogue other = MakeCatalogue();
  other.config.text = "{ }";
  ExpectRefused(other, text, "another checkpoint");
}

struct Damage {
  const char* name;
  std::function<void(Plan&)> apply;
};

// Damage that a correct digest does not excuse.
const std::vector<Damage>& Damages() {
  static const std::vector<Damage> kDamages = {
      {"file outside the output", [](Plan& p) { p.files[0].name = "../a.safetensors"; }},
      {"absolute file", [](Plan& p) { p.texts[0].name = "/etc/x"; }},
      {"file in the partial directory", [](Plan& p) { p.texts[0].name = ".mimo-partial/x"; }},
      {"manifest", [](Plan& p) { p.texts[0].name = "mimo-manifest.json"; }},
      {"two files of one name", [](Plan& p) { p.texts[0].name = "b.safetensors"; }},
      {"unknown carried file", [](Plan& p) { p.carried[0] = "dflash/none"; }},
      {"piece beyond its source", [](Plan& p) { p.outputs[2].pieces[0].source_row = 129; }},
      {"piece from a negative row", [](Plan& p) { p.outputs[2].pieces[0].source_row = -1; }},
      {"pieces with a hole", [](Plan& p) { p.outputs[2].pieces[1].target_row = 129; }},
      {"pieces that end early", [](Plan& p) { p.outputs[2].pieces.pop_back(); }},
      {"piece of another width", [](Plan& p) { p.outputs[2].pieces[0].source = 7; }},
      {"piece without a source", [](Plan& p) { p.outputs[5].pieces[0].source = 99; }},
      {"move to another dtype", [](Plan& p) { p.outputs[4].pieces[0].source = 3; }},
      {"codec that is not the dtype", [](Plan& p) { p.outputs[3].target_codec = Codec::kBf16; }},
      {"plain codec of FP8 codes",
       [](Plan& p) { p.sources[5].quantized = false, p.sources[5].codec = Codec::kBf16, p.sources[5].scale = kNone; }},
      {"bands with a hole", [](Plan& p) { p.sources[0].bands[1].row_begin = 101; }},
      {"bands that end early", [](Plan& p) { p.sources[0].bands.pop_back(); }},
      {"band beyond the scales", [](Plan& p) { p.sources[0].bands[2].scale_row = 3; }},
      {"band with scales of another width", [](Plan& p) { p.sources[0].bands[2].scale = 3; }},
      {"grid that needs more scales", [](Plan& p) { p.sources[5].block_rows = 1; }},
      {"grid of another width", [](Plan& p) { p.sources[5].block_cols = 8; }},
      {"block of no rows", [](Plan& p) { p.sources[5].block_rows = 0; }},
      {"MXFP4 without scales", [](Plan& p) { p.sources[2].scale = kNone; }},
      {"cell row missing", [](Plan& p) { p.groups[0].cells.pop_back(); }},
      {"cell row twice", [](Plan& p) { p.groups[0].cells[1].scale_row = 0; }},
      {"segment with other rows", [](Plan& p) { p.groups[0].cells[0].segments[1].rows = 27; }},
      {"segment beyond its source", [](Plan& p) { p.groups[0].cells[1].segments[0].source_row = 129; }},
      {"segment beyond the scales", [](Plan& p) { p.groups[0].cells[1].segments[0].scale_row = 3; }},
      {"segment into another group", [](Plan& p) { p.groups[0].cells[0].segments[0].output = 2; }},
      {"moved cell under two scales", [](Plan& p) { p.groups[0].cells[0].moved = true; }},
      {"straddling blocks", [](Plan& p) { p.groups[0].straddling_blocks = 3; }},
      {"linked file of another length", [](Plan& p) { p.files[1].bytes = 77; }},
      {"linked file without a source", [](Plan& p) { p.files[1].source_file = kNone; }},
      {"changed output in a linked file", [](Plan& p) { p.outputs[6].unchanged = false; }},
      {"unchanged output of another name", [](Plan& p) { p.outputs[4].name = "norm2"; }},
      {"outputs that overlap", [](Plan& p) { p.outputs[3].begin -= 4, p.outputs[3].end -= 4; }},
      {"file group beyond the count", [](Plan& p) { p.file_groups = 1; }},
      {"group across file groups", [](Plan& p) { p.groups[1].file_group = 0; }},
      {"output name twice", [](Plan& p) { p.outputs[3].name = "codes.fp32"; }},
      {"read array that is dropped",
       [](Plan& p) {
         p.fates[kNorm] = {kNorm, Fate::kDropped, "x"};
       }},
      {"dropped without a reason", [](Plan& p) { p.fates[kGone].reason = ""; }},
      {"used array that nothing reads",
       [](Plan& p) {
         p.fates[kGone] = {kGone, Fate::kUsed, ""};
       }},
      {"payload", [](Plan& p) { ++p.payload_bytes; }},
  };
  return kDamages;
}

TEST(PlanJson, InconsistentPlansAreRefusedWhateverTheirDigest) {
  const Catalogue catalogue = MakeCatalogue();
  for (const Damage& damage : Damages()) {
    SCOPED_TRACE(damage.name);
    Plan plan = MakePlan(catalogue);
    const Hash128 before = plan.digest;
    damage.apply(plan);
    EXPECT_FALSE(ValidatePlan(catalogue, plan).ok());
    plan.digest = PlanDigest(catalogue, plan);
    EXPECT_NE(plan.digest, before);
    ExpectRefused(catalogue, Json(catalogue, plan), "plan");
  }
}

TEST(PlanJson, IndicesOutOfRangeAreRefused) {
  const Catalogue catalogue = MakeCatalogue();
  const std::vector<Damage> damages = {
      {"array", [](Plan& p) { p.sources[1].array = 99; }},
      {"file", [](Plan& p) { p.outputs[0].file = 9; }},
      {"group", [](Plan& p) { p.outputs[0].group = 9; }},
      {"group's outputs", [](Plan& p) { p.groups[0].outputs.pop_back(); }},
      {"file's outputs", [](Plan& p) { std::swap(p.files[0].outputs[0], p.files[0].outputs[1]); }},
      {"header", [](Plan& p) { p.files[0].header[0] ^= 1; }},
      {"fates", [](Plan& p) { p.fates.pop_back(); }},
      {"order of outputs", [](Plan& p) { std::swap(p.outputs[0], p.outputs[1]); }},
  };
  for (const Damage& damage : damages) {
    Plan plan = MakePlan(catalogue);
    damage.apply(plan);
    EXPECT_FALSE(ValidatePlan(catalogue, plan).ok()) << damage.name;
  }
}

TEST(PlanDigest, DependsOnEverythingButTheToolVersion) {
  const Catalogue catalogue = MakeCatalogue();
  Plan plan = MakePlan(catalogue);
  const Hash128 digest = plan.digest;
  plan.tool_version = "other";
  plan.digest = {};
  EXPECT_EQ(PlanDigest(catalogue, plan), digest);
  plan.options.exclude.clear();
  EXPECT_NE(PlanDigest(catalogue, plan), digest);
}

}  // namespace
}  // namespace mimo
