#include "tools/cli.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "lib/base/checked.h"
#include "lib/base/machine.h"
#include "lib/model/family.h"
#include "tools/print.h"

namespace mimo::cli {
namespace {

constexpr size_t kMostOfAField = 1000;  // bytes of an error that are printed

std::atomic<int> stop_signal{0};

extern "C" void OnStopSignal(int number) {
  int none = 0;
  if (!stop_signal.compare_exchange_strong(none, number)) _exit(128 + number);
}

std::string VariableOf(const std::string& option) {
  std::string name = "MIMO_CONVERT_";
  for (char c : option) name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

void TakeDefaultsFromEnvironment(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_positional() || option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    if (name != "help" && name != "version") option->envname(VariableOf(name));
  }
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) TakeDefaultsFromEnvironment(*command);
}

// A process may be started with these closed. The next file that is opened would take the place, and receive what is
// printed. What stands in for them refuses reading and writing alike where that is noticed: /dev/null, the wrong way
// round.
void OccupyStandardDescriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    const int flags = fd == STDIN_FILENO ? O_WRONLY : O_RDONLY;
    const int taken = ::open("/dev/null", flags);  // the lowest that is free: this one
    if (taken >= 0 && taken != fd) ::close(taken);
  }
}

constexpr Words<ErrorCode, 6> kCodes{{{ErrorCode::kCheckFailed, "check_failed"},
                                      {ErrorCode::kUsage, "usage"},
                                      {ErrorCode::kBadInput, "bad_input"},
                                      {ErrorCode::kIo, "io"},
                                      {ErrorCode::kDevice, "device"},
                                      {ErrorCode::kInterrupted, "interrupted"}}};
static_assert(Enumerators<ErrorCode, 256>() == kCodes.size());

}  // namespace

void AddCommonOptions(CLI::App& app, CommonOptions& options, const std::string& footer) {
  app.add_flag("--json", options.json, "Print one JSON document to stdout");
  app.add_flag("--quiet", options.quiet, "Print errors only");
  app.add_flag("--verbose", options.verbose, "Print more");
  app.add_flag("--no-progress", options.no_progress, "No progress on stderr");
  app.set_version_flag("--version", [] {
    std::string text = MIMO_VERSION;
    if (const auto families = Family::All(); families.ok())
      for (const Family* family : *families.value()) text += "\n" + family->title + ": " + family->proven;
    return text;
  });
  if (!footer.empty()) app.footer(footer);
}

CLI::Option* AddSize(CLI::App& app, const std::string& name, uint64_t& bytes, const std::string& description) {
  auto read = [&bytes, name](const std::string& text) {
    Result<uint64_t> size = ParseSize(text);
    if (!size.ok()) throw CLI::ValidationError(name, size.error().Message());
    bytes = size.value();
  };
  return app.add_option_function<std::string>(name, read, description)->type_name("SIZE");
}

CLI::Option* AddSourceQkv(CLI::App& app, std::optional<QkvWish>& wish, const std::string& of) {
  const auto read = [&wish](const std::string& text) {
    if (!text.empty()) wish = QkvWish(text);
  };
  return app.add_option_function<std::string>("--source-qkv", read,
                                              "split|independent|fused:C: overrides the decision about the " + of);
}

std::optional<int> Parse(CLI::App& app, int argc, char** argv, const CommonOptions& options) {
  OccupyStandardDescriptors();
  TakeDefaultsFromEnvironment(app);
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::ParseError& problem) {
    return PrintError(app.get_name(), UsageError(problem.what()).Advice("see " + app.get_name() + " --help"),
                      options.json);
  }
}

std::optional<int> Parse(CLI::App& app, std::vector<std::string> words, const CommonOptions& options) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  return Parse(app, static_cast<int>(pointers.size()), pointers.data(), options);
}

int ExitCode(ErrorCode code) {
  const int number = stop_signal.load();
  if (code == ErrorCode::kInterrupted && number != 0) return 128 + number;
  return static_cast<int>(code);
}

std::string ErrorJson(const Error& error) {
  nlohmann::ordered_json object;
  object["code"] = WordOf(kCodes, error.code);
  object["exit"] = ExitCode(error.code);
  object["message"] = error.Message();
  object["what"] = error.what;
  const std::pair<const char*, const std::string&> fields[] = {{"file", error.file},         {"tensor", error.tensor},
                                                               {"expected", error.expected}, {"found", error.found},
                                                               {"advice", error.advice},     {"id", error.id}};
  for (const auto& [key, value] : fields) {
    if (!value.empty()) object[key] = value;
  }
  return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string JsonText(const nlohmann::ordered_json& document) {
  return document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

int PrintError(const std::string& name, const Error& error, bool json) {
  Error shown = error;
  for (std::string Error::*field :
       {&Error::what, &Error::file, &Error::tensor, &Error::expected, &Error::found, &Error::advice, &Error::id})
    shown.*field = CutText(shown.*field, kMostOfAField);
  Print(stderr, "%s: error: %s\n", name, shown.Message());
  if (json) PrintJson("{\"error\": " + ErrorJson(error) + "}");
  std::fflush(stdout);
  return ExitCode(error.code);
}

void PrintWarning(const std::string& name, const std::string& text, const CommonOptions& options) {
  if (!options.quiet) Print(stderr, "%s: warning: %s\n", name, text);
}

int Main(const char* name, const std::function<int()>& body) {
  for (const int number : {SIGXFSZ, SIGPIPE}) std::signal(number, SIG_IGN);
  RaiseOpenFiles();
  int code = static_cast<int>(ErrorCode::kIo);
  try {
    code = body();
  } catch (const std::bad_alloc&) {
    PrintLastWords(name, "out of memory; free some, or pass a smaller --memory");
  } catch (const std::exception&) {
    PrintLastWords(name, "unexpected failure; please report this with the command line");
    code = static_cast<int>(ErrorCode::kBadInput);
  }
  return FinishOutput(name, code);
}

int Guard(const std::string& name, bool json, const std::function<int()>& command) {
  try {
    return command();
  } catch (const std::bad_alloc&) {
    return PrintError(name, IoError("out of memory").Advice("free some, or pass a smaller --memory"), json);
  } catch (const std::exception& problem) {
    return PrintError(name,
                      BadInput(std::string("unexpected failure: ") + problem.what())
                          .Advice("please report this with the command line"),
                      json);
  }
}

const std::atomic<int>* CatchStopSignals() {
  struct sigaction action {};
  action.sa_handler = OnStopSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  return &stop_signal;
}

}  // namespace mimo::cli
