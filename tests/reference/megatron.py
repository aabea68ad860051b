"""The model as Megatron-Core holds and stores it, in numpy: written from docs/reference/target-layouts.md, sections 1
and 2, without a look at the converter.

  full(config, stored)       {torch_dist key: (dtype, global array)} of {split HF name: (dtype, array)}
  extra_states(config, ...)  the byte keys that a checkpoint must have for any model to ask for
  pieces(...)                what one rank of a topology holds of each key, and where that lies in the global tensor
  legacy(...)                the `model` dicts of a legacy rank file, live names and local numbers
  singleton, homogeneous, fsdp   the same tensors under the keys of other schemes
"""
import re
from collections import namedtuple

import numpy as np

from reference import codecs

HEAD_DIM, V_HEAD_DIM = 192, 128
VOCABULARY_STEP = 128

TOP = {"model.embed_tokens.weight": "embedding.word_embeddings.weight", "lm_head.weight": "output_layer.weight",
       "model.norm.weight": "decoder.final_layernorm.weight"}
VOCABULARY_KEYS = (TOP["model.embed_tokens.weight"], TOP["lm_head.weight"])
LAYER = {"input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
         "self_attn.o_proj.weight": "self_attention.linear_proj.weight",
         "self_attn.attention_sink_bias": "self_attention.core_attention.softmax_offset",
         "mlp.down_proj.weight": "mlp.linear_fc2.weight",
         "mlp.gate.weight": "mlp.router.weight", "mlp.gate.e_score_correction_bias": "mlp.router.expert_bias"}
MTP_OWN = ("enorm.weight", "hnorm.weight", "final_layernorm.weight", "eh_proj.weight")
# How the last words of a key say that tensor parallelism cuts it, and along which axis. fc1 is cut within its halves.
SPLIT = {"word_embeddings.weight": 0, "output_layer.weight": 0, "linear_qkv.weight": 0, "softmax_offset": 0,
         "linear_fc1.weight": 0, "eh_proj.weight": 0, "linear_proj.weight": 1, "linear_fc2.weight": 1}
EXPERTS = ".mlp.experts.experts."


# ---- the whole model -----------------------------------------------------------------------------------------------

def geometry(config, prefix):
    """(query heads, groups); MTP layers are window-shaped."""
    match = re.match(r"model\.layers\.(\d+)\.", prefix)
    window = match is None or config["hybrid_layer_pattern"][int(match.group(1))] == 1
    start = "swa_" if window else ""
    return config[start + "num_attention_heads"], config[start + "num_key_value_heads"]


