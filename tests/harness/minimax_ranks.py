"""What one rank of a Megatron job of MiniMax-M2 does with checkpoints. The sharded state dict is the one that
Megatron-Core's modules and Bridge's norms of all heads build: a norm is cut into as many shards as there are heads or
ranks, whichever are fewer, and ranks of one shard are its replicas. Whether layers have keys of their own is read from
the checkpoint's metadata, as loaders do.

Steps take (rank, ...) and run in all processes of harness.megatron_core.World.
"""
import inspect as signatures
import re

import numpy as np
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory

from harness.megatron_ranks import DTYPES, raw, to_torch
from reference import minimax_forms

EXPERTS = ".experts.experts."


class Job:
    """Where a rank of (tp, pp, ep) in a world of ranks lies; experts are whole."""

    def __init__(self, rank, world, geometry, topology, homogeneous):
        self.geometry, self.homogeneous = geometry, homogeneous
        self.tp, self.pp, self.ep = topology
        stage = world // self.pp
        self.stage, g = divmod(rank, stage)
        self.tp_rank, self.dp = g % self.tp, g // self.tp
        self.ep_rank, self.edp = g % self.ep, g // self.ep

    def holds(self, key):
        layer = re.match(r"decoder\.layers\.(\d+)\.", key)
        if layer:
            return int(layer[1]) // (self.geometry.layers // self.pp) == self.stage
        return self.stage == (0 if key.startswith("embedding") else self.pp - 1)

    def layer_axis(self, key):
        """-> (key, offsets) with the layer as an axis where layers are stacked"""
        layer = re.match(r"decoder\.layers\.(\d+)\.", key)
        if not layer or not self.homogeneous:
            return key, []
        return key.replace(layer[0], "decoder.layers."), [(0, int(layer[1]), self.geometry.layers)]

    def cut(self, key):
        """-> (axis, shard, shards, number among the replicas of the shard)"""
        if re.search(r"linear_qkv\.weight$|word_embeddings|output_layer", key):
            return 0, self.tp_rank, self.tp, 0
        if key.endswith("linear_proj.weight"):
            return 1, self.tp_rank, self.tp, 0
        if re.search(r"[qk]_layernorm\.weight$", key):
            part, parts = minimax_forms.norm_share(self.geometry, key, self.tp, self.tp_rank)
            return 0, part, parts, self.tp_rank % (self.tp // parts)
        return None, 0, 1, self.tp_rank


def state_dict(job, model, fill):
    result, shares = {}, {}
    for key, (dtype, array) in model.items():
        if not job.holds(key):
            continue
        name, offsets = job.layer_axis(key)
        if EXPERTS in key:
            count = job.geometry.experts // job.ep
            for e in range(job.ep_rank * count, (job.ep_rank + 1) * count):
                at = (*offsets, (len(offsets), e, job.geometry.experts))
                own = [(len(at) + (1 if "fc2" in key else 0), 0, 1)]
                made = ShardedTensor.from_rank_offsets(name, fill(dtype, array[e]), *at, *own,
                                                       replica_id=(0, 0, job.edp), prepend_axis_num=len(at))
                if "fc1" in key:
                    made = apply_swiglu_sharded_factory(made, at, False)
                result[f"{key}{e}"], shares[f"{key}{e}"] = made, (dtype, array[e])
            continue
        axis, part, parts, replica = job.cut(key)
        share = array if axis is None else np.split(array, parts, axis)[part]
        own = [] if axis is None else [(axis + len(offsets), part, parts)]
        result[key] = ShardedTensor.from_rank_offsets(name, fill(dtype, share), *offsets, *own,
                                                      replica_id=(0, replica, job.dp), prepend_axis_num=len(offsets))
        shares[key] = (dtype, share)
    return result, shares


def extra_objects(job, extra):
    result = {}
    for unique in extra:
        key, offset, shape = re.fullmatch(r"(.*)/shard_(\d+)_(\d+)", unique).groups()
        expert = int(offset) if EXPERTS in key else None
        if not job.holds(key) or (expert is not None and expert // (job.geometry.experts // job.ep) != job.ep_rank):
            continue
        replica = (0, job.tp_rank, job.dp) if expert is None else (0, 0, job.edp)
        at, of = [int(offset)], [int(shape)]
        name, offsets = job.layer_axis(key)
        if offsets:
            at, of = [offsets[0][1]] + at[expert is None:], [offsets[0][2]] + of[expert is None:]
        result[unique] = ShardedObject(name, torch.empty(0, dtype=torch.uint8), tuple(of), tuple(at), replica_id=replica)
    return result


def load(rank, directory, geometry, truth, extra, topology):
    """-> "" or what differs"""
    try:
        content = dist_checkpointing.load_content_metadata(directory)
        job = Job(rank, torch.distributed.get_world_size(), geometry, topology,
                  not content.get("non_homogeneous_layers", False))
        nothing = (lambda dtype, array: torch.full(array.shape, float("nan"), dtype=DTYPES[dtype]))
        tensors, shares = state_dict(job, truth, nothing)
        objects = extra_objects(job, extra)
        loaded = dist_checkpointing.load({"model": tensors, "extra": objects}, directory)
        for name, (dtype, array) in shares.items():
            made = loaded["model"][name]
            assert made.dtype == DTYPES[dtype] and tuple(made.shape) == array.shape, f"{name}: {made.dtype} {made.shape}"
            assert raw(made).tobytes() == np.ascontiguousarray(array).tobytes(), f"{topology} {rank}: {name} differs"
        assert set(loaded["extra"]) == set(objects)
    except BaseException as error:         # CheckpointException of torch is no Exception
        return f"{type(error).__name__}: {error}"
    return ""


def save(rank, directory, geometry, model, extra, topology, homogeneous):
    job = Job(rank, torch.distributed.get_world_size(), geometry, topology, homogeneous)
    tensors, _ = state_dict(job, model, to_torch)
    whole = {"model": tensors, "extra": extra_objects(job, extra), "checkpoint_version": 3.0, "iteration": 7}
    content = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
    if not homogeneous:
        content["non_homogeneous_layers"] = True
    newer = "async_strategy" in signatures.signature(dist_checkpointing.save).parameters
    dist_checkpointing.save(whole, directory, content_metadata=content, **({"async_strategy": "mcore"} if newer else {}))
    torch.distributed.barrier()
