#include "tools/part_flags.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include "lib/base/os_error.h"
#include "lib/base/real_path.h"
#include "lib/model/file_names.h"
#include "lib/owner/lease.h"
#include "lib/run/executor.h"
#include "lib/run/partial.h"

namespace mimo {
namespace {

// Options that say how a part is run, and nothing of what is made.
const std::set<std::string>& OfOneProcess() {
  static const std::set<std::string> names{"help",    "version", "json",         "quiet",    "verbose",   "no-progress",
                                           "part",    "join",    "threads",      "memory",   "device",    "io",
                                           "report",  "rates",   "resume",       "plan-out", "overwrite", "force",
                                           "dry-run", "job-id",  "restart-count"};
  return names;
}

std::optional<uint32_t> NumberOf(std::string_view text) {
  uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// Where a process stands among others, as one launcher tells. No count: it does not say.
struct Place {
  uint32_t index = 0;
  std::optional<uint32_t> count;
  std::string by;
};

class Launchers {
 public:
  explicit Launchers(const Environment& environment) : environment_(environment) {}

  // An element of an array; of arrays with gaps the numbers of the elements tell nothing.
  Result<std::optional<Place>> Array() const {
    if (!environment_("SLURM_ARRAY_TASK_ID")) return std::optional<Place>();
    MIMO_ASSIGN_OR_RETURN(const uint32_t id, Number("SLURM_ARRAY_TASK_ID"));
    MIMO_ASSIGN_OR_RETURN(const uint32_t least, Number("SLURM_ARRAY_TASK_MIN"));
    MIMO_ASSIGN_OR_RETURN(const uint32_t most, Number("SLURM_ARRAY_TASK_MAX"));
    MIMO_ASSIGN_OR_RETURN(const uint32_t count, Number("SLURM_ARRAY_TASK_COUNT"));
    const uint32_t step = count > 1 ? (most - least) / (count - 1) : 1;
    if (step == 0 || count == 0 || most < least || least + (count - 1) * step != most || (id - least) % step != 0)
      return UsageError("--part auto: the elements of this array are not evenly numbered")
          .Expected("--array=0-" + std::to_string(count == 0 ? 0 : count - 1))
          .Found(
              Shown({"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT"}))
          .Advice("number them so, or name the part: --part I/N");
    return Checked({(id - least) / step, count, Shown({"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"})});
  }

  // The places that launchers of processes tell, the innermost first. Whoever starts one process per node, which then
  // starts others, tells the place of a node: that of torchrun's agent, or of a daemon of MPI.
  Result<std::vector<Place>> Processes() const {
    std::vector<Place> places;
    MIMO_ASSIGN_OR_RETURN(const auto torch, Ranked("RANK", "WORLD_SIZE"));
    std::optional<Place> nodes;
    if (torch) {
      places.push_back(*torch);
      MIMO_ASSIGN_OR_RETURN(nodes, Ranked("GROUP_RANK", "GROUP_WORLD_SIZE"));
    }
    const auto add = [&](Place place) {
      const bool node = nodes && nodes->index == place.index && (!place.count || nodes->count == place.count);
      if (!node) places.push_back(std::move(place));
    };
    bool mpi = false;
    for (const auto& [rank, size] :
         {std::pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), std::pair("PMI_RANK", "PMI_SIZE")}) {
      MIMO_ASSIGN_OR_RETURN(auto place, Ranked(rank, size));
      mpi |= place.has_value();
      if (place) add(std::move(*place));
    }
    if (IsStep()) {
      MIMO_ASSIGN_OR_RETURN(auto place, Ranked("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"));
      const bool daemon = mpi && environment_("SLURM_STEP_NUM_NODES") == environment_("SLURM_STEP_NUM_TASKS");
      if (place && !(daemon && places.back().count >= place->count)) add(std::move(*place));
    }
    if (environment_("JOB_COMPLETION_INDEX")) {
      MIMO_ASSIGN_OR_RETURN(const uint32_t index, Number("JOB_COMPLETION_INDEX"));
      add({index, std::nullopt, Shown({"JOB_COMPLETION_INDEX"})});
    }
    return places;
  }

 private:
  // In a batch script SLURM_PROCID is 0 and says nothing: only a step has tasks. One that was submitted from within a
  // step still has that one's variables, but its number of tasks is its own.
  bool IsStep() const {
    if (!environment_("SLURM_STEP_ID")) return false;
    const auto tasks = environment_("SLURM_NTASKS");
    return !tasks || tasks == environment_("SLURM_STEP_NUM_TASKS");
  }

  Result<uint32_t> Number(const char* name) const {
    const auto text = environment_(name);
    const auto number = text ? NumberOf(*text) : std::nullopt;
    if (number) return *number;
    return UsageError(std::string("--part auto: ") + name + " is not a number")
        .Found(text.value_or("no such variable"))
        .Advice("name the part: --part I/N");
  }

  std::string Shown(const std::vector<const char*>& names) const {
    std::string text;
    for (const char* name : names) {
      if (!text.empty()) text += ", ";
      text += std::string(name) + "=" + environment_(name).value_or("");
    }
    return text;
  }

  Result<std::optional<Place>> Checked(Place place) const {
    if (place.count && place.index < *place.count) return std::optional(std::move(place));
    return UsageError("--part auto: what the launcher says is no share")
        .Found(place.by)
        .Advice("name the part: --part I/N");
  }

  // nullopt unless both variables are set.
  Result<std::optional<Place>> Ranked(const char* rank, const char* size) const {
    if (!environment_(rank) || !environment_(size)) return std::optional<Place>();
    MIMO_ASSIGN_OR_RETURN(const uint32_t index, Number(rank));
    MIMO_ASSIGN_OR_RETURN(const uint32_t count, Number(size));
    return Checked({index, count, Shown({rank, size})});
  }

  const Environment& environment_;
};

// Of all that was told one place; those that say the same are one.
Result<std::optional<Place>> OnePlace(std::vector<Place> places) {
  if (places.empty()) return std::optional<Place>();
  Place place = places[0];
  for (size_t i = 1; i < places.size(); ++i) {
    const bool same =
        places[i].index == place.index && (!places[i].count || !place.count || places[i].count == place.count);
    if (!same)
      return UsageError("--part auto: launchers contradict each other")
          .Found(place.by + "; and " + places[i].by)
          .Advice("name the part: --part I/N");
    if (!place.count) place.count = places[i].count;
    place.by += "; " + places[i].by;
  }
  return std::optional(std::move(place));
}

Result<PartChoice> Detect(std::optional<uint32_t> count, const Environment& environment) {
  const Launchers launchers(environment);
  MIMO_ASSIGN_OR_RETURN(const auto array, launchers.Array());
  MIMO_ASSIGN_OR_RETURN(auto places, launchers.Processes());
  MIMO_ASSIGN_OR_RETURN(const auto inner, OnePlace(std::move(places)));
  if (!array && !inner)
    return UsageError("--part auto: no launcher tells which part this is")
        .Expected("a step or an array of Slurm, MPI, torchrun, or an Indexed Job of Kubernetes")
        .Advice("name the part: --part I/N");
  Place place = inner ? *inner : *array;
  if (array && inner) {
    if (!inner->count)
      return UsageError("--part auto: launchers contradict each other")
          .Found(array->by + "; and " + inner->by)
          .Advice("name the part: --part I/N");
    place = {array->index * *inner->count + inner->index, *array->count * *inner->count, array->by + "; " + inner->by};
  }
  if (count && place.count && *place.count != *count)
    return UsageError("--part auto/N: the launcher says how many parts there are")
        .Expected("N = " + std::to_string(*place.count) + ", by " + place.by)
        .Found(*count)
        .Advice("write --part auto");
  if (!place.count) place.count = count;
  if (!place.count)
    return UsageError("--part auto: the launcher does not say how many parts there are")
        .Expected("--part auto/N, N the completions of the job")
        .Found(place.by);
  if (place.index >= *place.count)
    return UsageError("--part auto/N: the launcher has started more parts than N")
        .Expected("N = the completions of the job")
        .Found("N = " + std::to_string(*place.count) + ", " + place.by);
  return PartChoice{{place.index, *place.count}, place.by};
}

void AddArguments(const CLI::App& app, const std::set<std::string>& typed, std::vector<std::string>* arguments) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() == 0 || option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    if (OfOneProcess().contains(name)) continue;
    const bool of_variable = !typed.contains("--" + name);
    const std::string word = of_variable ? option->get_envname() : "--" + name;
    const bool flag = option->get_items_expected_max() == 0;
    if (flag && !of_variable) {
      arguments->push_back(word);
      continue;
    }
    for (const std::string& value : option->results()) arguments->push_back(word + "=" + value);
  }
  for (const CLI::App* group : app.get_subcommands([](const CLI::App*) { return true; }))
    AddArguments(*group, typed, arguments);
}

}  // namespace

