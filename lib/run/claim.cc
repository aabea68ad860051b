#include "lib/run/claim.h"

#include <vector>

#include "lib/model/file_names.h"

namespace mimo {

Status OutputClaim::CheckFree(FileSystem& fs, const RunOptions& options) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(options.output));
  if (!info || info->kind != FileKind::kDirectory) return {};
  MIMO_ASSIGN_OR_RETURN(const auto files, fs.Beneath(options.output));
  return Lease::CheckFree(*files, kLeaseName, LeaseOwner::Here(options.job), options.lease);
}

Result<std::unique_ptr<OutputClaim>> OutputClaim::Take(FileSystem& fs, const RunOptions& options) {
  std::unique_ptr<OutputClaim> claim(new OutputClaim(fs, options));
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(options.output));
  claim->made_ = !info;
  if (!info) {
    // Each directory that is made is an entry of its parent, which has to reach the disk too.
    std::vector<std::string> parents{ParentOf(options.output)};
    while (parents.back() != "/" && parents.back() != ".") {
      MIMO_ASSIGN_OR_RETURN(const auto there, fs.Stat(parents.back()));
      if (there) break;
      parents.push_back(ParentOf(parents.back()));
    }
    MIMO_RETURN_IF_ERROR(fs.CreateDirectories(options.output));
    for (const std::string& parent : parents) MIMO_RETURN_IF_ERROR(fs.SyncDirectory(parent));
  }
  MIMO_ASSIGN_OR_RETURN(claim->files_, fs.Beneath(options.output));
  MIMO_ASSIGN_OR_RETURN(claim->lease_, Lease::Take(*claim->files_, kLeaseName, LeaseOwner::Here(options.job),
                                                   options.lease, options.stop));
  return claim;
}

OutputClaim::~OutputClaim() {
  const Status ignored = Release(made_);
}

Status OutputClaim::CheckStop() const {
  if (options_.stop != nullptr && options_.stop->load() != 0)
    return Interrupted("interrupted").File(options_.output).Advice("continue with --resume");
  return CheckLease();
}

Status OutputClaim::CheckLease() const {
  return lease_->Check();
}

Status OutputClaim::Confirm() const {
  return lease_->Confirm();
}

Status OutputClaim::Release(bool remove_empty) {
  if (lease_ == nullptr) return {};
  const std::unique_ptr<Lease> lease = std::move(lease_);
  const bool held = lease->Check().ok();
  MIMO_RETURN_IF_ERROR(lease->Release());
  if (!remove_empty || !held) return {};
  MIMO_ASSIGN_OR_RETURN(const auto names, files_->List(""));
  if (!names.empty()) return {};
  MIMO_ASSIGN_OR_RETURN(const bool at_path, IsAtPath());
  return at_path ? fs_.RemoveDirectory(options_.output) : Status();
}

Result<bool> OutputClaim::IsAtPath() const {
  MIMO_ASSIGN_OR_RETURN(const auto held, files_->Stat(""));
  MIMO_ASSIGN_OR_RETURN(const auto there, fs_.Stat(options_.output));
  return held && there && held->device == there->device && held->inode == there->inode && !there->symlink;
}

}  // namespace mimo
