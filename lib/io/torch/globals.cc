#include "lib/io/torch/globals.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace mimo {
namespace {

using enum TorchUse;

constexpr std::string_view kMeta = "torch.distributed.checkpoint.metadata";
constexpr std::string_view kPlanner = "torch.distributed.checkpoint.planner";
constexpr std::string_view kMegatronTorch = "megatron.core.dist_checkpointing.strategies.torch";
constexpr std::string_view kMegatronEnums = "megatron.core.transformer.enums";
constexpr std::string_view kRerun = "megatron.core.rerun_state_machine";

constexpr TorchGlobal kTable[] = {
    // In the order of TorchGlobalId.
    {"torch._utils", "_rebuild_tensor_v2", kTensor},
    {"torch._utils", "_rebuild_tensor_v3", kTensorOfDType},
    {"collections", "OrderedDict", kDict},
    {"torch", "Size", kSize},
    {"torch.storage", "UntypedStorage", kStorage},
    {"torch.serialization", "_get_layout", kFunction},
    {kMeta, "_MEM_FORMAT_ENCODING", kClass},
    {kMeta, "Metadata", kClass},
    {kMeta, "TensorStorageMetadata", kClass},
    {kMeta, "BytesStorageMetadata", kClass},
    {kMeta, "ChunkStorageMetadata", kClass},
    {kMeta, "TensorProperties", kClass},
    {kMeta, "MetadataIndex", kClass},
    {"torch.distributed.checkpoint.filesystem", "_StorageInfo", kClass},

    // Storages (target-layouts.md 3.2). A storage class fixes the dtype of _rebuild_tensor_v2.
    {"torch", "BFloat16Storage", kStorage, DType::kBF16},
    {"torch", "HalfStorage", kStorage, DType::kF16},
    {"torch", "FloatStorage", kStorage, DType::kF32},
    {"torch", "DoubleStorage", kStorage, DType::kF64},
    {"torch", "LongStorage", kStorage, DType::kI64},
    {"torch", "IntStorage", kStorage, DType::kI32},
    {"torch", "ShortStorage", kStorage, DType::kI16},
    {"torch", "CharStorage", kStorage, DType::kI8},
    {"torch", "ByteStorage", kStorage, DType::kU8},
    {"torch", "BoolStorage", kStorage, DType::kBool},
    {"torch", "ComplexFloatStorage", kStorage, DType::kC64},
    {"torch", "ComplexDoubleStorage", kStorage},

    {"torch", "bfloat16", kDType, DType::kBF16},
    {"torch", "float16", kDType, DType::kF16},
    {"torch", "float32", kDType, DType::kF32},
    {"torch", "float64", kDType, DType::kF64},
    {"torch", "int64", kDType, DType::kI64},
    {"torch", "int32", kDType, DType::kI32},
    {"torch", "int16", kDType, DType::kI16},
    {"torch", "int8", kDType, DType::kI8},
    {"torch", "uint64", kDType, DType::kU64},
    {"torch", "uint32", kDType, DType::kU32},
    {"torch", "uint16", kDType, DType::kU16},
    {"torch", "uint8", kDType, DType::kU8},
    {"torch", "bool", kDType, DType::kBool},
    {"torch", "complex64", kDType, DType::kC64},
    {"torch", "float8_e4m3fn", kDType, DType::kF8E4M3},
    {"torch", "float8_e5m2", kDType, DType::kF8E5M2},
    {"torch", "float8_e8m0fnu", kDType, DType::kF8E8M0},
    {"torch", "float8_e4m3fnuz", kDType, DType::kF8E4M3Fnuz},
    {"torch", "float8_e5m2fnuz", kDType, DType::kF8E5M2Fnuz},
    {"torch", "complex32", kDType},
    {"torch", "complex128", kDType},
    {"torch", "float4_e2m1fn_x2", kDType},

    // Tensors in other words.
    {"torch._utils", "_rebuild_parameter", kParameter},
    {"torch._utils", "_rebuild_parameter_with_state", kParameter},
    {"torch._tensor", "_rebuild_from_type_v2", kTensorSubclass},
    {"torch", "Tensor", kValue},
    {"torch.nn.parameter", "Parameter", kValue},
    {"torch", "device", kFunction},

    // Plain Python.
    {"__builtin__", "set", kFunction},
    {"builtins", "set", kFunction},
    {"__builtin__", "frozenset", kFunction},
    {"builtins", "frozenset", kFunction},
    {"__builtin__", "bytearray", kFunction},
    {"builtins", "bytearray", kFunction},
    {"__builtin__", "complex", kFunction},
    {"builtins", "complex", kFunction},
    {"_codecs", "encode", kFunction},  // how protocol 2 writes bytes
    {"argparse", "Namespace", kClass},
    {"types", "SimpleNamespace", kClass},
    {"pathlib", "PosixPath", kClass},
    {"pathlib._local", "PosixPath", kClass},
    {"signal", "Signals", kClass},
    {"datetime", "timedelta", kClass},
    {"_io", "BytesIO", kClass},
    {"torch._C", "Generator", kClass},

    // numpy: states of random number generators.
    {"numpy", "ndarray", kValue},
    {"numpy", "dtype", kClass},
    {"numpy.dtypes", "UInt32DType", kClass},
    {"numpy.core.multiarray", "_reconstruct", kClass},
    {"numpy._core.multiarray", "_reconstruct", kClass},
    {"numpy.core.multiarray", "scalar", kFunction},
    {"numpy._core.multiarray", "scalar", kFunction},

    // What native savers add to .metadata.
    {kMeta, "StorageMeta", kClass},
    {kPlanner, "SavePlan", kClass},
    {kPlanner, "WriteItem", kClass},
    {kPlanner, "WriteItemType", kClass},
    {kPlanner, "TensorWriteData", kClass},
    {kPlanner, "BytesIOWriteData", kClass},
    {kMegatronTorch, "MCoreMetadata", kClass},
    {kMegatronTorch, "MCoreSavePlan", kClass},

    // What training arguments and the states of optimizers and of the trainer hold.
    {"megatron.core.enums", "ModelType", kClass},
    {"megatron.core.enums", "Fp8Recipe", kClass},
    {"megatron.core.enums", "Fp4Recipe", kClass},
    {kMegatronEnums, "ModelType", kClass},
    {kMegatronEnums, "LayerType", kClass},
    {kMegatronEnums, "AttnType", kClass},
    {kMegatronEnums, "AttnMaskType", kClass},
    {kMegatronEnums, "AttnBackend", kClass},
    {kMegatronEnums, "CudaGraphScope", kClass},
    {kMegatronEnums, "CudaGraphModule", kClass},
    {kMegatronEnums, "InferenceCudaGraphScope", kClass},
    {kRerun, "RerunDiagnostic", kClass},
    {kRerun, "RerunMode", kClass},
    {kRerun, "RerunState", kClass},
    {kRerun, "RerunValidationStatus", kClass},
    {"megatron.core.optimizer.optimizer_config", "OptimizerConfig", kClass},
    {"megatron.core.optimizer.optimizer_config", "AdamOptimizerConfig", kClass},
    {"megatron.core.optimizer.optimizer_config", "SGDOptimizerConfig", kClass},
    {"megatron.core.optimizer.optimizer_config", "ParamKey", kClass},
    {"megatron.core.inference.config", "KVCacheManagementMode", kClass},
    {"megatron.core.inference.config", "CudaGraphSizingDistribution", kClass},
    {"megatron.core.inference.config", "PrefixCachingEvictionPolicy", kClass},
    {"megatron.core.inference.config", "PrefixCachingCoordinatorPolicy", kClass},
    {"megatron.training.checkpointing", "CheckpointType", kClass},
    {"torch.nn.functional", "silu", kValue},
    {"torch._C._nn", "silu", kValue},
    {"torch._C._nn", "gelu", kValue},
};

static_assert(kTable[static_cast<size_t>(TorchGlobalId::kStorageInfo)].name == "_StorageInfo");
static_assert(kTable[static_cast<size_t>(TorchGlobalId::kUntypedStorage)].name == "UntypedStorage");

std::optional<TorchGlobalId> OfDType(TorchUse use, DType dtype) {
  for (size_t i = 0; i < std::size(kTable); ++i) {
    if (kTable[i].use == use && kTable[i].dtype == dtype) return static_cast<TorchGlobalId>(i);
  }
  return std::nullopt;
}

}  // namespace

