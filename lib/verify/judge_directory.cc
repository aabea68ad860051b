#include "lib/verify/judge_directory.h"

#include "lib/forms/registry/open_checkpoint.h"
#include "lib/judge/copies.h"
#include "lib/judge/health.h"
#include "lib/judge/judge.h"
#include "lib/model/file_names.h"

namespace mimo {
namespace {

Result<bool> Exists(FileSystem& fs, const std::string& path) {
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(path));
  return info.has_value();
}

}  // namespace

Result<DirectoryVerdict> JudgeDirectory(FileSystem& fs, const std::string& directory) {
  DirectoryVerdict verdict;
  MIMO_ASSIGN_OR_RETURN(verdict.manifest, Exists(fs, JoinPath(directory, kManifestName)));
  if (!verdict.manifest) {
    MIMO_ASSIGN_OR_RETURN(const bool partial, Exists(fs, JoinPath(directory, kPartialDirectory)));
    if (partial)
      return BadInput("the output is incomplete").File(directory).Advice("finish it with mimo-convert --resume");
  }
  const OpenedCheckpoint opened = OpenAsFarAsPossible(fs, directory, {});
  if (!opened.status.ok()) {
    const Error& error = opened.status.error();
    MIMO_ASSIGN_OR_RETURN(const bool config, Exists(fs, JoinPath(directory, kConfigName)));
    const bool checkpoint = config || opened.reached != OpenedCheckpoint::Reached::kNothing;
    if (error.code != ErrorCode::kBadInput || (!checkpoint && !verdict.manifest)) return error;
  }
  verdict.findings = JudgeOpened(opened, Subject::kOutput);
  using Reached = OpenedCheckpoint::Reached;
  if (!verdict.manifest && opened.reached >= Reached::kStored) {  // what a manifest records was judged when it was made
    MIMO_ASSIGN_OR_RETURN(Verdict health, JudgeHealth(fs, opened.checkpoint, opened.reached >= Reached::kInventory));
    verdict.findings.Append(std::move(health));
    if (opened.reached == Reached::kLayout) {
      MIMO_ASSIGN_OR_RETURN(Verdict copies, JudgeCopies(fs, opened.checkpoint));
      verdict.findings.Append(std::move(copies));
    }
  }
  if (!opened.status.ok() && verdict.manifest) {
    Verdict softened;
    for (Finding finding : verdict.findings.findings()) {
      finding.severity = Severity::kNote;
      softened.Add(std::move(finding));
    }
    verdict.findings = std::move(softened);
  }
  return verdict;
}

}  // namespace mimo
