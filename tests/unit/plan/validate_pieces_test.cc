// Plans with rectangles, padding, adjusted and transposed outputs, constants and replicas: what is written is what is
// read, and nothing inconsistent gets through.
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "lib/io/safetensors/safetensors.h"
#include "lib/plan/plan_json.h"

namespace mimo::validate_pieces_test {
namespace {

struct Stored {
  const char* name;
  DType dtype;
  std::vector<int64_t> shape;
};

Catalogue MakeCatalogue() {
  const std::vector<Stored> stored = {
      {"w0", DType::kBF16, {6, 4}},          {"w1", DType::kBF16, {6, 4}},
      {"codes", DType::kF8E4M3, {2, 8, 32}}, {"codes_scale_inv", DType::kF32, {2, 2, 4}},
      {"scales", DType::kF32, {4, 4}},
  };
  Catalogue catalogue;
  catalogue.root = "/models/x";
  catalogue.files.push_back({"a.safetensors", 64, 64, {}, {}});
  for (const Stored& s : stored) {
    StoredArray array{s.name, s.dtype, s.shape, 0, catalogue.files[0].bytes, *TensorBytes(s.dtype, s.shape), {}};
    catalogue.files[0].bytes += array.bytes;
    catalogue.by_name.emplace(s.name, static_cast<uint32_t>(catalogue.arrays.size()));
    catalogue.arrays.push_back(std::move(array));
  }
  return catalogue;
}

enum Sources : uint32_t { kW0, kW1, kCodes, kCodesScale, kScales, kRaw };
enum Outputs : uint32_t { kJoined, kFolded, kHalved, kTurned, kDecoded, kRelaid, kRelaidScale, kOne };

void Add(Plan& plan, const char* name, DType dtype, std::vector<int64_t> shape, Transform transform,
         std::vector<Piece> pieces) {
  OutputArray output;
  output.name = name;
  output.dtype = dtype;
  output.shape = std::move(shape);
  output.transform = transform;
  output.pieces = std::move(pieces);
  output.begin = plan.files[0].bytes;
  output.end = output.begin + *TensorBytes(dtype, output.shape);
  plan.files[0].bytes = output.end;
  plan.payload_bytes += output.end - output.begin;
  const auto index = static_cast<uint32_t>(plan.outputs.size());
  plan.files[0].outputs.push_back(index);
  plan.groups[0].outputs.push_back(index);
  plan.outputs.push_back(std::move(output));
}

Plan MakePlan(const Catalogue& catalogue) {
  Plan plan;
  plan.form = "sharded-state";
  PlanOptions& o = plan.options;
  o.to = TargetKind::kVllm;
  o.format = FormKind::kShardedState;
  o.engine_version = "0.11";
  o.attention = AttentionStorage::kSplit;
  o.tp = 16, o.ep = 8, o.etp = 4, o.pp = 2;
  o.ranks = {0, 2, 5};
  o.pad = true;
  o.fold_value_scale = FoldInto::kV;
  o.fp8_block_rows = 64;
  o.expert_codes = ExpertCodes::kRescale;
  o.router_bias = RouterBias::kCentred;
  o.form_template = "{\"a\":1}";
  plan.source_fingerprint = catalogue.Fingerprint();
  plan.file_groups = 1;
  plan.sources.resize(6);
  for (uint32_t i = 0; i < 5; ++i) plan.sources[i].array = i;
  plan.sources[kScales].codec = plan.sources[kCodesScale].codec = Codec::kFp32;
  plan.sources[kRaw].array = kCodes;  // the codes as they are
  SourceArray& codes = plan.sources[kCodes];
  codes.quantized = true;
  codes.codec = Codec::kFp8Block;
  codes.scale = kCodesScale;
  codes.block_rows = 4;
  codes.block_cols = 8;
  PlanFile file;
  file.name = "a.safetensors";
  file.header = std::string("\2\0\0\0\0\0\0\0{}", 10);
  file.bytes = file.header.size();
  plan.files.push_back(file);
  plan.groups.resize(1);
  plan.groups[0].label = "g";
  // Two ranks side by side, and a row of padding.
  Add(plan, "joined", DType::kBF16, {7, 8}, Transform::kMove,
      {{kW0, 0, 0, 6, 0, 0, 4}, {kW1, 0, 0, 6, 0, 4, 4}, {kNone, 0, 6, 1, 0, 0, 0}});
  plan.outputs[kJoined].pad = std::string("\x80\x3f", 2);
  Add(plan, "folded", DType::kF32, {2, 4}, Transform::kMove, {{kScales, 1, 0, 2}});
  plan.outputs[kFolded].adjust = Adjust::kScale;
  plan.outputs[kFolded].factor = 0.707f;
  Add(plan, "halved", DType::kF8E4M3, {8, 32}, Transform::kMove, {{kRaw, 8, 0, 8}});
  plan.outputs[kHalved].adjust = Adjust::kHalve;
  // Columns 4..19 of all rows, turned over.
  Add(plan, "turned", DType::kF8E4M3, {1, 16, 16}, Transform::kTranspose, {{kRaw, 0, 0, 16, 4, 0, 16}});
  plan.outputs[kTurned].target_codec = Codec::kFp8Block;
  Add(plan, "decoded", DType::kBF16, {16, 10}, Transform::kConvert, {{kCodes, 0, 0, 16, 8, 0, 10}});
  Add(plan, "relaid", DType::kF8E4M3, {6, 32}, Transform::kRelayout, {});
  Add(plan, "relaid_scale_inv", DType::kF32, {2, 4}, Transform::kScales, {});
  plan.groups[0].cells = {
      {kRelaidScale,
       0,
       true,
       {{kCodes, 2, kRelaid, 0, 2, kCodesScale, 0, 0.5f}, {kNone, 0, kRelaid, 2, 1, kNone, 0, 1}}},
      {kRelaidScale, 1, true, {{kNone, 0, kRelaid, 3, 3, kNone, 0, 1}}},
  };
  Add(plan, "one", DType::kF32, {}, Transform::kConstant, {});
  plan.outputs[kOne].constant = std::string("\0\0\x80\x3f", 4);
  plan.equal = {{kW0, kW1, 0, 0, 6}, {kW0, kW1, 1, 2, 3}};
  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) plan.fates.push_back({i, Fate::kUsed, ""});
  plan.digest = PlanDigest(catalogue, plan);
  return plan;
}

std::string Json(const Catalogue& catalogue, const Plan& plan) {
  std::string text;
  EXPECT_TRUE(WritePlanJson(catalogue, plan, [&](std::string_view part) {
                text += part;
                return Status();
              }).ok());
  return text;
}

TEST(PlanRectangles, RoundTripKeepsEveryField) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const Status valid = ValidatePlan(catalogue, plan);
  ASSERT_TRUE(valid.ok()) << valid.error().Message();
  const std::string text = Json(catalogue, plan);
  const auto read = ParsePlanJson(catalogue, text, "plan.json");
  ASSERT_TRUE(read.ok()) << read.error().Message() << "\n" << text;
  const Plan& found = read.value();
  const PlanOptions &a = plan.options, &b = found.options;
  const auto target = [](const PlanOptions& o) {
    return std::tie(o.to, o.format, o.engine_version, o.attention, o.tp, o.ep, o.etp, o.pp, o.ranks, o.pad,
                    o.fold_value_scale, o.fp8_block_rows, o.expert_codes, o.router_bias, o.form_template);
  };
  EXPECT_EQ(target(a), target(b));
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    const auto element = [](const OutputArray& o) {
      return std::tie(o.transform, o.target_codec, o.adjust, o.factor, o.pad, o.constant);
    };
    EXPECT_EQ(element(plan.outputs[i]), element(found.outputs[i])) << plan.outputs[i].name;
    ASSERT_EQ(plan.outputs[i].pieces.size(), found.outputs[i].pieces.size());
    for (size_t p = 0; p < plan.outputs[i].pieces.size(); ++p) {
      const auto all = [](const Piece& x) {
        return std::tie(x.source, x.source_row, x.target_row, x.rows, x.source_col, x.target_col, x.cols);
      };
      EXPECT_EQ(all(plan.outputs[i].pieces[p]), all(found.outputs[i].pieces[p]));
    }
  }
  for (size_t c = 0; c < 2; ++c) {
    for (size_t i = 0; i < plan.groups[0].cells[c].segments.size(); ++i) {
      const auto all = [](const CellSegment& s) {
        return std::tie(s.source, s.source_row, s.output, s.target_row, s.rows, s.scale, s.scale_row, s.factor);
      };
      EXPECT_EQ(all(plan.groups[0].cells[c].segments[i]), all(found.groups[0].cells[c].segments[i]));
    }
  }
  ASSERT_EQ(found.equal.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const auto all = [](const EqualRows& e) { return std::tie(e.first, e.second, e.first_row, e.second_row, e.rows); };
    EXPECT_EQ(all(plan.equal[i]), all(found.equal[i]));
  }
  EXPECT_EQ(text, Json(catalogue, found));
}

