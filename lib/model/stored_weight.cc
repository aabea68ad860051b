#include "lib/model/stored_weight.h"

#include <initializer_list>

#include "lib/base/checked.h"
#include "lib/base/file_system.h"
#include "lib/model/fp8_grid.h"
#include "lib/model/role_groups.h"
#include "lib/model/scale_values.h"

namespace mimo {

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Error BadArray(const Catalogue& catalogue, const StoredArray& array, std::string what) {
  return BadInput(std::move(what)).File(JoinPath(catalogue.root, catalogue.files[array.file].name)).Tensor(array.name);
}

namespace {

// The files that are here may be whole: what is missing was lost when they were written, or lies in one that is not
// here.
constexpr char kIncomplete[] =
    "if a tensor file is not here yet, bring it; if all are, whoever saved them left this array out: take the weight "
    "with its scales from the checkpoint that they were made from, or save it as BF16";
constexpr int64_t kMxGroup = 32;  // columns that share a scale; for NVFP4:
constexpr int64_t kNvfp4Group = 16;

// Two 4-bit codes to a byte. F4 counts codes, U8 bytes; the bytes are the same.
bool HoldsNibbles(DType dtype) {
  return dtype == DType::kU8 || dtype == DType::kF4;
}
std::string TypeAndShape(const StoredArray& array) {
  return std::string(DTypeName(array.dtype)) + " " + ShapeText(array.shape);
}

class Pairing {
 public:
  Pairing(const Catalogue& catalogue, const WeightParts& parts) : catalogue_(catalogue), parts_(parts) {}

  Result<Weight> Pair() {
    const bool packed = parts_[Part::kPacked] != kNone;
    if (packed && parts_[Part::kWeight] != kNone)
      return Bad(parts_[Part::kPacked], "a weight stored twice")
          .Expected("either " + NameOf(Part::kWeight) + " or this")
          .Found("both")
          .Id("pair.stored_twice")
          .Advice("nothing here says which of the two is meant: export the checkpoint again with one of them");
    weight_.array = parts_[packed ? Part::kPacked : Part::kWeight];
    if (weight_.array == kNone) return Orphan();
    weight_.id = Codes().id;
    weight_.id.part = Part::kWeight;
    MIMO_RETURN_IF_ERROR(packed                            ? PairPacked()
                         : Codes().dtype == DType::kF8E4M3 ? PairBytes()
                         : HoldsNibbles(Codes().dtype)     ? PairNibbles()
                                                           : PairPlain());
    const std::vector<int64_t>& shape = Codes().shape;
    weight_.rows = shape.empty() ? 1 : shape[0];
    weight_.cols = shape.size() < 2 ? 1 : shape[1] * CodesPerElement();
    return weight_;
  }

 private:
  int64_t CodesPerElement() const { return IsPacked(weight_.storage) && Codes().dtype == DType::kU8 ? 2 : 1; }
  const StoredArray& Codes() const { return catalogue_.arrays[weight_.array]; }
  const StoredArray& At(Part part) const { return catalogue_.arrays[parts_[part]]; }
  bool Has(Part part) const { return parts_[part] != kNone; }

  std::string NameOf(Part part) const {
    for (uint32_t array : parts_.of)
      if (array != kNone) return NameOfPart(catalogue_.arrays[array].name, part);
    return "";
  }
  Error Bad(uint32_t array, std::string what) const {
    return BadArray(catalogue_, catalogue_.arrays[array], std::move(what));
  }

  Error Orphan() const {
    for (uint32_t array : parts_.of)
      if (array != kNone)
        return Bad(array, "a scale without its weight")
            .Expected("tensor " + NameOf(Part::kWeight) + " or " + NameOf(Part::kPacked))
            .Found("none in any file")
            .Id("pair.no_weight")
            .Advice(kIncomplete);
    return {};
  }
  Error Lacks(const std::string& what, const std::string& name) const {
    return Bad(weight_.array, what)
        .Expected("tensor " + name)
        .Found(TypeAndShape(Codes()) + ", and no such tensor in any file")
        .Id("pair.no_scale")
        .Advice(kIncomplete);
  }
  // Companions other than these make no storage that is known.
  Status Only(std::initializer_list<Part> known, const std::string& storage) const {
    for (size_t i = 0; i < kPartCount; ++i) {
      const auto part = static_cast<Part>(i);
      bool expected = parts_[part] == weight_.array || !Has(part);
      for (Part one : known) expected |= one == part;
      if (!expected)
        return Bad(parts_[part], "a companion that " + storage + " does not have")
            .Expected("no such tensor beside " + Codes().name)
            .Found(TypeAndShape(At(part)))
            .Id("pair.superfluous")
            .Advice(
                "nothing here says which of the arrays is meant: export the checkpoint again with those of one kind");
    }
    return {};
  }

