// Ranks put together again: a plan made from the view of what a distributed plan writes, composed with it, is the
// identity, element by element.
#include "lib/planner/resolve.h"

#include <gtest/gtest.h>

#include <set>

#include "lib/forms/ranks/rank_view.h"
#include "lib/forms/registry/registry.h"
#include "lib/plan/plan_json.h"
#include "tests/unit/forms/ranks/rank_model.h"

namespace mimo::resolve_test {
namespace {

using made::Cols;
using made::ElementId;
using made::ForManyRanks;
using made::Ids;
using made::kConstantElement;
using made::kMadeAnew;
using made::kPadding;
using made::Model;
using made::Models;
using made::PlanOf;
using made::Ranks;
using made::Wide;

// The catalogue of what a plan writes.
Catalogue Written(const Catalogue& source, const Plan& plan) {
  Catalogue c;
  c.root = "/written";
  c.table = source.table;
  for (const TextFile& text : plan.texts) {
    if (text.name == "config.json") c.config = ParseModelConfig(text.content, text.name).value();
    if (text.name == "mimo-source/config.json") {
      if (!c.origin) c.origin.emplace();
      c.origin->config = text.content;
    }
    if (text.name == "mimo-source/model.safetensors.index.json") {
      if (!c.origin) c.origin.emplace();
      c.origin->index = ParseIndex(text.content, text.name).value();
    }
  }
  for (const PlanFile& file : plan.files) {
    CatalogueFile made;
    made.name = file.name;
    made.bytes = file.bytes;
    c.files.push_back(made);
  }
  for (const OutputArray& output : plan.outputs) {
    StoredArray array;
    array.name = output.name;
    array.dtype = output.dtype;
    array.shape = output.shape;
    array.file = output.file;
    array.begin = output.begin;
    array.bytes = output.end - output.begin;
    if (HeaderName(output.name) == output.name) array.id = c.table->Identify(output.name);
    c.arrays.push_back(std::move(array));
  }
  made::SortArrays(&c);
  return c;
}

// What the outputs of `plan`, made from what `forward` writes, hold of the first source; `forward_ids` by array of
// `written`.
class Composed {
 public:
  Composed(const Catalogue& written, const Plan& forward, const std::vector<Ids>& forward_ids) {
    by_array_.resize(written.arrays.size());
    for (size_t i = 0; i < forward.outputs.size(); ++i)
      by_array_[written.by_name.at(forward.outputs[i].name)] = forward_ids[i];
  }
  int64_t Of(int64_t id) const {
    return id < 0 ? id : by_array_[made::ArrayOfId(id)][static_cast<size_t>(made::ElementOfId(id))];
  }
  const Ids& Array(uint32_t array) const { return by_array_[array]; }

