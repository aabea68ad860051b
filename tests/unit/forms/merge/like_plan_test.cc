// The plan of giving a run back to its reference: every array of the reference in its place, each element from the run
// or, where the run has none, from the reference.
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "lib/forms/merge/merge_form.h"
#include "lib/plan/plan_json.h"
#include "lib/planner/planner.h"
#include "tests/unit/forms/merge/like_pair.h"
#include "tests/unit/planner/plan_origins.h"

namespace mimo::like_plan_test {
namespace {

using made::Model;

class PlanLike : public ::testing::Test {
 protected:
  Result<Plan> Make(const Model& run, const Model& reference, const PlanOptions& options) {
    auto merged = made::Merged(run, reference);
    EXPECT_TRUE(merged.ok()) << merged.error().Message();
    merged_ = std::move(merged).value();
    return MakePlan(merged_, options);
  }
  Plan Must(const Model& run, const Model& reference, const PlanOptions& options) {
    auto plan = Make(run, reference, options);
    EXPECT_TRUE(plan.ok()) << plan.error().Message();
    if (!plan.ok()) return {};
    const Status valid = ValidatePlan(merged_.stored, *plan);
    EXPECT_TRUE(valid.ok()) << valid.error().Message();
    return std::move(plan).value();
  }
  static PlanOptions Options() {
    PlanOptions options;
    options.like = true;
    return options;
  }
  const StoredArray& Array(const Plan& plan, uint32_t source) const {
    return merged_.stored.arrays[plan.sources[source].array];
  }