  Status PairPlain() {
    if (Has(Part::kScale) || Has(Part::kScaleInv)) {
      const Part scale = Has(Part::kScale) ? Part::kScale : Part::kScaleInv;
      const DType dtype = Codes().dtype;
      if (dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32)
        return Bad(weight_.array, "an unquantized weight beside the scale of the codes that it replaced")
            .Expected("no " + At(scale).name + ", which is stale: no value is multiplied by it")
            .Found(TypeAndShape(Codes()) + " beside it")
            .Id("pair.stale_scale")
            .Advice(
                "if the weight was merged, edited or decoded on purpose, have the tool that wrote it save the "
                "checkpoint "
                "without this scale; if not, take weight and scale from the release");
      return Bad(weight_.array, "a weight with scales of another kind")
          .Expected("F8_E4M3 or U8 codes, two-dimensional")
          .Found(TypeAndShape(Codes()) + " beside " + At(scale).name)
          .Id("pair.unknown_codes")
          .Advice("the scales belong to these codes: export the checkpoint again in a storage of docs/sources.md");
    }
    return Only({}, "an unquantized weight");
  }

  // F8_E4M3: type and shape of the scales tell FP8 from MXFP8, under any name.
  Status PairBytes() {
    std::vector<Part> scales;
    for (Part part : {Part::kScaleInv, Part::kScale, Part::kRowScale})
      if (Has(part)) scales.push_back(part);
    if (scales.empty())
      return Lacks("FP8 codes without their scales",
                   NameOf(Part::kScaleInv) + " (block FP8) or " + NameOf(Part::kScale) + " (MXFP8)");
    const Part part = scales[0];
    if (scales.size() > 1)
      return Bad(parts_[scales[1]], "FP8 codes with two arrays of scales")
          .Expected("one of them")
          .Found(TypeAndShape(At(scales[1])) + " beside " + At(part).name)
          .Id("pair.two_scales")
          .Advice("nothing here says which of the two is meant: export the checkpoint again with one of them");
    MIMO_RETURN_IF_ERROR(Only({part, Part::kInputScale}, "a weight of FP8 codes"));
    weight_.scale = parts_[part];
    MIMO_RETURN_IF_ERROR(CheckMatrix());
    if (IsExponentType(At(part).dtype) && part != Part::kRowScale && !LiesOnGrid(At(part))) {
      weight_.storage = Storage::kMxfp8;
      MIMO_RETURN_IF_ERROR(Only({part}, "a weight of FP8 codes under scales of groups"));
      return CheckGroups(kMxGroup);
    }
    if (!IsScaleType(At(part).dtype))
      return Bad(weight_.scale, "scale of the wrong type")
          .Expected("F32, BF16, F16 or E8M0 (FP8), or U8 (MXFP8), two-dimensional")
          .Found(TypeAndShape(At(part)))
          .Advice("export the checkpoint again with one of these");
    return TakeGrid();
  }

  std::optional<Fp8Grid> Grid(const StoredArray& scale) const {
    const ModelConfig& c = catalogue_.config;
    return GridOf({Codes().shape, scale.shape, c.block_rows, c.block_cols, IsAttentionProjection(Codes().id.role),
                   c.declares_blocks});
  }
  // Of exponents: whether they are one to a block or row, and not one to 32 columns (MXFP8), which comes first where
  // shapes mean the same.
  bool LiesOnGrid(const StoredArray& scale) const {
    const std::vector<int64_t>& codes = Codes().shape;
    const bool groups = codes[1] % kMxGroup == 0 && scale.shape == std::vector<int64_t>{codes[0], codes[1] / kMxGroup};
    return !groups && Grid(scale).has_value();
  }

  // FP8 under scales of blocks, rows or the tensor.
  Status TakeGrid() {
    weight_.storage = Storage::kFp8Block;
    weight_.input = parts_[Part::kInputScale];
    const std::optional<Fp8Grid> grid = Grid(catalogue_.arrays[weight_.scale]);
    if (!grid) {
      MIMO_RETURN_IF_ERROR(CheckBlockSize());
      return CheckBlocks();
    }
    weight_.span = grid->span;
    weight_.block_rows = grid->block_rows;
    weight_.block_cols = grid->block_cols;
    if (weight_.span == ScaleSpan::kBlock) MIMO_RETURN_IF_ERROR(CheckBlockSize());
    return weight_.input == kNone ? Status() : CheckInput();
  }

  Status CheckInput() const {
    const StoredArray& input = catalogue_.arrays[weight_.input];
    const bool one = input.shape.empty() || input.shape == std::vector<int64_t>{1};
    if (one && IsScaleType(input.dtype) && !IsExponentType(input.dtype)) return {};
    return Bad(weight_.input, "not a scale of the activations of a whole tensor")
        .Expected("F32, BF16 or F16, [] or [1]")
        .Found(TypeAndShape(input))
        .Advice("export the checkpoint again with one input scale per module, or with dynamic activations");
  }

