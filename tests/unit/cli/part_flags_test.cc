// Which part a process is, from what was typed and from what launchers put into its environment.
#include "tools/part_flags.h"

#include <gtest/gtest.h>

#include <map>

#include "lib/run/part.h"

namespace mimo::part_flags_test {
namespace {

using Variables = std::map<std::string, std::string>;

Result<PartChoice> Read(const std::string& text, const Variables& variables) {
  return ReadPart(text, [&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

// "3/16", or "exit 2" where it is refused.
std::string Part(const std::string& text, const Variables& variables) {
  const auto choice = Read(text, variables);
  return choice.ok() ? TextOf(choice.value().part) : "exit " + std::to_string(static_cast<int>(choice.error().code));
}

Variables operator+(Variables a, const Variables& b) {
  for (const auto& [name, value] : b) a[name] = value;
  return a;
}

// As Slurm 22.05 sets them: in a batch script, in a task of a step, in an element of an array.
Variables Batch(const std::string& tasks) {
  return {{"SLURM_JOB_ID", "7"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", tasks}, {"SLURM_NPROCS", tasks}};
}
Variables Task(const std::string& index, const std::string& count, const std::string& nodes = "1") {
  return Batch(count) + Variables{{"SLURM_STEP_ID", "0"},
                                  {"SLURM_STEPID", "0"},
                                  {"SLURM_PROCID", index},
                                  {"SLURM_STEP_NUM_TASKS", count},
                                  {"SLURM_STEP_NUM_NODES", nodes}};
}
Variables Element(const std::string& id, const std::string& least, const std::string& most, const std::string& count) {
  return Batch("1") + Variables{{"SLURM_ARRAY_JOB_ID", "7"},
                                {"SLURM_ARRAY_TASK_ID", id},
                                {"SLURM_ARRAY_TASK_MIN", least},
                                {"SLURM_ARRAY_TASK_MAX", most},
                                {"SLURM_ARRAY_TASK_COUNT", count}};
}
Variables Mpi(const std::string& index, const std::string& count) {
  return {{"OMPI_COMM_WORLD_RANK", index}, {"OMPI_COMM_WORLD_SIZE", count}};
}
Variables Pmi(const std::string& index, const std::string& count) {
  return {{"PMI_RANK", index}, {"PMI_SIZE", count}};
}
Variables Torch(const std::string& rank, const std::string& world, const std::string& group,
                const std::string& groups) {
  return {{"RANK", rank}, {"WORLD_SIZE", world}, {"GROUP_RANK", group}, {"GROUP_WORLD_SIZE", groups}};
}
Variables Pod(const std::string& index) {
  return {{"JOB_COMPLETION_INDEX", index}};
}

TEST(ReadPart, TakesWhatWasTyped) {
  const Variables step = Task("1", "4");
  for (const auto& [text, part] : std::map<std::string, std::string>{{"0/1", "0/1"},
                                                                     {"3/16", "3/16"},
                                                                     {"65535/65536", "65535/65536"},
                                                                     {"16/16", "exit 2"},
                                                                     {"0/65537", "exit 2"},
                                                                     {"0/0", "exit 2"},
                                                                     {"", "exit 2"},
                                                                     {"3", "exit 2"},
                                                                     {"/3", "exit 2"},
                                                                     {"3/", "exit 2"},
                                                                     {"-1/3", "exit 2"},
                                                                     {"1/-3", "exit 2"},
                                                                     {"1 /3", "exit 2"},
                                                                     {"0x1/3", "exit 2"},
                                                                     {"1/3/4", "exit 2"},
                                                                     {"4294967296/3", "exit 2"},
                                                                     {"1/4294967297", "exit 2"},
                                                                     {"AUTO", "exit 2"},
                                                                     {"auto/", "exit 2"},
                                                                     {"auto/0", "exit 2"},
                                                                     {"auto/x", "exit 2"}})
    EXPECT_EQ(Part(text, step), part) << text;
  EXPECT_EQ(Read("3/16", step).value().by, "");
}

TEST(ReadPart, TakesWhatLaunchersSay) {
  const struct {
    const char* what;
    Variables variables;
    const char* part;
  } kCases[] = {
      {"nobody", {}, "exit 2"},
      {"a step", Task("3", "16", "4"), "3/16"},
      {"a step of one", Task("0", "1"), "0/1"},
      {"a batch script", Batch("4"), "exit 2"},
      {"a batch script that a step has submitted", Task("0", "4") + Batch("2"), "exit 2"},
      {"a step whose number of tasks is no number", Task("0", "many"), "exit 2"},
      {"a task beyond its step", Task("4", "4"), "exit 2"},
      {"an element", Element("2", "0", "3", "4"), "2/4"},
      {"elements from 5", Element("5", "5", "8", "4"), "0/4"},
      {"every third", Element("7", "1", "10", "4"), "2/4"},
      {"the only element", Element("9", "9", "9", "1"), "0/1"},
      {"gaps", Element("3", "0", "5", "3"), "exit 2"},
      {"gaps that come to even ones", Element("1", "0", "4", "3"), "exit 2"},
      {"the same, and on one of them", Element("2", "0", "4", "3"), "1/3"},
      {"an element out of its array", Element("6", "0", "4", "3"), "exit 2"},
      {"an element before its array", Element("0", "2", "4", "3"), "exit 2"},
      {"an array of none", Element("0", "0", "0", "0"), "exit 2"},
      {"an array that says nothing more", {{"SLURM_ARRAY_TASK_ID", "1"}}, "exit 2"},
      {"a step in an element", Element("1", "0", "3", "4") + Task("1", "2"), "3/8"},
      {"the last of them", Element("3", "0", "3", "4") + Task("1", "2"), "7/8"},
      {"MPI in an element", Element("1", "0", "1", "2") + Mpi("2", "3"), "5/6"},
      {"a pod in an element", Element("1", "0", "1", "2") + Pod("1"), "exit 2"},
      {"Open MPI", Mpi("2", "4"), "2/4"},
      {"Open MPI in a batch script", Batch("4") + Mpi("2", "4"), "2/4"},
      {"a rank alone", {{"OMPI_COMM_WORLD_RANK", "2"}}, "exit 2"},
      {"PMI", Pmi("0", "2"), "0/2"},
      {"PMI of a step", Task("1", "2") + Pmi("1", "2"), "1/2"},
      {"MPI that a step's daemons start", Task("1", "3", "3") + Mpi("5", "12"), "5/12"},
      {"PMI that a step's daemons start", Task("1", "3", "3") + Pmi("0", "3"), "0/3"},
      {"fewer than daemons", Task("1", "3", "3") + Mpi("0", "2"), "exit 2"},
      {"MPI in a step of several tasks per node", Task("1", "4", "2") + Mpi("2", "4"), "exit 2"},
      {"Open MPI and PMI", Mpi("2", "4") + Pmi("1", "4"), "exit 2"},
      {"torchrun", Torch("5", "8", "1", "2"), "5/8"},
      {"torchrun without groups", {{"RANK", "5"}, {"WORLD_SIZE", "8"}}, "5/8"},
      {"torchrun, a step of one task per node", Task("1", "2", "2") + Torch("5", "8", "1", "2"), "5/8"},
      {"torchrun, other nodes than the step's", Task("0", "2", "2") + Torch("5", "8", "1", "2"), "exit 2"},
      {"torchrun of one node in each task", Task("1", "2", "2") + Torch("3", "4", "0", "1"), "exit 2"},
      {"ranks that are the step's own", Task("1", "2") + Variables{{"RANK", "1"}, {"WORLD_SIZE", "2"}}, "1/2"},
      {"torchrun in pods", Torch("5", "8", "1", "2") + Pod("1"), "5/8"},
      {"torchrun in another pod", Torch("5", "8", "1", "2") + Pod("0"), "exit 2"},
      {"a rank that is none", {{"RANK", "8"}, {"WORLD_SIZE", "8"}}, "exit 2"},
      {"ranks in words", {{"RANK", "one"}, {"WORLD_SIZE", "8"}}, "exit 2"},
      {"empty ranks", {{"RANK", ""}, {"WORLD_SIZE", ""}}, "exit 2"},
      {"too many", {{"RANK", "1"}, {"WORLD_SIZE", "65537"}}, "exit 2"},
      {"a pod", Pod("2"), "exit 2"},
  };
  for (const auto& test : kCases) EXPECT_EQ(Part("auto", test.variables), test.part) << test.what;
}

TEST(ReadPart, TakesANumberOfPartsWhereTheLauncherHasNone) {
  EXPECT_EQ(Part("auto/5", Pod("2")), "2/5");
  EXPECT_EQ(Part("auto/2", Pod("2")), "exit 2");
  EXPECT_EQ(Part("auto/4", Task("1", "4")), "1/4");
  EXPECT_EQ(Part("auto/5", Task("1", "4")), "exit 2");
  EXPECT_EQ(Part("auto/8", Element("1", "0", "3", "4") + Task("1", "2")), "3/8");
  EXPECT_EQ(Part("auto/5", {}), "exit 2");
}

TEST(ReadPart, SaysWhichVariablesItUsed) {
  EXPECT_EQ(Read("auto", Task("3", "16")).value().by, "SLURM_PROCID=3, SLURM_STEP_NUM_TASKS=16");
  EXPECT_EQ(Read("auto", Element("1", "0", "3", "4") + Task("1", "2")).value().by,
            "SLURM_ARRAY_TASK_ID=1, SLURM_ARRAY_TASK_COUNT=4; SLURM_PROCID=1, SLURM_STEP_NUM_TASKS=2");
  EXPECT_EQ(Read("auto", Task("1", "2") + Pmi("1", "2")).value().by,
            "PMI_RANK=1, PMI_SIZE=2; SLURM_PROCID=1, SLURM_STEP_NUM_TASKS=2");
  EXPECT_EQ(Read("auto/5", Pod("2")).value().by, "JOB_COMPLETION_INDEX=2");
  const auto refused = Read("auto", Task("1", "4") + Mpi("2", "4"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().found,
            "OMPI_COMM_WORLD_RANK=2, OMPI_COMM_WORLD_SIZE=4; and SLURM_PROCID=1, SLURM_STEP_NUM_TASKS=4");
}

}  // namespace
}  // namespace mimo::part_flags_test
