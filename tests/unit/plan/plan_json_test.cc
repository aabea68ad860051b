// Plans as text: what is written is what is read, and nothing inconsistent gets through.
#include "lib/plan/plan_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/unit/plan/full_plan.h"

namespace mimo::plan_json_test {
namespace {

using namespace full_plan;

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
  for (const SourceArray& s : plan.sources) {
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
}  // namespace mimo::plan_json_test
