// What each rank of vLLM holds of a checkpoint, written out element by element from the engine's sharding (reference
// target-layouts.md 1.6, 4.1, 6), not asked of the library; and the checkpoints to try it on.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>
#include <tuple>

#include "lib/planner/planner.h"
#include "tests/unit/planner/made_checkpoint.h"
#include "tests/unit/planner/plan_origins.h"

namespace mimo::made {

struct Want {
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  Ids ids;
  std::string file;
};

// The ranks of vLLM, from the source checkpoint that Make(model) describes.
class Engine {
 public:
  Engine(const Model& model, const Catalogue& source, int64_t tp, int64_t ep)
      : m_(model), c_(source), t_(tp), ep_(ep) {}

  std::map<std::string, Want> Rank(int64_t rank) {
    r_ = rank;
    wants_.clear();
    part_ = "model-rank-" + std::to_string(rank) + "-part-0.safetensors";
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) Vocabulary(name);
    Replicated("model.norm.weight");
    for (size_t layer = 0; layer < m_.windowed.size(); ++layer) {
      part_ = "model-rank-" + std::to_string(rank) + "-part-" + std::to_string(layer + 1) + ".safetensors";
      Layer("model.layers." + std::to_string(layer) + ".", m_.windowed[layer] != 0, m_.moe[layer] != 0, false);
    }
    for (int layer = 0; layer < m_.mtp; ++layer) {
      part_ = "mtp-rank-" + std::to_string(rank) + "-part-" + std::to_string(layer) + ".safetensors";
      Layer("model.mtp.layers." + std::to_string(layer) + ".", true, false, true);
    }
    return wants_;
  }

  // Blocks of ranks that no source scale fits.
  int64_t straddling() const { return straddling_; }

 private:
  // The first element of a row; those after it follow in the same row of the source.
  using Row = std::function<int64_t(int64_t row)>;

  int64_t At(const std::string& name, int64_t row, int64_t col) const {
    const uint32_t array = c_.by_name.at(name);
    EXPECT_LT(row, c_.arrays[array].rows()) << name;
    EXPECT_LT(col, Cols(c_.arrays[array].shape)) << name;
    return ElementId(array, row * Cols(c_.arrays[array].shape) + col);
  }
  const StoredArray& Array(const std::string& name) const { return c_.arrays[c_.by_name.at(name)]; }

