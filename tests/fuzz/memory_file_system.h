// A file system of one thread that is a map: for targets whose product reads more than one file, each input anew.
// Links are neither made nor followed, and nothing fails but for what is missing.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/file_system.h"

namespace mimo {

class MemoryFileSystem final : public FileSystem {
 public:
  struct Node {
    FileInfo info;
    std::string bytes;
  };
  using NodePtr = std::shared_ptr<Node>;

  MemoryFileSystem() : nodes_(std::make_shared<Nodes>()) { MakeDirectory(""); }

  // The file `path` as it is told of; its directories are made.
  NodePtr Put(const std::string& path, std::string_view bytes, FileInfo info = {}) {
    if (path.find('/') != std::string::npos) static_cast<void>(CreateDirectories(ParentOf(path)));
    const NodePtr node = std::make_shared<Node>(Node{info, std::string(bytes)});
    node->info.kind = FileKind::kRegular;
    node->info.size = bytes.size();
    return (*nodes_)[Full(path)] = node;
  }
  // "" where there is none.
  std::string Get(const std::string& path) const {
    const NodePtr node = Find(path);
    return node == nullptr ? "" : node->bytes;
  }

  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    if (!IsRegular(path)) return Missing(path);
    return std::unique_ptr<ReadableFile>(std::make_unique<File>(Find(path)));
  }
  Result<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path, OpenMode mode) override {
    const bool there = Find(path) != nullptr;
    if (there ? mode == OpenMode::kCreateNew || !IsRegular(path) : mode == OpenMode::kExisting) return Missing(path);
    if (!there || mode == OpenMode::kTruncate) Put(path, "");
    return std::unique_ptr<WritableFile>(std::make_unique<File>(Find(path)));
  }
  Result<std::unique_ptr<LockFile>> OpenLock(const std::string& path, OpenMode mode) override {
    if (Find(path) == nullptr && mode == OpenMode::kExisting) return Missing(path);
    if (Find(path) == nullptr) Put(path, "");
    return std::unique_ptr<LockFile>(std::make_unique<HeldLock>(Find(path)));
  }
  Result<std::optional<FileInfo>> Stat(const std::string& path) override {
    const NodePtr node = Find(path);
    return node == nullptr ? std::nullopt : std::optional(node->info);
  }
  Result<std::vector<std::string>> List(const std::string& directory) override {
    const std::string above = Full(directory).empty() ? "" : Full(directory) + "/";
    std::vector<std::string> names;
    for (const auto& [path, node] : *nodes_) {
      if (!path.starts_with(above) || path.size() == above.size()) continue;
      if (path.find('/', above.size()) == std::string::npos) names.push_back(path.substr(above.size()));
    }
    return names;
  }
  Status CreateDirectories(const std::string& path) override {
    for (size_t end = 0; end != std::string::npos;) {
      end = path.find('/', end + 1);
      if (Find(path.substr(0, end)) == nullptr) MakeDirectory(path.substr(0, end));
    }
    return {};
  }
  Status Rename(const std::string& from, const std::string& to) override {
    const NodePtr node = Find(from);
    if (node == nullptr) return Missing(from);
    nodes_->erase(Full(from));
    (*nodes_)[Full(to)] = node;
    return {};
  }
  Status Remove(const std::string& path) override {
    nodes_->erase(Full(path));
    return {};
  }
  Status RemoveAll(const std::string& path) override {
    const std::string full = Full(path);
    std::erase_if(*nodes_,
                  [&](const auto& entry) { return entry.first == full || entry.first.starts_with(full + "/"); });
    return {};
  }
  Status RemoveDirectory(const std::string& path) override { return Remove(path); }
  Status HardLink(const std::string&, const std::string& link) override { return NoLinks(link); }
  Status SymLink(const std::string&, const std::string& link) override { return NoLinks(link); }
  Status RefLink(const std::string&, const std::string& link) override { return NoLinks(link); }
  Status SyncDirectory(const std::string&) override { return {}; }
  Result<std::string> RealPath(const std::string& path) override { return "/" + Full(path); }
  Result<uint64_t> FreeBytes(const std::string&) override { return uint64_t{1} << 40; }
  Result<std::optional<std::string>> ReadLink(const std::string&) override { return std::optional<std::string>(); }
  Result<std::unique_ptr<FileSystem>> Beneath(const std::string& root) override {
    return std::unique_ptr<FileSystem>(new MemoryFileSystem(nodes_, Full(root)));
  }

 private:
  using Nodes = std::map<std::string, NodePtr>;

  class File final : public ReadableFile, public WritableFile {
   public:
    explicit File(NodePtr node) : node_(std::move(node)) {}
    Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
      if (offset > size() || out.size() > size() - offset) return BadInput("truncated");
      if (!out.empty()) std::memcpy(out.data(), node_->bytes.data() + offset, out.size());
      return {};
    }
    uint64_t size() const override { return node_->bytes.size(); }
    Status WriteAt(uint64_t offset, std::span<const std::byte> data) override {
      if (size() < offset + data.size()) static_cast<void>(Truncate(offset + data.size()));
      if (!data.empty()) std::memcpy(node_->bytes.data() + offset, data.data(), data.size());
      return {};
    }
    Status Truncate(uint64_t bytes) override {
      node_->bytes.resize(bytes);
      node_->info.size = bytes;
      return {};
    }
    Status SetMode(uint32_t) override { return {}; }
    Status Sync() override { return {}; }
    Result<FileInfo> Info() const override { return node_->info; }
    Status Close() override { return {}; }

   private:
    const NodePtr node_;
  };

  class HeldLock final : public LockFile {
   public:
    explicit HeldLock(NodePtr node) : node_(std::move(node)) {}
    LockFile::Lock TryLock() override { return LockFile::Lock::kHeld; }
    Result<std::string> Read() const override { return node_->bytes; }
    Status Write(std::string_view content) override {
      node_->bytes = content;
      node_->info.size = content.size();
      return {};
    }
    Result<FileInfo> Info() const override { return node_->info; }

   private:
    const NodePtr node_;
  };

  MemoryFileSystem(std::shared_ptr<Nodes> nodes, std::string root) : nodes_(std::move(nodes)), root_(std::move(root)) {}

  static Error Missing(const std::string& path) { return IoError("no such file").File(path); }
  static Error NoLinks(const std::string& path) { return IoError("no links").File(path); }

  std::string Full(const std::string& path) const { return path.empty() ? root_ : JoinPath(root_, path); }
  NodePtr Find(const std::string& path) const {
    const auto found = nodes_->find(Full(path));
    return found == nodes_->end() ? nullptr : found->second;
  }
  bool IsRegular(const std::string& path) const {
    const NodePtr node = Find(path);
    return node != nullptr && node->info.kind == FileKind::kRegular;
  }
  void MakeDirectory(const std::string& path) {
    const NodePtr node = std::make_shared<Node>();
    node->info.kind = FileKind::kDirectory;
    (*nodes_)[Full(path)] = node;
  }

  const std::shared_ptr<Nodes> nodes_;
  const std::string root_ = {};  // "" or "OUT"
};

}  // namespace mimo