  // FP8 codes under the name of bytes, as frameworks without the type store them (ml-explore/mlx#3600): scales that are
  // numbers, one to a block or row of as many bytes as the model has elements, leave nothing else.
  bool IsFp8UnderU8() const {
    if (Codes().dtype != DType::kU8 || Has(Part::kScale2) || Codes().shape.size() != 2) return false;
    for (const Part part : {Part::kScaleInv, Part::kScale}) {
      if (!Has(part)) continue;
      const std::optional<Fp8Grid> grid = Grid(At(part));
      return IsScaleType(At(part).dtype) && !IsExponentType(At(part).dtype) && grid && grid->span != ScaleSpan::kTensor;
    }
    return false;
  }

  // U8 under "weight": MXFP4 as the family stores it, or NVFP4 as ModelOpt does.
  Status PairNibbles() {
    if (IsTower(Codes().id.role) || Codes().shape.size() != 2) return PairPlain();
    if (IsFp8UnderU8()) return PairBytes();
    if (!Has(Part::kScale)) {
      if (Has(Part::kScaleInv))
        return Bad(weight_.array, "a weight with scales of another kind")
            .Expected("F8_E4M3 codes, two-dimensional")
            .Found(TypeAndShape(Codes()) + " beside " + At(Part::kScaleInv).name)
            .Id("pair.unknown_codes")
            .Advice("the scales belong to these codes: export the checkpoint again in a storage of docs/sources.md");
      return Lacks("4-bit codes without their scales", NameOf(Part::kScale));
    }
    return PairGroups(Part::kScale2, Part::kInputScale);
  }

  // compressed-tensors.
  Status PairPacked() {
    if (!HoldsNibbles(Codes().dtype))
      return Bad(weight_.array, "packed codes of the wrong type")
          .Expected("U8 or F4, two 4-bit codes per byte")
          .Found(TypeAndShape(Codes()))
          .Advice("only 4-bit floating-point codes are known under this name");
    if (!Has(Part::kScale)) return Lacks("4-bit codes without their scales", NameOf(Part::kScale));
    MIMO_RETURN_IF_ERROR(PairGroups(Part::kGlobalScale, Part::kInputGlobal));
    weight_.global_divides = weight_.storage == Storage::kNvfp4;
    return {};
  }

  // 4-bit codes: the type of the scales tells MXFP4 from NVFP4.
  Status PairGroups(Part global, Part input) {
    const StoredArray& scale = At(Part::kScale);
    weight_.scale = parts_[Part::kScale];
    if (IsExponentType(scale.dtype)) {
      weight_.storage = Storage::kMxfp4;
      MIMO_RETURN_IF_ERROR(Only({Part::kScale}, "an MXFP4 weight"));
      return CheckGroups(kMxGroup);
    }
    if (scale.dtype != DType::kF8E4M3)
      return Bad(weight_.scale, "scale of the wrong type")
          .Expected("U8 (MXFP4) or F8_E4M3 (NVFP4), two-dimensional")
          .Found(TypeAndShape(scale))
          .Advice("export the checkpoint again with one of these");
    weight_.storage = Storage::kNvfp4;
    MIMO_RETURN_IF_ERROR(Only({Part::kScale, global, input}, "this kind of NVFP4 weight"));
    if (!Has(global)) return Lacks("NVFP4 codes without their global scale", NameOf(global));
    weight_.global = parts_[global];
    weight_.input = parts_[input];
    MIMO_RETURN_IF_ERROR(CheckScalar(weight_.global));
    if (weight_.input != kNone) MIMO_RETURN_IF_ERROR(CheckScalar(weight_.input));
    return CheckGroups(kNvfp4Group);
  }

  Status CheckScalar(uint32_t array) const {
    const StoredArray& scalar = catalogue_.arrays[array];
    const bool one = scalar.shape.empty() || (scalar.shape.size() == 1 && scalar.shape[0] == 1);
    if (scalar.dtype == DType::kF32 && one) return {};
    return Bad(array, "not a scale of a whole tensor")
        .Expected("F32 [] or [1]")
        .Found(TypeAndShape(scalar))
        .Advice("export the checkpoint again with one global scale per tensor");
  }

  Status CheckMatrix() const {
    if (Codes().shape.size() == 2) return {};
    return Bad(weight_.array, "codes that are no matrix")
        .Expected("two-dimensional codes")
        .Found(TypeAndShape(Codes()))
        .Advice("experts are stored one by one, under their own names");
  }

