#include "lib/draft/filter.h"

#include <algorithm>

#include "lib/base/pattern.h"

namespace mimo {

namespace {

class NameFilter {
 public:
  static Result<NameFilter> Make(const PlanOptions& options);
  bool empty() const { return include_.empty() && exclude_.empty(); }
  // Why `name` stays out; "" when it is in.
  std::string Rejects(const std::string& name);
  Status CheckAllMatched() const;

 private:
  struct Wish {
    Pattern pattern;
    bool matched = false;
    bool Matches(const std::string& name) {
      const bool found = pattern.FoundIn(name);
      matched |= found;
      return found;
    }
  };

  static Status Add(const std::vector<std::string>& texts, const char* flag, std::vector<Wish>* wishes);

  std::vector<Wish> include_, exclude_;
};

Result<NameFilter> NameFilter::Make(const PlanOptions& options) {
  NameFilter filter;
  MIMO_RETURN_IF_ERROR(Add(options.include, "--include", &filter.include_));
  MIMO_RETURN_IF_ERROR(Add(options.exclude, "--exclude", &filter.exclude_));
  return filter;
}

std::string NameFilter::Rejects(const std::string& name) {
  bool in = include_.empty();
  for (Wish& w : include_) in |= w.Matches(name);
  std::string reason = in ? "" : "not included";
  for (Wish& w : exclude_)
    if (w.Matches(name)) reason = "excluded by " + w.pattern.text();
  return reason;
}

Status NameFilter::CheckAllMatched() const {
  for (const auto* wishes : {&include_, &exclude_})
    for (const Wish& w : *wishes)
      if (!w.matched)
        return UsageError(std::string(wishes == &include_ ? "--include" : "--exclude") +
                          " matches no tensor of the output")
            .Expected("a regular expression found in at least one tensor name")
            .Found(w.pattern.text())
            .Advice("list the names with --dry-run --verbose");
  return {};
}

Status NameFilter::Add(const std::vector<std::string>& texts, const char* flag, std::vector<Wish>* wishes) {
  for (const std::string& text : texts) {
    Result<Pattern> pattern = Pattern::Make(text);
    if (!pattern.ok()) {
      Error error = pattern.TakeError();
      error.what = std::string(flag) + " is " + error.what;
      return error;
    }
    wishes->push_back({std::move(pattern).value()});
  }
  return {};
}

// Whether the weights of a group cannot be told apart: they share scales.
bool SharesScales(const Plan& plan, const FuseGroup& group) {
  return group.SharesGlobal() || std::any_of(group.outputs.begin(), group.outputs.end(), [&](uint32_t i) {
           const TensorId& id = plan.outputs[i].id;
           return id.part == Part::kScaleInv && (id.role == Role::kAttnQ || id.role == Role::kAttnK ||
                                                 id.role == Role::kAttnV || id.role == Role::kAttnQkv);
         });
}

}  // namespace

Status ApplyFilter(const PlanOptions& options, PlanBuilder& builder, std::vector<std::string>* dropped) {
  MIMO_ASSIGN_OR_RETURN(NameFilter filter, NameFilter::Make(options));
  if (filter.empty()) return {};
  Plan& plan = builder.plan();
  std::vector<std::string> reason(plan.outputs.size());
  std::vector<std::string> group_reason(plan.groups.size());
  for (size_t g = 0; g < plan.groups.size(); ++g) {
    size_t in = 0, weights = 0;
    for (uint32_t i : plan.groups[g].outputs) {
      if (!HoldsElements(plan.outputs[i].id.part)) continue;
      ++weights;
      reason[i] = filter.Rejects(plan.outputs[i].name);
      in += reason[i].empty();
      if (!reason[i].empty()) group_reason[g] = reason[i];
    }
    if (in > 0 && in < weights && SharesScales(plan, plan.groups[g]))
      return UsageError("--include/--exclude keep a part of " + plan.groups[g].label)
          .Expected("all of its projections, or none: they share scales")
          .Found(std::to_string(in) + " of " + std::to_string(weights))
          .Advice("widen the pattern, or add --dtype bf16");
  }
  MIMO_RETURN_IF_ERROR(filter.CheckAllMatched());
  std::vector<uint8_t> gone(plan.outputs.size(), 0);
  for (size_t g = 0; g < plan.groups.size(); ++g) {
    for (uint32_t i : plan.groups[g].outputs) {
      const std::string& why = HoldsElements(plan.outputs[i].id.part) ? reason[i] : group_reason[g];
      gone[i] = why.empty() ? 0 : 1;
    }
  }
  builder.RemoveOutputs(gone, [&](uint32_t array, uint32_t group) { (*dropped)[array] = group_reason[group]; });
  if (plan.outputs.empty())
    return UsageError("--include/--exclude leave nothing").Expected("at least one tensor").Found("none");
  return {};
}

}  // namespace mimo
