// A run merged with the checkpoint that it came from: what is shown, whose it is and where it goes.
#include "lib/forms/merge/merge.h"

#include <gtest/gtest.h>

#include "tests/unit/forms/merge/like_pair.h"

namespace mimo::merge_test {
namespace {

using made::Model;

class MergedLike : public ::testing::Test {
 protected:
  const Model reference_ = made::ReferenceModel();
  const Model run_ = made::RunModel(reference_);
};

// The stored array that a shown one is, whole.
const StoredArray* Whole(const Checkpoint& c, const std::string& shown) {
  const auto found = c.view->catalogue.by_name.find(shown);
  if (found == nullptr) return nullptr;
  const auto& fragments = c.view->fragments[*found];
  const StoredArray& array = c.view->catalogue.arrays[*found];
  if (fragments.size() != 1 || fragments[0].rows != array.rows() || fragments[0].row != 0) return nullptr;
  return &c.stored.arrays[fragments[0].array];
}

std::string RootOf(const Checkpoint& c, const StoredArray& array) {
  return c.stored.PathOf(c.stored.files[array.file]);
}

TEST_F(MergedLike, ReplacedArraysAndGraftsAndTheRun) {
  auto merged = made::Merged(run_, reference_);
  ASSERT_TRUE(merged.ok()) << merged.error().Message();
  const Catalogue reference = made::Make(reference_), run = made::Make(run_);
  // Stored: everything of both.
  EXPECT_EQ(merged->stored.arrays.size(), reference.arrays.size() + run.arrays.size());
  size_t replaced = 0, grafted = 0;
  for (const StoredArray& array : reference.arrays) {
    SCOPED_TRACE(array.name);
    const bool graft = array.name.find("mtp") != std::string::npos || array.name.starts_with("visual");
    ++(graft ? grafted : replaced);
    const StoredArray* stored = Whole(*merged, (graft ? "" : "ref/") + array.name);
    ASSERT_NE(stored, nullptr);
    EXPECT_EQ(stored->name, array.name);
    EXPECT_EQ(RootOf(*merged, *stored), "/reference/" + reference.files[array.file].name);
    EXPECT_EQ(stored->begin, array.begin);
  }
  EXPECT_GT(replaced, 10u);
  EXPECT_GT(grafted, 10u);
  for (const StoredArray& array : run.arrays) {
    SCOPED_TRACE(array.name);
    const StoredArray* stored = Whole(*merged, array.name);
    ASSERT_NE(stored, nullptr);
    EXPECT_EQ(stored->name, "run/" + array.name);
    EXPECT_EQ(RootOf(*merged, *stored), "/run/" + run.files[array.file].name);
    // In the file where the reference has it, split attention where it has the fused one.
    const StoredArray& shown = *merged->view->catalogue.Find(array.name);
    EXPECT_LT(shown.file, merged->view->real_files);
    const StoredArray* same = reference.Find(array.name);
    EXPECT_TRUE(same == nullptr || shown.file == same->file);
  }
  EXPECT_EQ(merged->view->catalogue.arrays.size(), reference.arrays.size() + run.arrays.size());
  EXPECT_EQ(merged->view->catalogue.config.text, reference.config.text);
}

TEST_F(MergedLike, TheInventoryIsTheRunsThenTheGrafts) {
  auto merged = made::Merged(run_, reference_);
  ASSERT_TRUE(merged.ok());
  const Inventory& all = merged->inventory;
  const Catalogue& shown = merged->view->catalogue;
  const auto run = made::Understand(run_), reference = made::Understand(reference_);
  ASSERT_TRUE(merged->like);
  EXPECT_EQ(merged->like->first_grafted, run.inventory.weights.size());
  EXPECT_EQ(merged->like->reference.weights.size(), reference.inventory.weights.size());
  EXPECT_EQ(all.mtp_layers, 1);
  EXPECT_EQ(merged->like->layout, reference_.layout);
  EXPECT_EQ(merged->layout.layout, run_.layout);
  for (size_t i = 0; i < all.weights.size(); ++i) {
    const Weight& w = all.weights[i];
    const std::string& name = shown.arrays[w.array].name;
    const bool graft = i >= merged->like->first_grafted;
    EXPECT_EQ(graft, name.find("mtp") != std::string::npos || name.starts_with("visual")) << name;
    EXPECT_EQ(shown.arrays[w.array].id.role, w.id.role) << name;
    EXPECT_TRUE(w.scale == kNone || shown.arrays[w.scale].name.starts_with(name)) << "the scale of another weight";
    EXPECT_TRUE(graft || w.storage == Storage::kPlain) << name;
  }
  // Every attention once: two layers of the run, split, and MTP's, fused.
  ASSERT_EQ(all.attention.size(), 3u);
  for (const AttentionWeights& a : all.attention) {
    EXPECT_EQ(a.fused(), a.mtp);
    const uint32_t first = a.fused() ? a.qkv : a.q;
    ASSERT_LT(first, all.weights.size());
    EXPECT_EQ(all.weights[first].id.layer, a.layer);
    EXPECT_EQ(all.weights[first].id.mtp, a.mtp);
    EXPECT_EQ(all.weights[first].id.role, a.fused() ? Role::kAttnQkv : Role::kAttnQ);
  }
  // The reference's weights point to what is shown of it.
  for (size_t i = 0; i < reference.inventory.weights.size(); ++i) {
    const std::string before = reference.catalogue.arrays[reference.inventory.weights[i].array].name;
    const std::string now = shown.arrays[merged->like->reference.weights[i].array].name;
    EXPECT_TRUE(now == before || now == "ref/" + before) << now;
  }
}

TEST_F(MergedLike, ARunOfEverythingLeavesNothingToGraft) {
  Model run = made::RunModel(reference_);
  run.mtp = 1;
  Model reference = reference_;
  reference.tower = false;
  auto merged = made::Merged(run, reference);
  ASSERT_TRUE(merged.ok()) << merged.error().Message();
  EXPECT_EQ(merged->like->first_grafted, merged->inventory.weights.size());
  for (const StoredArray& array : made::Make(reference).arrays)
    EXPECT_TRUE(merged->view->catalogue.by_name.contains("ref/" + array.name)) << array.name;
}

TEST_F(MergedLike, ModelsOfOtherShapesAreRefused) {
  const auto refused = [&](const Model& run) {
    const auto merged = made::Merged(run, reference_);
    ASSERT_FALSE(merged.ok());
    EXPECT_EQ(merged.error().code, ErrorCode::kBadInput);
    EXPECT_NE(merged.error().Message().find("different models"), std::string::npos) << merged.error().Message();
  };
  Model other = run_;
  other.hidden = 128;
  refused(other);
  other = run_;
  other.vocab = 65;
  refused(other);
  other = run_;
  other.swa_kv = 4;
  refused(other);
  other = run_;
  other.heads = 32;
  refused(other);
  other = run_;
  other.moe_intermediate = 128;
  refused(other);
}

TEST_F(MergedLike, AReferenceThatIsNoHuggingFaceDirectory) {
  Checkpoint reference = made::CheckpointOf(reference_, "/reference");
  reference.view = std::make_unique<View>();
  reference.view->form = FormKind::kNxdi;
  reference.view->catalogue = reference.stored;
  const auto merged = MergeLike(made::CheckpointOf(run_, "/run"), std::move(reference));
  ASSERT_FALSE(merged.ok());
  EXPECT_EQ(merged.error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace mimo::merge_test
