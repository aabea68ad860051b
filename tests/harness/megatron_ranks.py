"""What one rank of a Megatron job does with checkpoints: it builds the sharded state dict that the model's modules do
(ShardedTensor.from_rank_offsets, the factory for gated layers, an object per extra state) and loads or saves it.

Every step takes (rank, ...) and runs in all processes of harness.megatron_core.World. The shares themselves are those
of tests/reference/megatron.py.
"""
import inspect as signatures
import queue
import re

import numpy as np
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory

from reference import megatron

# The queue that asynchronous saves need is served by one more process per rank, which imports torch: 20 s for nothing.
filesystem_async._get_write_results_queue = filesystem_async.get_write_results_queue = lambda *mode: queue.Queue()

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def to_torch(dtype, array):
    raw = torch.from_numpy(np.ascontiguousarray(array).copy())
    return raw.view(DTYPES[dtype]) if dtype in ("BF16", "F16") else raw


def raw(tensor):
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16).numpy().view(np.uint16) if tensor.element_size() == 2 else tensor.numpy())


def key_and_offsets(piece, scheme, layers, experts):
    """-> (key, offsets of the axes before the tensor's own)"""
    key, offsets = piece.key, []
    if scheme == "homogeneous" and megatron.layer_number(key) is not None:
        offsets.append((0, megatron.layer_number(key), layers))
        key = re.sub(r"^decoder\.layers\.\d+\.", "decoder.layers.", key)
    if piece.expert is not None and scheme == "singleton":
        key = key.replace(megatron.EXPERTS, f"{megatron.EXPERTS}{piece.expert}.")
    elif piece.expert is not None:
        offsets.append((len(offsets), piece.expert, experts))
    return key, tuple(offsets)


def sharded_tensor(piece, data, place, key, offsets, singleton):
    if piece.expert is not None:
        replica = (piece.copy, 0, place.edp)
    else:
        replica = (piece.copy, place.tp if piece.axis is None else 0, place.dp)
    own = [] if piece.axis is None else [(piece.axis + len(offsets), piece.part, piece.parts)]
    made = ShardedTensor.from_rank_offsets(key, data, *offsets, *own, replica_id=replica, prepend_axis_num=len(offsets),
                                           allow_shape_mismatch=key in megatron.VOCABULARY_KEYS)
    return apply_swiglu_sharded_factory(made, offsets, singleton) if piece.gated else made


def state_dict(rank, config, model, topology, scheme, fill):
    """-> {name: ShardedTensor or factory}, {name: the share it must hold}; fill(dtype, array) makes the tensors."""
    place, result, shares = topology.place(rank), {}, {}
    for piece in megatron.pieces(config, model, topology, rank):
        key, offsets = key_and_offsets(piece, scheme, config["num_hidden_layers"], config["n_routed_experts"])
        name = piece.key if piece.expert is None else f"{piece.key}{piece.expert}"
        data = fill(model[piece.key][0], piece.array)
        result[name] = sharded_tensor(piece, data, place, key, offsets, scheme == "singleton")
        shares[name] = (model[piece.key][0], piece.array)
    return result, shares


def extra_objects(rank, config, mtp, topology, scheme=""):
    """The objects that the modules of this rank ask for: its stage's, its experts'."""
    place, result = topology.place(rank), {}
    layers, per = config["num_hidden_layers"], config["n_routed_experts"] // topology.ep
    for unique in megatron.extra_states(config, mtp):
        key, offset, shape = re.fullmatch(r"(.*)/shard_(\d+)_(\d+)", unique).groups()
        if megatron.stages_of(key, layers, topology.pp)[0] != place.pp:
            continue
        expert = int(offset) if megatron.EXPERTS in key else None
        if expert is not None and expert // per != place.ep:
            continue
        replica = (0, place.tp, place.dp) if expert is None else (0, place.etp, place.edp)
        at, of, name = [int(offset)], [int(shape)], unique
        if scheme == "singleton" and expert is not None:
            key, at, of = key.replace(megatron.EXPERTS, f"{megatron.EXPERTS}{expert}."), [0], [1]
        if scheme == "homogeneous" and megatron.layer_number(key) is not None:
            at, of = [megatron.layer_number(key)] + at[expert is None:], [layers] + of[expert is None:]
            key = re.sub(r"^decoder\.layers\.\d+\.", "decoder.layers.", key)
        result[name] = ShardedObject(key, torch.empty(0, dtype=torch.uint8), tuple(of), tuple(at), replica_id=replica)
    return result


# ---- steps ---------------------------------------------------------------------------------------------------------

