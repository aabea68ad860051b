// The plan: what a conversion will do, as data. A pure function of (catalogue, facts, options): independent of paths,
// threads, memory and device. The executor (lib/run) does exactly what stands here, --dry-run prints it, JSON carries
// it (schemas/plan.schema.json). Orders in these vectors are meaningful and deterministic.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/encode.h"
#include "lib/base/hash.h"
#include "lib/base/status.h"
#include "lib/decode/source_array.h"
#include "lib/io/container.h"
#include "lib/io/dtype.h"
#include "lib/io/safetensors/container.h"
#include "lib/layout/decide.h"
#include "lib/model/catalogue.h"
#include "lib/model/inventory.h"
#include "lib/plan/options.h"

namespace mimo {

// ---- what is written

// A rectangle of a source that becomes one of an output. Rows are those of OutputArray::rows(), columns are elements of
// the last dimension: stored ones (bytes of packed codes) where the transform moves, values where it decodes.
struct Piece {
  uint32_t source = kNone;  // into Plan::sources; kNone: padding, OutputArray::pad
  int64_t source_row = 0;
  int64_t target_row = 0;
  int64_t rows = 0;  // kTranspose: of the target; the source rectangle has `cols` rows and `rows` columns
  int64_t source_col = 0;
  int64_t target_col = 0;
  int64_t cols = 0;  // 0: whole rows of both (not with kTranspose)
};

// What happens to each element on the way. Codes are E4M3.
enum class Adjust : uint8_t {
  kAsIs,
  kHalve,   // codes / 2, ties to even where a bit is lost (counted)
  kDouble,  // codes * 2; beyond 448 is an anomaly
  kNeuron,  // E4M3(BF16(code) / (448 / 240)): the rule of the published Neuron scripts
  kCentre,  // values of an F32 array of one row, moved whole, less their mean: CentreValues (lib/decode/decode.h)
  kScale,   // values (kMove: of F32 arrays; kConvert) times OutputArray::factor, in FP32, before the one rounding
};

enum class Transform : uint8_t {
  kMove,       // bytes as they are (whole rows)
  kConvert,    // decode and encode: value codecs -> BF16, FP16, FP32
  kRelayout,   // FP8 codes under a new block grid: described by the group's cells, `pieces` is empty
  kScales,     // the scales of kRelayout outputs, described by the same cells; `pieces` is empty
  kEncode,     // codes of one of the group's encoded weights, made from the values of `pieces`
  kBeside,     // its scales, global and input scale: `pieces` is empty
  kInvert,     // one F32 each: 1 / x (global scales between dialects)
  kTranspose,  // rectangles turned over: of stored elements where target_codec is a block codec, else of values,
               // decoded first
  kConstant,   // OutputArray::constant; `pieces` is empty
};

struct OutputArray {
  std::string name;
  TensorId id;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  uint32_t file = 0;   // into Plan::files
  uint64_t begin = 0;  // byte range in that file
  uint64_t end = 0;
  Transform transform = Transform::kMove;
  Codec target_codec = Codec::kBf16;  // kConvert
  bool unchanged = false;             // name, dtype, shape and bytes are those of one source array
  Adjust adjust = Adjust::kAsIs;      // kMove, kConvert, kTranspose
  float factor = 1;                   // Adjust::kScale
  // kConvert of BF16 values to F32: a source of the same shape in F32, whose bits each element takes that they round
  // to; others are the values widened (OutputDelta::inexact_codes counts them). kNone: all are.
  uint32_t keep = kNone;
  std::string pad;            // bytes of one element, for pieces without a source; "" is zeros
  std::string constant;       // kConstant: the bytes of the array
  std::vector<Piece> pieces;  // ascending by (target_row, target_col), covering every element once
  uint32_t group = 0;         // into Plan::groups
  int64_t rows() const { return MatrixRows(shape); }
  uint64_t row_bytes() const { return rows() == 0 ? 0 : (end - begin) / static_cast<uint64_t>(rows()); }
};

// Rows of codes inside one target cell row, all under one source scale row; or rows of plain values that become codes.
struct CellSegment {
  uint32_t source = kNone;  // codes, or values (SourceArray::codec, not quantized), into Plan::sources; kNone: padding,
                            // zero codes, which fit any scale
  int64_t source_row = 0;
  uint32_t output = kNone;  // codes, into Plan::outputs
  int64_t target_row = 0;
  int64_t rows = 0;
  uint32_t scale = kNone;  // source scales, into Plan::sources; kNone where `source` is, or has values
  int64_t scale_row = 0;
  float factor = 1;  // the values are those of the source times this: its scales are, in FP32
};

// One row of target scales and all code rows under it.
struct CellRow {
  uint32_t scale_output = kNone;  // into Plan::outputs
  int64_t scale_row = 0;
  bool moved = false;  // all segments with a source share one scale row and factor: codes and scales are copied; scales
                       // of 1 where there is none
  std::vector<CellSegment> segments;  // not empty; all of codes, or all of values (but for padding)
  // Cells of values only: row `keep_row` of source `keep` (F32) has a scale for each block, which stays that of the
  // block while its values fit (kernels::EncodeJob::keep); kNone: scales are made anew.
  uint32_t keep = kNone;
  int64_t keep_row = 0;
};

// A weight in a block codec that is made from values. Its arrays are outputs of one group; several weights may be rows
// of the same (the experts of a rank), each with scales and scalars of its own in them.
struct EncodedWeight {
  kernels::Encoding encoding;
  int64_t period = 0;       // kFp8Block: the grid begins anew every so many rows (chunks of fused attention); 0: never
  uint32_t codes = kNone;   // into Plan::outputs, kEncode; rows of the matrix are rows of codes
  int64_t row = 0;          // of `codes`: where the weight begins; no piece reaches beyond it
  int64_t rows = 0;         // 0: all rows of `codes`
  uint32_t scales = kNone;  // kBeside, as are those below
  int64_t scale_row = 0;    // of `scales`: where those of the weight begin
  uint32_t global = kNone;  // kNvfp4: F32
  bool global_divides = false;
  uint32_t share = 0;      // kNvfp4: weights of a group with one number share the global scale
  uint32_t input = kNone;  // F32, `input_value` as it is stored
  float input_value = 1;
  int64_t scalar = 0;   // which elements of `global` and `input` are the weight's: from this one on
  int64_t scalars = 1;  // so many, all alike
  // kFp8Block, kMxfp4: scales of the shape of `scales`, into Plan::sources, each kept while the values of its block fit
  // (kernels::EncodeJob::keep); kNone: all are made anew.
  uint32_t keep = kNone;

