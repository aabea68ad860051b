// Plans that make codes from values under scales that are there already, files of torch items, and small files that are
// not text: what is written is what is read, and nothing inconsistent gets through.
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "lib/draft/builder.h"
#include "lib/io/safetensors/safetensors.h"
#include "lib/io/torch/item.h"
#include "lib/json/bytes.h"
#include "lib/plan/plan_json.h"
#include "lib/plan/reads.h"

namespace mimo {
namespace {

struct Stored {
  const char* name;
  DType dtype;
  std::vector<int64_t> shape;
};

enum Sources : uint32_t { kO0, kO1, kOKeep, kX, kXKeep, kK, kV, kKvKeep, kCodes, kCodesScale };
enum Outputs : uint32_t { kO, kOScale, kXCodes, kXScale, kOutK, kOutS, kOutV, kItem0, kItem1 };

Catalogue MakeCatalogue() {
  const std::vector<Stored> stored = {
      {"o0", DType::kBF16, {130, 40}},      {"o1", DType::kF32, {130, 60}},   {"o_keep", DType::kF32, {2, 1}},
      {"x", DType::kF16, {6, 64}},          {"x_keep", DType::kU8, {6, 2}},   {"k", DType::kBF16, {100, 200}},
      {"v", DType::kBF16, {28, 200}},       {"kv_keep", DType::kF32, {3, 2}}, {"codes", DType::kF8E4M3, {28, 200}},
      {"codes_scale", DType::kF32, {1, 2}},
  };
  Catalogue catalogue;
  catalogue.root = "/models/x";
  CatalogueFile file;
  file.name = "a.safetensors";
  file.bytes = file.data_begin = 64;
  catalogue.files.push_back(file);
  for (const Stored& s : stored) {
    StoredArray array{s.name, s.dtype, s.shape, 0, catalogue.files[0].bytes, *TensorBytes(s.dtype, s.shape), {}};
    catalogue.files[0].bytes += array.bytes;
    catalogue.by_name[s.name] = static_cast<uint32_t>(catalogue.arrays.size());
    catalogue.arrays.push_back(std::move(array));
  }
  return catalogue;
}

void Add(Plan& plan, uint32_t file, const char* name, DType dtype, std::vector<int64_t> shape, Transform transform,
         Codec codec, std::vector<Piece> pieces) {
  OutputArray output;
  output.name = name;
  output.dtype = dtype;
  output.shape = std::move(shape);
  output.transform = transform;
  output.target_codec = codec;
  output.pieces = std::move(pieces);
  output.file = file;
  output.group = file;
  const bool item = plan.files[file].container == Container::kTorchItems;
  const TorchItemSize size = item ? SizeOfTorchItem(dtype, output.shape) : TorchItemSize{};
  output.begin = plan.files[file].bytes + size.head;
  output.end = output.begin + *TensorBytes(dtype, output.shape);
  plan.files[file].bytes = output.end + size.tail;
  plan.payload_bytes += output.end - output.begin;
  const auto index = static_cast<uint32_t>(plan.outputs.size());
  plan.files[file].outputs.push_back(index);
  plan.groups[file].outputs.push_back(index);
  plan.outputs.push_back(std::move(output));
}

Plan MakePlan(const Catalogue& catalogue) {
  Plan plan;
  plan.tool_version = "test";
  plan.source_fingerprint = catalogue.Fingerprint();
  plan.options.like = true;
  plan.options.iteration = 12;
  plan.options.to = TargetKind::kMegatron;
  plan.source_layout.layout = plan.target_layout = QkvLayout{QkvKind::kSplit, 1};
  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) {
    PlanSource source;
    source.array = i;
    const DType dtype = catalogue.arrays[i].dtype;
    source.codec = dtype == DType::kF32 ? Codec::kFp32 : dtype == DType::kF16 ? Codec::kFp16 : Codec::kBf16;
    plan.sources.push_back(source);
    plan.fates.push_back({i, Fate::kUsed, ""});
  }
  plan.files.resize(2);
  plan.groups.resize(2);
  plan.file_groups = 2;
  plan.files[0].name = "a.safetensors";
  const std::string json = "{}";
  plan.files[0].header = std::string("\2\0\0\0\0\0\0\0", 8) + json;
  plan.files[0].bytes = 10;
  plan.files[1].name = "iter_0000000/__0_1.distcp";
  plan.files[1].container = Container::kTorchItems;
  plan.files[1].file_group = plan.groups[1].file_group = 1;
  plan.texts = {{"iter_0000000/.metadata", std::string("\x80\x02\0}q\0.", 7)},
                {"config.json", "{\"a\": \"\xC3\xA9\"}"}};