  void Add(const std::string& name, DType dtype, std::vector<int64_t> shape, const Row& first) {
    Want want{dtype, std::move(shape), {}, part_};
    const int64_t rows = MatrixRows(want.shape), cols = Cols(want.shape);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t id = first(row);
      for (int64_t col = 0; col < cols; ++col) want.ids.push_back(id < 0 ? id : id + col);
    }
    EXPECT_TRUE(wants_.emplace(name, std::move(want)).second) << name;
  }

  void Vocabulary(const std::string& name) {
    const int64_t each = (m_.vocab + 63) / 64 * 64 / t_;
    Add(name, DType::kBF16, {each, m_.hidden},
        [&](int64_t row) { return r_ * each + row < m_.vocab ? At(name, r_ * each + row, 0) : kPadding; });
  }

  void Replicated(const std::string& name, std::string engine_name = "", std::optional<DType> dtype = {}) {
    if (engine_name.empty()) engine_name = name;
    Add(engine_name, dtype.value_or(Array(name).dtype), Array(name).shape,
        [&](int64_t row) { return At(name, row, 0); });
  }

  // The arrays that belong to a weight: the weight itself and its scales.
  std::vector<std::string> Parts(const std::string& weight) const {
    std::vector<std::string> parts = {""};
    for (const char* scale : {"_scale_inv", "_scale"})
      if (c_.by_name.contains(weight + scale)) parts.emplace_back(scale);
    return parts;
  }

  // Row `i` of head `head`: array and row in the source, and the row of its scale.
  std::tuple<std::string, int64_t, int64_t> SourceRow(const std::string& p, char projection, int64_t kv, int64_t head,
                                                      int64_t i) const {
    const int64_t d = m_.head_dim, e = m_.v_head_dim, row = head * (projection == 'v' ? e : d) + i;
    if (!m_.layout.fused())
      return {p + "self_attn." + projection + "_proj.weight", row, row / m_.block};  // independent grids
    const int64_t chunks = m_.layout.chunks, nq = m_.heads / chunks, nk = kv / chunks;
    const int64_t chunk_rows = nq * d + nk * (d + e), per = projection == 'q' ? nq : nk;
    int64_t in_chunk = head % per * (projection == 'v' ? e : d) + i;
    if (projection != 'q') in_chunk += nq * d;
    if (projection == 'v') in_chunk += nk * d;
    const int64_t chunk = head / per, blocks = (chunk_rows + m_.block - 1) / m_.block;
    return {p + "self_attn.qkv_proj.weight", chunk * chunk_rows + in_chunk, chunk * blocks + in_chunk / m_.block};
  }

  void Attention(const std::string& p, int64_t kv) {
    const int64_t d = m_.head_dim, e = m_.v_head_dim, nq = m_.heads / t_, nk = std::max<int64_t>(1, kv / t_);
    const int64_t first_kv = r_ * kv / t_, rows = nq * d + nk * (d + e);
    const auto row_of = [&](int64_t j) {
      if (j < nq * d) return SourceRow(p, 'q', kv, r_ * nq + j / d, j % d);
      j -= nq * d;
      if (j < nk * d) return SourceRow(p, 'k', kv, first_kv + j / d, j % d);
      j -= nk * d;
      return SourceRow(p, 'v', kv, first_kv + j / e, j % e);
    };
    const std::string name = p + "self_attn.qkv_proj.weight";
    Add(name, m_.fp8 ? DType::kF8E4M3 : DType::kBF16, {rows, m_.hidden}, [&](int64_t row) {
      const auto [array, source_row, scale_row] = row_of(row);
      return At(array, source_row, 0);
    });
    if (!m_.fp8) return;
    Add(name + "_scale_inv", DType::kF32, {(rows + m_.block - 1) / m_.block, Up(m_.hidden, m_.block)},
        [&](int64_t block) {
          std::set<std::pair<std::string, int64_t>> scales;
          for (int64_t j = block * m_.block; j < std::min((block + 1) * m_.block, rows); ++j) {
            const auto [array, source_row, scale_row] = row_of(j);
            scales.emplace(array + "_scale_inv", scale_row);
          }
          if (scales.size() == 1) return At(scales.begin()->first, scales.begin()->second, 0);
          straddling_ += Up(m_.hidden, m_.block);
          return kMadeAnew;
        });
  }

  void Columns(const std::string& name) {
    for (const std::string& part : Parts(name)) {
      const StoredArray& a = Array(name + part);
      std::vector<int64_t> shape = a.shape;
      shape.back() /= t_;
      Add(name + part, a.dtype, shape, [&](int64_t row) { return At(name + part, row, r_ * shape.back()); });
    }
  }

  void Layer(const std::string& p, bool windowed, bool moe, bool mtp) {
    Replicated(p + "input_layernorm.weight");
    if (mtp)
      for (const char* name :
           {"enorm.weight", "hnorm.weight", "eh_proj.weight", "pre_mlp_layernorm.weight", "final_layernorm.weight"})
        Replicated(p + name);
    else
      Replicated(p + "post_attention_layernorm.weight");
    Attention(p, windowed ? m_.swa_kv : m_.kv);
    Columns(p + "self_attn.o_proj.weight");
    if (windowed) Columns(p + "self_attn.attention_sink_bias");
    for (const char* name : {"_q_scale", "_k_scale", "_v_scale", "_prob_scale"})
      Add(p + "self_attn.attn." + name, DType::kF32, {}, [](int64_t) { return kConstantElement; });
    if (m_.fp8 || m_.expert_storage != Storage::kPlain)  // the config says fp8
      for (const char* name : {"q_scale", "k_scale", "v_scale", "prob_scale"})
        Add(p + "self_attn.attn." + name, DType::kBF16, {}, [](int64_t) { return kConstantElement; });
    if (!moe) {
      GateUp(p + "mlp.");
      Columns(p + "mlp.down_proj.weight");
      return;
    }
    Replicated(p + "mlp.gate.weight", "", m_.router_dtype == "bfloat16" ? DType::kBF16 : DType::kF32);
    Replicated(p + "mlp.gate.e_score_correction_bias", p + "mlp.experts.routed_experts.e_score_correction_bias",
               DType::kF32);
    Experts(p + "mlp.experts.");
  }

  void GateUp(const std::string& p) {
    for (const std::string& part : Parts(p + "gate_proj.weight")) {
      const StoredArray& a = Array(p + "gate_proj.weight" + part);
      const int64_t each = a.shape[0] / t_;
      Add(p + "gate_up_proj.weight" + part, a.dtype, {2 * each, a.shape[1]}, [&](int64_t row) {
        return At(p + (row < each ? "gate" : "up") + "_proj.weight" + part, r_ * each + row % each, 0);
      });
    }
  }

  void Experts(const std::string& p) {
    const int64_t local = m_.experts / ep_, first = ep_ > 1 ? r_ * local : 0;
    const int64_t parts = ep_ > 1 ? 1 : t_, at = ep_ > 1 ? 0 : r_;
    const auto name = [&](int64_t expert, const std::string& projection) {
      return p + std::to_string(expert) + "." + projection + "_proj.weight";
    };
    for (const std::string& part : Parts(name(0, "gate"))) {
      const StoredArray& gate = Array(name(0, "gate") + part);
      const int64_t each = gate.shape[0] / parts;
      Add(p + "routed_experts.w13_weight" + part, gate.dtype, {local, 2 * each, gate.shape[1]}, [&](int64_t row) {
        const int64_t expert = first + row / (2 * each), in = row % (2 * each);
        return At(name(expert, in < each ? "gate" : "up") + part, at * each + in % each, 0);
      });
      const StoredArray& down = Array(name(0, "down") + part);
      const int64_t width = down.shape[1] / parts;
      Add(p + "routed_experts.w2_weight" + part, down.dtype, {local, down.shape[0], width}, [&](int64_t row) {
        return At(name(first + row / down.shape[0], "down") + part, row % down.shape[0], at * width);
      });
    }
  }

  const Model& m_;
  const Catalogue& c_;
  const int64_t t_, ep_;
  int64_t r_ = 0, straddling_ = 0;
  std::string part_;
  std::map<std::string, Want> wants_;
};

