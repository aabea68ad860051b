#include "lib/run/claim.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "lib/model/file_names.h"

namespace mimo {
namespace {

// Another part is at it: it makes as many files as the output has, which takes a file system of a cluster a while.
constexpr std::chrono::minutes kStartPatience(10);

}  // namespace

// The lease of any other part that lives, or of one that is not a part of the same whole.
Status OutputClaim::CheckOthers(FileSystem& files, const RunOptions& options, Others others) {
  MIMO_ASSIGN_OR_RETURN(const auto there, files.Stat(kPartLeasesDirectory));
  if (!there || there->kind != FileKind::kDirectory) return {};
  MIMO_ASSIGN_OR_RETURN(const auto names, files.List(kPartLeasesDirectory));
  for (const std::string& name : names) {
    const std::optional<RunPart> part = PartOfLease(name);
    if (!part || part == options.part) continue;
    if (others == Others::kPartsOfAnotherCount && part->count == options.part->count) continue;
    MIMO_RETURN_IF_ERROR(Lease::CheckFree(files, LeaseNameOf(*part), LeaseOwner::Here(options.job), options.lease));
  }
  return {};
}

Status OutputClaim::CheckAlone() const {
  return CheckOthers(*files_, options_, Others::kAnyPart);
}

Status OutputClaim::EndStart() {
  if (start_ == nullptr) return {};
  const std::unique_ptr<Lease> start = std::move(start_);
  return start->Release();
}

Status OutputClaim::CheckFree(FileSystem& fs, const RunOptions& options) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(options.output));
  if (!info || info->kind != FileKind::kDirectory) return {};
  MIMO_ASSIGN_OR_RETURN(const auto files, fs.Beneath(options.output));
  const LeaseOwner owner = LeaseOwner::Here(options.job);
  MIMO_RETURN_IF_ERROR(Lease::CheckFree(*files, kLeaseName, owner, options.lease));
  if (!options.part) return CheckOthers(*files, options, Others::kAnyPart);
  MIMO_RETURN_IF_ERROR(Lease::CheckFree(*files, LeaseNameOf(*options.part), owner, options.lease));
  return CheckOthers(*files, options, Others::kPartsOfAnotherCount);
}

Result<std::unique_ptr<OutputClaim>> OutputClaim::LookAt(FileSystem& fs, const RunOptions& options) {
  std::unique_ptr<OutputClaim> claim(new OutputClaim(fs, options));
  MIMO_ASSIGN_OR_RETURN(claim->files_, fs.Beneath(options.output));
  return claim;
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
  MIMO_RETURN_IF_ERROR(claim->TakeLeases());
  return claim;
}

// Whoever comes second, of a run of its own and a part, sees a lease of the first: each takes its own before it looks
// for those of the other. A part that waits holds none of its own, so that who begins knows who has begun.
Status OutputClaim::TakeLeases() {
  const LeaseOwner owner = LeaseOwner::Here(options_.job);
  if (!options_.part) {
    MIMO_ASSIGN_OR_RETURN(lease_, Lease::Take(*files_, kLeaseName, owner, options_.lease, options_.stop));
    MIMO_RETURN_IF_ERROR(Lease::CheckFree(*files_, kStartLeaseName, owner, options_.lease));
    return CheckOthers(*files_, options_, Others::kAnyPart);
  }
  LeaseTimes patient = options_.lease;
  patient.retry = std::max<LeaseTimes::Time>(patient.retry, kStartPatience);
  MIMO_ASSIGN_OR_RETURN(start_, Lease::Take(*files_, kStartLeaseName, owner, patient, options_.stop));
  MIMO_ASSIGN_OR_RETURN(lease_,
                        Lease::Take(*files_, LeaseNameOf(*options_.part), owner, options_.lease, options_.stop));
  MIMO_RETURN_IF_ERROR(Lease::CheckFree(*files_, kLeaseName, owner, options_.lease));
  return CheckOthers(*files_, options_, Others::kPartsOfAnotherCount);
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
  Status ended = EndStart();
  if (lease_ == nullptr) return ended;
  const std::unique_ptr<Lease> lease = std::move(lease_);
  const bool held = lease->Check().ok();
  MIMO_RETURN_IF_ERROR(lease->Release());
  MIMO_RETURN_IF_ERROR(std::move(ended));
  if (options_.part) MIMO_RETURN_IF_ERROR(RemoveEmptyPartial());
  if (!remove_empty || !held) return {};
  MIMO_ASSIGN_OR_RETURN(const auto names, files_->List(""));
  if (!names.empty()) return {};
  MIMO_ASSIGN_OR_RETURN(const bool at_path, IsAtPath());
  return at_path ? fs_.RemoveDirectory(options_.output) : Status();
}

// With the lease of a part its folder goes, and not the one above that.
Status OutputClaim::RemoveEmptyPartial() const {
  MIMO_ASSIGN_OR_RETURN(const auto info, files_->Stat(kPartialDirectory));
  if (!info || info->kind != FileKind::kDirectory) return {};
  MIMO_ASSIGN_OR_RETURN(const auto names, files_->List(kPartialDirectory));
  if (!names.empty()) return {};
  Status removed = files_->RemoveDirectory(kPartialDirectory);
  if (removed.ok()) return files_->SyncDirectory("");
  // Somebody has come this moment.
  MIMO_ASSIGN_OR_RETURN(const auto still, files_->Stat(kPartialDirectory));
  if (!still) return {};
  MIMO_ASSIGN_OR_RETURN(const auto now, files_->List(kPartialDirectory));
  return now.empty() ? std::move(removed) : Status();
}

Result<bool> OutputClaim::IsAtPath() const {
  MIMO_ASSIGN_OR_RETURN(const auto held, files_->Stat(""));
  MIMO_ASSIGN_OR_RETURN(const auto there, fs_.Stat(options_.output));
  return held && there && held->device == there->device && held->inode == there->inode && !there->symlink;
}

}  // namespace mimo
