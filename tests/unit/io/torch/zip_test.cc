// Zips as hostile as they come. They are put together here, field by field, with nothing of the writer.
#include "lib/io/torch/zip.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/unit/io/torch/item_bytes.h"

namespace mimo::zip_test {
namespace {

std::string Number(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += i < 8 ? static_cast<char>(value >> (8 * i)) : '\0';
  return out;
}

// CRC-32 (IEEE 802.3), a bit at a time.
uint32_t BitwiseCrc(const std::string& bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

struct Made {
  std::string name;
  std::string data;
  uint64_t flags = 0x0800;
  uint64_t method = 0;
  uint64_t crc = 0;          // set by Add
  uint64_t size = 0;         // in the directory; set by Add
  uint64_t stored_size = 0;  // likewise
  uint64_t local_size = 0;   // in the local header
  uint64_t header = 0;       // set by Add
  std::string local_name;
  std::string local_extra;
  std::string extra;
};

// A zip whose fields a test may bend before it is put together.
struct Zip {
  std::vector<Made> entries;
  std::string body;
  uint64_t count = 0;
  std::string before_end;  // between directory and end record
  std::string after_end;
  int64_t directory_shift = 0;
  int64_t directory_grow = 0;

  Made& Add(const std::string& name, const std::string& data) {
    Made made{.name = name, .data = data, .local_name = name, .local_extra = {}, .extra = {}};
    made.crc = BitwiseCrc(data);
    made.size = made.stored_size = made.local_size = data.size();
    entries.push_back(made);
    ++count;
    return entries.back();
  }
  void Place() {  // bodies in order
    for (Made& made : entries) {
      made.header = body.size();
      body += "PK\3\4" + Number(0, 2) + Number(made.flags, 2) + Number(made.method, 2) + Number(0, 4) +
              Number(made.crc, 4) + Number(made.local_size, 4) + Number(made.local_size, 4) +
              Number(made.local_name.size(), 2) + Number(made.local_extra.size(), 2) + made.local_name +
              made.local_extra + made.data;
      if ((made.flags & 8U) != 0)
        body += "PK\7\x08" + Number(made.crc, 4) + Number(made.size, 4) + Number(made.size, 4);
    }
  }
  std::string Finish() const {
    std::string directory;
    for (const Made& made : entries) {
      directory += "PK\1\2" + Number(0, 4) + Number(made.flags, 2) + Number(made.method, 2) + Number(0, 4) +
                   Number(made.crc, 4) + Number(made.stored_size, 4) + Number(made.size, 4) +
                   Number(made.name.size(), 2) + Number(made.extra.size(), 2) + Number(0, 10) + Number(made.header, 4) +
                   made.name + made.extra;
    }
    const uint64_t at = body.size() + static_cast<uint64_t>(directory_shift);
    const uint64_t bytes = directory.size() + static_cast<uint64_t>(directory_grow);
    return body + directory + before_end + "PK\5\6" + Number(0, 4) + Number(count, 2) + Number(count, 2) +
           Number(bytes, 4) + Number(at, 4) + Number(0, 2) + after_end;
  }
};

Zip Plain() {
  Zip zip;
  zip.Add("a/data.pkl", "pickle");
  zip.Add("a/data/0", "0123456789");
  zip.Add("a/version", "3\n");
  return zip;
}

std::string Refusal(const std::string& bytes) {
  const MemoryFile file(bytes);
  const auto zip = StoredZip::Open(file, 0, bytes.size(), "x.pt");
  if (zip.ok()) return "accepted";
  EXPECT_EQ(zip.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(zip.error().file, "x.pt");
  return zip.error().Message();
}
// The refusal of a plain zip that `bend` changed before or after its bodies were placed.
std::string Bent(const std::function<void(Zip&)>& before, const std::function<void(Zip&)>& after = {}) {
  Zip zip = Plain();
  if (before) before(zip);
  zip.Place();
  if (after) after(zip);
  return Refusal(zip.Finish());
}
#define EXPECT_REFUSED(refusal, why) EXPECT_PRED_FORMAT2(testing::IsSubstring, why, refusal)

std::string Zip64End(uint64_t count, uint64_t bytes, uint64_t at) {
  return "PK\6\6" + Number(44, 8) + Number(45, 2) + Number(45, 2) + Number(0, 8) + Number(count, 8) + Number(count, 8) +
         Number(bytes, 8) + Number(at, 8);
}
std::string Locator(uint64_t at) {
  return "PK\6\7" + Number(0, 4) + Number(at, 8) + Number(1, 4);
}

TEST(TorchZip, ReadsAPlainOneAnywhereInAFile) {
  Zip zip = Plain();
  zip.Place();
  const std::string bytes = zip.Finish();
  const MemoryFile file("before" + bytes + "after");
  auto opened = StoredZip::Open(file, 6, bytes.size(), "x.pt");
  ASSERT_TRUE(opened.ok()) << opened.error().Message();
  ASSERT_EQ(opened.value().entries().size(), 3u);
  const ZipEntry* data = opened.value().Find("a/data/0");
  ASSERT_NE(data, nullptr);
  EXPECT_EQ(("before" + bytes).substr(data->begin, data->bytes), "0123456789");
  EXPECT_EQ(opened.value().Content(*data, 10).value(), "0123456789");
  EXPECT_FALSE(opened.value().Content(*data, 9).ok());
  EXPECT_EQ(opened.value().Find("a/data/1"), nullptr);
  EXPECT_FALSE(StoredZip::Open(file, 6, bytes.size() + 6, "x.pt").ok());
  EXPECT_FALSE(StoredZip::Open(file, ~uint64_t{0}, 2, "x.pt").ok());
}

TEST(TorchZip, ReadsDescriptorsAndPadding) {
  EXPECT_EQ(Bent([](Zip& zip) {
              zip.entries[1].flags = 0x0808;
              zip.entries[1].local_size = 0;
              zip.entries[1].local_extra = "FB" + Number(3, 2) + "ZZZ";
            }),
            "accepted");
}

TEST(TorchZip, CompressedEncryptedAndUnknown) {
  EXPECT_REFUSED(Bent([](Zip& zip) { zip.entries[1].method = 8; }), "compressed entry");
  EXPECT_REFUSED(Bent([](Zip& zip) { zip.entries[1].flags = 0x0801; }), "encrypted entry");
  EXPECT_REFUSED(Bent([](Zip& zip) { zip.entries[1].flags = 0x2800; }), "unknown flags");
  EXPECT_REFUSED(Bent([](Zip& zip) { zip.entries[1].stored_size = 9; }), "two sizes");
}

TEST(TorchZip, NamesThatEscape) {
  for (const std::string name : {"/etc/passwd", "a/../b", "../b", "..", "a/..", "a//b", "./a", "a/.", "a\\b", "",
                                 "a/\n", "a/\xff", "a/\x7f", "C:\\x"}) {
    EXPECT_REFUSED(Bent([&](Zip& zip) { zip.entries[1].name = zip.entries[1].local_name = name; }), "unsafe name");
  }
  EXPECT_REFUSED(Bent([&](Zip& zip) { zip.entries[1].name = zip.entries[1].local_name = std::string("a\0b", 3); }),
                 "unsafe name");
  EXPECT_EQ(Bent([](Zip& zip) { zip.entries[1].name = zip.entries[1].local_name = "a/.data/..x"; }), "accepted");
}

TEST(TorchZip, TheSameNameTwice) {
  EXPECT_REFUSED(Bent([](Zip& zip) { zip.Add("a/data/0", "other"); }), "entry twice");
}

TEST(TorchZip, LocalHeadersMustAgree) {
  EXPECT_REFUSED(Bent([](Zip& zip) { zip.entries[1].local_name = "a/data/1"; }), "contradicts");
  EXPECT_REFUSED(Bent([](Zip& zip) { zip.entries[1].local_size = 9; }), "contradicts");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.entries[1].crc = 8; }), "contradicts");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.entries[1].flags = 0x0808; }), "contradicts");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.entries[1].header += 1; }), "contradicts");
  EXPECT_REFUSED(Bent([](Zip& zip) { zip.entries[1].local_extra = "FB" + Number(9, 2); }), "contradicts");
  EXPECT_REFUSED(Bent([](Zip& zip) {
                   zip.entries[1].flags = 0x0808;
                   zip.entries[1].local_size = 3;
                 }),
                 "contradicts");
}

