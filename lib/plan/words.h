// The words that enumerations of the plan and its options have in JSON, on the command line and in messages: one table
// each, here or in the headers below.
#pragma once

#include "lib/base/words.h"
#include "lib/model/forms.h"
#include "lib/model/names.h"
#include "lib/plan/plan.h"
#include "lib/recipe/codec_words.h"
#include "lib/recipe/recipe_words.h"

namespace mimo {

inline constexpr Words<DTypeChoice, 4> kDTypeChoices{{{DTypeChoice::kKeep, "keep"},
                                                      {DTypeChoice::kBf16, "bf16"},
                                                      {DTypeChoice::kFp16, "fp16"},
                                                      {DTypeChoice::kFp32, "fp32"}}};
inline constexpr Words<StraddlePolicy, 3> kStraddlePolicies{
    {{StraddlePolicy::kRequantize, "requant"}, {StraddlePolicy::kBf16, "bf16"}, {StraddlePolicy::kRefuse, "refuse"}}};
inline constexpr Words<UnknownPolicy, 3> kUnknownPolicies{
    {{UnknownPolicy::kRefuse, "refuse"}, {UnknownPolicy::kCarry, "carry"}, {UnknownPolicy::kDrop, "drop"}}};
inline constexpr Words<TargetKind, 5> kTargets{{{TargetKind::kHf, "hf"},
                                                {TargetKind::kVllm, "vllm"},
                                                {TargetKind::kSglang, "sglang"},
                                                {TargetKind::kNxdi, "nxdi"},
                                                {TargetKind::kMegatron, "megatron"}}};
inline constexpr Words<AttentionStorage, 4> kAttentionStorages{{{AttentionStorage::kAuto, "auto"},
                                                                {AttentionStorage::kFused, "fused"},
                                                                {AttentionStorage::kSplit, "split"},
                                                                {AttentionStorage::kBf16, "bf16"}}};
// PlanOptions::fresh_scales.
inline constexpr Words<bool, 2> kScalePolicies{{{false, "sticky"}, {true, "fresh"}}};
// What --format takes; kHf there is the target's usual form.
inline constexpr auto kFormats = Only(kForms, {FormKind::kHf, FormKind::kShardedState, FormKind::kTorchDist});
inline constexpr Words<Transform, 9> kTransforms{{{Transform::kMove, "move"},
                                                  {Transform::kConvert, "convert"},
                                                  {Transform::kRelayout, "relayout"},
                                                  {Transform::kScales, "scales"},
                                                  {Transform::kEncode, "encode"},
                                                  {Transform::kBeside, "beside"},
                                                  {Transform::kInvert, "invert"},
                                                  {Transform::kTranspose, "transpose"},
                                                  {Transform::kConstant, "constant"}}};
inline constexpr Words<Adjust, 6> kAdjusts{{{Adjust::kAsIs, "none"},
                                            {Adjust::kHalve, "halve"},
                                            {Adjust::kDouble, "double"},
                                            {Adjust::kNeuron, "neuron"},
                                            {Adjust::kScale, "scale"},
                                            {Adjust::kCentre, "centre"}}};
inline constexpr Words<QkvKind, 3> kQkvKinds{
    {{QkvKind::kFused, "fused"}, {QkvKind::kSplit, "split"}, {QkvKind::kSplitIndependent, "independent"}}};
inline constexpr Words<Part, 9> kParts{{{Part::kWeight, "weight"},
                                        {Part::kScaleInv, "scale_inv"},
                                        {Part::kScale, "scale"},
                                        {Part::kScale2, "scale_2"},
                                        {Part::kInputScale, "input_scale"},
                                        {Part::kPacked, "packed"},
                                        {Part::kGlobalScale, "global_scale"},
                                        {Part::kInputGlobal, "input_global_scale"},
                                        {Part::kRowScale, "row_scale"}}};

static_assert(NamesEach(kTransforms) && NamesEach(kAdjusts) && NamesEach(kParts));

}  // namespace mimo
