#include "lib/layout/qkv_wish.h"

#include <charconv>
#include <utility>

#include "lib/base/words.h"

namespace mimo {
namespace {

constexpr int64_t kMaxChunks = 4096;
constexpr Words<QkvWish::Kind, 7> kWishes{{{QkvWish::Kind::kKeep, "keep"},
                                           {QkvWish::Kind::kAuto, "auto"},
                                           {QkvWish::Kind::kRestore, "restore"},
                                           {QkvWish::Kind::kSplit, "split"},
                                           {QkvWish::Kind::kIndependent, "independent"},
                                           {QkvWish::Kind::kIndependent, "split:independent"},
                                           {QkvWish::Kind::kFused, "fused"}}};

}  // namespace

QkvWish::QkvWish(std::string written) : kind(Kind::kUnknown), text(std::move(written)) {
  if (const auto whole = FromWord(kWishes, text)) {
    kind = *whole;
    return;
  }
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return;
  const auto head = FromWord(kWishes, std::string_view(text).substr(0, colon));
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data() + colon + 1, end, number);
  if ((head != Kind::kSplit && head != Kind::kFused) || problem != std::errc() || stop != end || number < 1 ||
      number > kMaxChunks)
    return;
  kind = *head;
  chunks = number;
}

Result<QkvLayout> LayoutOfWish(const QkvWish& wish, const Catalogue& catalogue) {
  const int64_t usual = catalogue.index.tp_size.value_or(catalogue.config.global.kv_heads);
  switch (wish.kind) {
    case QkvWish::Kind::kSplit:
      return QkvLayout{QkvKind::kSplit, wish.chunks.value_or(usual)};
    case QkvWish::Kind::kIndependent:
      return kOwnGrids;
    case QkvWish::Kind::kFused:
      return QkvLayout{QkvKind::kFused, wish.chunks.value_or(usual)};
    case QkvWish::Kind::kKeep:
    case QkvWish::Kind::kAuto:
    case QkvWish::Kind::kRestore:
    case QkvWish::Kind::kUnknown:
      break;
  }
  return UsageError("not a QKV layout")
      .Expected("split, independent, or fused:C with C a chunk count")
      .Found("\"" + wish.text + "\"");
}

}  // namespace mimo
