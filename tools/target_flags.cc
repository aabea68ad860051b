#include "tools/target_flags.h"

#include <algorithm>
#include <charconv>

#include "lib/forms/ranks/rank_form.h"
#include "lib/plan/words.h"
#include "tools/cli.h"

namespace mimo {
namespace {

constexpr uint64_t kMaxTemplateBytes = 256ull << 20;
constexpr int64_t kMaxRanks = 4096;

// "0,2,4-7": ascending, each once.
Result<std::vector<int64_t>> ParseRanks(const std::string& text) {
  const auto bad = [&] {
    return UsageError("--ranks is not a list of ranks")
        .Expected("ranks and ranges, as 0,2,4-7")
        .Found("\"" + text + "\"");
  };
  std::vector<int64_t> ranks;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  const auto number = [&](int64_t* value) {
    const auto [next, problem] = std::from_chars(at, end, *value);
    if (problem != std::errc() || next == at || *value < 0 || *value >= kMaxRanks) return false;
    at = next;
    return true;
  };
  while (true) {
    int64_t first = 0;
    if (!number(&first)) return bad();
    int64_t last = first;
    if (at != end && *at == '-') {
      ++at;
      if (!number(&last) || last < first) return bad();
    }
    for (int64_t rank = first; rank <= last; ++rank) ranks.push_back(rank);
    if (at == end) break;
    if (*at++ != ',') return bad();
  }
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

}  // namespace

void AddTargetFlags(CLI::App& app, TargetFlags& flags, PlanOptions& options) {
  auto* group = app.add_option_group("target", "what will load it (part of the plan)");
  flags.to_option = cli::AddWord(*group, "--to", options.to, kTargets,
                                 "hf: no engine in mind; from ranks, Neuron or engine layouts back to the checkpoint "
                                 "they came from. vllm|sglang: laid out for --tp. nxdi: Neuron. megatron: torch_dist, "
                                 "in BF16 or --dtype fp32|fp16");
  cli::AddWord(*group, "--format", flags.format, kFormats,
               "vllm: hf, or sharded-state: one set of files per rank; megatron: torch_dist");
  group->add_option("--tp", options.tp, "tensor-parallel ranks")->check(CLI::Range(1, 64));
  group->add_option("--ep", options.ep, "expert-parallel ranks: 1, or as many as --tp")->check(CLI::Range(1, 4096));
  group->add_option("--etp", options.etp, "tensor-parallel ranks inside an expert")->check(CLI::Range(1, 4096));
  group->add_option("--pp", options.pp, "pipeline stages")->check(CLI::Range(1, 4096));
  group->add_option("--iteration", options.iteration, "megatron: which the checkpoint says it is (default 0)")
      ->check(CLI::Range(0, 9999999));
  group->add_option("--ranks", flags.ranks, "LIST: write only these ranks' files (0,2,4-7)");
  group->add_flag("--pad", options.pad, "add zero heads and columns where --tp does not divide them");
  cli::AddWord(*group, "--attention", options.attention, kAttentionStorages,
               cli::WordsAnd(kAttentionStorages, "how the engine's attention is stored (auto: schemas/targets.json)"));
  group->add_option("--engine-version", options.engine_version, "a version of schemas/targets.json (default: newest)");
  group->add_option("--template", flags.template_path,
                    "sharded-state: names, shapes and types of another build (scripts/dump_template.py)");
  cli::AddWord(*group, "--fold-value-scale", options.fold_value_scale, kFoldIntos,
               cli::WordsAnd(kFoldIntos,
                             "multiply attention_value_scale into V or the output projection, and clear it "
                             "in config.json"));
  cli::AddWord(*group, "--expert-codes", options.expert_codes, kExpertCodes,
               "nxdi: halve (exact but for codes that lose a bit) or rescale (by 448/240, as the public scripts)");
  cli::AddWord(*group, "--router-bias", options.router_bias, kRouterBiases,
               "nxdi: keep (default), or centred: less their mean, which NxDI's cast to BF16 would drown them in");
}

Status FinishTarget(FileSystem& fs, const TargetFlags& flags, bool qkv_given, PlanOptions* options) {
  if (flags.format != FormKind::kHf) options->format = flags.format;
  if (options->to == TargetKind::kHf && flags.to_option->count() > 0 && !qkv_given) options->qkv = QkvWish("restore");
  if (!flags.ranks.empty()) {
    MIMO_ASSIGN_OR_RETURN(options->ranks, ParseRanks(flags.ranks));
  }
  if (!flags.template_path.empty()) {
    MIMO_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(fs, flags.template_path, kMaxTemplateBytes));
    MIMO_ASSIGN_OR_RETURN(options->form_template, CanonicalTemplate(text, flags.template_path));
  }
  return {};
}

}  // namespace mimo
