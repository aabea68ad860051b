"""Trials of conversions over randomly edited checkpoints, and what an independent judge says of each.

    python3 -m harness.edit_trials --trials 1000 --seed 7 --keep DIR     violations, each kept with its input
    python3 -m harness.edit_trials --trial 7:123 --keep DIR              one trial again

A trial takes a small valid checkpoint, edits it one to three times and converts it in one way. The rules:

1. The exit code is 0 (done), 2 (usage) or 3 (bad input); nothing crashes, and nothing is left undone (1, 4).
2. Exit 2 or 3: nothing is in OUT, and stderr names a tensor, a file, a key of config.json or of the index, or for 2 an
   option.
3. Exit 0: the output is decoded by tests/judge. Every tensor of the model that the edited source holds is there with
   the values that the source's arrays mean: to the bit where they are moved, rounded once where they are decoded,
   within half a step of the codes where they are encoded. Its config.json and its index are what its arrays are.
4. Where the arrays of the edited source do not say what it means (codes without scales, scales of no grid, values
   beside scales, copies that differ where the index does not decide, a tensor of the model that is nowhere, INT8 or
   FP8) or say that it is damaged (NaN, scales that are negative or zero, a router bias without differences), exit 0 is
   right only with a warning that the unedited checkpoint does not have; the tensors in doubt are then not compared.
   Damaged codes, and scales of blocks or rows, that are moved as they are need none: output and source agree, and a terabyte is not
   read to copy it. Damaged scalars and vectors do, moved or not.
   The order of rows is that of the checkpoint before the edits: no edit moves a row, so that an output whose rows went
   elsewhere because tp_size or a count was edited is wrong, and not an interpretation; but for a tool that says
   `layout.assumed` anew, which is right where the rows themselves do not decide. What towers have to hold is not
   judged: their tensors are as they are.
5. What an output's config.json says of its codecs, layout and counts, and its index, has to be right, warned or not;
   for --copy, which changes nothing by definition, a new warning is enough. Less than that (the declared type of plain
   weights, tied embeddings, a KV-cache scheme without scales, the number of MTP layers) may be as in the source where
   a new warning says so.
"""
import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, namedtuple
from concurrent import futures

from harness import checkpoints, compare, edited, edits_of_arrays, edits_of_documents, tools
from judge import declared, verdict
from judge.directory import Directory
from judge.meaning import Geometry, Meaning, common_prefix
from judge.verdict import Asked

SMALL = dict(hidden=128, experts=2, heads=8, intermediate=256, moe_intermediate=256, vocab=64, pattern=(0, 1, 0), mtp=1,
             towers=False, extremes=False)
