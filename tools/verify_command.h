// The subcommands of mimo-verify: one file each, verify_NAME.cc.
#pragma once

#include <memory>
#include <vector>

#include "tools/cli.h"

namespace mimo {

inline constexpr char kVerifyName[] = "mimo-verify";

class VerifyCommand {
 public:
  virtual ~VerifyCommand() = default;
  // Adds the subcommand with its options, which are kept here, and those of `common`. Returns the subcommand.
  virtual CLI::App* Add(CLI::App& app) = 0;
  // What the command line asks for. The exit code.
  virtual int Run() = 0;
};

// `common` outlives the command.
std::unique_ptr<VerifyCommand> MakeCheckCommand(cli::CommonOptions& common);
std::unique_ptr<VerifyCommand> MakeCompareCommand(cli::CommonOptions& common);
std::unique_ptr<VerifyCommand> MakeRoundtripCommand(cli::CommonOptions& common);
std::unique_ptr<VerifyCommand> MakeManifestCommand(cli::CommonOptions& common);
std::unique_ptr<VerifyCommand> MakeMtpCommand(cli::CommonOptions& common);
std::unique_ptr<VerifyCommand> MakeLayoutCommand(cli::CommonOptions& common);

}  // namespace mimo
