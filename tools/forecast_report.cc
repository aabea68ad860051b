#include "tools/forecast_report.h"

#include <algorithm>
#include <cinttypes>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/base/words.h"
#include "tools/cli.h"
#include "tools/print.h"

namespace mimo {
namespace {

using nlohmann::ordered_json;

constexpr Words<Forecast::State, 4> kStates{{{Forecast::State::kNew, "new"},
                                             {Forecast::State::kPartial, "partial"},
                                             {Forecast::State::kComplete, "complete"},
                                             {Forecast::State::kOther, "other"}}};

const char* Sentence(Forecast::State state) {
  switch (state) {
    case Forecast::State::kNew:
      return "begins anew";
    case Forecast::State::kPartial:
      return "goes on with what was begun";
    case Forecast::State::kComplete:
      return "finds the output complete";
    case Forecast::State::kOther:
      break;
  }
  return "finds something else there";
}

}  // namespace

Result<Rates> ParseRates(const std::string& text) {
  const size_t comma = text.find(',');
  if (comma != std::string::npos) {
    auto read = ParseSize(text.substr(0, comma)), write = ParseSize(text.substr(comma + 1));
    if (read.ok() && write.ok() && *read > 0 && *write > 0) return Rates{*read, *write};
  }
  return UsageError("not a pair of rates").Expected("--rates READ,WRITE in bytes per second: 5GB,3GB").Found(text);
}

double SecondsAtLeast(const Forecast& f, const Rates& rates) {
  return std::max(static_cast<double>(f.read_bytes) / static_cast<double>(rates.read),
                  static_cast<double>(f.written_bytes) / static_cast<double>(rates.write));
}

void PrintForecast(const std::string& output, const Forecast& f, const std::optional<Rates>& rates) {
  cli::Print(stdout, "run         %s%s%s: %s\n", output, f.file_system.empty() ? "" : " on ", f.file_system,
             Sentence(f.state));
  if (f.state != Forecast::State::kComplete) {
    cli::Print(stdout, "space       %s of the %s that are free\n", FormatBytes(f.needed_bytes),
               FormatBytes(f.free_bytes));
    if (f.files_linked > 0)
      cli::Print(stdout, "links       %" PRIu64 " files (%s)\n", f.files_linked, FormatBytes(f.linked_bytes));
    cli::Print(stdout, "units       %" PRIu64 " of at most %s, %" PRIu64 " of them there; to read %s, to write %s\n",
               f.totals.units, FormatBytes(f.largest_unit_bytes), f.totals.units_before, FormatBytes(f.read_bytes),
               FormatBytes(f.written_bytes));
    if (rates)
      cli::Print(stdout, "time        at least %.0f s at %s/s read, %s/s written\n", SecondsAtLeast(f, *rates),
                 FormatBytes(rates->read), FormatBytes(rates->write));
  }
  if (f.refusal) cli::Print(stdout, "refused     %s\n", f.refusal->Message());
}

ordered_json ForecastJson(const Forecast& f, const std::optional<Rates>& rates) {
  ordered_json json = {{"state", WordOf(kStates, f.state)},
                       {"file_system", f.file_system},
                       {"may_write", f.may_write},
                       {"free_bytes", f.free_bytes},
                       {"needed_bytes", f.needed_bytes},
                       {"fits", f.fits()},
                       {"files_linked", f.files_linked},
                       {"linked_bytes", f.linked_bytes},
                       {"units", {{"all", f.totals.units}, {"there", f.totals.units_before}}},
                       {"output_bytes", {{"all", f.totals.bytes}, {"there", f.totals.bytes_before}}},
                       {"read_bytes", f.read_bytes},
                       {"written_bytes", f.written_bytes},
                       {"largest_unit_bytes", f.largest_unit_bytes}};
  if (rates) json["seconds_at_least"] = SecondsAtLeast(f, *rates);
  if (f.refusal) json["refusal"] = {{"exit", cli::ExitCode(f.refusal->code)}, {"message", f.refusal->Message()}};
  return json;
}

}  // namespace mimo
