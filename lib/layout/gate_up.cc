#include "lib/layout/gate_up.h"

#include <algorithm>
#include <charconv>

namespace mimo {
namespace {

constexpr std::string_view kTurns = "turns:", kHalves = "halves:", kExperts = "experts=", kDense = "dense=";

std::optional<int64_t> Number(std::string_view text) {
  int64_t number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc() || end != text.data() + text.size() || number < 1) return std::nullopt;
  return number;
}

std::optional<GateUpOrder> OrderOf(std::string_view text) {
  if (text == "plain") return GateUpOrder{};
  const bool turns = text.starts_with(kTurns);
  if (!turns && !text.starts_with(kHalves)) return std::nullopt;
  const auto number = Number(text.substr(turns ? kTurns.size() : kHalves.size()));
  if (!number) return std::nullopt;
  return GateUpOrder{turns ? GateUpOrder::Kind::kTurns : GateUpOrder::Kind::kHalves, *number};
}

}  // namespace

std::string GateUpOrder::ToString() const {
  switch (kind) {
    case Kind::kTurns:
      return std::string(kTurns) + std::to_string(number);
    case Kind::kHalves:
      return std::string(kHalves) + std::to_string(number);
    case Kind::kPlain:
      break;
  }
  return "plain";
}

Status GateUpWish::Take(std::string_view text) {
  const std::string given(text);
  const bool of_experts = text.starts_with(kExperts), of_dense = text.starts_with(kDense);
  if (of_experts) text.remove_prefix(kExperts.size());
  if (of_dense) text.remove_prefix(kDense.size());
  const std::optional<GateUpOrder> order = OrderOf(text);
  if (!order)
    return UsageError("--source-gate-up names no order of rows")
        .Expected("[experts=|dense=]plain, turns:N or halves:D")
        .Found(given);
  if (!of_dense) experts = order;
  if (of_dense || (!of_experts && order->kind != GateUpOrder::Kind::kTurns)) dense = order;
  return {};
}

bool GateUpFits(const GateUpOrder& order, int64_t rows) {
  switch (order.kind) {
    case GateUpOrder::Kind::kTurns:
      return order.number > 0 && order.ranks > 0 && rows % order.ranks == 0 && rows / order.ranks % order.number == 0;
    case GateUpOrder::Kind::kHalves:
      return order.number > 0 && rows % order.number == 0;
    case GateUpOrder::Kind::kPlain:
      break;
  }
  return true;
}

int64_t GateUpRow(const GateUpOrder& order, int64_t rows, int64_t row) {
  switch (order.kind) {
    case GateUpOrder::Kind::kTurns: {
      const int64_t each = rows / order.ranks;  // of gate in a rank
      const int64_t rank = row % rows / each;
      const int64_t local = row % each + (row < rows ? 0 : each);  // in the [half ; half] of the rank
      const int64_t block = local / order.number;
      return (block % 2 == 0 ? 0 : rows) + rank * each + block / 2 * order.number + local % order.number;
    }
    case GateUpOrder::Kind::kHalves: {
      const int64_t each = rows / order.number;
      const int64_t block = row % rows / each;  // the rank
      return (2 * block + (row < rows ? 0 : 1)) * each + row % each;
    }
    case GateUpOrder::Kind::kPlain:
      break;
  }
  return row;
}

int64_t StoredGateUpRow(const GateUpOrder& order, int64_t rows, int64_t row) {
  const int64_t within = row % rows, up = row < rows ? 0 : 1;
  switch (order.kind) {
    case GateUpOrder::Kind::kTurns: {
      const int64_t each = rows / order.ranks, local = within % each;
      const int64_t memory = (2 * (local / order.number) + up) * order.number + local % order.number;  // of the rank
      return (memory < each ? 0 : rows) + within / each * each + memory % each;
    }
    case GateUpOrder::Kind::kHalves: {
      const int64_t each = rows / order.number, block = row / each;
      return (block % 2 == 0 ? 0 : rows) + block / 2 * each + row % each;
    }
    case GateUpOrder::Kind::kPlain:
      break;
  }
  return row;
}

std::vector<GateUpRun> GateUpRuns(const GateUpOrder& order, int64_t rows, bool up) {
  if (order.kind == GateUpOrder::Kind::kPlain) return {{0, up ? rows : 0, rows}};
  const int64_t block = order.kind == GateUpOrder::Kind::kTurns ? order.number : rows / order.number;
  std::vector<GateUpRun> runs;
  for (int64_t stored = 0; stored < 2 * rows; stored += block) {
    const int64_t row = GateUpRow(order, rows, stored) - (up ? rows : 0);
    if (row >= 0 && row < rows) runs.push_back({row, stored, block});
  }
  std::sort(runs.begin(), runs.end(), [](const GateUpRun& a, const GateUpRun& b) { return a.row < b.row; });
  return runs;
}

}  // namespace mimo
