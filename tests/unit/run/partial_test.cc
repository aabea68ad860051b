// What is read back of a partial directory: whole and of this output, or not at all.
#include "lib/run/partial.h"

#include <gtest/gtest.h>

#include <memory>

#include "lib/base/durable_file.h"
#include "lib/run/publish.h"
#include "tests/unit/run/lab.h"

namespace mimo::partial_test {
namespace {

// Two file groups: encoded weights and what is beside them; cells of a new grid.
class Partial : public testing::Test {
 protected:
  Partial() {
    plan_.digest.low = 1;
    plan_.file_groups = 2;
    plan_.groups.resize(2);
    for (const Transform transform : {Transform::kEncode, Transform::kMove, Transform::kEncode, Transform::kRelayout}) {
      const uint32_t which = transform == Transform::kRelayout ? 1 : 0;
      OutputArray output;
      output.transform = transform;
      output.file = output.group = which;
      if (plan_.files.size() <= which) {
        PlanFile& file = plan_.files.emplace_back();
        file.name = which == 0 ? "a" : "b";
        file.bytes = 3;
      }
      plan_.files[which].file_group = plan_.groups[which].file_group = which;
      plan_.files[which].outputs.push_back(static_cast<uint32_t>(plan_.outputs.size()));
      plan_.outputs.push_back(output);
    }
    plan_.groups[1].cells.resize(1);
    options_.output = directory_.File("out");
    auto claim = OutputClaim::Take(PosixFileSystem(), options_);
    EXPECT_TRUE(claim.ok());
    claim_ = std::move(claim).value();
    partial_ = std::make_unique<PartialDirectory>(*claim_);
    EXPECT_TRUE(partial_->Repair().ok());
    for (const PlanFile& file : plan_.files) {
      FileInfo info;
      EXPECT_TRUE(WriteNewFile(partial_->fs(), partial_->FilePath(file.name), "xyz", &info).ok());
      partial_->TakeNote(file.name, WrittenFileOf(info));
    }
  }

  RunResults Fresh() const {
    RunResults results;
    results.tensors.resize(plan_.outputs.size());
    results.groups.resize(plan_.groups.size());
    results.linked.resize(plan_.files.size());
    return results;
  }
  // The record of a file group after a run.
  std::string Record(uint32_t file_group) {
    RunResults results = Fresh();
    for (TensorResult& tensor : results.tensors) tensor.hash = Hash128{4, 5};
    for (const size_t encoded : {0, 2}) {
      results.tensors[encoded].counts.encoded_blocks = 9;
      results.tensors[encoded].counts.exact_blocks = 2;
      results.tensors[encoded].error.emplace();
    }
    results.tensors[1].anomalies.nan_codes = 1;
    results.groups[1].moved_blocks = 6;
    EXPECT_TRUE(partial_->WriteRecord(plan_, file_group, results).ok());
    const lab::Bytes bytes = lab::ReadFile(Path(file_group));
    return {bytes.begin(), bytes.end()};
  }
  bool Loads(uint32_t file_group, const std::string& text, RunResults* results) {
    lab::WriteFile(Path(file_group), {text.begin(), text.end()});
    const auto loaded = partial_->LoadRecord(plan_, file_group, {.errors = true}, results);
    EXPECT_TRUE(loaded.ok());
    return loaded.ok() && loaded.value();
  }
  std::string Path(uint32_t file_group) const {
    return options_.output + "/.mimo-partial/records/000" + std::to_string(file_group) + ".json";
  }

