#include "lib/run/output_dir.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "lib/base/real_path.h"
#include "lib/model/file_names.h"
#include "lib/results/manifest.h"
#include "lib/run/publish.h"
#include "lib/run/run_state.h"

namespace mimo {
namespace {

bool Contains(const std::vector<std::string>& names, const char* name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Whether OUT/mimo-manifest.json is of this plan. A manifest that cannot be parsed is of none.
Result<bool> HasManifestOf(FileSystem& files, const Plan& plan) {
  auto manifest = ReadManifest(files, kManifestName);
  if (manifest.ok()) return manifest->plan_digest == plan.digest && manifest->tool_version == plan.tool_version;
  if (manifest.error().code == ErrorCode::kBadInput) return false;
  return manifest.TakeError();
}

// What OUT holds, but for a partial directory that is empty, or is there for the lease alone.
Result<std::vector<std::string>> NamesIn(FileSystem& files) {
  MIMO_ASSIGN_OR_RETURN(auto names, files.List(""));
  MIMO_ASSIGN_OR_RETURN(const auto partial, files.Stat(kPartialDirectory));
  if (!partial || partial->kind != FileKind::kDirectory) return names;
  MIMO_ASSIGN_OR_RETURN(auto within, files.List(kPartialDirectory));
  std::erase_if(within, IsOfLeases);
  if (within.empty()) std::erase(names, kPartialDirectory);
  return names;
}

std::string Some(const std::vector<std::string>& names) {
  return names.front() + (names.size() > 1 ? " and " + std::to_string(names.size() - 1) + " more" : "");
}

Error OtherPlan(const std::string& path) {
  return UsageError("cannot resume: this is the output of another plan or version")
      .File(path)
      .Advice(
          "repeat the options of the first run over the checkpoint as it was then (config and carried files too), "
          "choose another output, or start again with --overwrite");
}

Error Foreign(const std::string& path) {
  return UsageError("cannot resume: OUT holds neither a partial nor a complete output")
      .File(path)
      .Advice("choose an empty or a new directory");
}

// Whether `path`, a real path that need not exist, is `directory` or lies in it, by another mount of it too.
Result<bool> LiesBeneath(FileSystem& fs, const std::string& path, const std::string& directory) {
  if (IsInside(path, directory)) return true;
  MIMO_ASSIGN_OR_RETURN(const auto wanted, fs.Stat(directory));
  if (!wanted) return false;
  for (std::string at = path;; at = ParentOf(at)) {
    MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(at));
    if (info && info->device == wanted->device && info->inode == wanted->inode) return true;
    if (at == "/" || at == ".") return false;
  }
}

std::string TextOf(const std::vector<std::string>& options) {
  std::string text;
  for (const std::string& option : options) text += (text.empty() ? "" : " ") + option;
  return text.empty() ? "none of --hash-linked, --error-report, --min-sqnr" : text;
}

std::string Identity(const Hash128& digest, const std::string& version) {
  return "plan " + digest.Hex() + " of version " + version;
}

}  // namespace

Status CheckOutput(FileSystem& fs, const std::string& checkpoint, const RunOptions& options) {
  const std::string& output = options.output;
  if (output.empty()) return UsageError("no output directory").Advice("name one");
  if (options.overwrite && options.resume)
    return UsageError("--overwrite and --resume contradict").File(output).Advice("choose one");
  if (options.force && !options.overwrite)
    return UsageError("--force without --overwrite").File(output).Advice("leave it out, or add --overwrite");
  MIMO_ASSIGN_OR_RETURN(const std::string source, FutureRealPath(fs, checkpoint));
  MIMO_ASSIGN_OR_RETURN(const std::string target, FutureRealPath(fs, output));
  MIMO_ASSIGN_OR_RETURN(const bool around, LiesBeneath(fs, target, source));
  MIMO_ASSIGN_OR_RETURN(const bool within, LiesBeneath(fs, source, target));
  if (around || within) {
    Error error =
        UsageError("the output and the checkpoint are inside one another").File(output).Advice("choose another output");
    error.found = target + " and " + source;
    return error;
  }
  MIMO_ASSIGN_OR_RETURN(const auto info, fs.Stat(output));
  if (!info) return {};
  if (info->kind != FileKind::kDirectory)
    return UsageError("the output is not a directory").File(output).Advice("choose another output");
  MIMO_RETURN_IF_ERROR(OutputClaim::CheckFree(fs, options));
  MIMO_ASSIGN_OR_RETURN(const auto files, fs.Beneath(output));
  return CheckContents(*files, options);
}

Status CheckContents(FileSystem& files, const RunOptions& options) {
  MIMO_ASSIGN_OR_RETURN(const auto names, NamesIn(files));
  MIMO_ASSIGN_OR_RETURN(const auto manifest, files.Stat(kManifestName));
  MIMO_ASSIGN_OR_RETURN(const auto info, files.Stat(kPartialDirectory));
  if (info && info->kind != FileKind::kDirectory)
    return UsageError("what stands in the place of the partial directory is no directory")
        .File(JoinPath(options.output, kPartialDirectory))
        .Advice("remove it, or choose another output");
  if (names.empty() || options.resume || options.join) return {};
  if (options.part && !options.overwrite) return {};
  const bool partial = Contains(names, kPartialDirectory);
  const bool ours = partial || (manifest && manifest->kind == FileKind::kRegular);
  if (options.overwrite) {
    if (ours || options.force) return {};
    return UsageError("refusing to overwrite a directory that nothing shows to be an output of mimo-convert")
        .File(options.output)
        .Expected(std::string(kManifestName) + " or " + kPartialDirectory)
        .Found(Some(names))
        .Advice("choose another output, empty it first, or add --force to lose everything in it");
  }
  return UsageError("the output is not empty")
      .File(options.output)
      .Advice(partial ? "continue with --resume, or start again with --overwrite"
                      : "choose another output, or replace it with --overwrite");
}

namespace {

// What cuts its units otherwise finds none of those that are made; and of all parts the same is asked, a join of them
// no more.
Status CheckSameWork(const PartialDirectory& partial, const PartialDirectory::State& begun, const RunOptions& options) {
  if (begun.unit_bytes != UnitBytes(options))
    return UsageError("cannot go on: the partial output was begun with another --unit-size")
        .File(partial.path())
        .Expected("units of " + std::to_string(begun.unit_bytes) + " bytes")
        .Found("units of " + std::to_string(UnitBytes(options)) + " bytes")
        .Advice("repeat --unit-size, or start again with --overwrite");
  if (!options.part && !options.join) return {};
  std::vector<std::string> asked = AskedOf(options), before = begun.asked;
  const std::string found = TextOf(asked), expected = TextOf(before);
  if (options.join && !Contains(asked, kErrorReport)) std::erase(before, kErrorReport);
  if (asked == before) return {};
  return UsageError("the parts of this output were begun with other options")
      .File(partial.path())
      .Expected(expected)
      .Found(found)
      .Advice("repeat the options of the first part, or start again with --overwrite");
}

// What there is of this plan's output: kFresh where OUT is empty.
Result<OutputInfo> ExamineExisting(const PartialDirectory& partial, const Catalogue& catalogue, const Plan& plan,
                                   const RunOptions& options) {
  FileSystem& files = partial.fs();
  OutputInfo out;
  out.created_output = partial.claim().made();
  out.overwrite = options.overwrite;
  MIMO_ASSIGN_OR_RETURN(auto names, NamesIn(files));
  if (names.empty()) return out;

  if (Contains(names, kPartialDirectory)) {
    MIMO_ASSIGN_OR_RETURN(const auto publication, partial.ReadPublication());
    MIMO_ASSIGN_OR_RETURN(const auto state, partial.ReadState());
    const std::string expected = Identity(plan.digest, plan.tool_version);
    if (state && (state->plan_digest != plan.digest || state->tool_version != plan.tool_version)) {
      return OtherPlan(partial.path()).Expected(expected).Found(Identity(state->plan_digest, state->tool_version));
    }
    if (publication && publication->plan_digest != plan.digest) {
      return OtherPlan(partial.path()).Expected(plan.digest.Hex()).Found(publication->plan_digest.Hex());
    }
    if (publication) MIMO_RETURN_IF_ERROR(CheckNames(partial, plan, *publication));
    if (state) {
      out.created_output |= state->created_output;
      out.overwrite = state->overwrite;
    }
    if (publication) {
      MIMO_ASSIGN_OR_RETURN(const bool whole, IsWhole(partial, *publication));
      if (whole) {
        out.state = OutputState::kPublishing;
        return out;
      }
    }
    if (state) {
      MIMO_RETURN_IF_ERROR(CheckSameWork(partial, *state, options));
      MIMO_RETURN_IF_ERROR(CheckSameSources(catalogue, state->sources));
      out.state = OutputState::kPartial;
      return out;
    }
    // A run that stopped before its first or after its last word.
    std::erase(names, kPartialDirectory);
    if (names.empty()) return out;
  }
  if (!Contains(names, kManifestName)) return Foreign(options.output);
  MIMO_ASSIGN_OR_RETURN(const bool same, HasManifestOf(files, plan));
  if (!same)
    return OtherPlan(options.output)
        .Expected(Identity(plan.digest, plan.tool_version))
        .Found("the manifest of another");
  out.state = OutputState::kComplete;
  return out;
}

}  // namespace

Result<OutputInfo> ExamineOutput(const PartialDirectory& partial, const Catalogue& catalogue, const Plan& plan,
                                 const RunOptions& options) {
  if (options.resume || options.part || options.join) {
    Result<OutputInfo> found = ExamineExisting(partial, catalogue, plan, options);
    if (found.ok() && options.join && found->state == OutputState::kFresh)
      return UsageError("there is nothing to join")
          .File(options.output)
          .Expected("what parts of this conversion have made (--part)")
          .Found("an empty directory")
          .Advice("run the parts first");
    const bool other = !found.ok() && found.error().code == ErrorCode::kUsage;
    if (!other || !options.part || !options.overwrite) return found;
  }
  OutputInfo out;
  out.created_output = partial.claim().made();
  out.overwrite = options.overwrite;
  return out;
}

}  // namespace mimo