  Add(plan, 0, "o", DType::kF8E4M3, {130, 100}, Transform::kEncode, Codec::kFp8Block,
      {{kO0, 0, 0, 130, 0, 0, 40}, {kO1, 0, 0, 130, 0, 40, 60}});
  Add(plan, 0, "o_scale_inv", DType::kF32, {2, 1}, Transform::kBeside, Codec::kFp8Block, {});
  Add(plan, 0, "x", DType::kU8, {6, 32}, Transform::kEncode, Codec::kMxfp4, {{kX, 0, 0, 6}});
  Add(plan, 0, "x_scale", DType::kU8, {6, 2}, Transform::kBeside, Codec::kMxfp4, {});
  Add(plan, 0, "k", DType::kF8E4M3, {100, 200}, Transform::kRelayout, Codec::kBf16, {});
  Add(plan, 0, "kv_scale_inv", DType::kF32, {1, 2}, Transform::kScales, Codec::kBf16, {});
  Add(plan, 0, "v", DType::kF8E4M3, {28, 200}, Transform::kRelayout, Codec::kBf16, {});
  Add(plan, 1, "t[0,0]", DType::kF8E4M3, {28, 200}, Transform::kMove, Codec::kBf16, {{kCodes, 0, 0, 28}});
  Add(plan, 1, "t[28,0]", DType::kF32, {1, 2}, Transform::kMove, Codec::kBf16, {{kCodesScale, 0, 0, 1}});
  EncodedWeight o;
  o.encoding = {.codec = Codec::kFp8Block};
  o.codes = kO;
  o.scales = kOScale;
  o.keep = kOKeep;
  EncodedWeight x;
  x.encoding = {.codec = Codec::kMxfp4, .rule = kernels::ScaleRule::kRceil};
  x.codes = kXCodes;
  x.scales = kXScale;
  x.keep = kXKeep;
  plan.groups[0].encoded = {o, x};
  plan.groups[0].cells = {{kOutS, 0, false, {{kK, 0, kOutK, 0, 100}, {kV, 0, kOutV, 0, 28}}, kKvKeep, 2}};
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

TEST(PlanKeep, RoundTripKeepsEveryField) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const Status valid = ValidatePlan(catalogue, plan);
  ASSERT_TRUE(valid.ok()) << valid.error().Message();
  const std::string text = Json(catalogue, plan);
  const auto read = ParsePlanJson(catalogue, text, "plan.json");
  ASSERT_TRUE(read.ok()) << read.error().Message() << "\n" << text;
  const Plan& found = read.value();
  EXPECT_EQ(Json(catalogue, found), text);
  EXPECT_TRUE(found.options.like);
  EXPECT_EQ(found.options.iteration, 12);
  EXPECT_EQ(found.files[0].container, Container::kSafetensors);
  EXPECT_EQ(found.files[1].container, Container::kTorchItems);
  EXPECT_EQ(found.files[1].header, "");
  EXPECT_EQ(found.files[1].bytes, plan.files[1].bytes);
  EXPECT_EQ(found.outputs[kItem1].begin, plan.outputs[kItem1].begin);
  EXPECT_EQ(found.texts[0].content, plan.texts[0].content);
  EXPECT_EQ(found.texts[1].content, plan.texts[1].content);
  EXPECT_EQ(found.groups[0].encoded[0].keep, uint32_t{kOKeep});
  EXPECT_EQ(found.groups[0].encoded[1].keep, uint32_t{kXKeep});
  EXPECT_EQ(found.groups[0].cells[0].keep, uint32_t{kKvKeep});
  EXPECT_EQ(found.groups[0].cells[0].keep_row, 2);
  EXPECT_EQ(found.groups[0].cells[0].segments[1].scale, kNone);
  EXPECT_EQ(found.outputs[kO].pieces[1].target_col, 40);
  const nlohmann::json document = nlohmann::json::parse(text);
  EXPECT_EQ(document["texts"][0]["base64"], "gAIAfXEALg==");
  EXPECT_FALSE(document["texts"][0].contains("content"));
  EXPECT_FALSE(document["files"][0].contains("container"));
}

// What has its usual value is left out, so that plans without any of it have the digests they had.
TEST(PlanKeep, DigestsSeeEveryField) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  const std::vector<std::function<void(Plan&)>> changes = {
      [](Plan& p) { p.options.like = false; },
      [](Plan& p) { p.options.iteration = 13; },
      [](Plan& p) { p.files[1].container = Container::kSafetensors; },
      [](Plan& p) { p.groups[0].encoded[0].keep = kNone; },
      [](Plan& p) { p.groups[0].encoded[1].keep = kOKeep; },
      [](Plan& p) { p.groups[0].cells[0].keep = kNone; },
      [](Plan& p) { p.groups[0].cells[0].keep_row = 1; },
      [](Plan& p) { p.texts[0].content[2] = '\1'; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    Plan changed = plan;
    changes[i](changed);
    EXPECT_NE(PlanDigest(catalogue, changed), plan.digest) << i;
  }
}

TEST(PlanKeep, InconsistentPlansAreRefused) {
  const Catalogue catalogue = MakeCatalogue();
  struct Case {
    const char* found;
    std::function<void(Plan&)> change;
  };
  const auto cell = [](Plan& p) -> CellRow& { return p.groups[0].cells[0]; };
  const std::vector<Case> cases = {
      {"kept scales", [](Plan& p) { p.groups[0].encoded[0].keep = 99; }},
      {"kept scales", [](Plan& p) { p.groups[0].encoded[0].keep = kKvKeep; }},  // of another shape
      {"kept scales", [](Plan& p) { p.groups[0].encoded[0].keep = kXKeep; }},   // of another dtype
      {"kept scales", [](Plan& p) { p.groups[0].encoded[1].keep = kOKeep; }},
      {"kept scales", [&](Plan& p) { cell(p).keep = 99; }},
      {"kept scales", [&](Plan& p) { cell(p).keep = kOKeep; }},
      {"kept scales", [&](Plan& p) { cell(p).keep = kXKeep; }},
      {"kept scales", [&](Plan& p) { cell(p).keep = kNone; }},  // with a row
      {"row of kept scales", [&](Plan& p) { cell(p).keep_row = 3; }},
      {"row of kept scales", [&](Plan& p) { cell(p).keep_row = -1; }},
      {"moved cell", [&](Plan& p) { cell(p).moved = true; }},
      {"all values or all codes", [&](Plan& p) { cell(p).segments[1] = {kCodes, 0, kOutV, 0, 28, kCodesScale, 0}; }},
      {"cell of values", [&](Plan& p) { cell(p).segments[0].factor = 0.5f; }},
      {"cell of values", [&](Plan& p) { cell(p).segments[0].scale_row = 1; }},
      {"source of a cell", [&](Plan& p) { cell(p).segments[1].source = kO0; }},  // of another width
      {"source of a cell", [&](Plan& p) { cell(p).segments[1].source = kCodes; }},
      {"source of a cell", [](Plan& p) { p.sources[kV].codec = Codec::kFp32; }},
      {"rows of a cell", [&](Plan& p) { cell(p).segments[1].source_row = 1; }},
      {"columns of scales", [](Plan& p) { p.sources[kK].block_cols = p.sources[kV].block_cols = 64; }},
      {"blocks of one width", [](Plan& p) { p.sources[kV].block_cols = 127; }},
      {"pieces", [](Plan& p) { p.outputs[kO].pieces[1].target_col = 39; }},
      {"pieces", [](Plan& p) { p.outputs[kO].pieces.pop_back(); }},
      {"columns of a piece", [](Plan& p) { p.outputs[kO].pieces[0].source_col = 1; }},
      {"padding", [](Plan& p) { p.outputs[kO].pieces[1] = {kNone, 0, 0, 130, 0, 40, 60}; }},
      {"items without a header", [](Plan& p) { p.files[1].header = "x"; }},
      {"begin of an output",
       [](Plan& p) {
         ++p.outputs[kItem1].begin;
         ++p.outputs[kItem1].end;
       }},
      {"length of", [](Plan& p) { ++p.files[1].bytes; }},
      {"a header, or a source file", [](Plan& p) { p.files[1].container = Container::kSafetensors; }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    Plan plan = MakePlan(catalogue);
    cases[i].change(plan);
    plan.digest = PlanDigest(catalogue, plan);
    const Status status = ValidatePlan(catalogue, plan);
    ASSERT_FALSE(status.ok()) << i;
    EXPECT_NE(status.error().Message().find(cases[i].found), std::string::npos) << i << " " << status.error().Message();
  }
}

// Rows are put together from values only.
TEST(PlanKeep, RectanglesOfQuantizedSourcesAreNotEncoded) {
  const Catalogue catalogue = MakeCatalogue();
  Plan plan = MakePlan(catalogue);
  PlanSource codes = plan.sources[kCodes];
  codes.quantized = true;
  codes.codec = Codec::kFp8Block;
  codes.scale = kCodesScale;
  plan.sources.push_back(codes);
  const auto source = static_cast<uint32_t>(plan.sources.size() - 1);
  plan.outputs[kO].pieces = {{source, 0, 0, 28, 0, 0, 100}, {kO0, 0, 28, 102, 0, 0, 40}, {kO1, 0, 28, 102, 0, 40, 60}};
  const Status status = ValidatePlan(catalogue, plan);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().Message().find("rectangles of values"), std::string::npos) << status.error().Message();
}

TEST(PlanKeep, BadBase64IsRefused) {
  const Catalogue catalogue = MakeCatalogue();
  const std::string text = Json(catalogue, MakePlan(catalogue));
  for (const char* bad : {"gAIAfXEALg", "gAIAfXEALh==", "gAIAfXEAL*==", "gAIAfXEALg== "}) {
    std::string edited = text;
    edited.replace(edited.find("gAIAfXEALg=="), 12, bad);
    const auto read = ParsePlanJson(catalogue, edited, "plan.json");
    ASSERT_FALSE(read.ok()) << bad;
    EXPECT_NE(read.error().Message().find("base64"), std::string::npos) << read.error().Message();
  }
}

TEST(JsonBytes, Base64AsRfc4648SaysAndBack) {
  const std::vector<std::pair<std::string, std::string>> known = {{"", ""},
                                                                  {"f", "Zg=="},
                                                                  {"fo", "Zm8="},
                                                                  {"foo", "Zm9v"},
                                                                  {"foob", "Zm9vYg=="},
                                                                  {"fooba", "Zm9vYmE="},
                                                                  {"foobar", "Zm9vYmFy"},
                                                                  {"\xFB\xEF\xFF", "++//"}};
  for (const auto& [bytes, text] : known) {
    EXPECT_EQ(Base64Of(bytes), text);
    EXPECT_EQ(BytesOfBase64(text), bytes);
  }
  for (const char* bad : {"=", "====", "Zg=", "Z===", "Zg==Zg==", "Zh==", "Zm9=", "Zm9v\n"}) {
    EXPECT_FALSE(BytesOfBase64(bad).has_value()) << bad;
  }
}

TEST(JsonBytes, Utf8AsTheParserSees) {
  const auto parses = [](const std::string& text) { return nlohmann::json::accept("\"" + text + "\""); };
  for (uint32_t first = 0x80; first < 0x100; ++first) {
    for (uint32_t second = 0x20; second < 0x100; ++second) {
      if (second == '"' || second == '\\') continue;
      for (const std::string tail : {"", "\x80", "\x80\x80", "\xBF\xBF", "\x80x"}) {
        const std::string text{static_cast<char>(first), static_cast<char>(second)};
        ASSERT_EQ(IsUtf8(text + tail), parses(text + tail)) << first << " " << second << " " << tail.size();
      }
    }
  }
}

// ---- those who follow a plan's reads
// -----------------------------------------------------------------------------------------------------------

TEST(PlanKeep, ScalesToKeepAreRead) {
  const Catalogue catalogue = MakeCatalogue();
  const Plan plan = MakePlan(catalogue);
  std::vector<uint32_t> read;
  VisitGroupReads(plan, plan.groups[0], [&](uint32_t source) { read.push_back(source); });
  std::sort(read.begin(), read.end());
  EXPECT_EQ(read, (std::vector<uint32_t>{kO0, kO1, kOKeep, kX, kXKeep, kK, kV, kKvKeep}));
}

TEST(PlanKeep, TakingOutputsOutFollowsTheScales) {
  const Catalogue catalogue = MakeCatalogue();
  const Inventory inventory;
  PlanBuilder builder(catalogue, inventory);
  for (uint32_t i = 0; i < catalogue.arrays.size(); ++i) {
    Weight weight;
    weight.array = i;
    builder.DecodedSource(weight);
  }
  const auto request = [&](const char* name, Codec codec, uint32_t keep, std::vector<Piece> pieces, int64_t rows,
                           int64_t cols) {
    EncodedRequest made;
    made.name = std::string(name) + ".weight";
    made.rows = rows;
    made.cols = cols;
    made.encoding.codec = codec;
    made.encoding.rule = codec == Codec::kMxfp4 ? kernels::ScaleRule::kRceil : kernels::ScaleRule::kMax;
    made.pieces = std::move(pieces);
    made.keep = keep;
    builder.BeginGroup(name);
    builder.AddEncoded(made, 0);
  };
  request("o", Codec::kFp8Block, kOKeep, {{kO0, 0, 0, 130}}, 130, 40);
  request("x", Codec::kMxfp4, kXKeep, {{kX, 0, 0, 6}}, 6, 64);
  ASSERT_EQ(builder.plan().groups[1].encoded[0].keep, uint32_t{kXKeep});
  std::vector<uint32_t> dropped;
  builder.RemoveOutputs({1, 1, 0, 0}, [&](uint32_t array, uint32_t) { dropped.push_back(array); });
  const Plan& plan = builder.plan();
  ASSERT_EQ(plan.groups.size(), 1u);
  ASSERT_EQ(plan.sources.size(), 2u);
  EXPECT_EQ(plan.sources[plan.groups[0].encoded[0].keep].array, uint32_t{kXKeep});
  EXPECT_EQ(dropped, (std::vector<uint32_t>{kO0, kO1, kOKeep, kK, kV, kKvKeep, kCodes, kCodesScale}));
}

}  // namespace
}  // namespace mimo
