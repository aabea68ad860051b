// Whose job a process is, from options and from what schedulers say.
#include "tools/batch_job.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <map>
#include <string>

namespace mimo::batch_job_test {
namespace {

BatchJob Found(const std::map<std::string, std::string>& variables, BatchJob job = {}, bool count_given = false) {
  for (const char* name :
       {"SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"}) {
    ::unsetenv(name);
    if (const auto it = variables.find(name); it != variables.end()) ::setenv(name, it->second.c_str(), 1);
  }
  const Status found = FindJob(count_given, &job);
  EXPECT_TRUE(found.ok()) << found.error().Message();
  return job;
}

void Expect(const BatchJob& job, const std::string& id, uint64_t restarts) {
  EXPECT_EQ(job.id, id);
  EXPECT_EQ(job.restarts, restarts);
}

TEST(BatchJob, IsTheSchedulersUnlessOptionsSayOtherwise) {
  Expect(Found({}), "", 0);
  Expect(Found({{"SLURM_JOB_ID", "8_1"}}), "8_1", 0);
  Expect(Found({{"SLURM_JOB_ID", "8_1"}, {"SLURM_RESTART_COUNT", "3"}}), "8_1", 3);
  Expect(Found({{"TORCHELASTIC_RUN_ID", "run"}, {"TORCHELASTIC_RESTART_COUNT", "2"}}), "run", 2);
  Expect(Found({{"SLURM_JOB_ID", "8"}, {"SLURM_RESTART_COUNT", "3"}}, {"mine", 7}, true), "mine", 7);
  Expect(Found({{"SLURM_JOB_ID", "8"}, {"SLURM_RESTART_COUNT", "3"}}, {"", 0}, true), "8", 0);
  Expect(Found({{"SLURM_JOB_ID", "8"}, {"SLURM_RESTART_COUNT", "3"}}, {"mine", 0}), "mine", 3);
}

TEST(BatchJob, WhatCannotBeOneIsNone) {
  for (const char* count : {"-1", "18446744073709551616", "99999999", "x", "", "1 ", "0x1"})
    Expect(Found({{"SLURM_JOB_ID", "8"}, {"SLURM_RESTART_COUNT", count}}), "", 0);
  for (const std::string& id : {std::string(), std::string("none"), std::string("\xff"), std::string("a\nb"),
                                std::string("a b"), std::string(70'000, 'x')})
    Expect(Found({{"SLURM_JOB_ID", id}, {"SLURM_RESTART_COUNT", "1"}}), "", 0);
  BatchJob job{"a\x1b[2J", 0};
  EXPECT_EQ(FindJob(false, &job).error().code, ErrorCode::kUsage);
  job = {"8", uint64_t{1} << 40};
  EXPECT_EQ(FindJob(true, &job).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace mimo::batch_job_test
