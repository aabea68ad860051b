// mimo-verify COMMAND: whether checkpoints are what they claim to be, and the same as others.
#include <utility>

#include "tools/verify_command.h"

namespace {

int Run(int argc, char** argv) {
  mimo::cli::CommonOptions common;
  CLI::App app{"Checks checkpoints: what mimo-convert wrote, or anybody.", mimo::kVerifyName};
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, std::unique_ptr<mimo::VerifyCommand>>> commands;
  const auto add = [&](std::unique_ptr<mimo::VerifyCommand> command) {
    CLI::App* named = command->Add(app);
    commands.emplace_back(named, std::move(command));
  };
  add(mimo::MakeCheckCommand(common));
  add(mimo::MakeCompareCommand(common));
  add(mimo::MakeRoundtripCommand(common));
  add(mimo::MakeManifestCommand(common));
  add(mimo::MakeMtpCommand(common));
  add(mimo::MakeLayoutCommand(common));
  if (const auto code = mimo::cli::Parse(app, argc, argv, common)) return *code;
  return mimo::cli::Guard(mimo::kVerifyName, common.json, [&] {
    for (const auto& [named, command] : commands)
      if (named->parsed()) return command->Run();
    return 0;
  });
}

}  // namespace

int main(int argc, char** argv) {
  return mimo::cli::Main(mimo::kVerifyName, [&] { return Run(argc, argv); });
}
