#include "tools/bench_command.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "lib/run/machine_rates.h"
#include "tools/cli.h"
#include "tools/print.h"

namespace mimo {
namespace {

using nlohmann::ordered_json;

constexpr char kName[] = "mimo-convert bench";

constexpr char kFooter[] =
    "Reads up to --bytes of CKPT and writes as many into new files beside or in OUT, through the page cache and past "
    "it, "
    "and removes them again.\n"
    "Exit codes: 0 done, 2 usage, 3 not a checkpoint, 4 I/O.";

struct BenchArguments {
  std::string checkpoint, output;
  MeasureOptions measure;
  cli::CommonOptions common;
};

// What a byte of an FP8 source costs: bytes written, and seconds of all cores.
struct Kind {
  const char* name;
  double written;
  double (*seconds)(const MachineRates& rates);
};
constexpr std::array<Kind, 3> kKinds{{
    {"moves", 1, [](const MachineRates& r) { return 1 / r.hash; }},
    {"FP8 to BF16", 2, [](const MachineRates& r) { return 3 / r.fp8_to_bf16 + 2 / r.hash; }},
    {"FP8 to NVFP4", 0.5625, [](const MachineRates& r) { return 1.5625 / r.fp8_to_nvfp4 + 0.5625 / r.hash; }},
}};

struct Bound {
  std::string name, by;
  double rate = 0;  // bytes of the source per second
};

Bound BoundOf(const Kind& kind, const MachineRates& r) {
  const double read = std::max(r.read_buffered, r.read_direct), write = std::max(r.write_buffered, r.write_direct);
  const std::array<std::pair<double, const char*>, 3> costs{
      {{1 / read, "reading"}, {kind.written / write, "writing"}, {kind.seconds(r), "computing and hashing"}}};
  const auto most = std::max_element(costs.begin(), costs.end());
  return {kind.name, most->second, 1 / most->first};
}

std::string Rate(double bytes_per_second) {
  return bytes_per_second == 0 ? "not possible" : FormatBytes(static_cast<uint64_t>(bytes_per_second)) + "/s";
}

int Bench(const BenchArguments& a) {
  FileSystem& fs = PosixFileSystem();
  const auto fail = [&](const Error& error) { return cli::PrintError(kName, error, a.common.json); };
  const auto catalogue = OpenCatalogue(fs, a.checkpoint);
  if (!catalogue.ok()) return fail(catalogue.error());
  std::string place = a.output;
  while (true) {
    const auto info = fs.Stat(place);
    if (!info.ok()) return fail(info.error());
    if (info.value()) break;
    place = ParentOf(place);
  }
  const auto measured = MeasureMachine(fs, catalogue.value(), place, a.measure);
  if (!measured.ok()) return fail(measured.error());
  const MachineRates& r = measured.value();
  const std::pair<const char*, double> lines[] = {{"read_buffered", r.read_buffered},
                                                  {"read_direct", r.read_direct},
                                                  {"write_buffered", r.write_buffered},
                                                  {"write_direct", r.write_direct},
                                                  {"copy", r.copy},
                                                  {"hash", r.hash},
                                                  {"fp8_to_bf16", r.fp8_to_bf16},
                                                  {"fp8_to_nvfp4", r.fp8_to_nvfp4}};
  if (a.common.json) {
    ordered_json rates, bounds = ordered_json::array();
    for (const auto& [name, rate] : lines) rates[name] = rate;
    for (const Kind& kind : kKinds) {
      const Bound bound = BoundOf(kind, r);
      bounds.push_back({{"conversion", bound.name}, {"bound_by", bound.by}, {"source_bytes_per_second", bound.rate}});
    }
    cli::PrintJson(cli::JsonText({{"bytes_per_second", rates}, {"bounds", bounds}}));
    return 0;
  }
  cli::Print(stdout, "reading     %s through the page cache, %s past it\n", Rate(r.read_buffered), Rate(r.read_direct));
  cli::Print(stdout, "writing     %s through the page cache, %s past it, synced\n", Rate(r.write_buffered),
             Rate(r.write_direct));
  cli::Print(stdout, "computing   copy %s, hash %s, FP8 to BF16 %s, FP8 to NVFP4 %s (read and written together)\n",
             Rate(r.copy), Rate(r.hash), Rate(r.fp8_to_bf16), Rate(r.fp8_to_nvfp4));
  for (const Kind& kind : kKinds) {
    const Bound bound = BoundOf(kind, r);
    cli::Print(stdout, "bound       %s: by %s, at %s of the source\n", bound.name, bound.by, Rate(bound.rate));
  }
  return 0;
}

}  // namespace

int RunBench(std::vector<std::string> words) {
  words.erase(words.begin() + 1);
  BenchArguments a;
  CLI::App app{"Measures what this machine reads, writes and computes, and says what a conversion will wait for.",
               kName};
  app.add_option("CKPT", a.checkpoint, "checkpoint directory, whose tensor files are read")->required();
  app.add_option("OUT", a.output, "where a conversion would write")->required();
  app.add_option("--threads", a.measure.threads, "threads (default: one per CPU that it may use)")
      ->check(CLI::Range(0, 4096));
  cli::AddSize(app, "--bytes", a.measure.bytes, "to read, and to write, each way (default: 1 GiB)");
  cli::AddCommonOptions(app, a.common, kFooter);
  if (const auto code = cli::Parse(app, std::move(words), a.common)) return *code;
  return cli::Guard(kName, a.common.json, [&] { return Bench(a); });
}

}  // namespace mimo