  int64_t RowsIn(const OutputArray& array) const { return rows > 0 ? rows : array.rows(); }
};

// Rows of scales of a block FP8 matrix of `rows` rows.
inline int64_t BlockRowsOf(int64_t rows, const EncodedWeight& weight) {
  const int64_t period = weight.period > 0 ? weight.period : rows;
  const int64_t block = weight.encoding.block_rows;
  return period == 0 ? 0 : rows / period * ((period + block - 1) / block);
}

// Outputs that are made together; the unit of execution. Row strips of a group are independent, but for cells of
// kRelayout (never cut), rows of encoded weights (cut at multiples of kEncodeRows and of the block) and global scales:
// NVFP4 weights that share one (EncodedWeight::share) have it taken from all of them before the first is encoded.
inline constexpr int64_t kEncodeRows = kernels::kStatRows;
struct FuseGroup {
  std::string label;                   // "model.layers.3.self_attn", for people
  std::vector<uint32_t> outputs;       // into Plan::outputs, ascending
  std::vector<CellRow> cells;          // kRelayout only, in (scale_output, scale_row) order
  std::vector<EncodedWeight> encoded;  // kEncode only, by (codes, row)
  bool SharesGlobal() const { return !encoded.empty() && HasGlobal(encoded[0].encoding.codec); }
  uint64_t straddling_blocks = 0;  // blocks that will be re-quantized unless their scales turn out equal
  uint32_t file_group = 0;
};

struct PlanFile {
  std::string name;                                      // "model_mtp.safetensors"
  const Container* container = &SafetensorsContainer();  // how arrays lie in it; of Containers(), never null
  std::string header;            // as it is written; empty where there is none, or it is that of `source_file`
  uint64_t bytes = 0;            // whole file
  bool unchanged = false;        // every tensor is, and the file may be linked to source file `source_file`
  uint32_t source_file = kNone;  // into Catalogue::files
  uint32_t file_group = 0;
  std::vector<uint32_t> outputs;                                                       // into Plan::outputs, by offset
  bool HasHeaderOfSource() const { return container->HasHeader() && header.empty(); }  // whose arrays these are
};

// Rows of two sources that must hold the same bytes: replicas of which one is read. Checked before anything is
// published.
struct EqualRows {
  uint32_t first = kNone;  // into Plan::sources
  uint32_t second = kNone;
  int64_t first_row = 0;
  int64_t second_row = 0;
  int64_t rows = 0;
};

enum class Fate : uint8_t { kUsed, kDropped };
struct SourceFate {
  uint32_t array = kNone;  // into Catalogue::arrays
  Fate fate = Fate::kUsed;
  std::string reason;  // dropped: why
};

// Small files that the plan writes itself.
struct TextFile {
  std::string name;  // config.json, model.safetensors.index.json
  std::string content;
};

struct Plan {
  std::string tool_version;
  std::string form = "hf";
  PlanOptions options;
  Hash128 source_fingerprint;
  LayoutVerdict source_layout;
  QkvLayout target_layout;
  std::vector<SourceArray> sources;  // what is read
  std::vector<OutputArray> outputs;  // by (file, begin)
  std::vector<FuseGroup> groups;
  std::vector<PlanFile> files;  // by name
  uint32_t file_groups = 0;
  std::vector<EqualRows> equal;
  std::vector<SourceFate> fates;  // every array of the catalogue, in its order
  std::vector<TextFile> texts;
  std::vector<std::string> carried;  // names of Catalogue::carried that travel along
  std::vector<std::string> notes;    // for people: what engines will make of it, what is assumed
  // Totals.
  uint64_t payload_bytes = 0;
  uint64_t straddling_blocks = 0;
  bool lossless = true;  // nothing that is made rounds (equal scales found at run time aside)
  Hash128 digest;        // of everything above but tool_version
};

}  // namespace mimo
