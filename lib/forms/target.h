// What a conversion aims at: the layout of attention and the dimensions of the output.
#pragma once

#include <string>
#include <vector>

#include "lib/forms/choice.h"

namespace mimo {

struct Planning;

struct Target {
  QkvLayout qkv;
  bool keeps_fp8 = false;       // attention is block FP8, in and out
  bool decodes = false;         // an engine's attention becomes BF16, whatever it is stored as
  bool restores = false;        // the layout that the checkpoint says it was made from
  bool narrows_router = false;  // an F32 router that is kept becomes BF16 again, which another form widened
  bool rounds_router = false;   // the form rounds an F32 router
  ModelConfig model;            // dimensions of the output, padding included; KV heads before replication
  int64_t block_rows = 128;     // of block FP8 weights that are kept
  std::string table;            // the table or template that names the form's arrays, where it has several

  bool resizes(const ModelConfig& source) const;  // the dimensions differ from those of the source
};

// What attention is to be stored as. The first layer speaks for all: a rule that tells layers apart by name is still
// honoured layer by layer, in the layout that is chosen from this.
Result<Choice> ChooseAttentionStorage(Planning* p);

// The target as far as no form decides it: the source's dimensions, blocks as asked for, whether attention stays FP8.
Target StartTarget(const Planning& p, const Choice& attention);

// The kinds of attention that the model has (full, sliding-window), with the dimensions of the target.
std::vector<AttentionShape> AttentionShapes(const Planning& p);
// Whether `layout` fits all attention of the target.
bool Fits(const Planning& p, const QkvLayout& layout);
// kUsage when the target's layout does not fit; `wish` is what asked for it.
Status CheckFits(const Planning& p, const std::string& wish);
// Whether readers of the family's Hugging Face directories have a name for such attention: kUsage for fused attention
// of a family whose engines know none.
Status CheckNamed(const Planning& p, const std::string& wish);
// Whether a block of attention under `layout`, where that fits, takes rows from under several scales of the source.
bool AnyStraddles(const Planning& p, const QkvLayout& layout);
// Whether attention is in blocks of FP8 in some layers and not in others.
bool MixedAttention(const Planning& p);
// Whether the source's config declares weights as something else than they are: what is written says what is stored.
bool DeclaresOtherwise(const Planning& p);
// The same of what a view shows: weights that its form keeps otherwise than the config declares.
bool ShownOtherwise(const Planning& p);
// Whether it says that scales are powers of two, and some that were looked at are not.
bool DeniesScaleFormat(const Planning& p);
// Whether the source stores its routers as BF16.
bool RouterIsBf16(const Planning& p);
// Whether the target's layout is split attention whose grids are each array's own.
bool SameAsIndependent(const Planning& p);

}  // namespace mimo