  const Model reference_ = made::ReferenceModel();
  const Model run_ = made::RunModel(reference_);
  Checkpoint merged_;
};

bool IsGraft(const std::string& name) {
  return name.find("mtp") != std::string::npos || name.starts_with("visual");
}

// Reference mimo-checkpoints.md 3.1: chunk c of fused(C) is its query heads, then K, then V.
std::pair<std::string, int64_t> RowOfFused(const Model& m, bool window, int64_t row) {
  const int64_t chunks = m.layout.chunks, kv = (window ? m.swa_kv : m.kv) / chunks, q = m.heads / chunks;
  const int64_t each = q * m.head_dim + kv * (m.head_dim + m.v_head_dim), c = row / each, in = row % each;
  if (in < q * m.head_dim) return {"q", c * q * m.head_dim + in};
  if (in < (q + kv) * m.head_dim) return {"k", c * kv * m.head_dim + in - q * m.head_dim};
  return {"v", c * kv * m.v_head_dim + in - (q + kv) * m.head_dim};
}

TEST_F(PlanLike, EveryArrayOfTheReferenceInItsPlace) {
  const Plan plan = Must(run_, reference_, Options());
  const Catalogue reference = made::Make(reference_);
  std::map<std::string, const OutputArray*> outputs;
  for (const OutputArray& output : plan.outputs) EXPECT_TRUE(outputs.emplace(output.name, &output).second);
  EXPECT_EQ(outputs.size(), reference.arrays.size());
  for (const StoredArray& array : reference.arrays) {
    ASSERT_TRUE(outputs.contains(array.name)) << array.name;
    const OutputArray& output = *outputs.at(array.name);
    EXPECT_EQ(output.dtype, array.dtype) << array.name;
    EXPECT_EQ(output.shape, array.shape) << array.name;
    EXPECT_EQ(output.begin, array.begin) << array.name;
    EXPECT_EQ(output.end, array.begin + array.bytes) << array.name;
    EXPECT_EQ(plan.files[output.file].name, reference.files[array.file].name) << array.name;
    EXPECT_EQ(output.unchanged, IsGraft(array.name)) << array.name;
  }
  // Headers are the reference's own; a file of grafts alone may be linked.
  ASSERT_EQ(plan.files.size(), reference.files.size());
  for (const PlanFile& file : plan.files) {
    EXPECT_TRUE(file.HasHeaderOfSource());
    ASSERT_LT(file.source_file, merged_.stored.files.size());
    EXPECT_EQ(merged_.stored.PathOf(merged_.stored.files[file.source_file]), "/reference/" + file.name);
    EXPECT_EQ(file.bytes, merged_.stored.files[file.source_file].bytes);
    EXPECT_EQ(file.unchanged, file.name == "model_mtp.safetensors");
  }
  EXPECT_FALSE(plan.lossless);
}

TEST_F(PlanLike, EveryElementIsTheRuns) {
  for (const int variant : {0, 1, 2}) {
    SCOPED_TRACE(variant);
    Model reference = reference_;
    if (variant == 1) reference.layout = {QkvKind::kSplitIndependent, 1};
    if (variant == 2) reference.fp8 = false, reference.expert_storage = Storage::kPlain;
    const Plan plan = Must(run_, reference, Options());
    const made::PlanOrigins origins(merged_.stored, plan);
    const auto of_run = [&](const std::string& name, int64_t row, int64_t col) {
      const uint32_t array = merged_.stored.by_name.at("run/" + name);
      return made::ElementId(array, row * made::Cols(merged_.stored.arrays[array].shape) + col);
    };
    size_t checked = 0;
    for (uint32_t o = 0; o < plan.outputs.size(); ++o) {
      const OutputArray& output = plan.outputs[o];
      const int64_t cols = made::Cols(output.shape);
      if (output.transform == Transform::kEncode || output.transform == Transform::kBeside) continue;  // below
      for (int64_t row = 0; row < output.rows(); ++row) {
        int64_t want = 0;
        if (IsGraft(output.name)) {
          const uint32_t array = merged_.stored.by_name.at(output.name);
          want = made::ElementId(array, row * cols);
        } else if (output.id.part != Part::kWeight) {
          want = made::kMadeAnew;
        } else if (output.id.role == Role::kAttnQkv) {
          const auto [which, at] =
              RowOfFused(reference, reference.windowed[static_cast<size_t>(output.id.layer)] != 0, row);
          std::string name = output.name;
          want = of_run(name.replace(name.find("qkv_proj"), 8, which + "_proj"), at, 0);
        } else {
          want = of_run(output.name, row, 0);
        }
        ASSERT_EQ(origins.ids()[o][static_cast<size_t>(row * cols)], want) << output.name << " row " << row;
        if (want >= 0) {
          ASSERT_EQ(origins.ids()[o][static_cast<size_t>((row + 1) * cols - 1)], want + cols - 1) << output.name;
        }
        ++checked;
      }
    }
    EXPECT_GT(checked, 1000u);
    for (const FuseGroup& group : plan.groups)
      for (const EncodedWeight& w : group.encoded) {
        const OutputArray& codes = plan.outputs[w.codes];
        int64_t rows = 0;
        for (const Piece& piece : codes.pieces) {
          EXPECT_EQ(Array(plan, piece.source).name, "run/" + codes.name);
          EXPECT_EQ(piece.source_row, piece.target_row);
          EXPECT_EQ(piece.source_col, piece.target_col);
          rows += piece.rows;
        }
        EXPECT_EQ(rows, codes.rows());
      }
  }
}

TEST_F(PlanLike, ScalesAreTheReferencesUnlessMadeAnew) {
  for (const Storage experts : {Storage::kFp8Block, Storage::kMxfp4}) {
    for (const bool fresh : {false, true}) {
      Model reference = reference_;
      reference.expert_storage = experts;
      PlanOptions options = Options();
      options.fresh_scales = fresh;
      const Plan plan = Must(run_, reference, options);
      size_t encoded = 0, cells = 0;
      for (const FuseGroup& group : plan.groups) {
        for (const EncodedWeight& w : group.encoded) {
          const OutputArray &codes = plan.outputs[w.codes], &scales = plan.outputs[w.scales];
          const bool expert = codes.id.expert >= 0;
          EXPECT_EQ(w.encoding.codec, expert && experts == Storage::kMxfp4 ? Codec::kMxfp4 : Codec::kFp8Block);
          EXPECT_EQ(w.keep == kNone, fresh);
          EXPECT_TRUE(w.keep == kNone || Array(plan, w.keep).name == scales.name);
          ++encoded;
        }
        for (const CellRow& cell : group.cells) {
          EXPECT_EQ(cell.keep == kNone, fresh);
          if (cell.keep == kNone) continue;
          EXPECT_EQ(Array(plan, cell.keep).name, plan.outputs[cell.scale_output].name);
          EXPECT_EQ(cell.keep_row, cell.scale_row);
          ++cells;
        }
      }
      EXPECT_EQ(encoded, 3u + 2 * 3u);  // MLP of the dense layer, experts of the other
      EXPECT_EQ(cells > 0, !fresh);
    }
  }
}

TEST_F(PlanLike, NothingOfTheRunOrTheReferenceIsLostUnsaid) {
  const Plan plan = Must(run_, reference_, Options());
  ASSERT_EQ(plan.fates.size(), merged_.stored.arrays.size());
  for (const SourceFate& fate : plan.fates) {
    const std::string& name = merged_.stored.arrays[fate.array].name;
    const bool of_run = name.starts_with("run/");
    const bool scale = !of_run && merged_.stored.arrays[fate.array].id.part != Part::kWeight;
    EXPECT_EQ(fate.fate == Fate::kUsed, of_run || IsGraft(name) || scale) << name;
    EXPECT_EQ(fate.reason.empty(), fate.fate == Fate::kUsed) << name;
  }
  std::string notes;
  for (const std::string& note : plan.notes) notes += note + "\n";
  EXPECT_NE(notes.find("MTP layer 0"), std::string::npos) << notes;
  EXPECT_NE(notes.find("tower.vision"), std::string::npos) << notes;
  std::map<std::string, std::string> texts;
  for (const TextFile& text : plan.texts) texts[text.name] = text.content;
  EXPECT_EQ(texts.at("config.json"), made::Make(reference_).config.text);
  // A layer of MTP that the reference has not is left out, and said so.
  Model more = run_, less = reference_;
  more.mtp = 1;
  less.mtp = 0;
  const Plan other = Must(more, less, Options());
  const SourceFate& fate = other.fates[merged_.stored.by_name.at("run/model.mtp.layers.0.enorm.weight")];
  EXPECT_EQ(fate.fate, Fate::kDropped);
  EXPECT_FALSE(fate.reason.empty());
}

TEST_F(PlanLike, RunsOfOtherTypesAreConverted) {
  Model run = run_;
  run.router = DType::kBF16;
  const Plan plan = Must(run, reference_, Options());
  for (const OutputArray& output : plan.outputs)
    if (output.id.role == Role::kRouter) {
      EXPECT_EQ(output.dtype, DType::kF32);
      EXPECT_EQ(output.transform, Transform::kConvert);
    }
}

TEST_F(PlanLike, OptionsThatWouldMakeSomethingElseAreRefused) {
  const auto refused = [&](const std::function<void(PlanOptions&)>& change) {
    PlanOptions options = Options();
    change(options);
    const auto plan = Make(run_, reference_, options);
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(plan.error().code, ErrorCode::kUsage);
  };
  refused([](PlanOptions& o) { o.to = TargetKind::kVllm; });
  refused([](PlanOptions& o) { o.max_shard_bytes = 1 << 20; });
  refused([](PlanOptions& o) { o.text_only = true; });
  refused([](PlanOptions& o) { o.include = {"norm"}; });
  refused([](PlanOptions& o) { o.exclude = {"norm"}; });
  refused([](PlanOptions& o) { o.qkv = QkvWish("split"); });
  refused([](PlanOptions& o) { o.qkv = QkvWish("fused"); });
  refused([](PlanOptions& o) { o.fp8_block_rows = 64; });
  refused([](PlanOptions& o) { o.fold_value_scale = FoldInto::kO; });
  refused([](PlanOptions& o) { o.lossless = true; });
}

// What asks for other codecs asks for the merged checkpoint in a form, not for the reference's files again.
TEST_F(PlanLike, OtherCodecsAreMadeOfTheMergedCheckpoint) {
  PlanOptions recipe = Options();
  recipe.recipe = Recipe();
  EXPECT_NE(Must(run_, reference_, recipe).digest, Must(run_, reference_, Options()).digest);
}

TEST_F(PlanLike, ThePlanIsReadBack) {
  const Plan plan = Must(run_, reference_, Options());
  std::string text;
  ASSERT_TRUE(WritePlanJson(merged_.stored, plan, [&](std::string_view part) {
                text += part;
                return Status();
              }).ok());
  const auto read = ParsePlanJson(merged_.stored, text, "plan.json");
  ASSERT_TRUE(read.ok()) << read.error().Message();
  EXPECT_EQ(read.value().digest, plan.digest);
}

}  // namespace
}  // namespace mimo::like_plan_test