inline Model Wide() {
  Model m = Quarter();
  m.tower = true;
  return m;
}

// What real checkpoints are made of, and what they are not.
inline std::vector<std::pair<std::string, Model>> Models() {
  std::vector<std::pair<std::string, Model>> models = {{"FP8 fused(4)", Wide()}};
  Model mxfp4 = Wide();
  mxfp4.expert_storage = Storage::kMxfp4;
  mxfp4.router = DType::kBF16;
  mxfp4.router_dtype = "bfloat16";
  models.emplace_back("MXFP4 experts, BF16 router", mxfp4);
  Model plain = Wide();
  plain.fp8 = false;
  plain.expert_storage = Storage::kPlain;
  plain.layout = {QkvKind::kSplitIndependent, 1};
  models.emplace_back("BF16 split", plain);
  Model independent = Wide();
  independent.layout = {QkvKind::kSplitIndependent, 1};
  models.emplace_back("FP8 with a grid per tensor", independent);
  Model fused1 = Wide();
  fused1.layout = {QkvKind::kFused, 1};
  models.emplace_back("FP8 fused(1)", fused1);
  Model pro = Wide();
  pro.kv = 8;
  pro.layout = {QkvKind::kFused, 8};
  models.emplace_back("FP8 fused(8), 8 KV heads everywhere", pro);
  return models;
}

// More ranks than KV heads of any layer; at 32, Q of a rank ends inside a block, and ranks from 25 on have only padding
// of the vocabulary.
inline Model ForManyRanks() {
  Model model = Wide();
  model.intermediate = model.moe_intermediate = 1024;
  model.hidden = 32;
  model.experts = 2;
  return model;
}

inline PlanOptions Ranks(int64_t tp, int64_t ep = 1) {
  PlanOptions o;
  o.to = TargetKind::kVllm;
  o.format = FormKind::kShardedState;
  o.tp = tp;
  o.ep = ep;
  return o;
}

inline Result<Plan> PlanOf(const Understood& u, const PlanOptions& options) {
  return MakePlan(u.catalogue, u.inventory, u.verdict, options);
}

inline std::string RankName(int64_t rank, const std::string& name) {
  return "rank" + std::to_string(rank) + "/" + name;
}

}  // namespace mimo::made
