"""Reading back what was written for engines: fixtures with real head counts, directories loaded rank by rank, rank
files, and the comparison of a rank with the truth.

The truth is tests/reference/sharding.py over the generator's own values. A block that the new grid cuts may have been
re-quantized; every other element must be the truth, bit for bit.
"""
import os
import re

import numpy as np

from harness import checkpoints, compare
from reference import codecs, container, decode, layouts, sharding

# Head counts are the released ones; widths allow TP 32.
REAL = dict(hidden=128, intermediate=4096, moe_intermediate=4096, experts=2, vocab=300, pattern=(0, 1), mtp=1,
            towers=False)
HEADS = {"v2.5-pro": 128}
NATIVE = {"v2-flash": "cut:4", "v2.5": "fused:4", "v2.5-pro": "fused:8", "v2.6": "fused:4", "plain": "fused:1"}
OPTION = {"v2-flash": "split", "v2.5": "fused:4", "v2.5-pro": "fused:8", "v2.6": "fused:4", "plain": "fused:1"}
SCALES = re.compile(r".*weight_scale(_inv)?$")


class Fixture:
    """A checkpoint with its true values (float32, split naming) and the scale cell of every row of Q, K and V."""

    def __init__(self, directory, values, qkv):
        self.directory, self.values, self.qkv = directory, values, qkv
        self.tensors, self.config, self.index = decode.load(directory)
        self.prefixes = decode.attention_prefixes(self.tensors)
        self.fp8 = any(n.endswith("proj.weight_scale_inv") for n in self.tensors if ".self_attn." in n)

    def cells(self, prefix):
        return sharding.source_cells(layouts.parse(self.qkv, *decode.geometry(self.config, prefix)))


def float_values(values):
    return {n: v.values if v.values is not None else codecs.decode_plain(v.dtype, v.array) for n, v in values.items()}


def ours(variant, **options):
    directory, model = checkpoints.ours(variant, **dict(REAL, heads=HEADS.get(variant, 64), **options))
    return Fixture(directory, float_values(model.values), model.spec.qkv)


def external(variant, **options):
    flags = dict(heads=HEADS.get(variant, 64), intermediate=4096, hidden=128, experts=2, moe_intermediate=4096)
    directory, truth = checkpoints.external(variant, **dict(flags, **options))
    values = float_values(decode.checkpoint(directory, int(NATIVE[variant][-1])))
    for name, (dtype, array) in truth.items():           # the generator's word on what this decoder read
        found = values[name] if dtype == "F32" else codecs.bf16_from_f32(values[name])
        assert np.array_equal(found.view(np.uint8), array.view(np.uint8)), name
    return Fixture(directory, values, NATIVE[variant])


# ---- rank files ----------------------------------------------------------------------------------------------------

RANK_FILE = re.compile(r"(model|mtp)-rank-(\d+)-part-(\d+)\.safetensors")


def rank_files(directory):
    """-> {(kind, rank, part): file}"""
    found = {RANK_FILE.fullmatch(f): f for f in container.tensor_files(directory)}
    return {(m.group(1), int(m.group(2)), int(m.group(3))): f for m, f in found.items() if m}


def read_rank(directory, rank):
    """All tensors of one rank, the model's and MTP's, under names without what newer engines insert, and the part each
    is in: ({name: (dtype, array)}, {name: (kind, part)})."""
    tensors, parts = {}, {}
    for (kind, number, part), file in sorted(rank_files(directory).items()):
        if number != rank:
            continue
        for name, value in container.read(os.path.join(directory, file)).items():
            name = name.replace(".experts.routed_experts.", ".experts.")
            assert name not in tensors, f"{file}: {name} twice"
            tensors[name], parts[name] = value, (kind, part)
    return tensors, parts


def part_of(name):
    """The file that a tensor of a rank belongs in."""
    match = re.match(r"model\.(mtp\.)?layers\.(\d+)\.", name)
    if not match:
        return "model", 0
    return ("mtp", int(match.group(2))) if match.group(1) else ("model", int(match.group(2)) + 1)


def rank_grid(config):
    """Into how many chunks the grid of rank files is cut: (prefix, tp) -> one per rank, but where vLLM keeps K and V of
    the source's chunks together."""
    def chunks(prefix, tp):
        order, rows = sharding.qkv_order(config, prefix + ".", tp)
        return tp if rows == order.size else config["num_key_value_heads"]
    return chunks


# ---- comparing -----------------------------------------------------------------------------------------------------

def same_bits(a, b):
    return a.shape == b.shape and np.array_equal(np.ascontiguousarray(a).view(np.uint32),
                                                 np.ascontiguousarray(b).view(np.uint32))


