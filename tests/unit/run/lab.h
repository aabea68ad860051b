// Tiny checkpoints and hand-made plans for them: what the tests of lib/run and lib/verify work on.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "lib/io/safetensors/safetensors.h"
#include "lib/plan/plan.h"
#include "lib/run/group_work.h"
#include "tests/faults/scratch_directory.h"

namespace mimo::lab {

using Bytes = std::vector<uint8_t>;

inline uint64_t ElementBytes(DType dtype) {
  return BitsPerElement(dtype) / 8;
}

// Deterministic contents.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  Bytes Any(size_t n) {
    Bytes bytes(n);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(engine_());
    return bytes;
  }
  // E4M3 codes without NaN.
  Bytes Codes(size_t n) {
    Bytes bytes = Any(n);
    for (uint8_t& b : bytes) {
      if ((b & 0x7F) == 0x7F) b ^= 1;
    }
    return bytes;
  }
  // Positive scales of very different magnitude.
  Bytes Scales(size_t n) {
    Bytes bytes(4 * n);
    for (size_t i = 0; i < n; ++i) {
      const float mantissa = 1.0f + static_cast<float>(engine_() % 8192) / 8192.0f;
      const float scale = std::ldexp(mantissa, -static_cast<int>(engine_() % 12));
      std::memcpy(&bytes[4 * i], &scale, 4);
    }
    return bytes;
  }
  Bytes Bf16(size_t n) {
    Bytes bytes = Any(2 * n);
    for (size_t i = 0; i < n; ++i) bytes[2 * i + 1] = static_cast<uint8_t>((bytes[2 * i + 1] & 0x80) | 0x3F);
    return bytes;
  }

 private:
  std::mt19937_64 engine_;
};

inline Bytes ReadFile(const std::string& path) {
  Bytes bytes(std::filesystem::file_size(path));
  auto file = PosixFileSystem().OpenForRead(path);
  EXPECT_TRUE(file.ok()) << path;
  if (file.ok() && !(*file)->ReadAt(0, std::as_writable_bytes(std::span(bytes))).ok()) ADD_FAILURE() << path;
  return bytes;
}

inline void WriteFile(const std::string& path, const Bytes& bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good()) << path;
}

// Every regular file below `root` by relative name.
inline std::map<std::string, Bytes> Tree(const std::string& root) {
  std::map<std::string, Bytes> files;
  if (!std::filesystem::exists(root)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.is_regular_file()) {
      files[std::filesystem::relative(entry.path(), root).string()] = ReadFile(entry.path().string());
    }
  }
  return files;
}

// The bytes of one stored tensor.
inline Bytes Tensor(const std::string& path, const std::string& name) {
  const auto header = ReadSafetensorsHeader(PosixFileSystem(), path);
  EXPECT_TRUE(header.ok()) << path;
  if (!header.ok()) return {};
  const Bytes file = ReadFile(path);
  for (const TensorInfo& tensor : header.value().tensors) {
    if (tensor.name == name)
      return Bytes(file.begin() + static_cast<ptrdiff_t>(tensor.begin),
                   file.begin() + static_cast<ptrdiff_t>(tensor.end));
  }
  ADD_FAILURE() << name << " is not in " << path;
  return {};
}

struct Stored {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  Bytes bytes;
};

// These tests sync all the time; what they prove does not depend on a disk.
inline bool PreferMemory() {
  return ::access("/dev/shm", W_OK) == 0 && ::setenv("TMPDIR", "/dev/shm", 0) == 0;
}

// A checkpoint directory and its catalogue.
class Checkpoint {
 public:
  Checkpoint() {
    catalogue.root = directory_.File("in");
    std::filesystem::create_directories(catalogue.root);
  }
  std::string path(const std::string& name) const { return JoinPath(catalogue.root, name); }
  std::string output() const { return directory_.File("out"); }
  const std::string& scratch() const { return directory_.path(); }

  void AddFile(const std::string& name, const std::vector<Stored>& tensors) {
    std::vector<TensorInfo> infos;
    Bytes data;
    for (const Stored& tensor : tensors) {
      infos.push_back({tensor.name, tensor.dtype, tensor.shape, 0, 0});
      data.insert(data.end(), tensor.bytes.begin(), tensor.bytes.end());
    }
    const std::string header = LayOutSafetensors(infos, {});
    Bytes file(header.begin(), header.end());
    file.insert(file.end(), data.begin(), data.end());
    WriteFile(path(name), file);
    const auto index = static_cast<uint32_t>(catalogue.files.size());
    catalogue.files.push_back({name, file.size(), header.size(), HashBytes(std::as_bytes(std::span(header))), {}});
    for (const TensorInfo& info : infos) {
      StoredArray array{info.name, info.dtype, info.shape, index, info.begin, info.bytes(), {}};
      if (info.name.ends_with("_scale_inv")) array.id.part = Part::kScaleInv;
      catalogue.by_name.emplace(info.name, static_cast<uint32_t>(catalogue.arrays.size()));
      catalogue.arrays.push_back(std::move(array));
    }
  }
  void AddCarried(const std::string& name, const Bytes& bytes) {
    WriteFile(path(name), bytes);
    catalogue.carried.push_back({name, bytes.size()});
  }

  Catalogue catalogue;

 private:
  const bool in_memory_ = PreferMemory();  // before the directory is made
  ScratchDirectory directory_;
};

