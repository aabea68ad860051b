// How long it takes to write and to read back the .metadata of a full Flash-size model: 457 tensors in some 37,000
// chunks, and the extra states of every expert. Prints the best of several runs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "lib/io/torch/dcp_metadata.h"

namespace {

using mimo::DcpBytes;
using mimo::DcpChunk;
using mimo::DcpMetadata;
using mimo::DcpRange;
using mimo::DcpTensor;
using mimo::DType;

constexpr int kLayers = 48, kExperts = 256, kMtp = 3, kParts = 8, kRuns = 5;
constexpr int64_t kHidden = 4096, kExpertRows = 2048, kDenseRows = 16384, kHeads = 64, kVocab = 152576;

class Flash {
 public:
  DcpMetadata Make() {
    Cut("embedding.word_embeddings.weight", {kVocab, kHidden}, 0, kParts);
    Cut("output_layer.weight", {kVocab, kHidden}, 0, kParts);
    Cut("decoder.final_layernorm.weight", {kHidden}, 0, 1);
    State("decoder.final_layernorm", 0, 1);
    for (int n = 0; n < kLayers; ++n) Decoder(n);
    for (int n = 0; n < kMtp; ++n) {
      const std::string base = "mtp.layers." + std::to_string(n) + ".";
      Cut(base + "eh_proj.weight", {kHidden, 2 * kHidden}, 0, kParts);
      for (const char* norm : {"enorm", "hnorm", "final_layernorm"}) Cut(base + norm + ".weight", {kHidden}, 0, 1);
      for (const char* module : {"eh_proj", "enorm", "hnorm", "final_layernorm"}) State(base + module, 0, 1);
      Layer(base + "transformer_layer.", true);
      Dense(base + "transformer_layer.");
    }
    return std::move(metadata_);
  }

 private:
  DcpRange Next(int64_t elements, int64_t bytes_each) {
    const uint64_t bytes = static_cast<uint64_t>(elements * bytes_each) + 700;
    offset_ += bytes;
    return {"__0_" + std::to_string(file_) + ".distcp", offset_ - bytes, bytes};
  }

  DcpTensor& Tensor(const std::string& key, std::vector<int64_t> shape, DType dtype = DType::kBF16) {
    return metadata_.tensors.emplace_back(DcpTensor{key, dtype, std::move(shape), {}});
  }

  void Add(DcpTensor& tensor, std::vector<int64_t> offsets, std::vector<int64_t> sizes) {
    int64_t elements = 1;
    for (const int64_t size : sizes) elements *= size;
    const DcpRange range = Next(elements, mimo::BitsPerElement(tensor.dtype) / 8);
    tensor.chunks.push_back({std::move(offsets), std::move(sizes), range});
  }

  // `parts` equal chunks along an axis.
  void Cut(const std::string& key, const std::vector<int64_t>& shape, size_t axis, int parts) {
    DcpTensor& tensor = Tensor(key, shape);
    std::vector<int64_t> sizes = shape, offsets(shape.size(), 0);
    sizes[axis] /= parts;
    for (int part = 0; part < parts; ++part, offsets[axis] += sizes[axis]) Add(tensor, offsets, sizes);
  }

  void State(const std::string& module, int index, int count) {
    metadata_.bytes.push_back({module + "._extra_state/shard_" + std::to_string(index) + "_" + std::to_string(count),
                               {"__0_0.distcp", 0, 654}});
  }

  void Layer(const std::string& base, bool window) {
    const std::string attention = base + "self_attention.";
    const int64_t groups = window ? 8 : 4;
    Cut(attention + "linear_qkv.layer_norm_weight", {kHidden}, 0, 1);
    Cut(attention + "linear_qkv.weight", {kHeads * 192 + groups * 320, kHidden}, 0, static_cast<int>(groups));
    Cut(attention + "linear_proj.weight", {kHidden, kHeads * 128}, 1, kParts);
    State(attention + "linear_qkv", 0, 1);
    State(attention + "linear_proj", 0, 1);
    if (!window) return;
    Cut(attention + "core_attention.softmax_offset", {kHeads}, 0, 1);
    State(attention + "core_attention", 0, 1);
  }

  void Dense(const std::string& base) {
    Cut(base + "mlp.linear_fc1.layer_norm_weight", {kHidden}, 0, 1);
    Cut(base + "mlp.linear_fc1.weight", {2 * kDenseRows, kHidden}, 0, 2 * kParts);
    Cut(base + "mlp.linear_fc2.weight", {kHidden, kDenseRows}, 1, kParts);
    State(base + "mlp.linear_fc1", 0, 1);
    State(base + "mlp.linear_fc2", 0, 1);
  }

  void Decoder(int n) {
    file_ = n + 2;
    offset_ = 0;
    const std::string base = "decoder.layers." + std::to_string(n) + ".";
    Layer(base, n != 0 && n % 6 != 5);
    if (n == 0) return Dense(base);
    Cut(base + "pre_mlp_layernorm.weight", {kHidden}, 0, 1);
    State(base + "pre_mlp_layernorm", 0, 1);
    Add(Tensor(base + "mlp.router.weight", {kExperts, kHidden}, DType::kF32), {0, 0}, {kExperts, kHidden});
    Add(Tensor(base + "mlp.router.expert_bias", {kExperts}, DType::kF32), {0}, {kExperts});
    const std::string experts = base + "mlp.experts.experts.linear_fc";
    DcpTensor& first = Tensor(experts + "1.weight", {kExperts, 2 * kExpertRows, kHidden});
    for (int e = 0; e < kExperts; ++e) {
      for (const int64_t half : {int64_t{0}, kExpertRows}) Add(first, {e, half, 0}, {1, kExpertRows, kHidden});
    }
    DcpTensor& second = Tensor(experts + "2.weight", {kExperts, kHidden, kExpertRows});
    for (int e = 0; e < kExperts; ++e) Add(second, {e, 0, 0}, {1, kHidden, kExpertRows});
    for (const char* half : {"1", "2"}) {
      for (int e = 0; e < kExperts; ++e) State(experts + half, e, kExperts);
    }
  }

  DcpMetadata metadata_;
  int file_ = 1;
  uint64_t offset_ = 0;
};

template <class F>
double Best(F&& work) {
  double best = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

int main() {
  const DcpMetadata metadata = Flash().Make();
  size_t chunks = 0;
  for (const DcpTensor& tensor : metadata.tensors) chunks += tensor.chunks.size();
  std::string pickle;
  const double write = Best([&] { pickle = mimo::WriteDcpMetadata(metadata); });
  bool equal = false;
  const double read = Best([&] {
    const auto found = mimo::ReadDcpMetadata(pickle, ".metadata");
    if (!found.ok()) {
      std::fprintf(stderr, "%s\n", found.error().Message().c_str());
      return;
    }
    equal =
        found.value().tensors.size() == metadata.tensors.size() && found.value().bytes.size() == metadata.bytes.size();
  });
  std::printf("%zu tensors, %zu chunks, %zu byte items: %zu bytes; written in %.3f s, read in %.3f s\n",
              metadata.tensors.size(), chunks, metadata.bytes.size(), pickle.size(), write, read);
  return equal ? 0 : 1;
}