BASES = {
    "v2.5": ("v2.5", {}), "v2.5 wide": ("v2.5", dict(hidden=256)), "v2-flash": ("v2-flash", {}),
    "v2.6": ("v2.6", {}), "v2.5-pro": ("v2.5-pro", dict(heads=16)), "plain": ("plain", {}),
    "independent": ("v2.5", dict(qkv="independent")), "apart": ("v2.5", dict(placement="apart")),
    "towers": ("v2.5", dict(towers=True)), "bf16 fused": ("v2.5", dict(store="bf16")),
    "bf16 split": ("v2.5", dict(store="bf16", qkv="independent")),
    "nvfp4": ("v2.5", dict(store="nvfp4", qkv="independent")), "nvfp4 fused": ("v2.5", dict(store="nvfp4")),
    "nvfp4-ct": ("v2.5", dict(store="nvfp4-ct", qkv="independent")),
    "mxfp8": ("v2.5", dict(store="mxfp8", qkv="independent")), "per channel": ("v2-flash", dict(qkv="independent")),
}
CONVERSIONS = (
    (("--dtype", "bf16", "--qkv", "split"), Asked(plain="BF16")),
    (("--dtype", "bf16"), Asked(plain="BF16")),
    (("--qkv", "split"), Asked()),
    (("--qkv", "split:independent"), Asked(exact=False)),
    (("--qkv", "fused:1"), Asked(exact=False)), (("--qkv", "fused:2"), Asked(exact=False)),
    (("--qkv", "fused:4"), Asked(exact=False)), (("--qkv", "fused:8"), Asked(exact=False)),
    (("--copy",), Asked(copy=True)), (("--copy", "--link", "hard"), Asked(copy=True)),
    (("--dtype", "nvfp4"), Asked(plain="BF16", kinds=("nvfp4",), exact=False)),
    (("--recipe", "nvfp4-experts"), Asked(kinds=("nvfp4",))),
    (("--recipe", "nvfp4-experts", "--dialect", "compressed-tensors"), Asked(kinds=("nvfp4",))),
    (("--dtype", "mxfp4"), Asked(kinds=("mxfp4",))),
    (("--dtype", "mxfp8"), Asked(plain="BF16", kinds=("mxfp8",), exact=False)),
    (("--dtype", "fp8"), Asked(kinds=("block",), exact=False)),
    (("--to", "vllm", "--tp", "2"), Asked(exact=False)), (("--to", "sglang", "--tp", "2"), Asked(exact=False)),
    (("--to", "vllm", "--tp", "4", "--dtype", "bf16"), Asked(plain="BF16", exact=False)),
    (("--text-only", "--dtype", "fp16"), Asked(plain="F16", text_only=True)),
    (("--dtype", "fp32", "--qkv", "fused:2"), Asked(plain="F32")),
    (("--dtype", "bf16", "--max-shard-size", "1MB"), Asked(plain="BF16")),
)
SOFT = {"dtype", "tied", "kv", "mtp"}
ARRAYS, DOCUMENTS = edits_of_arrays, edits_of_documents
# How often each is tried. Most of these are always refused, which shows little; what may be right comes more often.
EDITS = (
    (8, ARRAYS.weight_type), (4, ARRAYS.norm_f32), (4, ARRAYS.router_bias_16), (3, ARRAYS.code_label), (5, ARRAYS.scale_type),
    (2, ARRAYS.rename), (3, ARRAYS.prefix), (1, ARRAYS.layer_shifted), (2, ARRAYS.scale_dropped),
    (2, ARRAYS.scale_duplicated), (2, ARRAYS.scale_shape), (6, ARRAYS.requantized), (4, ARRAYS.scale_value),
    (14, ARRAYS.decoded), (6, ARRAYS.kv_scales), (1, ARRAYS.unknown_tensor), (7, DOCUMENTS.config_key),
    (5, DOCUMENTS.quantization_key), (6, DOCUMENTS.ignore_list), (6, DOCUMENTS.moved), (4, DOCUMENTS.unindexed),
    (3, DOCUMENTS.file_unindexed), (4, DOCUMENTS.stale_file), (4, DOCUMENTS.listed_twice), (5, DOCUMENTS.index_metadata),
    (2, DOCUMENTS.index_name), (2, DOCUMENTS.no_index))

Trial = namedtuple("Trial", "name base edits options code stderr violations doubts disagreements")
Base = namedtuple("Base", "state geometry names warnings")
_bases = {}


def _warnings(stderr):
    """{(id, text)} of all warnings that were printed."""
    return set(re.findall(r"warning ([a-z]+\.[a-z_]+): (.*)", stderr))


def base(name):
    """A valid checkpoint in memory, its geometry, its tensors and what is to be said of it before any edit."""
    if name not in _bases:
        variant, options = BASES[name]
        directory, model = checkpoints.ours(variant, **{**SMALL, **options})
        spec = model.spec
        state = edited.State(directory, spec.qkv)
        if state.config.get("num_nextn_predict_layers"):
            state.config["num_nextn_predict_layers"] = spec.mtp
        if name == "per channel":
            edits_of_arrays.per_channel(state)
        geometry = Geometry(spec.heads, spec.stored_kv, spec.pattern, spec.qkv)
        place = tempfile.mkdtemp(dir=checkpoints.root())
        source = os.path.join(place, "checkpoint")
        state.write(source)
        meaning = Meaning(Directory(source), geometry)
        assert not meaning.doubts and not meaning.ills, (name, meaning.doubts, meaning.ills)
        said = tools.run("mimo-convert", source, os.path.join(place, "out"), "--copy", "--dry-run").stderr
        _bases[name] = Base(state, geometry, set(meaning.logical), _warnings(said))
        shutil.rmtree(place)
    return _bases[name]


