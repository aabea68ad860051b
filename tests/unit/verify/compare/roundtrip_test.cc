// A round trip reads a checkpoint as often as it needs to: it is opened once.
#include "lib/verify/compare/roundtrip.h"

#include <gtest/gtest.h>

#include <atomic>

#include "lib/synth/synth.h"
#include "tests/faults/forwarding_file_system.h"
#include "tests/unit/run/lab.h"

namespace mimo::roundtrip_test {
namespace {

// Counts how often config.json of a directory is opened.
class CountingFileSystem final : public ForwardingFileSystem {
 public:
  explicit CountingFileSystem(std::string config)
      : ForwardingFileSystem(PosixFileSystem()), config_(std::move(config)) {}
  Result<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    opened += path == config_ ? 1 : 0;
    return ForwardingFileSystem::OpenForRead(path);
  }
  std::atomic<int> opened = 0;

 private:
  const std::string config_;
};

TEST(RoundtripTest, OpensTheCheckpointOnce) {
  lab::Checkpoint scratch;
  SynthOptions synth;
  synth.preset = "mimo-v2.5";
  synth.layers = synth.experts = 2;
  synth.hidden = 128;
  synth.intermediate = synth.moe_intermediate = 256;
  synth.vocab = 64;
  synth.towers = false;
  synth.threads = 1;
  const auto planned = PlanSynthetic(synth);
  ASSERT_TRUE(planned.ok()) << planned.error().Message();
  const std::string root = scratch.path("source");
  ASSERT_TRUE(WriteSynthetic(PosixFileSystem(), planned.value(), root).ok());

  CountingFileSystem files(JoinPath(root, "config.json"));
  ASSERT_TRUE(LogicalCheckpoint::Open(files, root, {.allow_anomalies = true}).ok());
  const int of_one = files.opened.exchange(0);
  ASSERT_GT(of_one, 0);
  PlanOptions options;
  options.qkv = QkvWish("split");
  const auto report = Roundtrip(files, root, options, {});
  ASSERT_TRUE(report.ok()) << report.error().Message();
  EXPECT_TRUE(report.value().Holds());
  EXPECT_TRUE(report.value().back.has_value());
  EXPECT_EQ(files.opened, of_one);
}

}  // namespace
}  // namespace mimo::roundtrip_test
