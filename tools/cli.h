// What the commands share: options common to all, errors as text and as JSON, exit codes, signals, progress.
// The library never prints; everything people see goes through here.
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "lib/base/progress.h"
#include "lib/base/status.h"
#include "lib/base/words.h"
#include "lib/layout/qkv_wish.h"

namespace mimo::cli {

struct CommonOptions {
  bool json = false;
  bool quiet = false;
  bool verbose = false;
  bool no_progress = false;
};

// --json, --quiet, --verbose, --no-progress and --version; `footer` (examples) ends the help text. For commands with
// subcommands: call it on each subcommand that runs, with the same `options`.
void AddCommonOptions(CLI::App& app, CommonOptions& options, const std::string& footer);

// An option that takes "5GB", "5GiB" or bytes (ParseSize).
CLI::Option* AddSize(CLI::App& app, const std::string& name, uint64_t& bytes, const std::string& description);

// An option that takes a word of a table, and no other; `value` (a T, or an optional one) becomes that of the word.
// Help shows the word of a T as the default.
template <class T, class Value, size_t N>
CLI::Option* AddWord(CLI::App& app, const std::string& name, Value& value, const Words<T, N>& words,
                     const std::string& description) {
  std::vector<std::string> taken;
  for (const auto& entry : words) taken.emplace_back(entry.second);
  const auto read = [&value, words](const std::string& text) { value = *FromWord(words, text); };
  CLI::Option* option = app.add_option_function<std::string>(name, read, description)->check(CLI::IsMember(taken));
  if constexpr (std::is_same_v<T, Value>) option->default_str(std::string(WordOf(words, value)));
  return option;
}

// --source-qkv; `of`: what the decision is about, for the help.
CLI::Option* AddSourceQkv(CLI::App& app, std::optional<QkvWish>& wish, const std::string& of);

// The text of an option that begins with its words: "a|b|c: WHAT".
template <class T, size_t N>
std::string WordsAnd(const Words<T, N>& words, const std::string& what) {
  return Joined(words, "|", "|") + ": " + what;
}

// Gives every long option of the app and its subcommands the variable MIMO_CONVERT_<OPTION> ("--max-shard-size" ->
// MIMO_CONVERT_MAX_SHARD_SIZE) as its default, then parses. Returns the exit code when there is nothing left to do:
// --help, --version, or 2 with a hint on stderr. Before anything else it sees to it that files which are opened later
// can never become standard input, output or error.
std::optional<int> Parse(CLI::App& app, int argc, char** argv, const CommonOptions& options);
std::optional<int> Parse(CLI::App& app, std::vector<std::string> words, const CommonOptions& options);

// Prints "NAME: error: MESSAGE" to stderr and, with `json`, {"error": {...}} to stdout. Returns the exit code.
int PrintError(const std::string& name, const Error& error, bool json);
// The "error" object alone, for documents that hold more; one line without a newline.
std::string ErrorJson(const Error& error);
// A document as it is printed. Bytes that are no UTF-8 (of paths) become U+FFFD.
std::string JsonText(const nlohmann::ordered_json& document);
// The code's value; 130 or 143 when a signal stopped the run.
int ExitCode(ErrorCode code);

// "NAME: warning: TEXT" to stderr, unless --quiet.
void PrintWarning(const std::string& name, const std::string& text, const CommonOptions& options);

// Calls `body`, the whole of a command with the reading of its arguments, and returns the exit code of the process.
// From here on a file size limit and a closed pipe are errors of the writes that meet them, no signals. What was
// printed and could not be written, and memory that runs out where nobody else has an answer, are exit code 4.
int Main(const char* name, const std::function<int()>& body);

// Runs `command` and turns what escapes it into an error: no memory is kIo (may be retried), anything else kBadInput.
// What was printed has reached standard output, or the exit code is not 0: kIo where all else went well. Nothing can be
// printed to it afterwards.
int Guard(const std::string& name, bool json, const std::function<int()>& command);

// From now on the first SIGINT or SIGTERM stores its number in the returned flag; the second ends the process at once.
const std::atomic<int>* CatchStopSignals();

// Progress on stderr: one redrawn line on a terminal, else one plain line per tenth. Null with --quiet or
// --no-progress.
std::unique_ptr<ProgressObserver> MakeProgress(const CommonOptions& options);

}  // namespace mimo::cli
