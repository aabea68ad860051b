// The words that enumerations of the plan have in JSON; one table each, used by the writer and the reader.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "lib/model/names.h"
#include "lib/plan/plan.h"

namespace mimo::plan_words {

template <class T, size_t N>
using Words = std::array<std::pair<T, std::string_view>, N>;

inline constexpr Words<DTypeChoice, 4> kDTypeChoices{{{DTypeChoice::kKeep, "keep"},
                                                      {DTypeChoice::kBf16, "bf16"},
                                                      {DTypeChoice::kFp16, "fp16"},
                                                      {DTypeChoice::kFp32, "fp32"}}};
inline constexpr Words<StraddlePolicy, 3> kStraddlePolicies{
    {{StraddlePolicy::kRequantize, "requant"}, {StraddlePolicy::kBf16, "bf16"}, {StraddlePolicy::kRefuse, "refuse"}}};
inline constexpr Words<UnknownPolicy, 3> kUnknownPolicies{
    {{UnknownPolicy::kRefuse, "refuse"}, {UnknownPolicy::kCarry, "carry"}, {UnknownPolicy::kDrop, "drop"}}};
inline constexpr Words<Codec, 7> kCodecs{{{Codec::kFp32, "fp32"},
                                          {Codec::kFp16, "fp16"},
                                          {Codec::kBf16, "bf16"},
                                          {Codec::kFp8Block, "fp8"},
                                          {Codec::kMxfp4, "mxfp4"},
                                          {Codec::kMxfp8, "mxfp8"},
                                          {Codec::kNvfp4, "nvfp4"}}};
inline constexpr Words<Transform, 9> kTransforms{{{Transform::kMove, "move"},
                                                  {Transform::kConvert, "convert"},
                                                  {Transform::kRelayout, "relayout"},
                                                  {Transform::kScales, "scales"},
                                                  {Transform::kEncode, "encode"},
                                                  {Transform::kBeside, "beside"},
                                                  {Transform::kInvert, "invert"},
                                                  {Transform::kTranspose, "transpose"},
                                                  {Transform::kConstant, "constant"}}};
inline constexpr Words<Adjust, 5> kAdjusts{{{Adjust::kAsIs, "none"},
                                            {Adjust::kHalve, "halve"},
                                            {Adjust::kDouble, "double"},
                                            {Adjust::kNeuron, "neuron"},
                                            {Adjust::kScale, "scale"}}};
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

inline constexpr Words<Container, 2> kContainers{
    {{Container::kSafetensors, "safetensors"}, {Container::kTorchItems, "torch-items"}}};

template <class T, size_t N>
constexpr std::string_view WordOf(const Words<T, N>& words, T value) {
  for (const auto& [v, word] : words) {
    if (v == value) return word;
  }
  return "?";
}

template <class T, size_t N>
constexpr std::optional<T> FromWord(const Words<T, N>& words, std::string_view text) {
  for (const auto& [v, word] : words) {
    if (word == text) return v;
  }
  return std::nullopt;
}

}  // namespace mimo::plan_words
