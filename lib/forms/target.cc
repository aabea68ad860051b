#include "lib/forms/target.h"

#include <algorithm>

#include "lib/forms/form.h"
#include "lib/model/declaration.h"
#include "lib/model/family.h"

namespace mimo {
namespace {

std::string HeadsText(const std::vector<AttentionShape>& shapes) {
  std::string text;
  for (const AttentionShape& s : shapes)
    text += (text.empty() ? "" : " and ") + std::to_string(s.heads) + " Q, " + std::to_string(s.kv_heads) + " KV heads";
  return text;
}

}  // namespace

bool Target::resizes(const ModelConfig& source) const {
  return model.global.heads != source.global.heads || model.window.heads != source.window.heads ||
         model.intermediate != source.intermediate || model.moe_intermediate != source.moe_intermediate ||
         model.vocab != source.vocab;
}

Result<Choice> ChooseAttentionStorage(Planning* p) {
  for (const AttentionWeights& a : p->inventory.attention) {
    if (a.first() == kNone) continue;
    const Weight& weight = p->inventory.weights[a.first()];
    if (p->inventory.quantized_attention && !weight.in_blocks()) continue;
    return ChooseStorage(p, weight, weight.id, p->catalogue.arrays[weight.array].name);
  }
  return Choice();
}

Target StartTarget(const Planning& p, const Choice& attention) {
  const ModelConfig& config = p.catalogue.config;
  Target target;
  target.model = config;
  target.model.global = LogicalShape(config, false);
  target.model.window = LogicalShape(config, true);
  target.block_rows = p.options.fp8_block_rows > 0 ? p.options.fp8_block_rows : config.block_rows;
  target.keeps_fp8 = p.inventory.quantized_attention && attention.moves();
  return target;
}

std::vector<AttentionShape> AttentionShapes(const Planning& p) {
  std::vector<AttentionShape> shapes;
  const std::vector<AttentionWeights>& layers = p.inventory.attention;
  for (const bool windowed : {false, true})
    if (std::any_of(layers.begin(), layers.end(), [&](const AttentionWeights& a) {
          return p.catalogue.config.windowed_at(a.layer, a.mtp) == windowed;
        }))
      shapes.push_back(p.target.model.attention(windowed));
  return shapes;
}

bool Fits(const Planning& p, const QkvLayout& layout) {
  const auto shapes = AttentionShapes(p);
  return std::all_of(shapes.begin(), shapes.end(), [&](const AttentionShape& s) { return LayoutFits(layout, s); });
}

Status CheckFits(const Planning& p, const std::string& wish) {
  if (Fits(p, p.target.qkv)) return {};
  return UsageError(wish + " does not fit this model")
      .Expected("a chunk count that divides the Q heads, and that divides the KV heads or is a multiple of them: " +
                HeadsText(AttentionShapes(p)))
      .Found(p.target.qkv.ToString());
}

Status CheckNamed(const Planning& p, const std::string& wish) {
  const Family& family = *p.catalogue.config.family;
  if (!p.target.qkv.fused() || family.fused_attention || p.inventory.fused) return {};
  return UsageError(wish + ": no reader of " + family.title + " knows fused attention")
      .Expected("--qkv split, as the releases have it")
      .Found(p.target.qkv.ToString());
}

bool AnyStraddles(const Planning& p, const QkvLayout& layout) {
  const ModelConfig& config = p.catalogue.config;
  for (const bool windowed : {false, true}) {
    const AttentionShape& s = p.target.model.attention(windowed);
    const QkvMap source = BuildQkvMap(p.layout.layout, LogicalShape(config, windowed), config.block_rows);
    if (LayoutFits(layout, s) && Straddles(source, BuildQkvMap(layout, s, p.target.block_rows))) return true;
  }
  return false;
}

bool MixedAttention(const Planning& p) {
  size_t blocks = 0, others = 0;
  for (const AttentionWeights& a : p.inventory.attention)
    for (const uint32_t weight : a.in_order())
      if (weight != kNone) ++(p.inventory.weights[weight].in_blocks() ? blocks : others);
  return blocks > 0 && others > 0;
}

bool DeclaresOtherwise(const Planning& p) {
  const std::string& said = p.catalogue.config.projection_layout;
  const bool layout = p.view == nullptr && p.like == nullptr && !said.empty() && !p.inventory.attention.empty() &&
                      (said == "fused_qkv") != p.inventory.fused;
  // What is restored gets the config that it had, which may have declared otherwise then.
  const bool restored = p.target.restores && p.catalogue.origin;
  const std::string& config = restored ? p.catalogue.origin->config : p.catalogue.config.text;
  return layout || DeniesScaleFormat(p) ||
         ((p.view == nullptr || restored) && !Disagreements(Declaration(config), p.catalogue, p.inventory).empty());
}

bool ShownOtherwise(const Planning& p) {
  return p.view != nullptr && !Disagreements(Declaration(p.catalogue.config.text), p.catalogue, p.inventory).empty();
}

bool DeniesScaleFormat(const Planning& p) {
  return p.catalogue.config.scale_fmt == "ue8m0" &&
         p.facts.attention_scales - p.facts.zero_scales > p.facts.power_of_two_scales;
}

bool RouterIsBf16(const Planning& p) {
  for (const Weight& weight : p.inventory.weights)
    if (weight.id.role == Role::kRouter) return p.catalogue.arrays[weight.array].dtype == DType::kBF16;
  return false;
}

bool SameAsIndependent(const Planning& p) {
  for (const AttentionShape& s : AttentionShapes(p)) {
    const QkvMap a = BuildQkvMap(p.target.qkv, s, p.target.block_rows);
    const QkvMap b = BuildQkvMap(kOwnGrids, s, p.target.block_rows);
    if (ComposeRows(a, b) != ComposeRows(b, b) || a.bands != b.bands) return false;
  }
  return true;
}

}  // namespace mimo
