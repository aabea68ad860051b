"""Copies of a KV head in attention that is fused in more chunks than KV heads: conversions read the first of them, so that
copies that hold something else stop one before it writes. Copies that were quantized again together with other rows hold
the same values as nearly as their codes can, and stop nothing.

The checkpoints are of a conversion, whose copies are compared here with numpy where they are not of the same bytes. Which
element is made another is written down here.
"""
import json
import os
import shutil

import numpy as np

from harness import breakage, checkpoints, compare
from harness.case import ToolCase
from reference import codecs, container

TINY = dict(checkpoints.TINY, pattern=(0, 0), mtp=0)   # 4 KV heads in every layer
QKV = "model.layers.0.self_attn.qkv_proj.weight"
ID = "layout.unequal_copies"
# A chunk of 8, of 8 Q heads: 192 rows of Q, 192 of K, 128 of V.
CHUNK, K, V = 512, 192, 384


def row(chunk, place):
    return chunk * CHUNK + place


class Copies(ToolCase):
    def source(self, name="source", **options):
        directory = self.at(name)
        shutil.copytree(checkpoints.ours("v2.5", **dict(TINY, **options))[0], directory)
        return directory

    def copied(self, *options):
        """In 8 chunks, each KV head in two of them."""
        return self.convert(self.source(), "copied", "--qkv", "fused:8", *options)

    def edit(self, directory, change, tensor=QKV):
        """change(array) in place."""
        def edited(value):
            array = value[1].copy()
            change(array)
            return value[0], array
        breakage.replace(directory, tensor, edited)
        if os.path.exists(os.path.join(directory, "mimo-manifest.json")):
            os.remove(os.path.join(directory, "mimo-manifest.json"))

    def accepted(self, directory, *options):
        for options in (options,) if options else (("--qkv", "split", "--dtype", "bf16"), ("--copy",)):
            result = self.run_tool("mimo-convert", directory, self.at("accepted"), *options)
            self.assertNotIn(ID, result.stderr)
            shutil.rmtree(self.at("accepted"))
        self.assertNotIn(ID, self.run_tool("mimo-inspect", directory).stdout)
        self.run_tool("mimo-verify", "check", directory)

    def refused(self, directory, *says, sampled=True):
        for options in (("--qkv", "split", "--dtype", "bf16"), ("--copy",)):
            result = self.run_tool("mimo-convert", directory, self.at("refused"), *options, code=3)
            for text in (f"[{ID}]", QKV, *says):
                self.assertIn(text, result.stderr)
            self.assertFalse(os.path.exists(self.at("refused")))
        checked = self.run_tool("mimo-verify", "check", directory, code=1)
        self.assertIn(ID, checked.stdout + checked.stderr)
        if sampled:  # mimo-inspect looks at three rows of each copy
            found = json.loads(self.run_tool("mimo-inspect", directory, "--json", code=3).stdout)["findings"]
            self.assertIn((ID, "error", QKV), [(f["id"], f["severity"], f["place"]) for f in found])

    def test_values(self):
        """V of chunk 3 is V of chunk 2 again, but for its last element."""
        source = self.copied("--dtype", "bf16")
        self.accepted(source)

        def change(array):
            array[row(3, V + 127), 255] ^= 1
        self.edit(source, change)
        self.refused(source, f"row {row(3, V + 127)}", f"row {row(2, V + 127)}")

    def test_one_element_that_a_sample_does_not_see(self):
        source = self.copied("--dtype", "bf16")

        def change(array):
            array[row(3, V + 5), 7] ^= 1
        self.edit(source, change)
        self.refused(source, f"row {row(3, V + 5)}", sampled=False)

    def test_codes_under_equal_scales(self):
        """One step of one code of K is another value; its block is of K alone (rows 256 to 383 of the chunk)."""
        source = self.copied()
        self.accepted(source)

        def change(array):
            at = row(5, K + 191), 3
            array[at] = array[at] - 1 if array[at] & 0x7F > 1 else 2
        self.edit(source, change)
        self.refused(source, f"column 3 of row {row(5, K + 191)}")

    def test_scales(self):
        """Twice the scale is twice every value."""
        source = self.copied()

        def change(array):
            array[1 * 4 + 2, 0] *= 2
        self.edit(source, change, QKV + "_scale_inv")
        self.refused(source, f"row {row(1, K + 64)}", f"row {row(0, K + 64)}", sampled=False)

    def straddling(self):
        """Blocks of Q and K, quantized again in each chunk with its own Q: half a step is what may be between a value and
        each copy."""
        source, _ = checkpoints.ours("v2.5", **dict(TINY, mild=True, seed=3, pattern=(0, 1)))
        out = self.convert(source, "out", "--qkv", "fused:8")
        found, changed = container.read_directory(out), 0
        codes, scales = found[QKV][1], found[QKV + "_scale_inv"][1]
        values = codecs.decode_fp8(codes, scales, np.arange(codes.shape[0]) // 128)
        for chunk in range(0, 8, 2):
            first, second = (slice(row(c, K), row(c + 1, 0)) for c in (chunk, chunk + 1))
            a, b = values[first], values[second]
            changed += int((codes[first] != codes[second]).sum())
            self.assertTrue((np.abs(a - b) <= np.maximum(np.abs(a), np.abs(b)) / 8 + 2e-3 * scales.max()).all())
        self.assertGreater(changed, 1000, "copies differ in codes, so that this shows something")
        return out

    def test_blocks_that_were_quantized_again_are_no_difference(self):
        out = self.straddling()
        self.accepted(out)
        self.accepted(out, "--qkv", "fused:4")
        os.remove(os.path.join(out, "mimo-manifest.json"))
        self.accepted(out)

    def test_and_what_is_beyond_half_steps_is_one(self):
        out = self.straddling()
        codes, scales = (container.read_directory(out)[QKV + x][1] for x in ("", "_scale_inv"))
        chunk = next(c for c in range(1, 8, 2)
                     if (codes[row(c, K):row(c, K + 64)] != codes[row(c - 1, K):row(c - 1, K + 64)]).any())
        # A column of a block whose scales differ, in the first row of K, where a normal number is stored.
        column = next(c for c in range(256) if scales[chunk * 4 + 1, c // 128] != scales[chunk * 4 - 3, c // 128]
                      and 0x20 < codes[row(chunk, K), c] & 0x7F < 0x70)

        def change(array):
            array[row(chunk, K), column] += 4    # half a binade
        self.edit(out, change)
        self.refused(out, f"column {column} of row {row(chunk, K)}")

    def test_scales_in_rows(self):
        """MXFP8: scales of rows are of the copy, and are to be of the same bytes."""
        recipe = self.at("mxfp8.json")
        with open(recipe, "w", encoding="utf-8") as f:
            json.dump({"name": "mxfp8", "rules": [{"roles": ["attn.qkv"], "to": "mxfp8"}], "qkv": "fused:8"}, f)
        out = self.convert(self.source(), "out", "--recipe", recipe)
        self.accepted(out, "--copy")
        scale = next(n for n in container.read_directory(out) if n.startswith(QKV) and n != QKV)

        def change(array):
            array[row(7, V), 0] += 1
        self.edit(out, change, scale)
        result = self.run_tool("mimo-convert", out, self.at("refused"), "--qkv", "split", "--dtype", "bf16", code=3)
        self.assertIn(f"[{ID}]", result.stderr)

    def test_allowed(self):
        """The first copy is read, and the manifest says so."""
        source = self.copied("--dtype", "bf16")
        expected = self.convert(source, "expected", "--qkv", "split", "--dtype", "bf16")

        def change(array):
            array[row(3, V + 127), 255] ^= 1
        self.edit(source, change)
        out = self.at("out")
        said = self.run_tool("mimo-convert", source, out, "--qkv", "split", "--dtype", "bf16", "--allow-anomalies")
        self.assertIn(f"warning {ID}", said.stderr)
        self.assert_same_tensors(expected, out)
        self.assertIn(ID, "".join(compare.load_json(out, "mimo-manifest.json").get("notes", [])))

    def test_heads_that_were_trained_apart(self):
        """As the advice has it: without the marker they are heads of their own, and all of them are kept."""
        out = self.copied("--dtype", "bf16")

        def change(array):
            for chunk in range(8):
                array[row(chunk, K):row(chunk + 1, 0)] ^= chunk & 1
        self.edit(out, change)
        self.refused(out, "mimo_layout")
        breakage.edit_json(out, "config.json", lambda config: config.pop("mimo_layout"))
        split = self.convert(out, "split", "--qkv", "split", "--dtype", "bf16", "--source-qkv", "fused:8")
        fused, keys = container.read_directory(out)[QKV][1], container.read_directory(split)
        self.assertTrue(np.array_equal(keys[QKV.replace("qkv", "k")][1],
                                       np.concatenate([fused[row(c, K):row(c, V)] for c in range(8)])))
        self.assertEqual(compare.load_json(split, "config.json")["num_key_value_heads"], 8)

    def test_of_a_run_under_like(self):
        reference = self.source()
        run = self.convert(reference, "run", "--qkv", "fused:8", "--dtype", "bf16")

        def change(array):
            array[row(3, V + 127), 255] ^= 1
        self.edit(run, change)
        result = self.run_tool("mimo-convert", run, self.at("refused"), "--like", reference, code=3)
        self.assertIn(f"[{ID}]", result.stderr)
        self.assertFalse(os.path.exists(self.at("refused")))

    def test_of_ranks_whose_blocks_straddle(self):
        """Rank files of FP8 whose K begins within a block: they are no rows that are the same in every rank."""
        source, _ = checkpoints.ours("v2.5", **dict(TINY, mild=True, seed=3, intermediate=1024, moe_intermediate=1024))
        ranks = self.convert(source, "ranks", "--to", "vllm", "--format", "sharded-state", "--tp", 8)
        back = self.convert(ranks, "back", "--to", "hf", "--qkv", "split", "--dtype", "bf16")
        self.assertTrue(back)
        files = sorted(f for f in container.tensor_files(ranks) if "rank-3" in f)
        for file in files:
            path = os.path.join(ranks, file)
            tensors = {n: (d, np.array(a)) for n, (d, a) in container.read(path).items()}
            if QKV not in tensors:
                continue
            code = tensors[QKV][1]
            code[V + 127, 255] ^= 0x80
            container.write(path, tensors, container.read_header(path)[1])
        os.remove(os.path.join(ranks, "mimo-manifest.json"))
        result = self.run_tool("mimo-convert", ranks, self.at("refused"), "--to", "hf", "--qkv", "split", code=3)
        self.assertIn(f"[{ID}]", result.stderr)
