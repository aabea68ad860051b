#include "lib/draft/filter.h"

#include <algorithm>

#include "lib/base/pattern.h"
#include "lib/model/role_groups.h"

namespace mimo {

namespace {

class NameFilter {
 public:
  static Result<NameFilter> Make(const PlanOptions& options) {
    NameFilter filter;
    MIMO_RETURN_IF_ERROR(Add(options.include, "--include", &filter.include_));
    MIMO_RETURN_IF_ERROR(Add(options.exclude, "--exclude", &filter.exclude_));
    return filter;
  }

  bool empty() const { return include_.empty() && exclude_.empty(); }

  // Why `name` stays out; "" when it is in.
  std::string Rejects(const std::string& name) {
    bool in = include_.empty();
    for (Wish& w : include_) in |= w.Matches(name);
    std::string reason = in ? "" : "not included";
    for (Wish& w : exclude_)
      if (w.Matches(name)) reason = "excluded by " + w.pattern.text();
    return reason;
  }

  Status CheckAllMatched() const {
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

  static Status Add(const std::vector<std::string>& texts, const std::string& flag, std::vector<Wish>* wishes) {
    for (const std::string& text : texts) {
      Result<Pattern> pattern = Pattern::Make(text);
      if (!pattern.ok()) {
        Error error = pattern.TakeError();
        error.what = flag + " is " + error.what;
        return error;
      }
      wishes->push_back({std::move(pattern).value()});
    }
    return {};
  }

  std::vector<Wish> include_, exclude_;
};

// Whether the weights of a group cannot be told apart: they share scales.
bool SharesScales(const DraftGroup& group) {
  return group.SharesGlobal() || std::any_of(group.outputs.begin(), group.outputs.end(), [](const DraftOutput& output) {
           return output.id.part == Part::kScaleInv && IsAttentionProjection(output.id.role);
         });
}

}  // namespace

Status ApplyFilter(const PlanOptions& options, Draft* draft) {
  MIMO_ASSIGN_OR_RETURN(NameFilter filter, NameFilter::Make(options));
  if (filter.empty()) return {};
  for (DraftGroup& group : draft->groups) {
    std::vector<uint8_t> gone(group.outputs.size(), 0);
    std::string reason;  // of the last weight that stays out
    size_t weights = 0, out = 0;
    for (size_t i = 0; i < gone.size(); ++i) {
      if (!HoldsElements(group.outputs[i].id.part)) continue;
      ++weights;
      const std::string why = filter.Rejects(group.outputs[i].name);
      if (why.empty()) continue;
      reason = why;
      gone[i] = 1;
      ++out;
    }
    if (out == 0) continue;
    if (out < weights && SharesScales(group))
      return UsageError("--include/--exclude keep a part of " + group.label)
          .Expected("all of its projections, or none: they share scales")
          .Found(std::to_string(weights - out) + " of " + std::to_string(weights))
          .Advice("widen the pattern, or add --dtype bf16");
    // What lies beside a weight follows the group.
    for (size_t i = 0; i < gone.size(); ++i) gone[i] |= !HoldsElements(group.outputs[i].id.part);
    draft->VisitReads(group, [&](uint32_t source) { draft->SetReason(draft->sources[source].array, reason); });
    group.Erase(gone);
  }
  MIMO_RETURN_IF_ERROR(filter.CheckAllMatched());
  std::erase_if(draft->groups, [](const DraftGroup& group) { return group.outputs.empty(); });
  if (draft->groups.empty())
    return UsageError("--include/--exclude leave nothing").Expected("at least one tensor").Found("none");
  return {};
}

}  // namespace mimo
