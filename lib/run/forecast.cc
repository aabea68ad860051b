#include "lib/run/forecast.h"

#include <algorithm>
#include <vector>

#include "lib/run/claim.h"
#include "lib/run/earlier_work.h"
#include "lib/run/executor.h"
#include "lib/run/output_dir.h"
#include "lib/run/part.h"
#include "lib/run/run_state.h"
#include "lib/run/step_runner.h"

namespace mimo {
namespace {

class Forecaster {
 public:
  Forecaster(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options)
      : fs_(fs),
        catalogue_(catalogue),
        plan_(plan),
        options_(options),
        units_(CutUnits(MakeJob(catalogue, plan, options), UnitBytes(options))) {}

  Result<Forecast> Make() {
    MIMO_RETURN_IF_ERROR(LookAtPlace());
    if (Status s = CheckOutput(fs_, catalogue_.root, options_); !s.ok()) Refuse(s.TakeError());
    if (Status s = StepRunner::CheckMemory(units_, options_); !s.ok()) Refuse(s.TakeError());
    for (const PlanFile& file : plan_.files) {
      if (options_.link == LinkMode::kCopy || !file.unchanged) continue;
      ++forecast_.files_linked;
      forecast_.linked_bytes += file.bytes;
    }
    const auto [first, end] = options_.part ? UnitsOfPart(units_.list, *options_.part)
                                            : std::pair(uint32_t{0}, static_cast<uint32_t>(units_.list.size()));
    for (uint32_t u = first; u < end; ++u)
      forecast_.largest_unit_bytes = std::max(forecast_.largest_unit_bytes, units_.list[u].output_bytes);
    MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(options_.output));
    if (info && info->kind == FileKind::kDirectory) MIMO_RETURN_IF_ERROR(LookAtOutput(first, end));
    if (forecast_.state == Forecast::State::kNew || forecast_.state == Forecast::State::kOther) FromNothing(first, end);
    return std::move(forecast_);
  }

 private:
  void Refuse(Error error) {
    if (!forecast_.refusal) forecast_.refusal = std::move(error);
  }

  // Of the directory that OUT is, or will be made in.
  Status LookAtPlace() {
    std::string place = options_.output;
    while (true) {
      MIMO_ASSIGN_OR_RETURN(const auto info, fs_.Stat(place));
      if (info || place == "/" || place == ".") break;
      place = ParentOf(place);
    }
    forecast_.may_write = fs_.MayWrite(place);
    MIMO_ASSIGN_OR_RETURN(forecast_.file_system, fs_.KindOf(place));
    MIMO_ASSIGN_OR_RETURN(forecast_.free_bytes, fs_.FreeBytes(place));
    if (!forecast_.may_write) Refuse(IoError("nothing may be written there").File(place));
    return {};
  }

  void FromNothing(uint32_t first, uint32_t end) {
    const Job job = MakeJob(catalogue_, plan_, options_);
    PartLoader loader(job, UnitBytes(options_));
    for (uint32_t u = first; u < end; ++u) {
      if (ProgressOf(job, units_.list[u], loader) == 0) continue;
      forecast_.totals.bytes += units_.list[u].output_bytes;
      ++forecast_.totals.units;
      AddLeft(units_.list[u]);
    }
    forecast_.totals.files = plan_.files.size() - forecast_.files_linked;
    forecast_.needed_bytes = SpaceNeeded(catalogue_, plan_, options_, std::vector<uint8_t>(plan_.file_groups, 0));
  }

  void AddLeft(const Unit& unit) {
    forecast_.written_bytes += unit.output_bytes;
    forecast_.read_bytes += unit.cost - std::min(unit.cost, unit.output_bytes);
  }

  Status LookAtOutput(uint32_t first, uint32_t end) {
    MIMO_ASSIGN_OR_RETURN(const auto claim, OutputClaim::LookAt(fs_, options_));
    PartialDirectory partial(*claim);
    RunOptions asked = options_;
    asked.resume = true;
    Result<OutputInfo> found = ExamineOutput(partial, catalogue_, plan_, asked);
    if (!found.ok() && found.error().code == ErrorCode::kIo) return found.TakeError();
    if (!found.ok()) {
      forecast_.state = Forecast::State::kOther;
      if (options_.resume || options_.join) Refuse(found.TakeError());
      return {};
    }
    if (found->state == OutputState::kFresh) return {};
    // Under --overwrite what is there is begun anew, but by a part.
    if (options_.overwrite && !options_.part && !options_.join) {
      forecast_.state = Forecast::State::kOther;
      return {};
    }
    const bool partly = found->state == OutputState::kPartial;
    forecast_.state = partly ? Forecast::State::kPartial : Forecast::State::kComplete;
    return partly ? LookAtPartial(partial, first, end) : Status();
  }

  Status LookAtPartial(PartialDirectory& partial, uint32_t first, uint32_t end) {
    RunResults results;
    RunReport report;
    StepRunner::StartResults(plan_, options_, &results);
    RunState run(fs_, catalogue_, plan_, units_, options_, partial, results, report);
    EarlierWork earlier(run);
    if (Status s = earlier.Load(); !s.ok()) {
      if (s.error().code == ErrorCode::kIo) return s;
      Refuse(s.TakeError());
      return {};
    }
    forecast_.totals = earlier.ProgressOf(first, end);
    MIMO_ASSIGN_OR_RETURN(forecast_.needed_bytes, earlier.SpaceLeft());
    const std::vector<uint32_t> left = earlier.Left(first, end);
    for (const uint32_t u : left) AddLeft(units_.list[u]);
    if (options_.join && !left.empty()) Refuse(StepRunner::NotMade(options_, units_, left));
    return {};
  }

  FileSystem& fs_;
  const Catalogue& catalogue_;
  const Plan& plan_;
  const RunOptions& options_;
  const Units units_;
  Forecast forecast_;
};

}  // namespace

Result<Forecast> ForecastRun(FileSystem& fs, const Catalogue& catalogue, const Plan& plan, const RunOptions& options) {
  return Forecaster(fs, catalogue, plan, options).Make();
}

}  // namespace mimo