def load(rank, directory, config, truth, topology, mtp, rows=0):
    """Loads at default strictness into tensors full of NaN and compares. rows: of the padded vocabulary of this job.
    -> "" or what differs, or the error of megatron-core"""
    try:
        _load(rank, directory, config, truth, topology, mtp, rows)
    except BaseException as error:         # CheckpointException of torch is no Exception
        return f"{type(error).__name__}: {error}"
    return ""


def _load(rank, directory, config, truth, topology, mtp, rows):
    nothing = (lambda dtype, array: torch.full(array.shape, float("nan"), dtype=DTYPES[dtype]))
    model = dict(truth)
    for key in megatron.VOCABULARY_KEYS if rows else ():
        dtype, array = truth[key]
        whole = np.zeros((rows,) + array.shape[1:], array.dtype)
        count = min(rows, array.shape[0])
        whole[:count] = array[:count]
        model[key] = (dtype, whole)
    if rows:                            # padding is not written by a load: a model has it zero before
        nothing = (lambda dtype, array: torch.zeros(array.shape, dtype=DTYPES[dtype]))
    tensors, shares = state_dict(rank, config, model, topology, "", nothing)
    objects = extra_objects(rank, config, mtp, topology)
    loaded = dist_checkpointing.load({"model": tensors, "extra": objects}, directory)
    for name, (dtype, array) in shares.items():
        found = loaded["model"][name]
        assert found.dtype == DTYPES[dtype], name
        assert tuple(found.shape) == array.shape, f"{name}: {found.dtype}, {found.shape}"
        assert np.array_equal(raw(found).view(np.uint8), np.ascontiguousarray(array).view(np.uint8)), \
            f"{topology} rank {rank}: {name} differs"
    assert set(loaded["extra"]) == set(objects)
    assert all(state.numel() == 0 and state.dtype == torch.uint8 for state in loaded["extra"].values())
    assert loaded["checkpoint_version"] == 3.0 and "iteration" in loaded, sorted(loaded)


def inspect(rank, directory, truth):
    """The other readers: metadata, plain tensors, content metadata. -> number of tensors"""
    metadata = dist_checkpointing.load_tensors_metadata(directory)
    assert set(metadata) == set(truth), set(metadata) ^ set(truth)
    for key, (dtype, array) in truth.items():
        assert (metadata[key].dtype, tuple(metadata[key].global_shape)) == (DTYPES[dtype], array.shape), key
    plain = dist_checkpointing.load_plain_tensors(directory)
    for key, (dtype, array) in truth.items():
        assert np.array_equal(raw(plain[key]).view(np.uint8), np.ascontiguousarray(array).view(np.uint8)), key
    content = dist_checkpointing.load_content_metadata(directory)
    assert content == {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}, content
    return len(metadata)


def save(rank, directory, config, model, topology, mtp, scheme="", optimizer=True):
    """What Megatron saves: the model, its extra states, optimizer, generators of random numbers, arguments."""
    tensors, _ = state_dict(rank, config, model, topology, scheme, to_torch)
    whole = {"model": tensors, "extra": extra_objects(rank, config, mtp, topology, scheme)}
    place = topology.place(rank)
    if optimizer:
        for what in ("exp_avg", "exp_avg_sq", "fp32_param"):
            states, _ = state_dict(rank, config, model, topology, scheme,
                                   lambda dtype, array: torch.full(array.shape, 0.5))
            for name, state in states.items():
                state.key = f"optimizer.state.{what}.{state.key}"
                whole[f"{what}.{name}"] = state
        groups = {"param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95)}]}
        whole["optimizer"] = ShardedObject("optimizer", groups, (1,), (0,), replica_id=(0, rank, 0))
        whole["rng"] = ShardedObject("rng_state", [{"np_rng_state": (1, 2), "rng_tracker_states": {}}], (topology.pp,
                                     topology.tp), (place.pp, place.tp), replica_id=place.dp)
        whole["rerun"] = ShardedObject("rerun_state_machine_state", {"mode": "disabled"}, (topology.world,), (rank,))
    whole.update(checkpoint_version=3.0, iteration=7, num_floating_point_operations_so_far=12,
                 opt_param_scheduler={"max_lr": 1e-4})
    content = {"singleton_local_shards": scheme == "singleton", "chained_optim_avoid_prefix": True}
    newer = "async_strategy" in signatures.signature(dist_checkpointing.save).parameters
    options = {"async_strategy": "mcore"} if newer else {}
    dist_checkpointing.save(whole, directory, content_metadata=content, **options)
    torch.distributed.barrier()