Environment ProcessEnvironment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* text = std::getenv(name.c_str());
    return text == nullptr ? std::nullopt : std::optional<std::string>(text);
  };
}

Result<PartChoice> ReadPart(const std::string& text, const Environment& environment) {
  const size_t slash = text.find('/');
  const std::string_view first = std::string_view(text).substr(0, slash);
  std::optional<uint32_t> count;
  if (slash != std::string::npos) count = NumberOf(std::string_view(text).substr(slash + 1));
  PartChoice choice;
  const bool counted = count && *count > 0;
  if (first == "auto" && (counted || slash == std::string::npos)) {
    MIMO_ASSIGN_OR_RETURN(choice, Detect(count, environment));
  } else {
    const auto index = NumberOf(first);
    if (!index || !counted || *index >= *count)
      return UsageError("not a part")
          .Expected("--part I/N with I from 0 to N - 1, or --part auto")
          .Found("--part " + text);
    choice.part = {*index, *count};
  }
  if (choice.part.count > kMostParts)
    return UsageError("too many parts").Expected("at most " + std::to_string(kMostParts)).Found(choice.part.count);
  return choice;
}

std::vector<std::string> CommandOf(const CLI::App& app, const std::set<std::string>& typed,
                                   const std::string& checkpoint) {
  std::error_code ignored;
  std::vector<std::string> command{std::filesystem::current_path(ignored).string(), checkpoint};
  AddArguments(app, typed, &command);
  return command;
}