TEST(TorchZip, EntriesThatOverlap) {
  // Two names, one body; and a body that contains another entry.
  EXPECT_NE(Bent({}, [](Zip& zip) { zip.entries[1].header = zip.entries[0].header; }), "accepted");
  Zip zip = Plain();
  zip.Place();
  Made outer = zip.entries[0];
  const uint64_t own = outer.header + 30 + outer.name.size();
  outer.data = zip.body.substr(own);
  Zip nested;
  nested.entries = zip.entries;
  nested.count = 3;
  nested.entries[0].size = nested.entries[0].stored_size = outer.data.size();
  nested.body = zip.body;
  nested.body.replace(18, 8, Number(outer.data.size(), 4) + Number(outer.data.size(), 4));
  EXPECT_REFUSED(Refusal(nested.Finish()), "overlap");
  // By a single byte: the descriptor of an entry under the next local header.
  EXPECT_REFUSED(Bent(
                     [](Zip& bent) {
                       bent.entries[0].flags = 0x0808;
                       bent.entries[0].local_size = 0;
                     },
                     [](Zip& bent) { bent.entries[0].size = ++bent.entries[0].stored_size; }),
                 "overlap");
}

TEST(TorchZip, EntriesThatLeaveTheZip) {
  EXPECT_REFUSED(
      Bent([](Zip& zip) { zip.entries[2].size = zip.entries[2].stored_size = zip.entries[2].local_size = 3; }),
      "reaches into its directory");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.entries[2].header = 0xfffffffe; }), "beyond its directory");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.entries[2].header = zip.body.size() - 29; }), "beyond its directory");
}