def _named(stderr, source, code):
    """Whether a refusal says where: a tensor, a file or a key of the documents; of wrong usage, an option."""
    keys = set(source.config) | set(source.metadata) | set(source.config.get("quantization_config") or {})
    words = keys | set(source.files) | {"config.json", "model.safetensors.index.json"}
    before = common_prefix(source.tensors)
    modules = {name[len(before):].rsplit(".", 1)[0] for name in source.tensors}
    return any(w in stderr for w in words | modules) or (code == 2 and "--" in stderr)


def _left(out):
    return sorted(os.path.join(os.path.relpath(folder, out), f) for folder, _, files in os.walk(out) for f in files)


def judge_refusal(result, source, out):
    found = []
    if _left(out):
        found.append(("left", f"exit {result.code} left {_left(out)[:4]}"))
    if not _named(result.stderr, source, result.code):
        found.append(("nameless", "stderr names no tensor, file or key"))
    return found


# What a warning has to speak of to excuse a disagreement of an output with itself.
WORDS = {"dtype": ("dtype", "save_format"), "tied": ("tie_word_embeddings",), "kv": ("kv_cache", "_scale"),
         "mtp": ("num_nextn_predict_layers",), "codec": ("quantization_config", "ignore"), "index": ("index",),
         "layout": ("attention_projection_layout", "tp_size", "layout"), "count": ("config.json",)}


def _speaks_of(warnings, about, source):
    """Whether a warning names a tensor, its module, what it is in its layer, or a file that holds it."""
    module = re.sub(r"\.(weight|[a-z_]*scale[a-z_0-9]*)$", "", about)
    part = re.sub(r"^.*layers\.\d+\.(mlp\.experts\.\d+\.)?", "", module)
    files = {f for name, held in source.holders.items() if name.startswith(module) for f in held}
    return any(word in text for _, text in warnings for word in {about, module, part, *files} if word)


def _values_of(about):
    """What the names begin with whose values nobody knows where `about` is in doubt: a weight's, for its scale."""
    module = re.sub(r"\.(weight|[a-z_]*scale[a-z_0-9]*)$", ".", about)
    return re.sub(r"qkv_proj\.?$", "", module)


def source_doubts(made, truth):
    """(what nobody can say of an edited source, what is unhealthy in it)"""
    missing = sorted(n for n in made.names - set(truth.logical) if not verdict.TOWER.match(n))
    return truth.doubts + [(n, "a tensor of the model that is nowhere") for n in missing], truth.ills


def _is_moved(about, text, truth, output):
    """Whether an ill is one of codes or of scales of blocks or rows, and the output has them in the codec that they had."""
    stored = truth.modules.get(about)
    if stored is None or stored.kind not in ("block", "row", "mxfp4", "mxfp8", "nvfp4") or text.startswith("global"):
        return False
    prefix = about[:-len("qkv_proj")] + "k_proj" if about.endswith("qkv_proj") else about
    got = output.logical.get(prefix + ".weight")
    return got is not None and got.kind == stored.kind


def judge_output(result, made, source, truth, out, asked):
    doubts, ills = source_doubts(made, truth)
    new = _warnings(result.stderr) - made.warnings
    doubted = [_values_of(about) for about, _ in doubts]
    if any(name == "layout.assumed" for name, _ in new):
        doubted += [name for name in truth.logical if verdict.PROJECTION.match(name)]
    output, wrong, disagreements = verdict.judge(Directory(out), truth, truth.geometry.layout, asked, doubted)
    ills = [(about, text) for about, text in ills if not _is_moved(about, text, truth, output)]
    found = wrong + [("unsaid", f"{about}: {text}") for about, text in doubts + ills
                     if not _speaks_of(new, about, source)]
    for kind, text in disagreements:
        if not ((kind in SOFT or asked.copy) and any(w in t for _, t in new for w in WORDS[kind])):
            found.append((kind, text))
    if not os.path.exists(os.path.join(out, "mimo-manifest.json")):
        found.append(("left", "exit 0 without a manifest"))
    return found