class Rank:
    """check(): one rank's parameters against the truth.

    stored: config.json of the directory, which decides how an engine orders the rows of Q, K and V.
    grid(prefix, tp): how many chunks the block grid of an attention is counted in (default: one per rank).
    values, config, cells: of another model than the fixture's (padded)."""

    def __init__(self, case, fixture, stored, grid=None, values=None, config=None, cells=None):
        self.case, self.fixture, self.stored = case, fixture, stored
        self.grid = grid or (lambda prefix, tp: tp)
        self.values, self.config = values or fixture.values, config or fixture.config
        self.cells = cells or {p: fixture.cells(p) for p in fixture.prefixes}

    def cuts(self, tp, replicas=True):
        """Blocks that the grid cuts, each of 128 columns; replicas=False counts equal blocks of several chunks once."""
        total, columns = 0, -(-self.config["hidden_size"] // 128)
        for prefix, cells in self.cells.items():
            chunks = self.grid(prefix, tp)
            found = [sharding.straddling(cells, sharding.head_rows(self.config, prefix + ".", chunks, c))
                     for c in range(chunks)]
            keys = {key for _, _, keys in found for key in keys}
            total += columns * (sum(count for _, count, _ in found) if replicas else len(keys))
        return total

    def check(self, params, tp, rank, ep=1, note="", only=None):
        """only: a predicate on names, where the rest is checked elsewhere."""
        expected = sharding.rank_values(self.config, self.values, tp, rank, ep)
        found = sharding.decode(params)
        if only:
            expected, found = ({n: v for n, v in side.items() if only(n)} for side in (expected, found))
        self.case.assertEqual(sorted(expected), sorted(found), note)
        for name, value in expected.items():
            where = f"{note} rank {rank}: {name}"
            if name.endswith("self_attn.qkv_proj.weight"):
                self._attention(name, params, value, found[name], tp, rank, where)
            else:
                self.case.assertTrue(same_bits(value, found[name]), where + self._difference(value, found[name]))

    def _attention(self, name, params, value, found, tp, rank, where):
        dtype, stored = params[name]
        if dtype == "F32":                            # what a loader that re-quantizes starts from
            self.case.assertTrue(same_bits(value, found), where + self._difference(value, found))
            return
        order, rows = sharding.qkv_order(self.stored, name, tp)
        self.case.assertEqual((rows,) + value.shape[1:], found.shape, where)
        self.case.assertFalse(np.delete(stored, order, 0).any(), where + ": filling that is not zero")
        if dtype == "BF16":
            self.case.assertTrue(np.array_equal(codecs.bf16_from_f32(value), stored[order]), where)
            return
        prefix = name.removesuffix(".qkv_proj.weight")
        mask = sharding.cut_rows(self.config, name, self.cells[prefix], self.grid(prefix, tp), tp, rank)
        found = found[order]
        self.case.assertTrue(same_bits(value[~mask], found[~mask]),
                             where + self._difference(value[~mask], found[~mask]))
        self._requantized(value, found, params[name + "_scale_inv"][1], order // 128, mask, where)

    def _requantized(self, value, found, scales, block, mask, where):
        """Half a step of the scale it has, and no worse than a fresh scale would be."""
        for row in np.unique(block[mask]):
            for column in range(scales.shape[1]):
                at = np.ix_(np.flatnonzero(block == row), np.arange(128 * column, min(128 * column + 128,
                                                                                      value.shape[1])))
                x, y, scale = value[at].astype(np.float64), found[at].astype(np.float64), float(scales[row, column])
                bound = 0.5 * codecs.e4m3_step(np.abs(x) / scale) * scale * (1 + 1e-5)
                fits = np.abs(x) <= codecs.E4M3_MAX * scale
                self.case.assertTrue((np.abs(x - y) <= bound)[fits].all(), f"{where}: block {row}, {column}")
                fresh = np.float32(max(np.abs(value[at]).max(), 1e-12)) / np.float32(448)
                best = (codecs.E4M3[codecs.e4m3_encode(value[at] / fresh)] * fresh).astype(np.float64)
                self.case.assertLessEqual(((x - y)**2).sum(), ((x - best)**2).sum() * (1 + 1e-6), where)

    @staticmethod
    def _difference(a, b):
        if a.shape != b.shape:
            return f": shape {a.shape} != {b.shape}"
        if not a.size:
            return ""
        rows = np.flatnonzero((a.reshape(a.shape[0], -1) != b.reshape(a.shape[0], -1)).any(axis=1))
        return f": {rows.size} of {a.shape[0]} rows differ, first {rows[:6].tolist()}"


def unquantized_modules(tensors):
    """Linear modules of attention and MTP that an ignore list must name: those stored without a scale."""
    return {n.removesuffix(".weight") for n, (_, a) in tensors.items()
            if re.match(r"model\.(mtp\.)?layers\.", n) and a.ndim == 2 and n.endswith("proj.weight")
            and not any(n + s in tensors for s in ("_scale_inv", "_scale"))}


def manifest(directory):
    return compare.load_json(directory, "mimo-manifest.json")
