#include "lib/forms/ranks/encoded_ranks.h"

#include "lib/decode/row_bytes.h"

namespace mimo {

Result<size_t> EncodedRanks::TensorOf(const DraftOutput& output) const {
  const RankForm& form = places_.form();
  if (const auto tensor = form.Find(output.id.role, output.id.part, output.id.mtp); tensor && HasClass(output.id))
    return *tensor;
  return UsageError("form " + form.name() + " has no place for a weight in this codec")
      .Expected("linear layers in block FP8, NVFP4 or MXFP8, and experts in MXFP4")
      .Found(output.name)
      .Advice("keep it in the recipe, or store it as BF16");
}

Status EncodedRanks::Add(const DraftGroup& group) {
  const auto stack = [&](const EncodedWeight& weight) -> Result<std::tuple<bool, int32_t, size_t>> {
    const DraftOutput& codes = group.outputs[weight.codes];
    MIMO_ASSIGN_OR_RETURN(const size_t tensor, TensorOf(codes));
    return std::tuple(codes.id.mtp, codes.id.layer, tensor);
  };
  MIMO_ASSIGN_OR_RETURN(const auto first, stack(group.encoded[0]));
  for (const EncodedWeight& weight : group.encoded) {
    MIMO_ASSIGN_OR_RETURN(const auto key, stack(weight));
    if (weight.global != kNone && key != first)
      return UsageError("weights that share a global scale are in different arrays of a rank")
          .Expected("two runs: the recipe first, then --format sharded-state")
          .Found(group.outputs[weight.codes].name);
    stacks_[key].push_back({&group, &weight});
  }
  return {};
}

Status EncodedRanks::Make() {
  for (const auto& [key, members] : stacks_)
    MIMO_RETURN_IF_ERROR(MakeStack(places_.form().tensors()[std::get<2>(key)], std::get<1>(key), members));
  return {};
}

Status EncodedRanks::MakeStack(const RankTensor& tensor, int32_t layer, const std::vector<Member>& members) {
  const Member& first = members[0];
  std::map<const DraftGroup*, uint32_t> shares;
  for (const Member& member : members) {
    const EncodedWeight& a = *first.weight;
    const EncodedWeight& b = *member.weight;
    if (a.encoding != b.encoding || (a.input == kNone) != (b.input == kNone))
      return UsageError("weights that a rank holds in one array are quantized differently")
          .Expected("as " + first.Codes().name)
          .Found(member.Codes().name)
          .Advice("widen the rule");
    const auto next = static_cast<uint32_t>(shares.size());
    if (member.weight->global != kNone) shares.try_emplace(member.group, next);
  }
  draft_.BeginGroup(NameInLayer(tensor.pattern, layer));
  for (const int64_t rank : places_.ranks()) {
    MIMO_ASSIGN_OR_RETURN(const Arrays arrays, AddArrays(first, rank));
    for (const Member& member : members) {
      const auto share = shares.find(member.group);
      MIMO_RETURN_IF_ERROR(Cut(tensor, member, share == shares.end() ? 0 : share->second, rank, arrays));
    }
    OutputArray& codes = draft_.group().outputs[arrays.codes];
    SortPieces(&codes.pieces);
    const int64_t columns = RowElements(codes.shape) * (IsPacked(first.weight->encoding.codec) ? 2 : 1);
    MIMO_RETURN_IF_ERROR(CheckFilled(codes, columns, NameInLayer(tensor.pattern, layer)));
  }
  if (first.weight->global == kNone || first.weight->input != kNone) return {};
  if (const auto unused = places_.form().Find(tensor.of[0], Part::kInputScale, tensor.mtp))
    return outputs_.AddUnused(places_.form().tensors()[*unused], layer, first.Codes().near);
  return {};
}

Result<uint32_t> EncodedRanks::AddArray(const DraftOutput& planned, int64_t rank) {
  MIMO_ASSIGN_OR_RETURN(const size_t index, TensorOf(planned));
  const RankTensor& tensor = places_.form().tensors()[index];
  OutputArray output = OutputLike(planned);
  output.id.expert = -1;
  output.shape = places_.ShapeOnRank(tensor, planned.id.layer, planned.shape);
  MIMO_ASSIGN_OR_RETURN(const std::string name, places_.NameOf(tensor, planned.id.layer, output.dtype, output.shape));
  return outputs_.Add(std::move(output), name, tensor.mtp, rank, planned.id.layer, planned.near);
}

Result<EncodedRanks::Arrays> EncodedRanks::AddArrays(const Member& first, int64_t rank) {
  Arrays arrays;
  const EncodedWeight& weight = *first.weight;
  for (const auto& [from, to] : {std::pair(weight.codes, &arrays.codes), std::pair(weight.scales, &arrays.scales),
                                 std::pair(weight.global, &arrays.global), std::pair(weight.input, &arrays.input)}) {
    if (from == kNone) continue;
    MIMO_ASSIGN_OR_RETURN(*to, AddArray(first.Array(from), rank));
  }
  return arrays;
}

Status EncodedRanks::Cut(const RankTensor& tensor, const Member& member, uint32_t share, int64_t rank,
                         const Arrays& arrays) {
  OutputArray values = member.Codes();  // its shape is that of its elements: pieces are rectangles of values
  if (IsPacked(member.weight->encoding.codec)) values.shape.back() *= 2;
  const auto placed = places_.PlaceOf(tensor, values.id, values.shape, rank);
  if (!placed) return {};
  const kernels::Encoding& encoding = member.weight->encoding;
  const bool whole_rows = tensor.cut == Cut::kHeads || !HasBlockScales(encoding.codec) ||
                          placed->rows.size() % encoding.block_rows == 0 || tensor.by_columns();
  if (!whole_rows || placed->cols.size() % kernels::GroupColumns(encoding) != 0)
    return UsageError("what a rank holds of a weight is not whole blocks")
        .Expected("parts of " + std::to_string(encoding.block_rows) + " rows and " +
                  std::to_string(kernels::GroupColumns(encoding)) + " columns")
        .Found(values.name + ": " + std::to_string(placed->rows.size()) + " x " + std::to_string(placed->cols.size()))
        .Advice("another --tp, --ep to place experts whole, or smaller blocks in the recipe");
  DraftGroup& group = draft_.group();
  CutPieces(values, *placed, &group.outputs[arrays.codes].pieces);
  EncodedWeight part = *member.weight;
  part.codes = arrays.codes;
  part.scales = arrays.scales;
  part.global = arrays.global;
  part.input = arrays.input;
  part.period = 0;  // the rank's rows are one chunk
  part.row = placed->target_row;
  part.rows = placed->rows.size();
  part.scale_row = HasBlockScales(part.encoding.codec) ? part.row / part.rows * BlockRowsOf(part.rows, part) : part.row;
  part.share = share;
  const RankForm& form = places_.form();
  if (part.global != kNone) {
    const auto scalars = form.Find(values.id.role, member.Array(member.weight->global).id.part, values.id.mtp);
    const Range own = *places_.ScalarsOf(form.tensors()[*scalars], values.id, rank);
    part.scalar = own.begin;
    part.scalars = own.size();
  }
  group.encoded.push_back(part);
  return {};
}

}  // namespace mimo
