#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/checked.h"
#include "lib/json/bytes.h"
#include "lib/model/role_groups.h"
#include "tools/inspect_report.h"

namespace mimo::cli {
namespace {

constexpr size_t kLabel = 14;

std::string Padded(std::string text, size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

// Lines of "label  text"; further lines of one label are indented under it.
class Report {
 public:
  void Line(const std::string& label, const std::string& text) {
    out_ += Padded(label == last_ ? "" : label, kLabel) + "  " + Printable(text) + "\n";
    last_ = label;
  }
  void Blank() {
    out_ += "\n";
    last_.clear();
  }
  void Raw(const std::string& text) { out_ += text; }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_, last_;
};

// "0, 5, 11" or "1-4, 6-10".
std::string Ranges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[i]);
    if (end - i > 1) text += "-" + std::to_string(numbers[end - 1]);
    i = end;
  }
  return text;
}

std::string Joined(const std::vector<std::string>& parts, const char* separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

void Head(Report& report, const std::string& checkpoint, const Description& d) {
  report.Line("checkpoint", checkpoint);
  if (d.form != FormKind::kHf) report.Line("form", FormText(d) + "; what follows is the checkpoint that it holds");
  report.Line("family", d.family + "  (" + Joined(d.family_evidence, ", ") + ")");
  report.Line("model", d.model_type + (d.architectures.empty() ? "" : ", " + Joined(d.architectures, ", ")));
  report.Line("geometry", std::to_string(d.layers) + " layers + " + std::to_string(d.mtp_layers) + " MTP, hidden " +
                              std::to_string(d.hidden) + ", " + std::to_string(d.experts) + " experts, vocabulary " +
                              std::to_string(d.vocab));
  report.Line("size", std::to_string(d.tensor_count) + " tensors, " + FormatBytes(d.payload_bytes) + " (" +
                          std::to_string(d.payload_bytes) + " bytes) in " + std::to_string(d.files.size()) + " files");
}

void Attention(Report& report, const Description& d) {
  if (d.verdict) {
    report.Line("QKV layout", d.verdict->layout.ToString() + ", by " + d.verdict->basis +
                                  (d.verdict->assumed ? " (ASSUMED)" : " (proven)"));
    for (const std::string& line : d.verdict->evidence) report.Line("QKV layout", line);
  } else {
    report.Line("QKV layout", d.qkv_layout + ", not decided");
    for (const LayoutCandidate& c : d.candidates)
      report.Line("QKV layout", "possible: " + c.layout.ToString() + " (" + c.basis + ")");
  }
  for (const AttentionKind& kind : d.attention) {
    std::string kv = std::to_string(kind.stored.kv_heads) + " KV heads";
    if (kind.logical_kv_heads != kind.stored.kv_heads)
      kv += " (replicas of " + std::to_string(kind.logical_kv_heads) + ")";
    report.Line("attention", Padded(kind.name, 7) + std::to_string(kind.stored.heads) + " Q heads, " + kv + ", Q/K " +
                                 std::to_string(kind.stored.head_dim) + ", V " +
                                 std::to_string(kind.stored.v_head_dim) + (kind.sinks ? ", sinks" : "") + "; layers " +
                                 Ranges(kind.layers));
  }
  if (d.mtp_layers > 0) report.Line("attention", "MTP    as " + d.mtp_attention + " layers");
}

// "mtp attn.o"; roles that only MTP layers have say so themselves.
std::string RoleLabel(const RoleTotal& total) {
  const std::string name(RoleName(total.role));
  return total.mtp && !name.starts_with("mtp") ? "mtp " + name : name;
}

void Storage(Report& report, const Description& d, bool verbose) {
  std::string quantization = d.quant_method.empty() ? "none" : d.quant_method;
  if (!d.quant_method.empty()) {
    const bool blocks = std::any_of(d.roles.begin(), d.roles.end(), [](const RoleTotal& total) {
      return total.storage.find("fp8") != std::string::npos && total.storage.find("mxfp8") == std::string::npos &&
             (total.scales.empty() || total.scales.find("per block") != std::string::npos);
    });
    if (blocks) quantization += ", blocks of " + std::to_string(d.block_rows) + " x " + std::to_string(d.block_cols);
    if (!d.store_dtype.empty()) quantization += ", store_dtype " + d.store_dtype;
  }
  report.Line("quantization", quantization);
  for (const DTypeTotal& total : d.dtypes) {
    report.Line("dtypes", Padded(std::string(DTypeName(total.dtype)), 9) +
                              Padded(std::to_string(total.tensors) + " tensors", 16) + FormatBytes(total.bytes));
  }
  for (const RoleTotal& total : d.roles) {
    if (!verbose && !IsTower(total.role) && total.role != Role::kExpertDown && total.role != Role::kAttnQkv &&
        total.role != Role::kAttnQ && total.role != Role::kAttnO && total.role != Role::kMtpEhProj &&
        total.role != Role::kRouter && total.role != Role::kUnknown) {
      continue;
    }
    report.Line("roles", Padded(RoleLabel(total), 20) + Padded(total.storage, 12) +
                             Padded(std::to_string(total.weights) + " tensors", 16) + FormatBytes(total.bytes) +
                             (total.scales.empty() ? "" : ", scales " + total.scales));
  }
}

void Files(Report& report, const Description& d, bool verbose) {
  const IndexInfo& index = d.index;
  std::string line = "none";
  if (index.present) {
    line = index.total_size ? "total_size " + std::to_string(*index.total_size) : "no total_size";
    if (index.tp_size) line += ", tp_size " + std::to_string(*index.tp_size);
    if (!index.save_format.empty()) line += ", save_format " + index.save_format;
  }
  report.Line("index", line);
  for (const NamedBytes& directory : d.subdirectories) {
    report.Line("directories",
                directory.name + "/  " + std::to_string(directory.files) + " files, " + FormatBytes(directory.bytes));
  }
  std::vector<std::string> carried;
  for (const CarriedFile& file : d.carried) carried.push_back(file.name);
  if (!carried.empty()) report.Line("also there", Joined(carried, ", "));
  if (!verbose) return;
  for (const NamedBytes& file : d.files) {
    report.Line("files",
                Padded(file.name, 44) + Padded(std::to_string(file.files) + " tensors", 16) + FormatBytes(file.bytes));
  }
}

void Layers(Report& report, const Description& d) {
  report.Line("layers", "        attention  QKV rows  scale rows  stored  MLP    stored  experts  tensors  bytes");
  for (const LayerRow& row : d.layer_rows) {
    const std::string name = (row.mtp ? "mtp " : "") + std::to_string(row.layer);
    report.Line("layers", Padded(name, 8) + Padded(row.attention, 11) + Padded(std::to_string(row.qkv_rows), 10) +
                              Padded(std::to_string(row.qkv_scale_rows), 12) + Padded(row.qkv_storage, 8) +
                              Padded(row.mlp, 7) + Padded(row.mlp_storage, 8) + Padded(std::to_string(row.experts), 9) +
                              Padded(std::to_string(row.tensors), 9) + FormatBytes(row.bytes));
  }
}

void Engines(Report& report, const Description& d, bool verbose) {
  if (d.engines.empty()) return;
  report.Blank();
  std::string head = Padded("engines", 24);
  for (const EngineOutcome& at : d.engines.front().outcomes) head += Padded("TP " + std::to_string(at.tp), 13);
  std::string text = head + "version\n";
  std::vector<std::pair<std::string, std::string>> notes;  // note, where
  for (const EngineReport& engine : d.engines) {
    text += Padded(engine.engine, 24);
    for (const EngineOutcome& at : engine.outcomes) {
      text += Padded(at.outcome, 13);
      if (!verbose) continue;
      const std::string where = engine.engine + " (" + engine.version + ") TP " + std::to_string(at.tp);
      notes.push_back({where + ": " + at.outcome, at.note});
    }
    text += engine.version + "\n";
    if (!verbose) continue;
    for (const std::string& note : engine.notes) notes.push_back({engine.engine + " (" + engine.version + ")", note});
    notes.push_back({engine.engine + " (" + engine.version + ") sources", Joined(engine.sources, " ")});
  }
  for (const auto& [where, note] : notes) text += where + ": " + note + "\n";
  report.Raw(text);
}

// Warnings and errors whole, with what to do; notes as one line.
void Findings(Report& report, const Verdict& verdict, bool verbose) {
  for (const Severity severity : {Severity::kError, Severity::kWarning, Severity::kNote})
    for (const Finding& finding : verdict.findings()) {
      if (finding.severity != severity) continue;
      const bool whole = verbose || severity != Severity::kNote;
      std::string text = finding.place.empty() ? finding.evidence : finding.place + ": " + finding.evidence;
      if (whole) text = finding.id + ": " + text + (finding.advice.empty() ? "" : "; " + finding.advice);
      report.Line(std::string(WordOf(kSeverities, severity)), text);
    }
}

}  // namespace

std::string InspectText(const std::string& checkpoint, const Description& d, bool verbose) {
  Report report;
  Head(report, checkpoint, d);
  Attention(report, d);
  Storage(report, d, verbose);
  Files(report, d, verbose);
  if (verbose) Layers(report, d);
  Findings(report, d.findings, verbose);
  Engines(report, d, verbose);
  return report.Take();
}

}  // namespace mimo::cli
