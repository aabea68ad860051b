// Zeros at tails and blocks of another height, element by element.
#include "lib/draft/resize.h"

#include <gtest/gtest.h>

#include <numeric>

#include "lib/plan/plan_json.h"
#include "tests/unit/planner/made_checkpoint.h"
#include "tests/unit/planner/plan_origins.h"

namespace mimo::resize_test {
namespace {

using made::ElementId;
using made::kPadding;
using made::Model;

TEST(Resize, ElementsKeepTheirPlacesAndTheRestIsPadding) {
  for (int64_t source_rows = 1; source_rows <= 3; ++source_rows)
    for (int64_t source_cols = 1; source_cols <= 3; ++source_cols)
      for (int64_t rows = 1; rows <= 4; ++rows)
        for (int64_t cols = 1; cols <= 4; ++cols) {
          std::vector<std::pair<int64_t, int64_t>> from(static_cast<size_t>(rows * cols), {-9, -9});
          std::pair<int64_t, int64_t> last(-1, -1);
          for (const Piece& p : ResizedPieces(7, {source_rows, source_cols}, {rows, cols})) {
            EXPECT_LT(last, std::pair(p.target_row, p.target_col));  // ascending
            last = {p.target_row, p.target_col};
            ASSERT_GT(p.rows, 0);
            if (p.source != kNone && p.cols == 0) {
              EXPECT_EQ(source_cols, cols);  // whole rows of both
            }
            EXPECT_TRUE(p.source == 7 || p.source == kNone);
            const int64_t width = p.cols == 0 ? cols : p.cols;
            for (int64_t r = 0; r < p.rows; ++r)
              for (int64_t c = 0; c < width; ++c) {
                const int64_t row = p.target_row + r, col = p.target_col + c;
                ASSERT_TRUE(row < rows && col < cols);
                auto& at = from[static_cast<size_t>(row * cols + col)];
                EXPECT_EQ(at.first, -9);
                at = p.source == kNone ? std::pair<int64_t, int64_t>(-1, -1)
                                       : std::pair(p.source_row + r, p.source_col + c);
              }
          }
          for (int64_t row = 0; row < rows; ++row)
            for (int64_t col = 0; col < cols; ++col) {
              const bool inside = row < source_rows && col < source_cols;
              EXPECT_EQ(from[static_cast<size_t>(row * cols + col)],
                        inside ? std::pair(row, col) : std::pair(int64_t{-1}, int64_t{-1}));
            }
        }
}

struct Built {
  made::Understood u;
  Draft draft;
  explicit Built(const Model& model) : u(made::Understand(model)), draft(u.catalogue, u.inventory) {}
  const Weight& Named(const std::string& name) const {
    const uint32_t array = u.catalogue.by_name.at(name);
    for (const Weight& w : u.inventory.weights)
      if (w.array == array) return w;
    ADD_FAILURE() << name;
    return u.inventory.weights[0];
  }
  // Outputs and sources in the order in which they were added.
  Plan plan() const {
    Plan plan;
    plan.sources = draft.sources;
    for (const DraftGroup& group : draft.groups)
      for (const DraftOutput& output : group.outputs) plan.outputs.push_back(output);
    return plan;
  }
};

TEST(Resize, ShapesFollowTheModelTable) {
  Model model = made::Quarter();
  model.tower = true;
  Built b(model);
  ModelConfig larger = b.u.catalogue.config;
  larger.global.heads = 48;
  larger.window.heads = 64;
  larger.intermediate = 288;
  larger.moe_intermediate = 320;
  larger.vocab = 192;
  const auto shape = [&](const std::string& name) {
    return ResizedShape(b.u.catalogue, b.Named(name), larger).value();
  };
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(shape("model.embed_tokens.weight"), (Shape{192, 64}));
  EXPECT_EQ(shape("lm_head.weight"), (Shape{192, 64}));
  EXPECT_EQ(shape("model.layers.0.self_attn.o_proj.weight"), (Shape{64, 48 * 32}));
  EXPECT_EQ(shape("model.layers.1.self_attn.o_proj.weight"), (Shape{64, 64 * 32}));
  EXPECT_EQ(shape("model.mtp.layers.0.self_attn.o_proj.weight"), (Shape{64, 64 * 32}));  // windowed
  EXPECT_EQ(shape("model.layers.1.self_attn.attention_sink_bias"), (Shape{64}));
  EXPECT_EQ(shape("model.layers.0.mlp.gate_proj.weight"), (Shape{288, 64}));
  EXPECT_EQ(shape("model.mtp.layers.0.mlp.down_proj.weight"), (Shape{64, 288}));
  EXPECT_EQ(shape("model.layers.1.mlp.experts.3.down_proj.weight"), (Shape{64, 320}));
  EXPECT_EQ(shape("model.layers.1.mlp.gate.weight"), (Shape{8, 64}));
  EXPECT_EQ(shape("model.norm.weight"), (Shape{64}));
  EXPECT_EQ(shape("visual.patch_embed.weight"), (Shape{3, 5}));
  Model mxfp4 = made::Quarter();
  mxfp4.expert_storage = Storage::kMxfp4;
  Built packed(mxfp4);
  const Weight& up = packed.Named("model.layers.1.mlp.experts.0.up_proj.weight");
  EXPECT_EQ(ResizedShape(packed.u.catalogue, up, larger).value(), (Shape{320, 64}));  // elements, not bytes
}

// Each array of a weight: what its elements are, and what fills the rest.
void ExpectResized(Built& b, const std::string& name, const std::vector<int64_t>& shape,
                   const std::vector<std::tuple<std::string, std::vector<int64_t>, std::string>>& expected) {
  b.draft.BeginGroup(name);
  b.draft.AddKept(b.Named(name));
  ResizeAdded(b.draft, b.Named(name), shape);
  const Plan plan = b.plan();
  ASSERT_EQ(plan.outputs.size(), expected.size());
  const made::PlanOrigins origins(b.u.catalogue, plan);
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto& [array, wanted, pad] = expected[i];
    const OutputArray& output = plan.outputs[i];
    EXPECT_EQ(output.name, array);
    EXPECT_EQ(output.shape, wanted) << array;
    EXPECT_EQ(output.pad, pad) << array;
    EXPECT_EQ(output.transform, Transform::kMove);
    EXPECT_EQ(output.adjust, Adjust::kAsIs);
    const uint32_t index = b.u.catalogue.by_name.at(array);
    const StoredArray& stored = b.u.catalogue.arrays[index];
    EXPECT_EQ(output.dtype, stored.dtype);
    for (int64_t r = 0; r < wanted[0]; ++r)
      for (int64_t c = 0; c < wanted[1]; ++c) {
        const bool inside = r < stored.shape[0] && c < stored.shape[1];
        ASSERT_EQ(origins.ids()[i][static_cast<size_t>(r * wanted[1] + c)],
                  inside ? ElementId(index, r * stored.shape[1] + c) : kPadding)
            << array << " " << r << "," << c;
      }
  }
}

TEST(Resize, ScalesOfPaddingAreOne) {
  const std::string one("\x00\x00\x80\x3f", 4);  // F32
  const std::string up = "model.layers.1.mlp.experts.2.up_proj.weight", down = "model.layers.0.mlp.down_proj.weight";
  Built rows(made::Quarter());
  ExpectResized(rows, up, {320, 64}, {{up, {320, 64}, ""}, {up + "_scale_inv", {10, 2}, one}});
  Built cols(made::Quarter());
  ExpectResized(cols, down, {64, 272}, {{down, {64, 272}, ""}, {down + "_scale_inv", {2, 9}, one}});  // half a block
  Built smaller(made::Quarter());
  ExpectResized(smaller, down, {64, 200}, {{down, {64, 200}, ""}, {down + "_scale_inv", {2, 7}, one}});
  Model mxfp4 = made::Quarter();
  mxfp4.expert_storage = Storage::kMxfp4;
  Built packed(mxfp4);
  const std::string packed_down = "model.layers.1.mlp.experts.2.down_proj.weight";
  // E8M0 of 1 is 127.
  ExpectResized(packed, packed_down, {64, 320},
                {{packed_down, {64, 160}, ""}, {packed_down + "_scale", {64, 10}, "\x7f"}});
}

// Blocks of another height: every row of codes must still find the scale that it had, or one that is checked to equal
// it.
TEST(Regrid, EveryRowFindsItsScale) {
  for (const int64_t rows : {256, 192, 240}) {  // the last: an odd tail under every height
    for (const int64_t height : {8, 16, 32, 48, 64, 128}) {
      SCOPED_TRACE(std::to_string(rows) + " rows under blocks of " + std::to_string(height));
      Model model = made::Quarter();
      model.intermediate = rows;
      Built b(model);
      const std::string name = "model.layers.0.mlp.gate_proj.weight";
      const Weight& weight = b.Named(name);
      ASSERT_EQ(weight.block_rows, 32);
      b.draft.BeginGroup(name);
      AddRegridded(b.draft, weight, height);
      const Plan plan = b.plan();
      ASSERT_EQ(plan.outputs.size(), 2u);
      EXPECT_TRUE(plan.outputs[0].unchanged);
      const OutputArray& scales = plan.outputs[1];
      EXPECT_EQ(scales.name, name + "_scale_inv");
      EXPECT_EQ(scales.shape, (std::vector<int64_t>{(rows + height - 1) / height, 2}));
      const made::PlanOrigins origins(b.u.catalogue, plan);
      // Rows of scales that are compared are of one set.
      std::vector<int64_t> set(static_cast<size_t>((rows + 31) / 32));
      std::iota(set.begin(), set.end(), 0);
      const uint32_t array = b.u.catalogue.by_name.at(name + "_scale_inv");
      for (const EqualRows& equal : b.draft.equal) {
        ASSERT_EQ(plan.sources[equal.first].array, array);
        ASSERT_EQ(plan.sources[equal.second].array, array);
        for (int64_t i = 0; i < equal.rows; ++i) {
          ASSERT_LT(static_cast<size_t>(equal.first_row + i), set.size());
          ASSERT_LT(static_cast<size_t>(equal.second_row + i), set.size());
          const int64_t from = set[static_cast<size_t>(equal.second_row + i)];
          const int64_t to = set[static_cast<size_t>(equal.first_row + i)];
          std::replace(set.begin(), set.end(), from, to);
        }
      }
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t taken = made::ElementOfId(origins.ids()[1][static_cast<size_t>(row / height * 2)]) / 2;
        ASSERT_EQ(set[static_cast<size_t>(taken)], set[static_cast<size_t>(row / 32)]) << row;
      }
      // And no more is asked for than that: where blocks only become lower, nothing has to be equal.
      if (32 % height == 0) {
        EXPECT_TRUE(b.draft.equal.empty());
      }
      if (height == 64 && rows == 256) {
        EXPECT_EQ(b.draft.equal.size(), 4u);
      }
    }
  }
}

}  // namespace
}  // namespace mimo::resize_test