TEST(PlanRectangles, WholeRowsAndUsualOptionsAreAsShortAsEver) {
  const Catalogue catalogue = MakeCatalogue();
  const auto document = nlohmann::json::parse(Json(catalogue, MakePlan(catalogue)));
  EXPECT_EQ(document["outputs"][kFolded]["pieces"][0].size(), 4u);
  EXPECT_EQ(document["outputs"][kJoined]["pieces"][1], nlohmann::json::parse("[\"w1\",0,0,6,0,4,4]"));
  EXPECT_EQ(document["outputs"][kJoined]["pieces"][2], nlohmann::json::parse("[null,0,6,1]"));
  EXPECT_EQ(document["outputs"][kJoined]["pad"], "803f");
  const auto usual = nlohmann::json::parse(PlanOptionsJson({}));
  for (const char* key : {"to", "format", "tp", "ranks", "pad", "form_template"}) EXPECT_FALSE(usual.contains(key));
}

struct Damage {
  const char* name;
  std::function<void(Plan&)> apply;
};

const std::vector<Damage>& Damages() {
  static const std::vector<Damage> kDamages = {
      {"rectangle beyond the output", [](Plan& p) { p.outputs[kJoined].pieces[1].target_col = 5; }},
      {"rectangle beyond its source", [](Plan& p) { p.outputs[kJoined].pieces[1].source_col = 1; }},
      {"rectangles that overlap", [](Plan& p) { p.outputs[kJoined].pieces[1].target_col = 3; }},
      {"rectangle that is too narrow", [](Plan& p) { p.outputs[kJoined].pieces[1].cols = 3; }},
      {"rectangle that is too low", [](Plan& p) { p.outputs[kJoined].pieces[1].rows = 5; }},
      {"rectangles in another order",
       [](Plan& p) { std::swap(p.outputs[kJoined].pieces[0], p.outputs[kJoined].pieces[1]); }},
      {"row that nothing covers", [](Plan& p) { p.outputs[kJoined].pieces.pop_back(); }},
      {"whole rows of another width", [](Plan& p) { p.outputs[kJoined].pieces[2].source = kW0; }},
      {"whole rows from a column", [](Plan& p) { p.outputs[kFolded].pieces[0].source_col = 1; }},
      {"padding with a source row", [](Plan& p) { p.outputs[kJoined].pieces[2].source_row = 1; }},
      {"padding of half an element", [](Plan& p) { p.outputs[kJoined].pad = "x"; }},
      {"padding of an output without pieces", [](Plan& p) { p.outputs[kRelaid].pad = "x"; }},
      {"columns of an encoded output", [](Plan& p) { p.outputs[kFolded].transform = Transform::kEncode; }},
      {"factor without adjustment", [](Plan& p) { p.outputs[kHalved].factor = 2; }},
      {"factor that is not a number",
       [](Plan& p) { p.outputs[kFolded].factor = std::numeric_limits<float>::infinity(); }},
      {"factor of zero", [](Plan& p) { p.outputs[kFolded].factor = 0; }},
      {"factor of BF16 that is moved",
       [](Plan& p) {
         p.outputs[kJoined].adjust = Adjust::kScale;
         p.outputs[kJoined].factor = 2;
       }},
      {"centred values of several rows",
       [](Plan& p) {
         p.outputs[kFolded].adjust = Adjust::kCentre;
         p.outputs[kFolded].factor = 1;
       }},
      {"kept bits of what is moved", [](Plan& p) { p.outputs[kJoined].keep = 0; }},
      {"kept bits of no source", [](Plan& p) { p.outputs[kDecoded].keep = 10000; }},
      {"kept bits of BF16", [](Plan& p) { p.outputs[kDecoded].keep = 0; }},
      {"centred BF16", [](Plan& p) { p.outputs[kJoined].adjust = Adjust::kCentre; }},
      {"halved values", [](Plan& p) { p.outputs[kJoined].adjust = Adjust::kHalve; }},
      {"halved codes that are decoded", [](Plan& p) { p.outputs[kDecoded].adjust = Adjust::kHalve; }},
      {"transposed rectangle beyond its source", [](Plan& p) { p.outputs[kTurned].pieces[0].source_col = 20; }},
      {"transposed rows beyond their source", [](Plan& p) { p.outputs[kTurned].pieces[0].source_row = 1; }},
      {"transposed whole rows", [](Plan& p) { p.outputs[kTurned].pieces[0].cols = 0; }},
      {"transposed codes that are values", [](Plan& p) { p.outputs[kTurned].target_codec = Codec::kBf16; }},
      {"cells of different factors",
       [](Plan& p) { p.groups[0].cells[0].segments[1] = {kCodes, 0, kRelaid, 2, 1, kCodesScale, 0, 1}; }},
      {"cell of a factor of zero", [](Plan& p) { p.groups[0].cells[0].segments[0].factor = 0; }},
      {"padding of a cell with scales", [](Plan& p) { p.groups[0].cells[1].segments[0].scale = kCodesScale; }},
      {"padding of a cell with a factor", [](Plan& p) { p.groups[0].cells[1].segments[0].factor = 2; }},
      {"cell beyond the scales", [](Plan& p) { p.groups[0].cells[0].segments[0].scale_row = 4; }},
      {"grid that needs more scales", [](Plan& p) { p.sources[kCodes].block_rows = 3; }},
      {"constant of another length", [](Plan& p) { p.outputs[kOne].constant += 'x'; }},
      {"constant of a moved output", [](Plan& p) { p.outputs[kJoined].constant = "x"; }},
      {"constant with pieces",
       [](Plan& p) {
         p.outputs[kOne].pieces = {{kScales, 0, 0, 1, 0, 0, 1}};
       }},
      {"replica beyond its array", [](Plan& p) { p.equal[1].second_row = 4; }},
      {"replica of another width", [](Plan& p) { p.equal[0].second = kScales; }},
      {"replica of no rows", [](Plan& p) { p.equal[0].rows = 0; }},
      {"replica of nothing", [](Plan& p) { p.equal[0].first = 99; }},
      {"two tensors of one name in a file", [](Plan& p) { p.outputs[kHalved].name = "folded"; }},
  };
  return kDamages;
}

