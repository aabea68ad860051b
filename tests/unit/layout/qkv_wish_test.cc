// What --qkv, --source-qkv and recipes may say, and which layout it names.
#include "lib/layout/qkv_wish.h"

#include <gtest/gtest.h>

#include "lib/model/family.h"

namespace mimo::qkv_wish_test {
namespace {

using Kind = QkvWish::Kind;

TEST(QkvWish, KindAndChunksOfEveryWord) {
  const struct {
    const char* text;
    Kind kind;
    std::optional<int64_t> chunks;
  } kCases[] = {{"keep", Kind::kKeep, {}},
                {"restore", Kind::kRestore, {}},
                {"split", Kind::kSplit, {}},
                {"split:8", Kind::kSplit, 8},
                {"independent", Kind::kIndependent, {}},
                {"split:independent", Kind::kIndependent, {}},
                {"fused", Kind::kFused, {}},
                {"fused:1", Kind::kFused, 1},
                {"fused:08", Kind::kFused, 8},
                {"fused:4096", Kind::kFused, 4096}};
  for (const auto& c : kCases) {
    const QkvWish wish(c.text);
    EXPECT_EQ(wish.kind, c.kind) << c.text;
    EXPECT_EQ(wish.chunks, c.chunks) << c.text;
    EXPECT_EQ(wish.text, c.text);
  }
  for (const char* text : {"", "woven", "fused:", "fused:0", "fused:-1", "fused:4097", "fused:8x", "fused:x", "keep:2",
                           "restore:2", "independent:2", "split:2:2", "Fused"})
    EXPECT_EQ(QkvWish(text).kind, Kind::kUnknown) << text;
  EXPECT_EQ(QkvWish(), QkvWish("keep"));
  EXPECT_NE(QkvWish("fused:8"), QkvWish("fused:08"));  // plans record what was written
}

TEST(QkvWish, LayoutsTakeTheirChunksFromTheIndexElseTheHeads) {
  Catalogue catalogue;
  catalogue.config.family = Family::Get("mimo_v2").value();
  catalogue.config.global.kv_heads = 4;
  const auto layout = [&](const char* text) { return LayoutOfWish(QkvWish(text), catalogue).value(); };
  EXPECT_EQ(layout("fused"), (QkvLayout{QkvKind::kFused, 4}));
  EXPECT_EQ(layout("split"), (QkvLayout{QkvKind::kSplit, 4}));
  catalogue.index.tp_size = 2;
  EXPECT_EQ(layout("fused"), (QkvLayout{QkvKind::kFused, 2}));
  EXPECT_EQ(layout("split"), (QkvLayout{QkvKind::kSplit, 2}));
  EXPECT_EQ(layout("fused:16"), (QkvLayout{QkvKind::kFused, 16}));
  EXPECT_EQ(layout("split:8"), (QkvLayout{QkvKind::kSplit, 8}));
  EXPECT_EQ(layout("independent"), (QkvLayout{QkvKind::kSplitIndependent, 1}));
  EXPECT_EQ(layout("split:independent"), (QkvLayout{QkvKind::kSplitIndependent, 1}));
  for (const char* text : {"keep", "restore", "woven", ""}) {
    const auto refused = LayoutOfWish(QkvWish(text), catalogue);
    ASSERT_FALSE(refused.ok()) << text;
    EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
    EXPECT_EQ(refused.error().found, "\"" + std::string(text) + "\"");
  }
}

}  // namespace
}  // namespace mimo::qkv_wish_test