// Every group of a plan, whole.
inline std::vector<UnitPart> AllParts(const Plan& plan) {
  std::vector<UnitPart> parts;
  for (uint32_t g = 0; g < plan.groups.size(); ++g) parts.push_back({g, 0, kNone});
  return parts;
}

// What all groups come to.
inline JobSize MeasureJob(const Job& job) {
  JobSize size;
  for (uint32_t g = 0; g < job.plan.groups.size(); ++g) {
    const JobSize group = MeasureGroup(job, g);
    size.progress_bytes += group.progress_bytes;
    size.largest_unit_bytes = std::max(size.largest_unit_bytes, group.largest_unit_bytes);
  }
  return size;
}

// Builds a plan; call Finish once.
class PlanBuilder {
 public:
  explicit PlanBuilder(const Checkpoint& checkpoint) : catalogue_(checkpoint.catalogue) { plan.tool_version = "test"; }

  uint32_t Source(const std::string& name) {
    SourceArray source;
    source.array = catalogue_.by_name.at(name);
    const DType dtype = catalogue_.arrays[source.array].dtype;
    source.codec = dtype == DType::kF32 ? Codec::kFp32 : dtype == DType::kF16 ? Codec::kFp16 : Codec::kBf16;
    plan.sources.push_back(source);
    return static_cast<uint32_t>(plan.sources.size() - 1);
  }
  // Block FP8 with its uniform grid, or MXFP4 for U8 arrays.
  uint32_t Quantized(const std::string& name, const std::string& scale, int64_t block = 128) {
    const uint32_t s = Source(scale);
    const uint32_t source = Source(name);
    SourceArray& p = plan.sources[source];
    p.quantized = true;
    p.codec = catalogue_.arrays[p.array].dtype == DType::kU8 ? Codec::kMxfp4 : Codec::kFp8Block;
    p.scale = s;
    p.block_rows = p.block_cols = block;
    return source;
  }

  void File(const std::string& name, uint32_t file_group = 0) {
    PlanFile file;
    file.name = name;
    file.file_group = file_group;
    plan.files.push_back(file);
    plan.file_groups = std::max(plan.file_groups, file_group + 1);
  }
  uint32_t Group(const std::string& label) {
    FuseGroup group;
    group.label = label;
    group.file_group = plan.files.back().file_group;
    plan.groups.push_back(group);
    return static_cast<uint32_t>(plan.groups.size() - 1);
  }
  // Into the last file and `group`.
  uint32_t Output(uint32_t group, const std::string& name, DType dtype, std::vector<int64_t> shape, Transform transform,
                  std::vector<Piece> pieces) {
    OutputArray output;
    output.name = name;
    output.dtype = dtype;
    output.shape = std::move(shape);
    output.transform = transform;
    output.target_codec = dtype == DType::kF32 ? Codec::kFp32 : dtype == DType::kF16 ? Codec::kFp16 : Codec::kBf16;
    if (name.ends_with("_scale_inv")) output.id.part = Part::kScaleInv;
    output.pieces = std::move(pieces);
    output.file = static_cast<uint32_t>(plan.files.size() - 1);
    output.group = group;
    const auto index = static_cast<uint32_t>(plan.outputs.size());
    plan.outputs.push_back(std::move(output));
    plan.files.back().outputs.push_back(index);
    plan.groups[group].outputs.push_back(index);
    return index;
  }
  // A whole array under its own name.
  uint32_t Keep(const std::string& name) {
    const StoredArray& array = catalogue_.arrays[catalogue_.by_name.at(name)];
    const uint32_t source = Source(name);
    const uint32_t output =
        Output(Group(name), name, array.dtype, array.shape, Transform::kMove, {{source, 0, 0, array.rows()}});
    plan.outputs[output].unchanged = true;
    return output;
  }
  // A file of the checkpoint as it is.
  void UnchangedFile(const std::string& name, uint32_t file_group) {
    File(name, file_group);
    for (uint32_t f = 0; f < catalogue_.files.size(); ++f) {
      if (catalogue_.files[f].name != name) continue;
      plan.files.back().unchanged = true;
      plan.files.back().source_file = f;
      for (const StoredArray& array : catalogue_.arrays) {
        if (array.file == f) Keep(array.name);
      }
    }
  }

  void Text(const std::string& name, const std::string& content) { plan.texts.push_back({name, content}); }

  Plan& Finish(uint64_t digest = 1) {
    for (PlanFile& file : plan.files) {
      std::vector<TensorInfo> infos;
      for (const uint32_t o : file.outputs)
        infos.push_back({plan.outputs[o].name, plan.outputs[o].dtype, plan.outputs[o].shape, 0, 0});
      const std::string header = LayOutSafetensors(infos, {});
      for (size_t i = 0; i < infos.size(); ++i) {
        plan.outputs[file.outputs[i]].begin = infos[i].begin;
        plan.outputs[file.outputs[i]].end = infos[i].end;
        plan.payload_bytes += infos[i].bytes();
      }
      file.bytes = infos.empty() ? header.size() : infos.back().end;
      if (!file.unchanged) file.header = header;
    }
    plan.digest.low = digest;
    return plan;
  }

  Plan plan;

 private:
  const Catalogue& catalogue_;
};

}  // namespace mimo::lab
