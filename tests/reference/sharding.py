"""What each rank of an engine holds, in numpy: written from docs/reference/target-layouts.md, sections 4.1, 4.2 and 10,
and mimo-checkpoints.md, section 3, without a look at the converter.

`values` are the model's own parameters: {name in split naming: float32}. Parameters of an engine go by the engine's
names: self_attn.qkv_proj, mlp.gate_up_proj, mlp.experts.w13_weight, mlp.experts.w2_weight.
  rank_values(...)   what rank r must compute with
  load(...)          what an engine's loader makes of a Hugging Face directory, codes and scales by its slot arithmetic
  decode(...)        what its kernels read from such parameters: row / 128 over the rank's rows
  padded(...)        a larger model of the same function, whose heads and widths another TP divides
"""
import re

import numpy as np

from reference import codecs

HEAD_DIM, V_HEAD_DIM, BLOCK, VOCABULARY_STEP = 192, 128, 128, 64
KV_ROWS = {"k": HEAD_DIM, "v": V_HEAD_DIM}


class Refused(Exception):
    """The engine (or the arithmetic) does not allow it."""


def ceil_div(a, b):
    return -(-a // b)


def exact_div(a, b, what):
    if a % b:
        raise Refused(f"{what}: {a} is not a multiple of {b}")
    return a // b


# ---- who holds what ------------------------------------------------------------------------------------------------

def is_window(config, name):
    """MTP layers are window-shaped, whatever their number says."""
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return match is None or config["hybrid_layer_pattern"][int(match.group(1))] == 1


def heads_of(config, name):
    """(query heads, KV heads) of the attention that `name` belongs to."""
    start = "swa_" if is_window(config, name) else ""
    return config[start + "num_attention_heads"], config[start + "num_key_value_heads"]


def kv_share(kv, tp, rank):
    """-> (first KV head, how many) of a rank."""
    if tp >= kv:
        return rank // exact_div(tp, kv, "KV replicas"), 1
    share = exact_div(kv, tp, "KV heads")
    return rank * share, share


def head_rows(config, name, tp, rank):
    """-> {"q", "k", "v": row numbers of the model's tensors that this rank's QKV holds, in order}."""
    heads, kv = heads_of(config, name)
    share = exact_div(heads, tp, "query heads")
    first, count = kv_share(kv, tp, rank)
    rows = {"q": np.arange(rank * share * HEAD_DIM, (rank + 1) * share * HEAD_DIM)}
    for letter, size in KV_ROWS.items():
        rows[letter] = np.arange(first * size, (first + count) * size)
    return rows


def experts_of(experts, ep, rank):
    """Linear placement: the first `experts % ep` ranks hold one more."""
    base, rest = divmod(experts, ep)
    first = rank * base + min(rank, rest)
    return range(first, first + base + (rank < rest))


def padded_vocabulary(rows, tp):
    total = ceil_div(rows, VOCABULARY_STEP) * VOCABULARY_STEP
    exact_div(total, tp, "vocabulary")
    return total


def part(array, parts, index, axis, what):
    size = exact_div(array.shape[axis], parts, what)
    return np.take(array, np.arange(index * size, (index + 1) * size), axis=axis)


EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


def rank_values(config, values, tp, rank, ep=1):
    """-> {engine name: float32}. ep: 1, or tp, when experts are dealt out whole instead of being cut."""
    result = {}
    for name, value in values.items():
        base, _, last = name.rpartition(".self_attn.")
        if base and name.startswith("model."):
            if last == "q_proj.weight":
                rows = head_rows(config, name, tp, rank)
                result[f"{base}.self_attn.qkv_proj.weight"] = np.concatenate(
                    [values[f"{base}.self_attn.{letter}_proj.weight"][rows[letter]] for letter in "qkv"])
            elif last in ("o_proj.weight", "attention_sink_bias"):
                result[name] = part(value, tp, rank, value.ndim - 1, name)
        elif name.startswith("model.") and re.search(r"\.mlp\.(gate|up|down)_proj\.weight$", name):
            if name.endswith("down_proj.weight"):
                result[name] = part(value, tp, rank, 1, name)
            elif name.endswith("gate_proj.weight"):
                up = values[name.replace("gate_proj", "up_proj")]
                result[name.replace("gate_proj", "gate_up_proj")] = np.concatenate(
                    [part(value, tp, rank, 0, name), part(up, tp, rank, 0, name)])
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            full = np.zeros((padded_vocabulary(value.shape[0], tp),) + value.shape[1:], np.float32)
            full[:value.shape[0]] = value
            result[name] = part(full, tp, rank, 0, name)
        elif not EXPERT.fullmatch(name):
            result[name] = value
    result.update(_expert_values(config, values, tp, rank, ep))
    return result


def _expert_values(config, values, tp, rank, ep):
    cut, place = (tp, rank) if ep == 1 else (1, 0)
    result = {}
    for prefix in sorted({m.group(1) for m in map(EXPERT.fullmatch, values) if m}):
        w13, w2 = [], []
        for expert in experts_of(config["n_routed_experts"], ep, rank if ep > 1 else 0):
            gate, up, down = (values[f"{prefix}.{expert}.{x}_proj.weight"] for x in ("gate", "up", "down"))
            w13.append(np.concatenate([part(x, cut, place, 0, prefix) for x in (gate, up)]))
            w2.append(part(down, cut, place, 1, prefix))
        result[f"{prefix}.w13_weight"], result[f"{prefix}.w2_weight"] = np.stack(w13), np.stack(w2)
    return result


# ---- loading a Hugging Face directory ------------------------------------------------------------------------------

def qkv_slots(heads, kv, tp, rank):
    """target-layouts, 4.2. -> per letter (row offset, rows, scale offset, scale rows, shard index); all rows and slots."""
    share = exact_div(heads, tp, "query heads")
    _, count = kv_share(kv, tp, rank)
    index = {"q": rank, "k": kv_share(kv, tp, rank)[0] // count, "v": kv_share(kv, tp, rank)[0] // count}
    slots, offset = {}, 0
    for letter, rows in (("q", share * HEAD_DIM), ("k", count * HEAD_DIM), ("v", count * V_HEAD_DIM)):
        slots[letter] = (offset, rows, ceil_div(offset, BLOCK), ceil_div(rows, BLOCK), index[letter])
        offset += rows
    return slots, offset, ceil_div(offset, BLOCK)


def _narrow(array, start, length, what):
    if start + length > array.shape[0]:
        raise Refused(f"{what}: start ({start}) + length ({length}) exceeds dimension size ({array.shape[0]})")
    return array[start:start + length]


def load_split_qkv(tensors, prefix, heads, kv, tp, rank):
    """Separate q, k and v, FP8 or not, into one fused parameter. -> {engine name: (dtype, array)}"""
    slots, rows, scale_rows = qkv_slots(heads, kv, tp, rank)
    dtype, first = tensors[f"{prefix}.q_proj.weight"]
    weight = np.zeros((rows, first.shape[1]), first.dtype)
    quantized = f"{prefix}.q_proj.weight_scale_inv" in tensors
    scales = np.full((scale_rows, ceil_div(first.shape[1], BLOCK)), np.nan, np.float32)
    for letter, (offset, count, slot, slot_count, index) in slots.items():
        source = tensors[f"{prefix}.{letter}_proj.weight"]
        if source[0] != dtype:
            raise Refused(f"{prefix}: q is {dtype}, {letter} is {source[0]}")
        weight[offset:offset + count] = _narrow(source[1], index * count, count, f"{prefix}.{letter}_proj")
        if quantized:
            own = tensors[f"{prefix}.{letter}_proj.weight_scale_inv"][1]
            if not np.isnan(_narrow(scales, slot, slot_count, "scale slots")).all():
                raise Refused(f"{prefix}: the scale slots of {letter} are taken")
            mine = _narrow(own, index * slot_count, slot_count, f"{prefix}.{letter}_proj scale")
            scales[slot:slot + slot_count] = mine
    result = {f"{prefix}.qkv_proj.weight": (dtype, weight)}
    if quantized:
        if np.isnan(scales).any():
            raise Refused(f"{prefix}: scale slots that nothing fills")
        result[f"{prefix}.qkv_proj.weight_scale_inv"] = ("F32", scales)
    return result


def chunk_rows(config, name):
    """Rows of Q, K and V in one chunk of a fused tensor, of which there are num_key_value_heads."""
    heads, kv = heads_of(config, name)
    chunks = config["num_key_value_heads"]
    per_chunk = exact_div(kv, chunks, "KV heads per chunk")
    return exact_div(heads, chunks, "query heads per chunk") * HEAD_DIM, per_chunk * HEAD_DIM, per_chunk * V_HEAD_DIM


def qkv_order(config, name, tp):
    """Where rank rows [Q; K; V] lie in the engine's parameter. -> (positions, rows of the parameter)

    vLLM since 0.33 (models/mimo_v2.py): a rank of a decoder layer that takes several chunks whose K and V share a
    block keeps each chunk's K and V together and fills up their last block with zero rows; all other parameters are
    [Q; K; V]. The config alone decides, not the weights."""
    heads, kv = heads_of(config, name)
    share = exact_div(heads, tp, "query heads") * HEAD_DIM
    plain = share + kv_share(kv, tp, 0)[1] * (HEAD_DIM + V_HEAD_DIM)
    chunks, quantization = config["num_key_value_heads"], config.get("quantization_config") or {}
    fused = config.get("attention_projection_layout") == "fused_qkv" and "weight_block_size" in quantization
    if not fused or ".mtp." in name or chunks <= tp or chunks % tp or kv % chunks or heads % chunks:
        return np.arange(plain), plain
    q, k, v = chunk_rows(config, name)
    if q % BLOCK or (k % BLOCK == 0 and v % BLOCK == 0):
        return np.arange(plain), plain
    stride = ceil_div(k + v, BLOCK) * BLOCK
    starts = share + np.arange(chunks // tp) * stride
    positions = [np.arange(share)] + [s + np.arange(k) for s in starts] + [s + k + np.arange(v) for s in starts]
    return np.concatenate(positions), share + starts.size * stride


def load_fused_qkv(tensors, prefix, config, tp, rank):
    """Fused FP8, in as many chunks as num_key_value_heads says. One per rank is taken as it is; several are put in
    order block by block where that is possible. Else the loader re-quantizes: then what it starts from, as F32."""
    name, chunks = prefix + ".qkv_proj.weight", config["num_key_value_heads"]
    (dtype, codes), (_, scales) = tensors[name], tensors[name + "_scale_inv"]
    if dtype != "F8_E4M3":
        raise Refused(f"{prefix}: fused weights that are not FP8 go to a loader that knows no chunks")
    q, k, v = chunk_rows(config, name)
    high = ceil_div(q + k + v, BLOCK)
    if (codes.shape[0], scales.shape[0]) != (chunks * (q + k + v), chunks * high):
        raise Refused(f"{prefix}: {codes.shape[0]} rows, {scales.shape[0]} scale rows are not {chunks} chunks")
    cut = np.split(codes, chunks), np.split(scales, chunks)
    if chunks == tp:
        return {name: (dtype, cut[0][rank]), name + "_scale_inv": ("F32", cut[1][rank])}
    order, rows = qkv_order(config, name, tp)
    whole = q % BLOCK == 0 and k % BLOCK == 0 and v % BLOCK == 0
    if chunks > tp and chunks % tp == 0 and (whole or rows != order.size):
        mine = range(rank * chunks // tp, (rank + 1) * chunks // tp)
        bounds = ((0, q), (q, q + k), (q + k, q + k + v)) if whole else ((0, q), (q, q + k + v))
        weight = [np.pad(cut[0][c][a:b], ((0, -(b - a) % BLOCK), (0, 0))) for a, b in bounds for c in mine]
        scale = [cut[1][c][a // BLOCK:ceil_div(b, BLOCK)] for a, b in bounds for c in mine]
        return {name: (dtype, np.concatenate(weight)), name + "_scale_inv": ("F32", np.concatenate(scale))}
    return {name: ("F32", _rows_of_chunks(config, name, tp, rank, cut, (q, k, v)))}


def _rows_of_chunks(config, name, tp, rank, cut, sizes):
    """Decoded rank rows, picked from the chunks that hold them."""
    decoded = [codecs.decode_fp8(c, s, np.arange(c.shape[0]) // BLOCK) for c, s in zip(*cut)]
    bounds = np.cumsum((0,) + sizes)
    rows = head_rows(config, name, tp, rank)
    whole = {x: np.concatenate([d[bounds[i]:bounds[i + 1]] for d in decoded]) for i, x in enumerate("qkv")}
    return np.concatenate([whole[x][rows[x]] for x in "qkv"])


def _companions(tensors, name):
    """The stored arrays of one weight that are cut along with it: {suffix: (dtype, array)}."""
    return {suffix: tensors[name + suffix] for suffix in ("", "_scale_inv", "_scale") if name + suffix in tensors}


def _cut(arrays, parts, index, axis, what):
    """A rank's rows or columns of a weight with its scales; blocks are never split."""
    length = arrays[""][1].shape[axis]
    if "_scale_inv" in arrays and parts > 1 and exact_div(length, parts, what) % BLOCK:
        raise Refused(f"{what}: {length // parts} per rank is not a multiple of {BLOCK}")
    return {suffix: (dtype, part(array, parts, index, axis, what)) for suffix, (dtype, array) in arrays.items()}


def load(tensors, config, tp, rank, ep=1):
    """What a rank's parameters hold after a loader read {name: (dtype, array)} of a Hugging Face directory."""
    result, cut, place = {}, *((tp, rank) if ep == 1 else (1, 0))
    experts = {}
    for name, (dtype, array) in tensors.items():
        base = name.rpartition(".self_attn.")[0]
        if re.search(r"_scale(_inv)?$", name):
            continue
        if name.startswith("model.") and base:
            prefix = base + ".self_attn"
            if name.endswith("q_proj.weight"):
                result.update(load_split_qkv(tensors, prefix, *heads_of(config, name), tp, rank))
            elif name.endswith("qkv_proj.weight"):
                result.update(load_fused_qkv(tensors, prefix, config, tp, rank))
            elif not name.endswith(("k_proj.weight", "v_proj.weight")):
                result[name] = (dtype, part(array, tp, rank, array.ndim - 1, name))
        elif name.startswith("model.") and re.search(r"\.mlp\.(gate|up|down)_proj\.weight$", name):
            if name.endswith("down_proj.weight"):
                result.update({name + s: v for s, v in _cut(_companions(tensors, name), tp, rank, 1, name).items()})
            elif name.endswith("gate_proj.weight"):
                halves = [_cut(_companions(tensors, n), tp, rank, 0, n)
                          for n in (name, name.replace("gate_proj", "up_proj"))]
                for suffix in halves[0]:
                    result[name.replace("gate_proj", "gate_up_proj") + suffix] = (
                        halves[0][suffix][0], np.concatenate([half[suffix][1] for half in halves]))
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            full = np.zeros((padded_vocabulary(array.shape[0], tp),) + array.shape[1:], array.dtype)
            full[:array.shape[0]] = array
            result[name] = (dtype, part(full, tp, rank, 0, name))
        elif EXPERT.fullmatch(name):
            experts.setdefault(EXPERT.fullmatch(name).group(1), []).append(name)
        else:
            result[name] = (dtype, array)
    for prefix in experts:
        result.update(_load_experts(tensors, prefix, experts_of(config["n_routed_experts"], ep, rank if ep > 1 else 0),
                                    cut, place))
    return result


def _load_experts(tensors, prefix, experts, cut, place):
    stacked = {}
    for expert in experts:
        gate, up, down = (
            _cut(_companions(tensors, f"{prefix}.{expert}.{x}_proj.weight"), cut, place, axis, prefix)
            for x, axis in (("gate", 0), ("up", 0), ("down", 1)))
        for suffix, (dtype, array) in gate.items():
            stacked.setdefault((f"{prefix}.w13_weight{suffix}", dtype), []).append(
                np.concatenate([array, up[suffix][1]]))
            stacked.setdefault((f"{prefix}.w2_weight{suffix}", dtype), []).append(down[suffix][1])
    return {name: (dtype, np.stack(arrays)) for (name, dtype), arrays in stacked.items()}


def _grid_rows(rows, halves):
    """Scale row of each row: row / 128, counted anew in each of the halves (gate and up of w13)."""
    half = rows // halves
    return np.concatenate([h * ceil_div(half, BLOCK) + np.arange(half) // BLOCK for h in range(halves)])


def decode(params):
    """Parameters of a rank, as stored -> {engine name: float32} as its kernels read them."""
    result = {}
    for name, (dtype, array) in params.items():
        if re.search(r"(weight_scale(_inv)?)$", name):
            continue
        scale = next((params[name + s] for s in ("_scale_inv", "_scale") if name + s in params), None)
        if scale is None:
            result[name] = codecs.decode_plain(dtype, array)
            continue
        matrices = array if array.ndim == 3 else array[None]
        scales = scale[1] if array.ndim == 3 else scale[1][None]
        if dtype == "U8":
            made = [codecs.decode_mxfp4(m, s) for m, s in zip(matrices, scales)]
        else:
            assert (dtype, scale[0]) == ("F8_E4M3", "F32"), f"{name}: {dtype} under {scale[0]}"
            grid = _grid_rows(matrices.shape[1], 2 if name.endswith("w13_weight") else 1)
            assert scales.shape[1:] == (grid[-1] + 1, ceil_div(matrices.shape[2], BLOCK)), f"{name}: {scale[1].shape}"
            made = [codecs.decode_fp8(m, s, grid) for m, s in zip(matrices, scales)]
        result[name] = np.stack(made) if array.ndim == 3 else made[0]
    return result


# ---- which blocks a new grid cuts ----------------------------------------------------------------------------------

def source_cells(stored):
    """layouts.Stored by name -> {letter: the scale cell of every row of the model's tensor, a number of no meaning}."""
    numbers = {name: 1000000 * i for i, name in enumerate(sorted(stored))}
    result = {}
    for letter, name in enumerate("qkv"):
        rows, cells = [], []
        for found in stored.values():
            mine = found.letter == letter
            rows.append(found.row[mine])
            cells.append(np.array([numbers[o] for o in found.owner[mine]], np.int64) + found.scale_row[mine])
        rows, cells = np.concatenate(rows), np.concatenate(cells)
        unique, first = np.unique(rows, return_index=True)     # of replicas, any one
        assert np.array_equal(unique, np.arange(unique.size))
        result[name] = cells[first]
    return result


def straddling(cells, rows):
    """Blocks of 128 rows of a chunk (`rows` of head_rows) that hold more than one source cell; cells < 0 hold nothing.
    -> (row mask, number of such blocks, keys of these blocks: the model rows they hold)"""
    flat = np.concatenate([cells[letter][rows[letter]] for letter in "qkv"])
    names = np.concatenate([np.stack([np.full(rows[x].size, i), rows[x]], 1) for i, x in enumerate("qkv")])
    mask, keys = np.zeros(flat.size, bool), []
    for start in range(0, flat.size, BLOCK):
        found = np.unique(flat[start:start + BLOCK])
        if (found >= 0).sum() > 1:
            mask[start:start + BLOCK] = True
            keys.append(names[start:start + BLOCK].tobytes())
    return mask, len(keys), keys


def cut_rows(config, name, cells, chunks, tp, rank):
    """Which rows of a rank lie in blocks that the grid of fused(chunks) cuts; chunks is tp, or a multiple of it."""
    if chunks == tp:
        return straddling(cells, head_rows(config, name, tp, rank))[0]
    cut = {letter: np.zeros(cells[letter].size, bool) for letter in "qkv"}
    for chunk in range(chunks):
        rows = head_rows(config, name, chunks, chunk)
        parts = np.split(straddling(cells, rows)[0], np.cumsum([rows["q"].size, rows["k"].size]))
        for letter, part_of_chunk in zip("qkv", parts):
            cut[letter][rows[letter]] = part_of_chunk
    rows = head_rows(config, name, tp, rank)
    return np.concatenate([cut[letter][rows[letter]] for letter in "qkv"])


# ---- padding -------------------------------------------------------------------------------------------------------

def round_up(value, step):
    return ceil_div(value, step) * step


def padded(config, values, tp, experts_quantum=128):
    """target-layouts, 10: KV heads up to a multiple of tp, query heads in proportion, the same number in all layers;
    widths to tp * 128 (block FP8; of experts tp * experts_quantum), vocabulary to 64 * tp; what is new lies at the tail and is 0.
    -> (config, values)"""
    config, result = dict(config), {}
    kinds = ("", "swa_")
    ratio = {k: config[k + "num_attention_heads"] // config[k + "num_key_value_heads"] for k in kinds}
    heads = max(round_up(config[k + "num_key_value_heads"], tp) * ratio[k] for k in kinds)
    for k in kinds:
        config[k + "num_attention_heads"] = heads
        config[k + "num_key_value_heads"] = exact_div(heads, ratio[k], "heads")
    config["intermediate_size"] = round_up(config["intermediate_size"], tp * BLOCK)
    config["moe_intermediate_size"] = round_up(config["moe_intermediate_size"], tp * experts_quantum)
    config["vocab_size"] = round_up(config["vocab_size"], VOCABULARY_STEP * tp)

    def grown(value, axis, size):
        widths = [(0, 0)] * value.ndim
        widths[axis] = (0, size - value.shape[axis])
        return np.pad(value, widths)

    for name, value in values.items():
        if not name.startswith("model.") and name != "lm_head.weight":
            result[name] = value
            continue
        heads, kv = heads_of(config, name)
        width = config["moe_intermediate_size" if EXPERT.fullmatch(name) else "intermediate_size"]
        size = {"q_proj.weight": (0, heads * HEAD_DIM), "k_proj.weight": (0, kv * HEAD_DIM),
                "v_proj.weight": (0, kv * V_HEAD_DIM), "o_proj.weight": (1, heads * V_HEAD_DIM),
                "attention_sink_bias": (0, heads), "gate_proj.weight": (0, width), "up_proj.weight": (0, width),
                "down_proj.weight": (1, width), "embed_tokens.weight": (0, config["vocab_size"]),
                "lm_head.weight": (0, config["vocab_size"])}
        ending = next((s for s in size if name.endswith(s)), None)
        result[name] = value if ending is None else grown(value, *size[ending])
    return config, result


def padded_cells(cells, config, prefix):
    """source_cells of a padded model: rows of virtual heads lie under no scale."""
    heads, kv = heads_of(config, prefix + ".")
    rows = {"q": heads * HEAD_DIM, "k": kv * HEAD_DIM, "v": kv * V_HEAD_DIM}
    return {letter: np.pad(own, (0, rows[letter] - own.size), constant_values=-1) for letter, own in cells.items()}
