#include "lib/forms/ranks/rank_cache_scales.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "lib/recipe/codec_types.h"

namespace mimo {
namespace {

// The value of a BF16 or F32 constant; nullopt for other types.
std::optional<double> ScalarOf(DType dtype, const std::string& bytes) {
  uint32_t bits = 0;
  if (dtype == DType::kF32 && bytes.size() == 4) {
    std::memcpy(&bits, bytes.data(), 4);
  } else if (dtype == DType::kBF16 && bytes.size() == 2) {
    uint16_t half = 0;
    std::memcpy(&half, bytes.data(), 2);
    bits = uint32_t{half} << 16;
  } else {
    return std::nullopt;
  }
  return std::bit_cast<float>(bits);
}

// -1 in F16.
constexpr std::string_view kMinusOneHalf("\x00\xbc", 2);

bool IsConstantValue(const RankConstant& constant, DType dtype, const std::string& bytes) {
  if (dtype == DType::kF16) return bytes == kMinusOneHalf;
  const std::optional<double> value = ScalarOf(dtype, bytes);
  return value && *value == constant.value;
}

}  // namespace

Status RankCacheScales::Add(DraftOutput* output) {
  const TensorId& id = output->id;
  const auto [known, fresh] = scales_.emplace(std::tuple(id.mtp, id.layer, id.role), output);
  if (fresh) return {};
  return BadInput("two scales of the KV cache for one place")
      .Id("travel.cache_scale_twice")
      .File(catalogue_.root)
      .Tensor(output->name)
      .Expected("one of each kind in a layer: a rank has one place")
      .Found("also " + known->second->name)
      .Advice("--exclude one of them by its name");
}

const DraftOutput* RankCacheScales::Take(const RankConstant& constant, int32_t layer) {
  for (const Role role : constant.of) {
    const auto found = scales_.find({constant.mtp, layer, role});
    if (found == scales_.end()) continue;
    taken_.insert(found->second);
    return found->second;
  }
  return nullptr;
}

Status RankCacheScales::Fill(const RankConstant& constant, const DraftOutput& scale, int32_t layer, Draft* draft,
                             RankOutputs* outputs) const {
  const std::string table_name = NameInLayer(constant.pattern, layer);
  OutputArray made;
  made.id = scale.id;
  made.dtype = constant.mtp ? scale.dtype : places_.form().WantedType(table_name).value_or(scale.dtype);
  made.shape = constant.shape;
  const uint32_t source = scale.pieces[0].source;
  made.pieces.push_back({source, 0, 0, 1});
  const auto from = ValueCodecOf(scale.dtype), to = ValueCodecOf(made.dtype);
  if (made.dtype != scale.dtype && from && to) {
    made.transform = Transform::kConvert;
    made.target_codec = *to;
    draft->sources[source].codec = *from;
  }
  MIMO_ASSIGN_OR_RETURN(const std::string name, places_.NameOf(constant.mtp, table_name, made.dtype, made.shape));
  draft->BeginGroup(table_name);
  for (const int64_t rank : places_.ranks()) outputs->Add(made, name, constant.mtp, rank, layer, scale.near);
  return {};
}

std::vector<DraftOutput*> RankCacheScales::Rest() const {
  std::vector<DraftOutput*> rest;
  for (const auto& [key, output] : scales_)
    if (!taken_.contains(output)) rest.push_back(output);
  return rest;
}

Result<std::set<std::string>> FilledCacheScales(FileSystem& fs, const Catalogue& stored, const RankForm& form) {
  constexpr std::string_view kFirst = "rank0/";
  std::set<std::string> filled;
  for (const StoredArray& array : stored.arrays) {
    if (!array.name.starts_with(kFirst) || array.bytes == 0 || array.bytes > 8 || array.rows() != 1) continue;
    const std::string name(HeaderName(array.name));
    const auto match = form.FindConstant(name);
    if (!match || form.constants()[match->tensor].of.empty()) continue;
    std::string bytes(array.bytes, '\0');
    MIMO_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(stored.PathOf(stored.files[array.file])));
    MIMO_RETURN_IF_ERROR(file->ReadAt(array.begin, std::as_writable_bytes(std::span(bytes))));
    if (!IsConstantValue(form.constants()[match->tensor], array.dtype, bytes)) filled.insert(name);
  }
  return filled;
}

ShownCacheScales::ShownCacheScales(const Catalogue& stored) : table_(*stored.table) {
  if (const auto& marker = stored.config.marker) {
    all_vectors_ = marker->cache_vectors;
    for (const std::string& name : marker->cache_vector_names) {
      const TensorId id = table_.Identify(name);
      vectors_.emplace(id.mtp, id.layer, id.role);
    }
  }
  if (!stored.origin || !stored.origin->index) return;
  for (const auto& [tensor, file] : stored.origin->index->weight_map) {
    if (!tensor.ends_with("_scale") || table_.CacheScaleOf(tensor) == nullptr) continue;
    const TensorId id = table_.Identify(tensor);
    origin_.emplace(std::tuple(id.mtp, id.layer, id.role), tensor);
  }
}

bool ShownCacheScales::WasVector(const TensorId& id) const {
  return all_vectors_ || vectors_.contains({id.mtp, id.layer, id.role}) ||
         (id.role != Role::kCacheQ && vectors_.contains({id.mtp, id.layer, Role::kCacheKv}));
}

std::optional<StoredArray> ShownCacheScales::Show(const RankConstant& constant, int32_t layer) const {
  StoredArray shown;
  shown.id = {constant.of[0], Part::kWeight, constant.mtp, layer, -1};
  shown.name = table_.CacheScaleAt(shown.id, CachePlacement::kFused);
  for (const Role role : constant.of) {
    const auto found = origin_.find({constant.mtp, layer, role});
    if (found == origin_.end()) continue;
    if (role == Role::kCacheKv && constant.of[0] != Role::kCacheK) return std::nullopt;
    shown.id.role = role;
    shown.name = found->second;
    break;
  }
  return shown;
}

}  // namespace mimo