TEST(TorchZip, EndRecordsMustAgree) {
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.directory_shift = 1; }), "directory somewhere else");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.directory_grow = 1; }), "directory somewhere else");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.before_end = "x"; }), "directory somewhere else");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.after_end = "x"; }), "end record");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.count = 2; }), "more in its directory");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.count = 4; }), "fewer entries");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.count = 60000; }), "fewer entries");
  EXPECT_REFUSED(Bent({},
                      [](Zip& zip) {
                        zip.directory_shift = -1;
                        zip.directory_grow = 1;
                      }),
                 "damaged");
  EXPECT_REFUSED(Bent({}, [](Zip& zip) { zip.count = 0xffff; }), "zip64 end record");
}

TEST(TorchZip, Zip64RecordsMustAgree) {
  const auto with = [](uint64_t count, int64_t grow, int64_t shift, int64_t locator) {
    Zip zip = Plain();
    zip.Place();
    const uint64_t at = zip.body.size();
    Zip bare = zip;
    const uint64_t bytes = bare.Finish().size() - at - 22;
    zip.before_end = Zip64End(count, bytes + static_cast<uint64_t>(grow), at + static_cast<uint64_t>(shift)) +
                     Locator(at + bytes + static_cast<uint64_t>(locator));
    return Refusal(zip.Finish());
  };
  EXPECT_EQ(with(3, 0, 0, 0), "accepted");
  EXPECT_REFUSED(with(4, 0, 0, 0), "disagree");
  EXPECT_REFUSED(with(3, 1, 0, 0), "disagree");
  EXPECT_REFUSED(with(3, 0, 1, 0), "disagree");
  EXPECT_REFUSED(with(3, 0, 0, 1), "locator that points elsewhere");
  EXPECT_REFUSED(with(uint64_t{1} << 60U, 0, 0, 0), "disagree");
}

TEST(TorchZip, Zip64FieldsThatLie) {
  const auto extra = [](const std::string& fields) { return Number(1, 2) + Number(fields.size(), 2) + fields; };
  const auto announce = [](Zip& zip) { zip.entries[1].size = zip.entries[1].stored_size = 0xffffffff; };
  EXPECT_REFUSED(Bent({}, announce), "without the zip64 sizes");
  EXPECT_REFUSED(Bent({},
                      [&](Zip& zip) {
                        announce(zip);
                        zip.entries[1].extra = extra(Number(1ULL << 40U, 8));
                      }),
                 "without the zip64 sizes");
  EXPECT_REFUSED(Bent({},
                      [&](Zip& zip) {
                        announce(zip);
                        zip.entries[1].extra = extra(Number(10, 8) + Number(10, 8));
                      }),
                 "need none");
  EXPECT_REFUSED(Bent({},
                      [&](Zip& zip) {
                        announce(zip);
                        zip.entries[1].extra = extra(Number(1ULL << 40U, 8) + Number(1ULL << 40U, 8));
                      }),
                 "reaches into its directory");
  EXPECT_REFUSED(Bent({},
                      [&](Zip& zip) {
                        announce(zip);
                        zip.entries[1].extra = extra(Number(~0ULL, 8) + Number(~0ULL, 8));
                      }),
                 "reaches into its directory");
  EXPECT_REFUSED(Bent({}, [&](Zip& zip) { zip.entries[1].extra = extra(Number(10, 8)); }), "does not announce");
  EXPECT_REFUSED(Bent({}, [&](Zip& zip) { zip.entries[1].extra = extra(Number(1, 8)) + extra(Number(1, 8)); }),
                 "damaged extra");
  EXPECT_REFUSED(Bent({}, [&](Zip& zip) { zip.entries[1].extra = "abc"; }), "damaged extra");
  EXPECT_REFUSED(Bent({},
                      [&](Zip& zip) {
                        zip.entries[1].header = 0xffffffff;
                        zip.entries[1].extra = extra(Number(~0ULL, 8));
                      }),
                 "beyond its directory");
  EXPECT_REFUSED(Bent([&](Zip& zip) { zip.entries[1].local_extra = extra(Number(10, 8) + Number(10, 8)); }),
                 "contradicts");
}