  // Kernels encode in strips of 32 columns.
  Status CheckBlockSize() const {
    const ModelConfig& c = catalogue_.config;
    if (c.block_rows > 0 && c.block_cols > 0 && c.block_cols % 32 == 0) return {};
    return BadInput("unsupported quantization block")
        .File(c.path)
        .Expected("weight_block_size of columns in multiples of 32, since " + Codes().name + " is block FP8")
        .Found(ShapeText({c.block_rows, c.block_cols}))
        .Advice("convert the checkpoint to 128 x 128 blocks or to BF16 with the tool that wrote it");
  }

  // Of scales that fit no grid: says which would.
  Status CheckBlocks() const {
    const std::vector<int64_t>& codes = Codes().shape;
    return WrongShape(
        {CeilDiv(codes[0], catalogue_.config.block_rows), CeilDiv(codes[1], catalogue_.config.block_cols)});
  }

  Status CheckGroups(int64_t group) const {
    MIMO_RETURN_IF_ERROR(CheckMatrix());
    const std::vector<int64_t>& codes = Codes().shape;
    const int64_t stored = group / CodesPerElement();  // elements of `codes` per scale
    if (codes[1] % stored != 0)
      return Bad(weight_.array, "rows that are no whole groups of " + std::to_string(group))
          .Expected("a multiple of " + std::to_string(stored) + (stored < group ? " bytes" : " codes") + " per row")
          .Found(TypeAndShape(Codes()))
          .Advice("the file is damaged or not of this family");
    const std::vector<int64_t> expected = {codes[0], codes[1] / stored};
    if (catalogue_.arrays[weight_.scale].shape == expected) return {};
    return WrongShape(expected);
  }

  // What the shape of scales tells of who wrote them.
  std::string AdviceOnShape(const std::vector<int64_t>& expected, const std::vector<int64_t>& found) const {
    int64_t elements = 1;
    for (int64_t extent : found) {
      // A hostile header may hold extents whose product does not fit; no advice depends on that one.
      if (extent != 0 && elements > INT64_MAX / extent) elements = INT64_MAX / extent;
      elements *= extent;
    }
    if (found.size() == 2 && found[0] == expected[1] && found[1] == expected[0])
      return "the scales are transposed: export the checkpoint again with one row of scales per row of the weight";
    if (weight_.storage == Storage::kFp8Block)
      return found == std::vector<int64_t>{expected[0], 1, expected[1], 1}
                 ? "these are the four dimensions of ModelOpt's FP8_PB_WO: store the same numbers in two"
                 : "the file is damaged or not of this family";
    const int64_t tiles = CeilDiv(expected[0], int64_t{128}) * CeilDiv(expected[1], int64_t{4});
    if (elements / 512 == tiles && elements % 512 == 0)
      return "the scales are swizzled into tiles of 128 x 4 for a kernel: export the checkpoint again with linear "
             "scales";
    if (weight_.storage == Storage::kNvfp4 && found.size() == 2 && found[0] == expected[0] && found[1] > 0 &&
        found[1] < expected[1] && expected[1] % found[1] == 0)
      return "these are NVFP4 groups of " + std::to_string(expected[1] / found[1] * kNvfp4Group) +
             ": export the checkpoint again with groups of " + std::to_string(kNvfp4Group);
    return "the file is damaged or not of this family";
  }

  Error WrongShape(const std::vector<int64_t>& expected) const {
    const std::vector<int64_t>& found = catalogue_.arrays[weight_.scale].shape;
    return Bad(weight_.scale, "scale of the wrong shape")
        .Expected(ShapeText(expected) + " for codes of " + ShapeText(Codes().shape))
        .Found(ShapeText(found))
        .Advice(AdviceOnShape(expected, found));
  }

  const Catalogue& catalogue_;
  const WeightParts& parts_;
  Weight weight_;
};

}  // namespace

bool IsReleasedFp8(const Catalogue& catalogue, const Weight& weight) {
  return weight.in_blocks() && catalogue.arrays[weight.array].dtype == DType::kF8E4M3 &&
         catalogue.arrays[weight.scale].dtype == DType::kF32;
}

std::string Fp8Text(const Catalogue& catalogue, const Weight& weight) {
  const DType codes = catalogue.arrays[weight.array].dtype;
  return "FP8" + (codes == DType::kF8E4M3 ? std::string() : " under " + std::string(DTypeName(codes))) + " with " +
         std::string(DTypeName(catalogue.arrays[weight.scale].dtype)) + " scales of " +
         (weight.per_row()      ? "rows"
          : weight.per_tensor() ? "tensors"
                                : "blocks");
}

Result<Weight> PairWeight(const Catalogue& catalogue, const WeightParts& parts) {
  return Pairing(catalogue, parts).Pair();
}

}  // namespace mimo