 private:
  std::vector<Ids> by_array_;
};

// Every replica that is compared is one, and everything is read or compared, but for engines' constants, padding and
// shared heads that no block begins with.
void ExpectReplicas(const Catalogue& written, const Plan& back, const std::vector<Ids>& back_ids,
                    const Composed& composed, bool heads_begin_blocks) {
  std::vector<std::vector<bool>> seen;
  for (uint32_t i = 0; i < written.arrays.size(); ++i) seen.emplace_back(composed.Array(i).size(), false);
  const auto see = [&](uint32_t array, int64_t element) { seen[array][static_cast<size_t>(element)] = true; };
  for (const Ids& ids : back_ids)
    for (const int64_t id : ids)
      if (id >= 0) see(made::ArrayOfId(id), made::ElementOfId(id));
  for (const FuseGroup& group : back.groups)  // scales of re-quantized cells are read too
    for (const CellRow& cell : group.cells)
      for (const CellSegment& s : cell.segments) {
        if (s.source == kNone) continue;
        const uint32_t scale = back.sources[s.scale].array;
        const int64_t cols = Cols(written.arrays[scale].shape);
        for (int64_t c = 0; c < cols; ++c) see(scale, s.scale_row * cols + c);
      }
  for (const EqualRows& equal : back.equal) {
    const uint32_t a = back.sources[equal.first].array, b = back.sources[equal.second].array;
    const int64_t cols = Cols(written.arrays[a].shape);
    for (int64_t i = 0; i < equal.rows * cols; ++i) {
      const int64_t x = equal.first_row * cols + i, y = equal.second_row * cols + i;
      const int64_t ours = composed.Array(a)[static_cast<size_t>(x)],
                    theirs = composed.Array(b)[static_cast<size_t>(y)];
      if (ours != theirs) FAIL() << written.arrays[a].name << " and " << written.arrays[b].name << " differ";
      see(a, x);
      see(b, y);
    }
  }
  for (uint32_t i = 0; i < written.arrays.size(); ++i) {
    const StoredArray& array = written.arrays[i];
    const bool shared = !heads_begin_blocks && array.name.find("qkv_proj") != std::string::npos;
    const Ids& ids = composed.Array(i);
    for (size_t e = 0; e < ids.size(); ++e) {
      if (ids[e] == kPadding || ids[e] == kConstantElement || shared) continue;
      if (!seen[i][e]) FAIL() << array.name << ": element " << e << " is never looked at";
    }
  }
}

void ExpectThereAndBack(const Model& model, const PlanOptions& options, bool heads_begin_blocks) {
  const made::Understood u = made::Understand(model);
  const auto forward = PlanOf(u, options);
  ASSERT_TRUE(forward.ok()) << forward.error().Message();
  const made::PlanOrigins there(u.catalogue, forward.value());
  const Catalogue written = Written(u.catalogue, forward.value());
  ASSERT_EQ(FormOfStored(written).kind(), FormKind::kShardedState);
  const auto view = ViewOfRanks(written);
  ASSERT_TRUE(view.ok()) << view.error().Message();
  const auto inventory = TakeInventory(view.value().catalogue);
  ASSERT_TRUE(inventory.ok()) << inventory.error().Message();
  LayoutVerdict verdict;
  verdict.layout = {QkvKind::kFused, view.value().chunks};
  const ViewedPlan viewed{view.value(), written};
  PlanOptions restore;  // --to hf
  restore.qkv = QkvWish("restore");
  const auto made = MakePlan(view.value().catalogue, inventory.value(), verdict, restore, {}, &viewed);
  ASSERT_TRUE(made.ok()) << made.error().Message();
  const Plan& back = made.value();
  const Status valid = ValidatePlan(written, back);
  ASSERT_TRUE(valid.ok()) << valid.error().Message();

  const made::PlanOrigins home(written, back);
  const Composed composed(written, forward.value(), there.ids());
  EXPECT_EQ(back.target_layout, model.layout);
  std::set<std::string> names;
  for (size_t i = 0; i < back.outputs.size(); ++i) {
    const OutputArray& output = back.outputs[i];
    names.insert(output.name);
    const StoredArray* source = u.catalogue.Find(output.name);
    ASSERT_NE(source, nullptr) << output.name;
    EXPECT_EQ(output.shape, source->shape) << output.name;
    EXPECT_FALSE(output.unchanged);
    EXPECT_EQ(back.files[output.file].name, u.catalogue.files[source->file].name) << output.name;
    EXPECT_EQ(output.dtype, source->dtype) << output.name;
    const uint32_t array = u.catalogue.by_name.at(output.name);
    const bool attention_scales = output.transform == Transform::kScales;
    for (size_t e = 0; e < home.ids()[i].size(); ++e) {
      const int64_t id = composed.Of(home.ids()[i][e]);
      if (attention_scales && id == kMadeAnew && !forward.value().lossless) continue;
      const int64_t wanted = ElementId(array, static_cast<int64_t>(e));
      if (id != wanted) FAIL() << output.name << ": element " << e << " is " << id << " and not " << wanted;
    }
  }
  EXPECT_EQ(names.size(), u.catalogue.arrays.size());
  if (forward.value().lossless) {
    EXPECT_TRUE(back.lossless);
    EXPECT_EQ(back.straddling_blocks, 0u);
    EXPECT_EQ(back.texts[0].content, u.catalogue.config.text);
  }
  for (const SourceFate& fate : back.fates) {
    const bool constant =
        forward.value().lossless && written.arrays[fate.array].name.find(".attn.") != std::string::npos;
    if (constant) {
      EXPECT_EQ(fate.fate, Fate::kDropped);
      EXPECT_NE(fate.reason.find("constant"), std::string::npos) << fate.reason;
    }
  }
  ExpectReplicas(written, back, home.ids(), composed, heads_begin_blocks);
}

TEST(Resolve, ThereAndBackIsTheIdentity) {
  for (const auto& [what, model] : Models()) {
    for (const int64_t tp : {1, 2, 4, 8}) {
      for (const int64_t ep : std::set<int64_t>{1, tp}) {
        SCOPED_TRACE(what + ", TP " + std::to_string(tp) + ", EP " + std::to_string(ep));
        ExpectThereAndBack(model, Ranks(tp, ep), true);
      }
    }
  }
}

TEST(Resolve, SharedHeadsOfManyRanksAreReadOnceAndCompared) {
  for (const int64_t tp : {16, 32}) {
    SCOPED_TRACE(tp);
    ExpectThereAndBack(ForManyRanks(), Ranks(tp), tp < 32);
  }
}

TEST(Resolve, ARouterThatWasWidenedComesBackAsItWas) {
  Model widened = Wide();
  widened.router = DType::kBF16;
  ExpectThereAndBack(widened, Ranks(2), true);
}

TEST(Resolve, AnotherLayoutThanTheSources) {
  const made::Understood u = made::Understand(Wide());
  const Plan forward = PlanOf(u, Ranks(4)).value();
  const made::PlanOrigins there(u.catalogue, forward);
  const Catalogue written = Written(u.catalogue, forward);
  const View view = ViewOfRanks(written).value();
  const Inventory inventory = TakeInventory(view.catalogue).value();
  LayoutVerdict verdict;
  verdict.layout = {QkvKind::kFused, 4};
  PlanOptions split;
  split.qkv = QkvWish("split");
  const ViewedPlan viewed{view, written};
  const auto back = MakePlan(view.catalogue, inventory, verdict, split, {}, &viewed);
  ASSERT_TRUE(back.ok()) << back.error().Message();
  const made::PlanOrigins home(written, back.value());
  const Composed composed(written, forward, there.ids());
  // fused(4) of 48:32:32 rows: a chunk has 8 Q heads and a KV head; K's rows follow 384 rows of Q.
  bool seen = false;
  for (size_t i = 0; i < back.value().outputs.size(); ++i) {
    if (back.value().outputs[i].name != "model.layers.0.self_attn.k_proj.weight") continue;
    seen = true;
    ASSERT_EQ(back.value().outputs[i].shape, (std::vector<int64_t>{4 * 48, 64}));
    const uint32_t qkv = u.catalogue.by_name.at("model.layers.0.self_attn.qkv_proj.weight");
    for (int64_t row = 0; row < 192; ++row)
      for (int64_t col = 0; col < 64; ++col)
        ASSERT_EQ(composed.Of(home.ids()[i][static_cast<size_t>(row * 64 + col)]),
                  ElementId(qkv, (row / 48 * (384 + 48 + 32) + 384 + row % 48) * 64 + col));
  }
  EXPECT_TRUE(seen);
}

// Experts of ranks by rows and by columns: each matrix is encoded from what the ranks have of it.
TEST(Resolve, WhatRanksHoldIsQuantizedInTheSameRun) {
  const made::Understood u = made::Understand(Wide());
  const Catalogue written = Written(u.catalogue, PlanOf(u, Ranks(4)).value());
  const View view = ViewOfRanks(written).value();
  const Inventory inventory = TakeInventory(view.catalogue).value();
  LayoutVerdict verdict;
  verdict.layout = {QkvKind::kFused, 4};
  PlanOptions recipe;
  recipe.recipe =
      ParseRecipe(R"({"name": "x", "rules": [{"roles": ["expert.gate", "expert.up", "expert.down"], "to": "mxfp8"}]})",
                  "the recipe")
          .value();
  const ViewedPlan viewed{view, written};
  const auto plan = MakePlan(view.catalogue, inventory, verdict, recipe, {}, &viewed);
  ASSERT_TRUE(plan.ok()) << plan.error().Message();
  size_t seen = 0;
  for (const OutputArray& output : plan.value().outputs) {
    if (output.transform != Transform::kEncode) continue;
    ++seen;
    ASSERT_EQ(output.pieces.size(), 4u) << output.name;
    const bool columns = output.id.role == Role::kExpertDown;
    for (size_t rank = 0; rank < 4; ++rank) {
      const Piece& piece = output.pieces[rank];
      EXPECT_TRUE(written.arrays[plan.value().sources[piece.source].array].name.starts_with(
          "rank" + std::to_string(rank) + "/"));
      const int64_t part = columns ? output.shape[1] / 4 : output.shape[0] / 4;
      EXPECT_EQ(columns ? piece.target_col : piece.target_row, static_cast<int64_t>(rank) * part) << output.name;
    }
  }
  EXPECT_GT(seen, 0u);
}

}  // namespace
}  // namespace mimo::resolve_test