TEST(TorchZip, EveryTruncationIsRefused) {
  Zip zip = Plain();
  zip.Place();
  const std::string whole = zip.Finish();
  ASSERT_EQ(Refusal(whole), "accepted");
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NE(Refusal(whole.substr(0, i)), "accepted") << i;
  for (size_t i = 1; i < whole.size(); ++i) EXPECT_NE(Refusal(whole.substr(i)), "accepted") << i;
}

// More entries than 16 bits count, and an entry beyond 4 GiB of which only the frame is made.
TEST(TorchZip, WritesZip64WhereNeeded) {
  ZipFrame many;
  for (int i = 0; i < 65535; ++i) many.Add("a/" + std::to_string(i), "x");
  const std::string bytes = many.Finish().head;
  const MemoryFile file(bytes);
  auto opened = StoredZip::Open(file, 0, bytes.size(), "x.pt");
  ASSERT_TRUE(opened.ok()) << opened.error().Message();
  EXPECT_EQ(opened.value().entries().size(), 65535u);

  class Sparse final : public ReadableFile {
   public:
    Sparse(ZipFrame::Parts parts, uint64_t hole) : parts_(std::move(parts)), hole_(hole) {}
    Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
      for (size_t i = 0; i < out.size(); ++i) out[i] = At(offset + i);
      return {};
    }
    uint64_t size() const override { return parts_.head.size() + hole_ + parts_.tail.size(); }

   private:
    std::byte At(uint64_t at) const {
      if (at < parts_.head.size()) return static_cast<std::byte>(parts_.head[at]);
      if (at < parts_.head.size() + hole_) return std::byte{0};
      return static_cast<std::byte>(parts_.tail[at - hole_ - parts_.head.size()]);
    }
    ZipFrame::Parts parts_;
    uint64_t hole_;
  };
  for (const uint64_t hole : {0xfffffffeULL, 0xffffffffULL, 0x100000000ULL, 5000000000ULL}) {
    ZipFrame big;
    big.Add("a/data.pkl", "pickle");
    big.AddAbsent("a/data/0", hole, 1);
    big.Add("a/version", "3\n");
    ZipFrame::Parts parts = big.Finish();
    EXPECT_EQ(parts.head.size() % 64, 0u);
    const Sparse sparse(std::move(parts), hole);
    const auto zip = StoredZip::Open(sparse, 0, sparse.size(), "x.pt");
    ASSERT_TRUE(zip.ok()) << zip.error().Message();
    EXPECT_EQ(zip.value().Find("a/data/0")->bytes, hole);
    EXPECT_EQ(zip.value().Content(*zip.value().Find("a/version"), 2).value(), "3\n");
    EXPECT_EQ(zip.value().Find("a/version")->begin % 64, 0u);
  }
}

// What PyTorch writes where it is told to compute none is 0.
TEST(TorchZip, ComparesTheChecksumOfWhatItReads) {
  Zip zip = Plain();
  zip.entries[1].crc ^= 0x400;
  zip.entries[2].crc = 0;
  zip.Add("a/empty", "");
  zip.Place();
  const std::string bytes = zip.Finish();
  const MemoryFile file(bytes);
  auto opened = StoredZip::Open(file, 0, bytes.size(), "x.pt");
  ASSERT_TRUE(opened.ok()) << opened.error().Message();
  const auto read = [&](const char* name) { return opened->Content(*opened->Find(name), 100); };
  EXPECT_EQ(read("a/data.pkl").value(), "pickle");
  EXPECT_EQ(read("a/version").value(), "3\n");
  EXPECT_EQ(read("a/empty").value(), "");
  const auto damaged = read("a/data/0");
  ASSERT_FALSE(damaged.ok());
  EXPECT_EQ(damaged.error().code, ErrorCode::kBadInput);
  EXPECT_EQ(damaged.error().file, "x.pt");
  EXPECT_REFUSED(damaged.error().Message(), "a/data/0 is damaged");
  EXPECT_EQ(opened->Find("a/data/0")->crc, BitwiseCrc("0123456789") ^ 0x400);
  EXPECT_FALSE(HoldsChecksum(opened->Find("a/version")->crc, 2));
  EXPECT_TRUE(HoldsChecksum(opened->Find("a/empty")->crc, 0));
}

}  // namespace
}  // namespace mimo::zip_test