  const ScratchDirectory directory_;
  RunOptions options_;
  std::unique_ptr<OutputClaim> claim_;
  std::unique_ptr<PartialDirectory> partial_;
  Plan plan_;
};

TEST_F(Partial, ARecordIsTakenWholeOrNotAtAll) {
  struct Edit {
    uint32_t file_group;
    const char* from;
    const char* to;
  };
  const char* const grid =
      R"("relayouts":[{"group":1,"moved_blocks":6,"equal_scale_blocks":0,"requantized_blocks":0,"kept_blocks":0,)"
      R"("fresh_blocks":0,"squared_error":0,"squared_sum":0,"max_error":0})";
  const std::string twice = std::string(grid) + ",{" + std::string(grid).substr(14);
  for (const Edit& edit : {Edit{0, "\"relayouts\":[", grid},                    // of another file group
                           Edit{1, grid, "\"relayouts\":["},                    // not there
                           Edit{1, grid, twice.c_str()},                        // there twice
                           Edit{1, "\"group\":1", "\"group\":0"},               // no cells
                           Edit{1, "\"group\":1", "\"group\":2"},               // no group
                           Edit{1, "\"max_error\":0", "\"encoded_blocks\":7"},  // no count of a grid
                           Edit{0, "\"tensor\":1,", "\"tensor\":3,"},           // no output of the files
                           Edit{0, "\"encoded\":[{\"tensor\":0", "\"encoded\":[{\"tensor\":1"},  // not encoded
                           Edit{0, "\"encoded\":[{\"tensor\":0", "\"encoded\":[{\"tensor\":2"},  // one of two, twice
                           Edit{0, "\"exact_blocks\":2", "\"exact_blocks\":10"},                 // more than there are
                           Edit{0, "\"exact_blocks\":2", "\"exact_blocks\":2,\"kept_blocks\":8"}}) {
    std::string text = Record(edit.file_group);
    RunResults whole = Fresh();
    ASSERT_TRUE(Loads(edit.file_group, text, &whole));
    EXPECT_EQ(whole.groups[1].moved_blocks, edit.file_group == 0 ? 0u : 6u);
    EXPECT_EQ(whole.tensors[2].counts.fresh_blocks, edit.file_group == 0 ? 7u : 0u);
    ASSERT_NE(text.find(edit.from), std::string::npos) << edit.from << " in " << text;
    text.replace(text.find(edit.from), std::string(edit.from).size(), edit.to);
    RunResults results = Fresh();
    EXPECT_FALSE(Loads(edit.file_group, text, &results)) << text;
    EXPECT_EQ(TotalCounts(results).moved_blocks, 0u) << text;
    EXPECT_EQ(TotalCounts(results).encoded_blocks, 0u) << text;
    for (const TensorResult& tensor : results.tensors) EXPECT_FALSE(tensor.hash) << text;
  }
  std::string text = Record(0);  // without what is encoded, for a threshold would not be asked of it
  const size_t begin = text.find('{', text.find("\"encoded\""));
  text.erase(begin, text.find(']', begin) - begin);
  RunResults results = Fresh();
  EXPECT_FALSE(Loads(0, text, &results)) << text;
}

TEST_F(Partial, NothingButEntriesOfOutIsRemovedWithTheOld) {
  PartialDirectory::Publication publication;
  for (const std::string& name : PublicationOrder(plan_)) publication.files.emplace_back(name, WrittenFile());
  publication.old.emplace_back("caf\xE9", WrittenFile());
  EXPECT_TRUE(CheckNames(*partial_, plan_, publication).ok());
  for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("a/b"),
                                  std::string("a\0b", 3), std::string(kPartialDirectory)}) {
    publication.old.back().first = name;
    EXPECT_FALSE(CheckNames(*partial_, plan_, publication).ok()) << name;
  }
}

TEST_F(Partial, NamesAndTextsOfLinksNeedNotBeUtf8) {
  for (const std::string& bytes : {std::string("caf\xE9"), std::string("\xFF"), std::string("\xC3\xA9\n\"")}) {
    PartialDirectory::Publication publication;
    publication.files.emplace_back("a", WrittenFile{.inode = 7, .bytes = bytes.size(), .target = bytes});
    publication.old.emplace_back(bytes, WrittenFile{.inode = 8, .target = "../" + bytes});
    ASSERT_TRUE(partial_->WritePublication(publication).ok());
    auto read = partial_->ReadPublication();
    ASSERT_TRUE(read.ok() && read->has_value()) << bytes;
    EXPECT_TRUE((*read)->files.at(0).second.Is(publication.files[0].second));
    EXPECT_EQ((*read)->old.at(0).first, bytes);
    EXPECT_TRUE((*read)->old.at(0).second.Is(publication.old[0].second));
  }
}
}  // namespace
}  // namespace mimo::partial_test