def run(seed, number, keep=None, options=None):
    """-> Trial. keep: a directory that gets the input and the report of a trial with violations."""
    chooser = random.Random(f"{seed}:{number}")
    name = chooser.choice(sorted(BASES))
    made = base(name)
    state = made.state.copy()
    edits, wanted = [], chooser.choice((1, 1, 2, 3))
    while len(edits) < wanted:
        edit, = chooser.choices([e for _, e in EDITS], [weight for weight, _ in EDITS])
        tried = state.copy()
        try:
            text = edit(chooser, tried)
        except LookupError:                       # what it would edit is gone
            continue
        if text:
            state = tried
            edits.append(text)
    typed, asked = chooser.choice(CONVERSIONS)
    with tempfile.TemporaryDirectory(dir=checkpoints.root()) as place:
        directory, out = os.path.join(place, "checkpoint"), os.path.join(place, "out")
        state.write(directory)
        source = Directory(directory)
        truth = Meaning(source, made.geometry)
        result = tools.run("mimo-convert", directory, out, *typed, "--threads", "1", timeout=120)
        doubts, ills = source_doubts(made, truth)
        if result.code == 0:
            found = judge_output(result, made, source, truth, out, asked)
        elif result.code in (2, 3):
            found = judge_refusal(result, source, out)
        else:
            found = [("exit", f"exit {result.code}")]
        trial = Trial(f"{seed}:{number}", name, edits, typed, result.code, result.stderr, found, doubts + ills,
                      declared.disagreements(source, truth))
        if found and keep:
            _keep(trial, directory, out, os.path.join(keep, f"{seed}-{number:05}"))
    return trial


def _keep(trial, directory, out, place):
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(directory, os.path.join(place, "checkpoint"))
    if os.path.isdir(out):
        shutil.copytree(out, os.path.join(place, "out"))
    with open(os.path.join(place, "report.txt"), "w") as f:
        f.write(report(trial))


def report(trial):
    lines = [f"trial {trial.name}: {trial.base}", *(f"  edit: {e}" for e in trial.edits),
             f"  mimo-convert CKPT OUT {' '.join(trial.options)}: exit {trial.code}",
             *(f"  doubt: {about}: {text}" for about, text in trial.doubts[:6]),
             *(f"  source disagrees: {kind}: {text}" for kind, text in trial.disagreements[:4]),
             *(f"  VIOLATION {kind}: {text}" for kind, text in trial.violations[:12])]
    if len(trial.violations) > 12:
        lines.append(f"  and {len(trial.violations) - 12} more")
    return "\n".join(lines + [f"  | {line}" for line in trial.stderr.strip().splitlines()[:12]]) + "\n"


def run_many(seed, numbers, keep=None, seconds=None, shown=None, every=False, at_once=2):
    """-> (trials, in their order; those that were not begun after `seconds` are left out)"""
    for name in BASES:
        base(name)
    started = time.monotonic()

    def one(number):
        if seconds and time.monotonic() - started > seconds:
            return None
        trial = run(seed, number, keep)
        if shown and (trial.violations or (every and trial.code)):
            shown(report(trial))
        return trial

    with futures.ThreadPoolExecutor(at_once) as pool:
        return [trial for trial in pool.map(one, numbers) if trial is not None]


def summary(trials):
    """One line, and how many trials had each kind of violation."""
    wrong = [t for t in trials if t.violations]
    kinds = Counter(kind for t in wrong for kind in {k for k, _ in t.violations})
    return f"{len(trials)} trials, exit codes {dict(Counter(t.code for t in trials))}, {len(wrong)} with violations: " \
        f"{dict(kinds)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--trial", help="SEED:NUMBER, one alone")
    parser.add_argument("--keep", help="a directory for the inputs of trials with violations")
    parser.add_argument("--verbose", action="store_true", help="refusals too")
    args = parser.parse_args()
    if args.trial:
        seed, number = args.trial.rsplit(":", 1)
        trial = run(seed, int(number), args.keep)
        print(report(trial))
        return bool(trial.violations)
    trials = run_many(args.seed, range(args.first, args.first + args.trials), args.keep, every=args.verbose,
                      shown=lambda text: print(text, flush=True))
    print(summary(trials))
    return any(t.violations for t in trials)


if __name__ == "__main__":
    sys.exit(main())
