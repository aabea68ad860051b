// --part and --join: which share of a conversion this process makes, as options and launchers tell, and how a join
// comes by what the parts were asked.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/file_system.h"
#include "lib/base/status.h"
#include "lib/run/part.h"

namespace mimo {

// A variable of the environment; nullopt where it is not set.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;
Environment ProcessEnvironment();

struct PartChoice {
  RunPart part;
  std::string by;  // "SLURM_PROCID=3 of SLURM_STEP_NUM_TASKS=16"; "" for what was typed
};

// "I/N", I from 0; "auto", from the variables of Slurm (tasks of a step, elements of an array, both), MPI, torchrun or
// an Indexed Job of Kubernetes; or "auto/N", where that does not tell how many there are. kUsage where nothing or
// nothing consistent is told.
Result<PartChoice> ReadPart(const std::string& text, const Environment& environment);

// What the options of `app` say about the conversion itself, for a join from OUT alone: the current directory, CKPT,
// then what was `typed` ("--dtype=bf16"), and what variables say ("MIMO_CONVERT_DTYPE=bf16").
std::vector<std::string> CommandOf(const CLI::App& app, const std::set<std::string>& typed,
                                   const std::string& checkpoint);

// Whether a directory holds an output that is complete and published, and nothing more to do but to remove what is left
// of how it was made (CompleteBefore).
bool IsCompleteOutput(const std::string& output);

// The words of a join beside OUT. Options of `files` name files: as seen from this directory, which need not be that of
// the parts.
std::vector<std::string> MoreThanOut(const std::string& output,
                                     const std::vector<std::pair<std::string, std::string>>& files,
                                     const std::vector<std::string>& words);

// The arguments for joining the parts in `output`: those that RunOptions::command kept there, then `more`. Sets the
// variables that it kept, where they are not set, and goes to the directory that relative names are of. kUsage where
// there is nothing to join.
Result<std::vector<std::string>> JoinArguments(FileSystem& fs, const std::string& output,
                                               const std::vector<std::string>& more);

}  // namespace mimo
