#include "tools/run_report.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/checked.h"
#include "tools/error_table.h"
#include "tools/print.h"

namespace mimo {

using nlohmann::ordered_json;

namespace {

void PrintChecksums(const RunReport& r, bool verbose) {
  const ChecksumCounts& n = r.checksums;
  if (!n.any()) return;
  cli::Print(stdout,
             "CRC-32 of the source: %" PRIu64 " items verified, %" PRIu64 " not read whole, %" PRIu64
             " saved without one\n",
             n.verified, n.unverified, n.without);
  if (!verbose) return;
  for (const std::string& name : r.unverified) cli::Print(stdout, "  not verified  %s\n", name);
}

}  // namespace

ordered_json RunReportJson(const RunReport& r, bool verbose) {
  ordered_json json = {
      {"bytes_read", r.bytes_read},
      {"bytes_written", r.bytes_written},
      {"files_written", r.files_written},
      {"files_linked", r.files_linked},
      {"groups_resumed", r.groups_resumed},
      {"units", {{"all", r.units}, {"made", r.units_made}, {"resumed", r.units_resumed}, {"left", r.units_left}}}};
  ordered_json counts;
  VisitCounts([&](const char* key, auto member) { counts[key] = r.blocks.*member; });
  for (const char* key : {"moved_blocks", "equal_scale_blocks", "requantized_blocks", "squared_error", "squared_sum",
                          "encoded_blocks", "exact_blocks", "kept_blocks", "fresh_blocks", "inexact_codes"})
    json[key] = counts[key];
  json["groups_read_twice"] = r.groups_read_twice;
  json["checksums"] = {
      {"verified", r.checksums.verified}, {"unverified", r.checksums.unverified}, {"without", r.checksums.without}};
  if (verbose) json["checksums"]["tensors"] = r.unverified;
  if (r.values_hashed > 0) json["values_hashed"] = r.values_hashed;
  json["rejections"] = r.rejections;
  json["seconds"] = r.seconds;
  json["device"] = r.device;
  json["threads"] = r.threads;
  json["memory_bytes"] = r.memory_bytes;
  const auto io = [](bool direct) { return direct ? "direct" : "buffered"; };
  json["io"] = {{"read", io(r.read_direct)}, {"write", io(r.written_direct)}, {"io_uring", r.queued}};
  const kernels::Anomalies& n = r.anomalies;
  json["anomalies"] = {{"nan_codes", n.nan_codes},
                       {"infinities", n.infinities},
                       {"zero_scale_codes", n.zero_scale_codes},
                       {"bad_scales", n.bad_scales},
                       {"overflows", n.overflows}};
  return json;
}

void PrintRunReport(const std::string& output, const RunReport& r, bool verbose) {
  const double bytes = static_cast<double>(r.bytes_read + r.bytes_written);
  cli::Print(stdout, "%s: %" PRIu64 " files written, %" PRIu64 " linked; read %s, wrote %s in %.1f s (%s/s) on %s\n",
             output, r.files_written, r.files_linked, FormatBytes(r.bytes_read), FormatBytes(r.bytes_written),
             r.seconds, FormatBytes(static_cast<uint64_t>(bytes / std::max(r.seconds, 1e-3))), r.device);
  if (r.part) {
    cli::Print(stdout, "units: %" PRIu64 " of %" PRIu64 " made here, %" PRIu64 " were there, %" PRIu64 " are left\n",
               r.units_made, r.units, r.units_resumed, r.units_left);
    if (r.units_left == 0 && r.units > 0) cli::Print(stdout, "all units are made: mimo-convert --join %s\n", output);
  }
  const BlockCounts& n = r.blocks;
  if (n.moved_blocks + n.requantized_blocks + n.equal_scale_blocks > 0)
    cli::Print(stdout,
               "FP8 blocks: %" PRIu64 " moved, %" PRIu64 " straddling with equal scales (exact), %" PRIu64
               " re-quantized\n",
               n.moved_blocks, n.equal_scale_blocks, n.requantized_blocks);
  if (n.encoded_blocks > 0)
    cli::Print(stdout, "quantized blocks: %" PRIu64 ", %" PRIu64 " of them exact\n", n.encoded_blocks, n.exact_blocks);
  if (n.kept_blocks > 0)
    cli::Print(stdout,
               "blocks made from values: %" PRIu64 " under their scales of before, %" PRIu64 " under new ones\n",
               n.kept_blocks, n.fresh_blocks);
  if (n.inexact_codes > 0) cli::Print(stdout, "codes and router values that lost bits: %" PRIu64 "\n", n.inexact_codes);
  if (r.values_hashed > 0) cli::Print(stdout, "values of %" PRIu64 " tensors hashed\n", r.values_hashed);
  PrintChecksums(r, verbose);
  if (!r.error_report.empty()) PrintErrorTable(r.error_report, verbose);
}

}  // namespace mimo