bool IsCompleteOutput(const std::string& output) {
  const auto there = [&](const char* name) {
    const auto info = PosixFileSystem().Stat(JoinPath(output, name));
    return info.ok() && info.value().has_value();
  };
  if (!there(kManifestName)) return false;
  if (!there(kPartialDirectory)) return true;
  // A join that was killed at its very end leaves its lease, and a part that was while it looked at OUT its own.
  const auto names = PosixFileSystem().List(JoinPath(output, kPartialDirectory));
  return names.ok() && std::all_of(names.value().begin(), names.value().end(), IsOfLeases);
}

std::vector<std::string> MoreThanOut(const std::string& output,
                                     const std::vector<std::pair<std::string, std::string>>& files,
                                     const std::vector<std::string>& words) {
  std::vector<std::string> more;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string name = words[i].substr(0, words[i].find('='));
    const bool file = std::any_of(files.begin(), files.end(), [&](const auto& f) { return f.first == name; });
    if (file) {
      if (name == words[i]) ++i;
    } else if (words[i] != output) {
      more.push_back(words[i]);
    }
  }
  for (const auto& [name, path] : files) {
    std::error_code ignored;
    if (!path.empty()) more.push_back(name + "=" + std::filesystem::absolute(path, ignored).string());
  }
  return more;
}

Result<std::vector<std::string>> JoinArguments(FileSystem& fs, const std::string& output,
                                               const std::vector<std::string>& more) {
  MIMO_ASSIGN_OR_RETURN(const std::string real, FutureRealPath(fs, output));
  MIMO_ASSIGN_OR_RETURN(const auto command, CommandOfParts(fs, output));
  if (command.size() < 2)
    return UsageError("there is nothing to join")
        .File(output)
        .Expected("what parts of a conversion have made (--part)")
        .Advice("run the parts first; or repeat their whole command with --join in the place of --part");
  if (::chdir(command[0].c_str()) != 0)
    return OsError("the parts were started in a directory that is not here", command[0], errno)
        .Advice("repeat their whole command with --join in the place of --part");
  std::vector<std::string> arguments{command[1], real};
  for (size_t i = 2; i < command.size(); ++i) {
    const size_t equals = command[i].find('=');
    if (command[i].starts_with("--"))
      arguments.push_back(command[i]);
    else if (equals != std::string::npos)
      ::setenv(command[i].substr(0, equals).c_str(), command[i].substr(equals + 1).c_str(), 0);
  }
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

}  // namespace mimo