const TorchGlobal& GlobalOf(TorchGlobalId id) {
  static constexpr TorchGlobal kUnknown = {"", "a class of another program", TorchUse::kInert};
  if (id == TorchGlobalId::kInert) return kUnknown;
  return kTable[static_cast<size_t>(id)];
}

std::optional<TorchGlobalId> FindTorchGlobal(std::string_view module, std::string_view name) {
  for (size_t i = 0; i < std::size(kTable); ++i) {
    if (kTable[i].name == name && kTable[i].module == module) return static_cast<TorchGlobalId>(i);
  }
  return std::nullopt;
}

bool IsTrap(std::string_view module) {
  constexpr std::string_view kModules[] = {
      "",         "os",          "posix",     "nt",         "sys",    "subprocess",
      "builtins", "__builtin__", "importlib", "runpy",      "shutil", "socket",
      "pty",      "code",        "codeop",    "commands",   "ctypes", "pickle",
      "_pickle",  "marshal",     "functools", "operator",   "timeit", "pdb",
      "bdb",      "webbrowser",  "platform",  "asyncio",    "urllib", "http",
      "requests", "pip",         "cProfile",  "profile",    "trace",  "_posixsubprocess",
      "tempfile", "io",          "_io",       "shelve",     "types",  "_codecs",
      "codecs",   "_operator",   "dill",      "cloudpickle"};
  const std::string_view top = module.substr(0, module.find('.'));
  return std::find(std::begin(kModules), std::end(kModules), top) != std::end(kModules);
}

std::optional<TorchGlobalId> StorageGlobalOf(DType dtype) {
  return OfDType(kStorage, dtype);
}

std::optional<TorchGlobalId> DTypeGlobalOf(DType dtype) {
  return OfDType(kDType, dtype);
}

}  // namespace mimo