TEST(PlanRectangles, DecodedColumnsMayBeginInsideABlock) {
  const Catalogue catalogue = MakeCatalogue();
  Plan plan = MakePlan(catalogue);
  plan.outputs[kDecoded].pieces[0].source_col = 9;
  EXPECT_TRUE(ValidatePlan(catalogue, plan).ok());
}

TEST(PlanRectangles, InconsistentPlansAreRefusedWhateverTheirDigest) {
  const Catalogue catalogue = MakeCatalogue();
  for (const Damage& damage : Damages()) {
    SCOPED_TRACE(damage.name);
    Plan plan = MakePlan(catalogue);
    const Hash128 before = plan.digest;
    damage.apply(plan);
    EXPECT_FALSE(ValidatePlan(catalogue, plan).ok());
    plan.digest = PlanDigest(catalogue, plan);
    EXPECT_NE(plan.digest, before);
    const auto read = ParsePlanJson(catalogue, Json(catalogue, plan), "plan.json");
    ASSERT_FALSE(read.ok());
    EXPECT_EQ(read.error().code, ErrorCode::kBadInput);
  }
}

TEST(PlanRectangles, TheDigestCoversWhatWillLoadTheOutput) {
  const Catalogue catalogue = MakeCatalogue();
  const std::vector<Damage> changes = {
      {"to", [](Plan& p) { p.options.to = TargetKind::kSglang; }},
      {"format", [](Plan& p) { p.options.format.reset(); }},
      {"version", [](Plan& p) { p.options.engine_version = "0.12"; }},
      {"attention", [](Plan& p) { p.options.attention = AttentionStorage::kAuto; }},
      {"tp", [](Plan& p) { p.options.tp = 8; }},
      {"ranks",
       [](Plan& p) {
         p.options.ranks = {0, 2};
       }},
      {"pad", [](Plan& p) { p.options.pad = false; }},
      {"fold", [](Plan& p) { p.options.fold_value_scale = FoldInto::kO; }},
      {"block", [](Plan& p) { p.options.fp8_block_rows = 0; }},
      {"codes", [](Plan& p) { p.options.expert_codes = ExpertCodes::kHalve; }},
      {"template", [](Plan& p) { p.options.form_template = ""; }},
      {"equal", [](Plan& p) { p.equal.pop_back(); }},
  };
  for (const Damage& change : changes) {
    Plan plan = MakePlan(catalogue);
    change.apply(plan);
    EXPECT_NE(PlanDigest(catalogue, plan), plan.digest) << change.name;
  }
}

}  // namespace
}  // namespace mimo::validate_pieces_test
