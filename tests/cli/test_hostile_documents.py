"""Proves that no document ends a tool or fills the memory: JSON that nests deeply, is long, holds numbers that nothing holds or
a key twice, and counts that size a loop or an allocation, in every document that is read. Each ends in its exit code with a
message that names the file, within a small stack and bounded memory; and nothing that is printed obeys a name.
"""
import json
import os
import re
import resource
import shutil

from harness import breakage, checkpoints, tools
from harness.case import ToolCase

DEEP = "[" * 100_000 + "]" * 100_000
DEEP_OBJECTS = '{"a":' * 100_000 + "1" + "}" * 100_000
ONCE = ("--threads", "1", "--no-progress")
STACK = 256 << 10
MEMORY = 4 << 30                                            # of addresses
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def small():
    """In the child: a small stack, and memory for the job but not for what a document makes up."""
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def edit_json(path, change):
    breakage.edit_json(*os.path.split(path), change)


class Hostile(ToolCase):
    def setUp(self):
        super().setUp()
        self.good, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        self.source = self.at("checkpoint")
        shutil.copytree(self.good, self.source)
        self.config = os.path.join(self.source, "config.json")

    def write(self, name, text):
        path = self.at(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
        return path

    def put(self, path, key, text):
        """Gives a key of a JSON file a value that Python would not write."""
        edit_json(path, lambda document: document.update({key: "@@"}))
        with open(path, encoding="utf-8") as file:
            content = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(content.replace('"@@"', text))

    def bounded(self, tool, *arguments, code=3, words=()):
        result = self.run_tool(tool, *arguments, code=code, preexec_fn=small, timeout=120)
        for word in words:
            self.assertIn(word, result.stderr)
        if result.code:
            self.assertIn(f"{tool}: error: ", result.stderr)
            self.assertLess(len(result.stderr), 8000)
        self.assertNotIn("unexpected failure", result.stderr)
        self.assertNotIn("out of memory", result.stderr)
        return result

    def convert_fails(self, *options, code=3, words=()):
        return self.bounded("mimo-convert", self.source, self.at("out"), *ONCE, *options, code=code, words=words)

    def published(self):
        return self.convert(self.source, "published", "--dtype", "bf16", "--qkv", "keep", *ONCE)


class DeepDocuments(Hostile):
    def test_control(self):
        """The unbroken checkpoint converts and checks under the same bounds."""
        self.bounded("mimo-inspect", self.source, code=0)
        out = self.at("good")
        self.bounded("mimo-convert", self.source, out, *ONCE, "--dtype", "bf16", code=0)
        self.bounded("mimo-verify", "check", out, "--quiet", code=0)

    def test_config(self):
        for key in ("hidden_size", "unknown", "mimo_layout", "quantization_config", "rope_scaling", "architectures",
                    "hybrid_layer_pattern"):
            for value in (DEEP, DEEP_OBJECTS):
                with self.subTest(key):
                    shutil.copyfile(os.path.join(self.good, "config.json"), self.config)
                    self.put(self.config, key, value)
                    for tool in ("mimo-inspect", "mimo-convert"):
                        out = (self.at("out"),) if tool == "mimo-convert" else ()
                        self.bounded(tool, self.source, *out, words=("config.json", "levels"))

    def test_what_is_as_deep_as_allowed_is_converted(self):
        self.put(self.config, "unknown", "[" * 63 + "]" * 63)
        self.bounded("mimo-convert", self.source, self.at("out"), *ONCE, "--dtype", "bf16", code=0)
        self.assertLess(os.path.getsize(self.at("out", "config.json")), 4 * os.path.getsize(self.config) + 20_000)

    def test_index(self):
        for text in (DEEP, '{"metadata":' + DEEP + "}", '{"weight_map":{"a":' + DEEP_OBJECTS + "}}"):
            self.write("checkpoint/model.safetensors.index.json", text)
            self.bounded("mimo-inspect", self.source, words=("index.json",))

    def test_origin(self):
        self.write("checkpoint/mimo-source/config.json", DEEP)
        self.bounded("mimo-inspect", self.source, words=("mimo-source/config.json",))

    def test_safetensors_header(self):
        for text in ('{"a":' + DEEP + "}", '{"__metadata__":{"a":' + DEEP_OBJECTS + "}}"):
            self.write("checkpoint/zz.safetensors", len(text).to_bytes(8, "little") + text.encode())
            os.path.exists(os.path.join(self.source, "model.safetensors.index.json")) and os.remove(
                os.path.join(self.source, "model.safetensors.index.json"))
            self.bounded("mimo-inspect", self.source, words=("zz.safetensors",))

    def test_plan(self):
        for text in (DEEP, DEEP_OBJECTS, '{"options":' + DEEP + "}"):
            self.convert_fails("--plan", self.write("plan.json", text), words=("plan.json", "levels"))

    def test_recipe(self):
        for text in (DEEP, '{"name":"x","rules":' + DEEP + "}"):
            self.convert_fails("--recipe", self.write("recipe.json", text), code=2, words=("recipe.json", "levels"))

    def test_input_scales(self):
        for text in (DEEP, DEEP_OBJECTS, '{"a":' + DEEP + "}"):
            self.convert_fails("--dtype", "nvfp4", "--w4a4", "--input-scales", self.write("scales.json", text), code=2,
                               words=("scales.json", "levels"))

    def test_template(self):
        for text in (DEEP, '{"tensors":' + DEEP + "}"):
            self.convert_fails("--to", "vllm", "--format", "sharded-state", "--tp", "2", "--template",
                               self.write("template.json", text), words=("template.json", "levels"))

    def test_manifest(self):
        out = self.published()
        manifest = os.path.join(out, "mimo-manifest.json")
        with open(manifest, encoding="utf-8") as file:
            good = file.read()
        # As of version 1, which held no hash of itself that would tell before anything is read.
        good = re.sub(r',\n"manifest_hash":"[0-9a-f]+"', "", good).replace('"version":2', '"version":1', 1)
        self.assertNotIn("manifest_hash", good)
        for key in ("target_layout", "tensors", "options", "notes", "totals"):
            with open(manifest, "w", encoding="utf-8") as file:
                file.write(re.sub(f'"{key}": *', f'"{key}":{DEEP},"q":', good, count=1))
            with self.subTest(key):
                self.bounded("mimo-verify", "check", out, "--quiet", words=("mimo-manifest.json", "levels"))

    def test_written_index(self):
        out = self.published()
        with open(os.path.join(out, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
            file.write('{"weight_map":' + DEEP + "}")
        self.bounded("mimo-verify", "check", out, "--quiet", code=1)

    def test_partial_state(self):
        """A damaged state or record is one that is not there."""
        for name in ("state.json", "publish.json", "records/0000.json"):
            out = self.at("out-" + os.path.basename(name))
            partial = os.path.join(out, ".mimo-partial")
            for text in (DEEP, '{"format":"mimo-partial","version":1,"options":' + DEEP_OBJECTS + "}"):
                os.makedirs(os.path.join(partial, "records"), exist_ok=True)
                with open(os.path.join(partial, name), "w", encoding="utf-8") as file:
                    file.write(text)
                self.run_tool("mimo-convert", self.source, out, *ONCE, "--dtype", "bf16", "--resume", code=(0, 2, 3),
                              preexec_fn=small, timeout=120)

    def test_megatron_metadata(self):
        """A metadata.json that is not JSON is some other file of that name."""
        self.write("trained/metadata.json", DEEP)
        self.bounded("mimo-inspect", self.at("trained"))


class Values(Hostile):
    def test_numbers_that_nothing_holds(self):
        for number in ("1e999", "-1e999", "18446744073709551616", "9" * 400):
            self.put(self.config, "unknown", number)
            with self.subTest(number[:30]):
                self.convert_fails(words=("config.json",))

    def test_a_key_twice(self):
        with open(self.config, encoding="utf-8") as file:
            text = file.read()
        with open(self.config, "w", encoding="utf-8") as file:
            file.write('{"hidden_size": 1,' + text[1:])
        self.convert_fails(words=("config.json", '"hidden_size" twice'))
        with open(self.config, "w", encoding="utf-8") as file:
            file.write('{"unknown": {"a": 1, "b": 2, "a": 3},' + text[1:])
        self.convert_fails(words=('"a" twice at unknown',))

    def test_bytes_that_are_no_text(self):
        for junk in (b'"\xff"', b'"\xed\xa0\x80"', b"1\x00", b'"\\ud800"'):
            with open(self.config, "rb") as file:
                text = file.read()
            self.write("checkpoint/config.json", b'{"unknown": ' + junk + b"," + text[1:])
            self.convert_fails(words=("config.json", "syntax error" if b"\x00" not in junk else "NUL"))
            self.write("checkpoint/config.json", text)

    def test_long_keys_and_names(self):
        self.put(self.config, "k" * 100_000, "1")
        self.convert_fails(words=("config.json", "keys of at most"))

    def test_long_tensor_names(self):
        os.remove(os.path.join(self.source, "model.safetensors.index.json"))
        header = json.dumps({"a" * 100_000: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        self.write("checkpoint/zz.safetensors", len(header).to_bytes(8, "little") + header + bytes(8))
        self.convert_fails("--dtype", "bf16", "--unknown", "carry", "--exclude", ".*b$", words=("zz.safetensors", "keys of at"))

    def test_many_keys_take_linear_time(self):
        """An ordered object finds a key by looking at all of them: 200 000 would take minutes."""
        many = ",".join(f'"vision_{i}":0' for i in range(200_000))
        self.put(self.config, "unknown", "{" + many + "}")
        self.convert(self.source, "out", *ONCE, "--dtype", "bf16", timeout=120)

    def test_patterns(self):
        for pattern in (".*.*.*.*.*=", "(a*)*b=", "a" * 70_000, "((a{1000}){1000}){1000}", "("):
            self.convert_fails("--include", pattern, code=2)
        deep = "(" * 30_000 + ")" * 30_000                  # found in every name, where the engine takes it
        self.bounded("mimo-convert", self.source, self.at("deep"), *ONCE, "--include", deep, code=(0, 2))
        for pattern in ("layers(?=x)", "(?<!x)layers", r"(layers)\1"):
            self.convert_fails("--include", pattern, code=2, words=("no lookaheads and no backreferences",))


class Counts(Hostile):
    """Numbers that size a loop or an allocation."""

    def edited(self, *changes, words=("config.json",), without=()):
        edit_json(self.config, lambda c: [c.pop(key, None) for key in without] + [c.update(change) for change in changes])
        for tool in ("mimo-inspect", "mimo-convert"):
            out = (self.at("out"),) if tool == "mimo-convert" else ()
            self.bounded(tool, self.source, *out, words=words)

    def test_experts_and_layers(self):
        for changes in ({"num_hidden_layers": 65536, "n_routed_experts": 65536, "moe_layer_freq": 1},
                        {"n_routed_experts": 1 << 20}, {"n_routed_experts": (1 << 31) - 1},
                        {"num_hidden_layers": 65536, "n_routed_experts": 16, "moe_layer_freq": 1}):
            with self.subTest(str(changes)):
                shutil.copyfile(os.path.join(self.good, "config.json"), self.config)
                self.edited(changes, words=(), without=("hybrid_layer_pattern",) if "num_hidden_layers" in changes else ())

    def test_heads_and_dimensions(self):
        for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim", "swa_num_key_value_heads",
                    "hidden_size", "vocab_size", "intermediate_size", "moe_intermediate_size", "num_nextn_predict_layers"):
            for value in (1 << 20, (1 << 31) - 1):
                shutil.copyfile(os.path.join(self.good, "config.json"), self.config)
                edit_json(self.config, lambda c: c.update({key: value}))
                with self.subTest(f"{key} {value}"):
                    self.bounded("mimo-inspect", self.source, code=(0, 3))

    def test_markers(self):
        most = (1 << 31) - 1
        for marker in ({"qkv": "fused", "chunks": 3, "kv_heads": most, "swa_kv_heads": 8},
                       {"qkv": "fused", "chunks": most, "kv_heads": 4, "swa_kv_heads": 8},
                       {"qkv": "fused", "chunks": 1 << 20, "kv_heads": 4, "swa_kv_heads": 8},
                       {"qkv": "split", "chunks": 1, "kv_heads": 4, "swa_kv_heads": 8, "form": "sharded-state", "tp": most,
                        "ep": most},
                       {"qkv": "split", "chunks": 1, "kv_heads": 4, "swa_kv_heads": 8, "form": "sharded-state", "tp": 65536,
                        "ep": 1},
                       *({"qkv": "split", "chunks": 1, "kv_heads": 4, "swa_kv_heads": 8, "unpadded": {
                           **dict.fromkeys(("heads", "kv_heads", "swa_heads", "swa_kv_heads", "intermediate",
                                            "moe_intermediate", "vocab"), 1), key: 1 << 20}}
                         for key in ("heads", "kv_heads", "swa_heads", "intermediate", "moe_intermediate", "vocab")),
                       {"qkv": "split", "chunks": 1, "kv_heads": 4, "swa_kv_heads": 8, "source": {"qkv": "fused", "chunks": most}}):
            with self.subTest(str(marker)):
                edit_json(self.config, lambda c: c.update({"mimo_layout": {"version": 1, **marker}}))
                self.bounded("mimo-inspect", self.source, code=(0, 3))
                self.bounded("mimo-convert", self.source, *ONCE, "--to", "hf", "--dry-run", code=(0, 2, 3))

    def test_index_numbers(self):
        index = os.path.join(self.source, "model.safetensors.index.json")
        for value in (1 << 20, 1 << 31, (1 << 63) - 1, (1 << 64) - 1, 1e300, -1, "9" * 18):
            edit_json(index, lambda i: i.setdefault("metadata", {}).update({"tp_size": value, "total_size": value}))
            with self.subTest(str(value)):
                self.bounded("mimo-inspect", self.source, code=(0, 3))

    def test_a_file_of_a_rank_beyond_all_others(self):
        ranks = self.convert(self.source, "ranks", "--to", "vllm", "--format", "sharded-state", "--tp", "2", "--text-only",
                             "--pad", *ONCE)
        shutil.copyfile(os.path.join(ranks, "model-rank-1-part-0.safetensors"),
                        os.path.join(ranks, "model-rank-99999-part-0.safetensors"))
        self.bounded("mimo-inspect", ranks, words=("files of ranks are missing",))

    def test_arrays_without_elements(self):
        """Their extents take no bytes, and say nothing about how much there is."""
        os.remove(os.path.join(self.source, "model.safetensors.index.json"))
        for shape in ([1 << 62, 0], [0, 1 << 62], [1 << 31, 0, 1 << 31]):
            header = json.dumps({"odd.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}}).encode()
            self.write("checkpoint/zz.safetensors", len(header).to_bytes(8, "little") + header)
            with self.subTest(str(shape)):
                self.bounded("mimo-inspect", self.source, code=(0, 3))
                out = self.at("out" + str(len(shape)))
                self.bounded("mimo-convert", self.source, out, *ONCE, "--dtype", "bf16", "--unknown", "carry", code=(0, 2, 3))
                shutil.rmtree(out, ignore_errors=True)


class Printed(Hostile):
    """Names that a terminal would obey."""

    EVIL = "e\x1b[2J\x1b]0;t\x07\r\nok: all is well\x7f\u009b31m\u202egnp\u2066x\u2028y"

    def assert_plain(self, result):
        for text in (result.stdout, result.stderr):
            found = OBEYED.search(text)
            self.assertIsNone(found, repr(found and text[max(0, found.start() - 60):found.end() + 20]))
            self.assertNotIn("\nok: all is well", text)

    def test_config_values(self):
        for key, value in (("model_type", self.EVIL), ("hidden_size", self.EVIL), ("architectures", [self.EVIL]),
                           ("quantization_config", {"quant_method": self.EVIL, "weight_block_size": [128, 128]})):
            edit_json(self.config, lambda c: c.update({key: value}))
            for options in ((), ("--verbose",), ("--json",)):
                with self.subTest(key, options=options):
                    result = tools.run("mimo-inspect", self.source, *options)
                    self.assert_plain(result)
                    if "--json" in options:
                        json.loads(result.stdout)

    def test_tensor_and_file_names(self):
        os.remove(os.path.join(self.source, "model.safetensors.index.json"))
        header = json.dumps({self.EVIL: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        self.write("checkpoint/zz.safetensors", len(header).to_bytes(8, "little") + header + bytes(8))
        name = self.EVIL.replace("/", "") + ".txt"
        self.write("checkpoint/" + name, "x")
        for tool, options in (("mimo-inspect", ()), ("mimo-inspect", ("--verbose",)), ("mimo-inspect", ("--json",)),
                              ("mimo-convert", (self.at("o1"), "--unknown", "drop", "--verbose", *ONCE)),
                              ("mimo-convert", (self.at("o2"), "--unknown", "carry", "--verbose", "--dry-run")),
                              ("mimo-convert", (self.at("o3"), "--json", "--verbose", "--dry-run")),
                              ("mimo-convert", (self.at("o4"), "--unknown", "carry", "--json", "--verbose", *ONCE))):
            with self.subTest(tool, options=options):
                result = tools.run(tool, self.source, *options)
                self.assert_plain(result)
                if "--json" in options:
                    json.loads(result.stdout)

    def test_values_of_json_output_stay(self):
        edit_json(self.config, lambda c: c.update({"architectures": [self.EVIL]}))
        self.assertEqual(json.loads(tools.run("mimo-inspect", self.source, "--json").stdout)["architectures"], [self.EVIL])

    def test_arguments_and_manifests(self):
        out = self.published()
        edit_json(os.path.join(out, "mimo-manifest.json"), lambda m: m["tensors"][0].update({"name": self.EVIL, "dtype": self.EVIL}))
        self.assert_plain(tools.run("mimo-verify", "check", out))
        self.assert_plain(tools.run("mimo-verify", "check", self.EVIL))
        self.assert_plain(tools.run("mimo-convert", self.source, self.at("x"), "--dtype", self.EVIL))
        self.assert_plain(tools.run("mimo-convert", self.source, self.at("x"), "--include", self.EVIL))
        self.assert_plain(tools.run("mimo-convert", self.source, self.at("x"), self.EVIL))

    def test_long_texts_are_cut(self):
        edit_json(self.config, lambda c: c.update({"model_type": "m" * 100_000, "hidden_size": "h" * 100_000}))
        self.assertLess(len(tools.run("mimo-inspect", self.source).stderr), 8000)


if __name__ == "__main__":
    import unittest
    unittest.main()
