"""Proves that what cannot be laid out for an engine, or put together again, is refused before anything is published,
with an exit code and a message that names the reason and, where there is one, the nearest value that would do.
"""
import os
import shutil
import unittest

import numpy as np

from harness import ranks
from harness.case import ToolCase
from reference import container

SMALL = dict(experts=6, moe_intermediate=256, intermediate=4096)
WIDE = dict(SMALL, experts=2, moe_intermediate=1024)
RANKS = ("--format", "sharded-state")


class RefusalCase(ToolCase):
    def refuse(self, source, *options, code, says):
        """`says`: regular expressions that the message must contain, each of them. -> stderr"""
        out = self.at("refused")
        result = self.run_tool("mimo-convert", source, out, *options, code=code)
        self.assertFalse(os.path.isdir(out) and [f for f in os.listdir(out) if f != ".mimo-partial"],
                         "a refused request left files")
        for pattern in says:
            self.assertRegex(result.stderr, pattern, " ".join(map(str, options)))
        return result.stderr


class Requests(RefusalCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.flash = ranks.ours("v2.5", **SMALL).directory

    def vllm(self, *options, code=2, says, source=None):
        return self.refuse(source or self.flash, "--to", "vllm", *options, code=code, says=says)

    def test_degrees_that_divide_nothing(self):
        for tp, near in ((3, r"\b(2|4)\b"), (5, r"\b(4|8)\b"), (12, r"\b(8|16)\b"), (48, r"\b(32|64)\b")):
            for form in ((), RANKS):
                with self.subTest(tp=tp, form=form):
                    self.vllm("--tp", tp, *form, says=[rf"\b{tp}\b", near, "--pad"])

    def test_degrees_that_are_none(self):
        for tp in (0, -1, 65, 128):
            with self.subTest(tp):
                self.vllm("--tp", tp, says=["tp"])
        self.vllm(says=["--tp"])

    def test_split_grids_of_flash_at_64(self):
        """One Q head is 192 rows, a block and a half: slots of K and V meet."""
        source = ranks.ours("v2.5", **dict(SMALL, experts=2, intermediate=8192, moe_intermediate=8192)).directory
        self.vllm("--tp", 64, "--attention", "split", source=source, says=[r"\b64\b", r"\b32\b"])

    def test_more_ranks_than_experts_are_dealt_to(self):
        self.vllm(*RANKS, "--tp", 4, "--ep", 4, says=["experts", r"\b6\b", r"\b(2|3|6)\b"])

    def test_expert_degrees_between(self):
        self.vllm(*RANKS, "--tp", 4, "--ep", 2, says=["ep", r"\b1\b", r"\b4\b"])

    def test_experts_cut_below_a_block(self):
        self.vllm(*RANKS, "--tp", 16, says=["expert", r"\b(128|32)\b", r"--tp (2|8)\b", "--ep 16"])

    def test_dense_layers_cut_below_a_block(self):
        source = ranks.ours("v2.5", **dict(WIDE, intermediate=512)).directory
        self.vllm(*RANKS, "--tp", 8, source=source, says=[r"\b128\b", r"\b4\b"])

    def test_sglang_wants_what_is_already_processed(self):
        self.refuse(self.flash, "--to", "sglang", *RANKS, "--tp", 4, code=2, says=["(?i)sglang", "(?i)process"])

    def test_stages_that_no_file_name_holds(self):
        self.vllm(*RANKS, "--tp", 2, "--pp", 2, says=["(?i)pp|pipeline|stage"])

    def test_ranks_that_are_not_there(self):
        for listed in ("2", "0-2", "x", "1-0"):
            with self.subTest(listed):
                self.vllm(*RANKS, "--tp", 2, "--ranks", listed, says=["ranks"])
        self.vllm("--tp", 2, "--ranks", "0", says=["ranks"])

    def test_unknown_words(self):
        self.vllm("--tp", 2, "--attention", "other", says=["attention"])
        self.vllm("--tp", 2, "--format", "other", says=["format"])
        self.vllm("--tp", 2, "--engine-version", "0.0.0-none", says=["(?i)version"])
        self.refuse(self.flash, "--to", "nxdi", "--expert-codes", "other", code=2, says=["expert-codes"])
        self.refuse(self.flash, "--to", "other", "--tp", 4, code=2, says=["--to"])

    def test_parallel_options_without_an_engine(self):
        self.refuse(self.flash, "--tp", 4, code=2, says=["--t[op]"])

    def test_lossless_where_blocks_are_cut(self):
        source = ranks.ours("v2.5", **WIDE).directory
        for form in ((), RANKS):
            with self.subTest(form):
                self.vllm("--tp", 8, "--lossless", *form, code=1, source=source, says=["(?i)lossless"])

    def test_a_dry_run_refuses_alike(self):
        self.vllm("--tp", 3, "--dry-run", says=["--pad"])
        self.vllm(*RANKS, "--tp", 16, "--dry-run", says=["expert"])


class Inverse(RefusalCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.fixture = ranks.ours("v2.5", **WIDE)

    def ranks_of(self, tp, *options):
        return self.convert(self.fixture.directory, "ranks", "--to", "vllm", *RANKS, "--tp", tp, *options)

    def back(self, directory, code=3, says=()):
        return self.refuse(directory, "--to", "hf", code=code, says=says)

    def without_manifest(self, directory):
        os.unlink(os.path.join(directory, "mimo-manifest.json"))

    def test_a_missing_rank(self):
        out = self.ranks_of(4)
        for file in [f for (_, rank, _), f in ranks.rank_files(out).items() if rank == 2]:
            os.unlink(os.path.join(out, file))
        self.without_manifest(out)
        self.back(out, says=[r"rank\D{0,12}2\b"])

    def test_the_last_rank_missing(self):
        out = self.ranks_of(4)
        for file in [f for (_, rank, _), f in ranks.rank_files(out).items() if rank == 3]:
            os.unlink(os.path.join(out, file))
        self.without_manifest(out)
        self.back(out, says=[r"rank\D{0,12}3\b"])

    def test_a_node_s_own_ranks(self):
        out = self.ranks_of(4, "--ranks", "0,1")
        self.back(out, says=[r"rank\D{0,12}[23]\b"])

    def test_a_missing_part(self):
        out = self.ranks_of(4)
        os.unlink(os.path.join(out, ranks.rank_files(out)[("model", 1, 2)]))
        self.without_manifest(out)
        self.back(out, says=[r"rank\D{0,12}1\b|rank-1"])

    def change(self, out, rank, tensor, rows=None):
        """Flips one bit of a tensor of one rank."""
        file = next(f for (_, number, _), f in ranks.rank_files(out).items() if number == rank
                    and tensor in container.read_header(os.path.join(out, f))[0])
        tensors = {n: (d, a.copy()) for n, (d, a) in container.read(os.path.join(out, file)).items()}
        array = tensors[tensor][1]
        target = array if rows is None else array[rows]
        target.reshape(-1).view(np.uint8)[0] ^= 1
        container.write(os.path.join(out, file), tensors, {"format": "pt"})

    def test_unequal_replicas(self):
        """A norm, a router, a KV head of ranks that share it: all must be the same on every rank that holds them."""
        out = self.ranks_of(8)
        for tensor, rows in (("model.norm.weight", None), ("model.layers.1.mlp.gate.weight", None),
                             ("model.layers.0.self_attn.qkv_proj.weight", np.s_[1536:])):
            with self.subTest(tensor):
                copy = self.at("copy")
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(out, copy)
                self.change(copy, 5, tensor, rows)
                self.without_manifest(copy)
                self.back(copy, says=[tensor.replace(".", r"\.").replace("qkv_proj", "[a-z_]*"), r"rank\D{0,12}[45]\b"])

    def test_another_shape_on_one_rank(self):
        out = self.ranks_of(4)
        path = os.path.join(out, ranks.rank_files(out)[("model", 1, 1)])
        tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
        name = "model.layers.0.self_attn.o_proj.weight"
        tensors[name] = (tensors[name][0], np.ascontiguousarray(tensors[name][1][:, :-1]))
        container.write(path, tensors, {"format": "pt"})
        self.without_manifest(out)
        self.back(out, says=[name.replace(".", r"\.")])

    def test_a_tensor_missing_from_one_rank(self):
        out = self.ranks_of(4)
        path = os.path.join(out, ranks.rank_files(out)[("model", 3, 1)])
        tensors = {n: v for n, v in container.read(path).items() if not n.endswith("0.self_attn.o_proj.weight")}
        container.write(path, {n: (d, a.copy()) for n, (d, a) in tensors.items()}, {"format": "pt"})
        self.without_manifest(out)
        self.back(out, says=[r"model\.layers\.0\.self_attn\.o_proj"])


if __name__ == "__main__":
    unittest.main()