def linear_qkv(q, k, v, groups):
    """Row by row, by the formulas of section 1.2."""
    h = q.shape[0] // HEAD_DIM // groups
    size = h * HEAD_DIM + HEAD_DIM + V_HEAD_DIM
    result = np.empty((groups * size,) + q.shape[1:], q.dtype)
    head, dim = np.divmod(np.arange(q.shape[0]), HEAD_DIM)
    result[head // h * size + head % h * HEAD_DIM + dim] = q
    head, dim = np.divmod(np.arange(k.shape[0]), HEAD_DIM)
    result[head * size + h * HEAD_DIM + dim] = k
    head, dim = np.divmod(np.arange(v.shape[0]), V_HEAD_DIM)
    result[head * size + h * HEAD_DIM + HEAD_DIM + dim] = v
    return result


def mtp_layers(stored):
    return sorted({int(m.group(1)) for m in (re.match(r"model\.mtp\.layers\.(\d+)\.", n) for n in stored) if m})


def full(config, stored, mtp=True):
    """Routers are F32 whatever they were. Towers are left out: see dropped()."""
    result = {key: stored[name] for name, key in TOP.items()}
    layers = [(f"model.layers.{n}.", f"decoder.layers.{n}.") for n in range(config["num_hidden_layers"])]
    for n in mtp_layers(stored) if mtp else ():
        source, target = f"model.mtp.layers.{n}.", f"mtp.layers.{n}."
        result.update({target + name: stored[source + name] for name in MTP_OWN})
        layers.append((source, target + "transformer_layer."))
    for source, target in layers:
        result.update(_layer(config, stored, source, target))
    return result


def _layer(config, stored, source, target):
    result = {target + there: stored[source + here] for here, there in LAYER.items() if source + here in stored}
    for name in ("mlp.router.weight", "mlp.router.expert_bias"):
        if target + name in result:
            result[target + name] = ("F32", codecs.decode_plain(*result[target + name]))
    norm = stored.get(source + "pre_mlp_layernorm.weight") or stored[source + "post_attention_layernorm.weight"]
    dense = source + "mlp.gate_proj.weight" in stored
    result[target + ("mlp.linear_fc1.layer_norm_weight" if dense else "pre_mlp_layernorm.weight")] = norm
    dtype = stored[source + "self_attn.q_proj.weight"][0]
    qkv = (stored[f"{source}self_attn.{x}_proj.weight"][1] for x in "qkv")
    result[target + "self_attention.linear_qkv.weight"] = (dtype, linear_qkv(*qkv, geometry(config, source)[1]))
    if dense:
        result[target + "mlp.linear_fc1.weight"] = (dtype, gate_up(stored, source + "mlp"))
        return result
    experts = [f"{source}mlp.experts.{e}" for e in range(config["n_routed_experts"])]
    result[target + "mlp.experts.experts.linear_fc1.weight"] = (dtype, np.stack([gate_up(stored, e) for e in experts]))
    result[target + "mlp.experts.experts.linear_fc2.weight"] = (
        dtype, np.stack([stored[e + ".down_proj.weight"][1] for e in experts]))
    return result


def gate_up(stored, prefix):
    return np.concatenate([stored[f"{prefix}.{x}_proj.weight"][1] for x in ("gate", "up")])


def dropped(stored):
    """What Megatron has no place for."""
    return {n for n in stored if not re.match(r"model\.(layers|mtp|embed_tokens|norm)\b|lm_head\.", n)}


def with_padded_vocabulary(model, tp):
    """Zero rows behind embedding and output layer, up to a multiple of 128 * tp."""
    result = dict(model)
    for key in VOCABULARY_KEYS:
        dtype, array = model[key]
        result[key] = (dtype, np.pad(array, ((0, -array.shape[0] % (VOCABULARY_STEP * tp)), (0, 0))))
    return result


def extra_states(config, mtp):
    """Byte keys: one empty state per Transformer Engine module that may ask for one."""
    def dense(module):
        return f"{module}._extra_state/shard_0_1"

    keys, count = {dense("decoder.final_layernorm")}, config["n_routed_experts"]
    layers = [(f"decoder.layers.{n}.", window == 1, moe == 1) for n, (window, moe) in
              enumerate(zip(config["hybrid_layer_pattern"], config["moe_layer_freq"]))]
    for n in range(mtp):
        keys |= {dense(f"mtp.layers.{n}.{name}") for name in ("eh_proj", "enorm", "hnorm", "final_layernorm")}
        layers.append((f"mtp.layers.{n}.transformer_layer.", True, False))
    for base, window, moe in layers:
        keys |= {dense(base + "self_attention.linear_qkv"), dense(base + "self_attention.linear_proj")}
        if window:
            keys.add(dense(base + "self_attention.core_attention"))
        if moe:
            keys.add(dense(base + "pre_mlp_layernorm"))
            keys |= {f"{base}mlp.experts.experts.linear_fc{i}._extra_state/shard_{e}_{count}"
                     for i in (1, 2) for e in range(count)}
        else:
            keys |= {dense(f"{base}mlp.linear_fc{i}") for i in (1, 2)}
    return keys


# ---- ranks ---------------------------------------------------------------------------------------------------------

class Topology(namedtuple("Topology", "tp pp ep etp world")):
    """tp = g % TP, then data parallel; etp = g % ETP, ep = g / ETP % EP, then expert data parallel; stages last."""

    def place(self, rank):
        stage = self.world // self.pp
        pp, g = divmod(rank, stage)
        return Place(g % self.tp, pp, g // self.etp % self.ep, g % self.etp, g // self.tp, g // (self.etp * self.ep))


Place = namedtuple("Place", "tp pp ep etp dp edp")
# One expert's, or one dense tensor's, share of a rank. part/parts along axis (None: whole) of the tensor without the
# expert axis; `copy`: how many other pipeline stages hold it before this one.
Piece = namedtuple("Piece", "key expert array axis part parts gated copy")


def split_axis(key):
    return next((axis for end, axis in SPLIT.items() if key.endswith(end)), None)


def share(array, axis, part, parts, gated):
    if gated:
        return np.concatenate([share(half, 0, part, parts, False) for half in np.split(array, 2)])
    size, rest = divmod(array.shape[axis], parts)
    assert not rest, f"{array.shape} in {parts} parts along {axis}"
    return np.take(array, np.arange(part * size, (part + 1) * size), axis=axis)


def layer_number(key):
    match = re.match(r"decoder\.layers\.(\d+)\.", key)
    return int(match.group(1)) if match else None


def stages_of(key, layers, pp):
    """The stages that hold a key, its owner first: the last one has the embedding again, for MTP."""
    if layer_number(key) is not None:
        return [layer_number(key) // (layers // pp)]
    if key == TOP["model.embed_tokens.weight"]:
        return [0, pp - 1] if pp > 1 else [0]
    return [pp - 1]


def pieces(config, model, topology, rank):
    place, result = topology.place(rank), []
    has_mtp = any(key.startswith("mtp.") for key in model)
    for key, (_, array) in model.items():
        stages = stages_of(key, config["num_hidden_layers"], topology.pp)
        if place.pp not in (stages if has_mtp else stages[:1]):
            continue
        axis, gated, copy = split_axis(key), key.endswith("linear_fc1.weight"), stages.index(place.pp)
        expert = EXPERTS in key
        part, parts = (place.etp, topology.etp) if expert else (place.tp, topology.tp)
        count = array.shape[0] // topology.ep if expert else 1
        for e in range(place.ep * count, (place.ep + 1) * count) if expert else (None,):
            whole = array[e] if expert else array
            mine = whole if axis is None else share(whole, axis, part, parts, gated)
            result.append(Piece(key, e, mine, axis, part, parts, gated, copy))
    return result


# ---- legacy rank files ---------------------------------------------------------------------------------------------

def live_name(piece, first_layer, experts_per_rank, inner="mtp_model_layer"):
    """first_layer: the global number of this model part's layer 0."""
    name = piece.key.replace(".transformer_layer.", f".{inner}.")
    if layer_number(name) is not None:
        name = re.sub(r"^decoder\.layers\.\d+\.", f"decoder.layers.{layer_number(name) - first_layer}.", name)
    if piece.expert is not None:
        name = name.replace(EXPERTS, ".mlp.experts.") + str(piece.expert % experts_per_rank)
    return name


def legacy(config, model, topology, rank, virtual=1, inner="mtp_model_layer"):
    """-> [{live name: (dtype, array)}] of a rank: one dict per virtual stage."""
    layers, place = config["num_hidden_layers"], topology.place(rank)
    per = layers // topology.pp // virtual
    results = []
    for v in range(virtual):
        first = v * (layers // virtual) + place.pp * per
        mine, result = {}, {}
        for key, value in model.items():
            n = layer_number(key)
            if n is None:
                head = key == TOP["model.embed_tokens.weight"]
                wanted = v == 0 and place.pp == 0 if head else v == virtual - 1 and place.pp == topology.pp - 1
                copy = head and v == virtual - 1 and place.pp == topology.pp - 1     # for MTP
                wanted = wanted or copy
            else:
                wanted = first <= n < first + per
            if wanted:
                mine[key] = value
        one_stage = topology._replace(pp=1, world=topology.world // topology.pp)
        rank_in_stage = rank % one_stage.world
        for piece in pieces(config, mine, one_stage, rank_in_stage):
            name = live_name(piece, first, config["n_routed_experts"] // topology.ep, inner)
            result[name] = (model[piece.key][0], piece.array)
        results.append(result)
    return results


def rank_directory(topology, rank):
    place = topology.place(rank)
    return (f"mp_rank_{place.tp:02d}" + (f"_{place.pp:03d}" if topology.pp > 1 else "")
            + (f"_{place.ep:03d}" if topology.ep > 1 else ""))


# ---- other schemes -------------------------------------------------------------------------------------------------

def singleton(model):
    """Per expert, gate and up apart."""
    result = {}
    for key, (dtype, array) in model.items():
        experts = {key: array}
        if EXPERTS in key:
            experts = {key.replace(EXPERTS, f"{EXPERTS}{e}."): array[e] for e in range(array.shape[0])}
        for name, one in experts.items():
            if name.endswith("linear_fc1.weight"):
                result[name + "_w"], result[name + "_v"] = ((dtype, x) for x in np.split(one, 2))
            else:
                result[name] = (dtype, one)
    return result


def homogeneous(model):
    """Decoder layers stacked; they must be alike."""
    result, stacks = {}, {}
    for key, value in model.items():
        if layer_number(key) is None:
            result[key] = value
        else:
            stacks.setdefault(re.sub(r"^decoder\.layers\.\d+\.", "decoder.layers.", key), {})[layer_number(key)] = value
    for key, layers in stacks.items():
        assert sorted(layers) == list(range(len(layers))), key
        result[key] = (layers[0][0], np.stack([layers[n][1] for n in range(len(layers))]))
    return result


def fsdp(model, inner="transformer_layer"):
    """model.module. names; per expert with its number behind `weight`, gate and up apart."""
    result = {}
    for key, (dtype, array) in model.items():
        name = "model.module." + key.replace(".transformer_layer.", f".{inner}.")
        experts = {name: array}
        if EXPERTS in key:
            experts = {name.replace(EXPERTS, ".mlp.experts.") + str(e): array[e] for e in range(array.shape[0])}
        for one_name, one in experts.items():
            if key.endswith("linear_fc1.weight"):
                result[one_name + "_w"], result[one_name + "_v"] = ((dtype, x) for x in np.split(one, 2))
            else:
                result[one_name] = (dtype, one)
    return result
