"""Two families that are data alone, Qwen3-MoE in block FP8 and GLM-4.5 in BF16 and per-channel FP8: counts and bytes of
full-size checkpoints against what was published; what each tensor is taken for; values decoded and quantized as numpy
does; directories for engines; Megatron and back; and refusals of what neither has.

Ground truth: tests/reference/{qwen3_moe,glm4_moe}.py, which draw values before anything is stored, and the encoders of
tests/reference/quantize.py. Totals: docs/reference/qwen3-checkpoints.md, section 4, and glm-checkpoints.md, section 3.
"""
import json
import os
import re
import unittest

import numpy as np

from harness import compare, torch_dist
from harness.case import ToolCase
from harness.sparse import holds_large_sparse_files
from reference import codecs, container, quantize
from reference.glm4_moe import Glm4Moe
from reference.qwen3_moe import Qwen3Moe

F = np.float32
BITS = {"F32": 32, "BF16": 16, "F16": 16, "F8_E4M3": 8}


class Published(ToolCase):
    """Sparse files of the released sizes."""
    tool = "mimo-synth"

    def setUp(self):
        super().setUp()
        if not holds_large_sparse_files(self.tmp):
            self.skipTest("no large sparse files here")

    def made(self, preset):
        source = self.at(preset)
        self.run_tool("mimo-synth", preset, source, "--sparse", timeout=600)
        headers = {}
        for file in container.tensor_files(source):
            headers[file] = container.read_header(os.path.join(source, file))[0]
        return source, headers

    def elements(self, headers, kind=None):
        return sum(int(np.prod(shape)) for tensors in headers.values() for name, (dtype, shape, *_) in tensors.items()
                   if kind is None or kind(name, dtype))

    def count(self, headers, kind):
        return sum(kind(name, entry[0]) for tensors in headers.values() for name, entry in tensors.items())

    def test_qwen3_235b_to_the_byte(self):
        source, headers = self.made("qwen3-235b-a22b-fp8")
        self.assertEqual(len(headers), 48)
        sizes = [os.path.getsize(os.path.join(source, f"model-{i:05d}-of-00048.safetensors")) for i in range(1, 49)]
        self.assertEqual(sizes[:2], [4979380200, 4980115368])
        self.assertEqual(sum(sizes), 239044149304)
        scale = lambda name, dtype: name.endswith("_scale_inv")
        self.assertEqual(self.count(headers, lambda n, d: d == "F8_E4M3"), 36472)
        self.assertEqual(self.count(headers, scale), 36472)
        self.assertEqual(self.count(headers, lambda n, d: d == "F32" and not scale(n, d)), 473)
        self.assertEqual(self.elements(headers, scale), 14269952)
        self.assertEqual(self.elements(headers) - self.elements(headers, scale), 235093634560)
        found = json.loads(self.run_tool("mimo-inspect", source, "--json", timeout=600).stdout)
        self.assertEqual((found["family"], found["tensor_count"], found["payload_bytes"]),
                         ("Qwen3-235B-A22B", 73417, 239034937344))
        ids = {f["id"] for f in found["findings"]}
        self.assertNotIn("declared.dtype", ids, "everything F32 under bfloat16 is how this release is")
        self.assertLessEqual({i for i in ids if i.startswith("declared.")}, set())
        self.run_tool("mimo-convert", source, self.at("planned"), "--dtype", "bf16", "--dry-run", timeout=600)

    def test_qwen3_30b(self):
        _, headers = self.made("qwen3-30b-a3b-fp8")
        scale = lambda name, dtype: name.endswith("_scale_inv")
        self.assertEqual(len(headers), 7)
        self.assertEqual(sum(map(len, headers.values())), 37491)
        self.assertEqual(self.elements(headers, scale), 1824768)
        self.assertEqual(self.elements(headers) - self.elements(headers, scale), 30532122624)

    def test_glm_elements(self):
        for preset, tensors, elements, without_mtp in (("glm-4.5", 44691, 358337791296, 352797829024),
                                                       ("glm-4.5-air", 18329, 110468824832, None)):
            with self.subTest(preset):
                source, headers = self.made(preset)
                with open(os.path.join(source, "config.json")) as f:
                    layers = json.load(f)["num_hidden_layers"]
                self.assertEqual(sum(map(len, headers.values())), tensors)
                self.assertEqual(self.elements(headers), elements)
                if without_mtp:
                    # The total that a calculator publishes leaves layer L out, and the biases of its routers count.
                    behind = f"model.layers.{layers}."
                    self.assertEqual(self.elements(headers, lambda n, d: not n.startswith(behind)), without_mtp)
                found = json.loads(self.run_tool("mimo-inspect", source, "--json", timeout=600).stdout)
                self.assertEqual((found["tensor_count"], found["mtp_layers"]), (tensors, 1))


class ProbeCase(ToolCase):
    def write(self, model, name="source", **how):
        return model.write(self.at(name), **how)

    def outputs(self, source, *options):
        """{name: (role, is MTP, layer, expert)} of what a copy would write."""
        path = self.at("plan.json")
        self.run_tool("mimo-convert", source, self.at("planned"), *(options or ("--copy",)), "--dry-run", "--plan-out", path)
        with open(path) as f:
            plan = json.load(f)
        os.unlink(path)
        return {o["name"]: (o["role"], o.get("mtp", False), o.get("layer", -1), o.get("expert", -1))
                for o in plan["outputs"]}

    def check_bf16(self, model, source, *options):
        out = self.convert(source, "bf16", "--dtype", "bf16", *options)
        self.assert_same_tensors(model.as_bf16(), out)
        self.assertEqual(compare.index_problems(out), [])
        self.assertNotIn("quantization_config", compare.load_json(out, "config.json"))
        self.run_tool("mimo-verify", "check", out)
        return out

    def check_nvfp4(self, model, source):
        """Experts by numpy, under one global for gate and up of an expert; all else as it was."""
        out = self.convert(source, "nvfp4", "--recipe", "nvfp4-experts")
        expected, experts = {}, 0
        for name, (dtype, array) in model.tensors.items():
            if ".experts." not in name:
                expected[name] = (dtype, array)
            if ".experts." not in name or name not in model.values:
                continue
            group = [name]
            if "down_proj" not in name:
                group = [re.sub("(gate|up)_proj", x + "_proj", name) for x in ("gate", "up")]
            amax = quantize.amax_of([model.values[n] for n in group])
            made = quantize.nvfp4(model.values[name], amax)
            expected[name] = ("U8", made.codes)
            expected[name + "_scale"] = ("F8_E4M3", made.scales)
            expected[name + "_scale_2"] = ("F32", np.array(quantize.nvfp4_global(amax), F))
            experts += 1
        self.assertGreater(experts, 0)
        self.assert_same_tensors(expected, out)
        self.run_tool("mimo-verify", "check", out)
        return out

    def ignored(self, out, key="ignored_layers"):
        return compare.load_json(out, "config.json")["quantization_config"][key]

    def check_fp8(self, model, source, quantized):
        """Block FP8 by numpy: of a BF16 source, in the modules that `quantized` is true of."""
        out = self.convert(source, "fp8", "--recipe", "fp8-all+head")
        expected, plain = {}, set()
        for name, (dtype, array) in model.tensors.items():
            module = name.removesuffix(".weight")
            if not quantized(module):
                expected[name] = (dtype, array)
                if array.ndim == 2 and "embed" not in module:
                    plain.add(module)
                continue
            made = quantize.fp8_block(model.values[name])
            expected[name], expected[name + "_scale_inv"] = ("F8_E4M3", made.codes), ("F32", made.scales)
        self.assert_same_tensors(expected, out)
        listed = set(self.ignored(out))
        self.assertFalse([m for m in listed if quantized(m)])
        # Readers of this dialect build no quantized module for routers and output layers.
        self.assertLessEqual({m for m in plain if not m.endswith(("mlp.gate", "head"))}, listed)
        self.run_tool("mimo-verify", "check", out)
        self.assert_same_tensors({n: v for n, v in self.as_stored(expected).items()},
                                 self.convert(out, "again", "--dtype", "bf16"))
        return out

    def as_stored(self, tensors):
        """Block FP8 in BF16."""
        result = {}
        for name, (dtype, array) in tensors.items():
            if name.endswith("_scale_inv"):
                continue
            if dtype == "F8_E4M3":
                scales = tensors[name + "_scale_inv"][1]
                full = np.repeat(np.repeat(scales, 128, 0), 128, 1)[:array.shape[0], :array.shape[1]]
                dtype, array = "BF16", codecs.bf16_from_f32(codecs.E4M3[array] * full)
            result[name] = (dtype, array)
        return result


QWEN = {"self_attn.q_proj.weight": "attn.q", "self_attn.k_proj.weight": "attn.k", "self_attn.v_proj.weight": "attn.v",
        "self_attn.o_proj.weight": "attn.o", "self_attn.q_norm.weight": "attn.q_norm",
        "self_attn.k_norm.weight": "attn.k_norm", "mlp.gate.weight": "router", "mlp.gate_proj.weight": "mlp.gate",
        "mlp.up_proj.weight": "mlp.up", "mlp.down_proj.weight": "mlp.down", "input_layernorm.weight": "input_norm",
        "post_attention_layernorm.weight": "post_attention_norm"}
GLM = dict(QWEN, **{"self_attn.q_proj.bias": "attn.q_bias", "self_attn.k_proj.bias": "attn.k_bias",
                    "self_attn.v_proj.bias": "attn.v_bias", "mlp.gate.e_score_correction_bias": "router.bias",
                    "mlp.shared_experts.gate_proj.weight": "shared.gate",
                    "mlp.shared_experts.up_proj.weight": "shared.up",
                    "mlp.shared_experts.down_proj.weight": "shared.down", "embed_tokens.weight": "mtp.embed",
                    "enorm.weight": "mtp.enorm", "hnorm.weight": "mtp.hnorm", "eh_proj.weight": "mtp.eh_proj",
                    "shared_head.norm.weight": "mtp.final_norm", "shared_head.head.weight": "mtp.lm_head"})
TOP = {"model.embed_tokens.weight": "embed", "lm_head.weight": "lm_head", "model.norm.weight": "final_norm"}


def meaning(name, roles, layers):
    """What a tensor of a model of so many decoder layers is: (role, is MTP, layer, expert)."""
    if name in TOP:
        return TOP[name], False, -1, -1
    _, _, layer, rest = name.split(".", 3)
    mtp, layer = int(layer) >= layers, int(layer) % layers if int(layer) >= layers else int(layer)
    expert = re.fullmatch(r"mlp\.experts\.(\d+)\.(gate|up|down)_proj\.weight", rest)
    if expert:
        return f"expert.{expert.group(2)}", mtp, layer, int(expert.group(1))
    return roles[rest], mtp, layer, -1


class Qwen3(ProbeCase):
    def test_types_are_as_found(self):
        """Everything F32, BF16 or F16 under a config that says bfloat16 is how releases are; a copy keeps it."""
        for plain, scales in (("F32", "F32"), ("BF16", "BF16"), ("F16", "F16"), ("BF16", "F32")):
            with self.subTest(plain=plain, scales=scales):
                self.setUp()
                model = Qwen3Moe(plain=plain, scales=scales, seed=2)
                source = self.write(model)
                found = json.loads(self.run_tool("mimo-inspect", source, "--json").stdout)
                self.assertEqual((found["qkv_layout"], found["mtp_layers"], found["model_type"]), ("split", 0, "qwen3_moe"))
                self.assertEqual([f for f in found["findings"] if f["severity"] in ("warning", "error")], [])
                self.assert_same_tensors(model.tensors, self.convert(source, "kept"))

    def test_what_each_tensor_is(self):
        model = Qwen3Moe(layers=3, dense=(1,), fp8="")
        found = self.outputs(self.write(model))
        self.assertEqual(found, {n: meaning(n, QWEN, 3) for n in model.tensors})

    def test_bf16(self):
        for options in (dict(), dict(plain="F32"), dict(scales="BF16"), dict(scales="F16", seed=3),
                        dict(dense=(0,), seed=4), dict(heads=16, kv_heads=4, head_dim=64, hidden=320, seed=5)):
            with self.subTest(**options):
                self.setUp()
                model = Qwen3Moe(**options)
                self.check_bf16(model, self.write(model))

    def test_embeddings_are_cast_when_asked(self):
        model = Qwen3Moe(plain="F32")
        recipe = self.at("cast.json")
        with open(recipe, "w") as f:
            json.dump({"name": "cast", "dialect": "native", "rules": [{"roles": ["embed", "lm_head"], "to": "bf16"}]}, f)
        out = self.convert(self.write(model), "cast", "--recipe", recipe)
        expected = dict(model.tensors)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            expected[name] = ("BF16", codecs.bf16_from_f32(model.values[name]))
        self.assert_same_tensors(expected, out)

    def test_nvfp4_experts(self):
        for options in (dict(), dict(plain="F32", scales="F32", seed=6), dict(scales="BF16", seed=7), dict(fp8="")):
            with self.subTest(**options):
                self.setUp()
                model = Qwen3Moe(**options)
                self.check_nvfp4(model, self.write(model))

    def test_block_fp8_of_bf16(self):
        model = Qwen3Moe(fp8="", hidden=320, dense=(1,), seed=8)
        self.check_fp8(model, self.write(model),
                       lambda m: m.endswith("_proj") or m == "lm_head")

    def test_engine_directories(self):
        """Codes and scales as they are: every head is whole blocks, norms of one head are whole on every rank."""
        model = Qwen3Moe(heads=16, kv_heads=4, intermediate=512, plain="F32")
        source = self.write(model)
        for engine in ("vllm", "sglang"):
            for options in (("--tp", 1), ("--tp", 2), ("--tp", 4), ("--tp", 8, "--ep", 8), ("--tp", 3, "--ep", 3)):
                with self.subTest(engine, options=options):
                    fails = {8: "experts", 3: "heads"}.get(options[1])   # 3 experts; 16 heads over 3 ranks
                    if fails:
                        result = self.run_tool("mimo-convert", source, self.at("no"), "--to", engine, *options, code=2)
                        self.assertIn(fails, result.stderr)
                        continue
                    out = self.convert(source, f"{engine}{options[1]}", "--to", engine, *options)
                    self.assert_same_tensors(model.tensors, out)
                    ignored = self.ignored(out, "modules_to_not_convert")
                    self.assertLessEqual({"lm_head", "model.layers.1.mlp.gate", "model.layers.0.input_layernorm"}, set(ignored))

    def test_limits_of_tp(self):
        """235B: I/tp in whole blocks: 1, 2, 4; 30B: 1, 2. A width that no tensor has limits nothing."""
        for width, fits in ((1536, (1, 2, 4)), (768, (1, 2))):
            model = Qwen3Moe(layers=1, heads=16, kv_heads=4, head_dim=128, hidden=128, experts=1, intermediate=width)
            source = self.write(model, f"source{width}")
            path = os.path.join(source, "config.json")
            document = dict(compare.load_json(source, "config.json"), intermediate_size=100)
            with open(path, "w") as f:
                json.dump(document, f)
            for tp in (1, 2, 4, 8):
                result = self.run_tool("mimo-convert", source, self.at("planned"), "--to", "sglang", "--tp", tp, "--dry-run",
                                       code=0 if tp in fits else 2)
                if tp not in fits:
                    self.assertIn("experts cannot be cut", result.stderr)

    def test_fused_attention_is_refused(self):
        source = self.write(Qwen3Moe())
        result = self.run_tool("mimo-convert", source, self.at("fused"), "--qkv", "fused:2", code=2)
        self.assertIn("fused", result.stderr)
        self.assert_nothing_published(self.at("fused"))

    def test_megatron(self):
        """Q, K, V per group, [gate; up], norms of a head whole; and back as the file that it was."""
        for options in (dict(plain="F32"), dict(dense=(0,), seed=9)):
            with self.subTest(**options):
                self.setUp()
                model = Qwen3Moe(**options)
                source = self.write(model)
                run = self.convert(source, "run", "--to", "megatron", "--dtype", "bf16", "--tp", 2)
                found = torch_dist.Checkpoint(torch_dist.iteration_directory(run))
                self.assert_same_tensors(self.as_megatron(model), found.arrays())
                self.assertEqual(set(found.objects), self.extra_states(model))
                self.assert_same_tensors(model.tensors, self.convert(run, "back", "--to", "hf", "--like", source))
                # Without a reference what a run holds in F32 is BF16, as published models have it; not the router.
                bf16 = {n: ("F32", v) if n.endswith("mlp.gate.weight") else ("BF16", codecs.bf16_from_f32(v))
                        for n, v in model.values.items()}
                self.assertEqual(self.differing(bf16, self.convert(run, "split", "--to", "hf")), set())

    def test_megatron_of_scales_in_bf16(self):
        """As its releases store them: kept where values fit, and the file is what it was."""
        model = Qwen3Moe(scales="BF16")
        source = self.write(model)
        run = self.convert(source, "run", "--to", "megatron", "--dtype", "bf16")
        self.assert_same_tensors(model.tensors, self.convert(run, "back", "--to", "hf", "--like", source))

    def differing(self, expected, directory):
        """Names whose values differ; of routers, which Megatron holds in F32, whatever their type."""
        found = container.read_directory(directory)
        self.assertEqual(set(expected), set(found))
        return {n for n in expected if not np.array_equal(codecs.decode_plain(*expected[n]), codecs.decode_plain(*found[n]))}

    def extra_states(self, model):
        """Norms per head are of the class of the others, whose state loaders ask for."""
        modules = ["decoder.final_layernorm"]
        for n in range(model.layers):
            layer = f"decoder.layers.{n}."
            modules += [layer + "self_attention." + x for x in ("linear_qkv", "linear_proj", "q_layernorm", "k_layernorm")]
            modules += [layer + "mlp.linear_fc1", layer + "mlp.linear_fc2"] if n in model.dense else [layer + "pre_mlp_layernorm"]
        experts = [f"decoder.layers.{n}.mlp.experts.experts.linear_fc{i}._extra_state/shard_{e}_{model.experts}"
                   for n in range(model.layers) if n not in model.dense for i in (1, 2) for e in range(model.experts)]
        return {module + "._extra_state/shard_0_1" for module in modules} | set(experts)

    def as_megatron(self, model):
        stored, groups, dim = model.as_bf16(), model.kv_heads, model.head_dim
        out = {"embedding.word_embeddings.weight": stored["model.embed_tokens.weight"],
               "output_layer.weight": stored["lm_head.weight"],
               "decoder.final_layernorm.weight": stored["model.norm.weight"]}
        for n in range(model.layers):
            source, target = f"model.layers.{n}", f"decoder.layers.{n}"
            parts = [stored[f"{source}.self_attn.{x}_proj.weight"][1].reshape(groups, -1, model.hidden) for x in "qkv"]
            out[f"{target}.self_attention.linear_qkv.weight"] = (
                "BF16", np.concatenate(parts, axis=1).reshape(-1, model.hidden))
            dense = n in model.dense
            for theirs, ours in (("self_attention.linear_proj.weight", "self_attn.o_proj.weight"),
                                 ("self_attention.q_layernorm.weight", "self_attn.q_norm.weight"),
                                 ("self_attention.k_layernorm.weight", "self_attn.k_norm.weight"),
                                 ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
                                 ("mlp.linear_fc1.layer_norm_weight" if dense else "pre_mlp_layernorm.weight",
                                  "post_attention_layernorm.weight")):
                out[f"{target}.{theirs}"] = stored[f"{source}.{ours}"]
            get = lambda name: stored[f"{source}.mlp.{name}_proj.weight"][1]
            if dense:
                out[f"{target}.mlp.linear_fc1.weight"] = ("BF16", np.concatenate([get("gate"), get("up")]))
                out[f"{target}.mlp.linear_fc2.weight"] = ("BF16", get("down"))
                continue
            out[f"{target}.mlp.router.weight"] = ("F32", model.values[f"{source}.mlp.gate.weight"])
            experts = [[get(f"experts.{e}.{x}") for x in ("gate", "up", "down")] for e in range(model.experts)]
            out[f"{target}.mlp.experts.experts.linear_fc1.weight"] = (
                "BF16", np.stack([np.concatenate([gate, up]) for gate, up, _ in experts]))
            out[f"{target}.mlp.experts.experts.linear_fc2.weight"] = ("BF16", np.stack([down for *_, down in experts]))
        return out

    def test_what_the_family_has_not_is_refused(self):
        for name, shape in (("model.layers.0.self_attn.q_proj.bias", (1024,)),
                            ("model.layers.0.mlp.shared_expert.gate_proj.weight", (256, 256)),
                            ("model.layers.0.mlp.gate.e_score_correction_bias", (3,)),
                            ("model.layers.2.self_attn.q_norm.weight", (128,))):
            with self.subTest(name):
                self.setUp()
                model = Qwen3Moe()
                model.put(name, np.zeros(shape))
                result = self.run_tool("mimo-convert", self.write(model), self.at("out"), "--dtype", "bf16", code=3)
                self.assertIn(name, result.stderr)
                self.assert_nothing_published(self.at("out"))

    def test_a_missing_norm_is_found(self):
        model = Qwen3Moe()
        del model.tensors["model.layers.1.self_attn.k_norm.weight"]
        result = self.run_tool("mimo-convert", self.write(model), self.at("out"), "--dtype", "bf16", code=3)
        self.assertIn("model.layers.1.self_attn.k_norm.weight", result.stderr)


class Glm4(ProbeCase):
    VARIANTS = (dict(), dict(qk_norm=False, dense=2, seed=2), dict(shared=2, seed=3), dict(mtp=0, seed=4),
                dict(intermediate=1216, hidden=320, seed=5))     # 9.5 blocks, as Air's 10944 are 85.5

    def test_what_each_tensor_is(self):
        for options in self.VARIANTS:
            with self.subTest(**options):
                self.setUp()
                model = Glm4Moe(**options)
                self.assertEqual(self.outputs(self.write(model)), {n: meaning(n, GLM, 3) for n in model.tensors})

    def test_inspect(self):
        model = Glm4Moe()
        found = json.loads(self.run_tool("mimo-inspect", self.write(model), "--json").stdout)
        self.assertEqual((found["mtp_layers"], found["qkv_layout"], found["tensor_count"]), (1, "split", len(model.tensors)))
        self.assertEqual([f for f in found["findings"] if f["severity"] in ("warning", "error")], [])

    def test_bf16_is_a_copy_and_channels_are_decoded(self):
        for fp8 in ("", "row", "block"):
            for options in self.VARIANTS:
                with self.subTest(fp8=fp8, **options):
                    self.setUp()
                    model = Glm4Moe(fp8=fp8, **options)
                    self.check_bf16(model, self.write(model))

    def test_nvfp4_experts(self):
        for fp8 in ("", "row", "block"):
            with self.subTest(fp8=fp8):
                self.setUp()
                model = Glm4Moe(fp8=fp8, seed=6)
                self.check_nvfp4(model, self.write(model))

    def test_block_fp8(self):
        """Shared experts go with the dense MLP, and the MTP layer's o_proj with what its releases quantize."""
        for options in self.VARIANTS:
            with self.subTest(**options):
                self.setUp()
                model = Glm4Moe(**options)
                self.check_fp8(model, self.write(model), lambda m: m == "lm_head" or (
                    m.endswith("_proj") and not m.endswith("eh_proj")))

    def test_recipes_tell_gate_and_up_of_shared_experts_apart(self):
        model = Glm4Moe()
        recipe = self.at("shared.json")
        with open(recipe, "w") as f:
            json.dump({"name": "apart", "dialect": "native",
                       "rules": [{"roles": ["shared.gate"], "to": "fp8"}, {"roles": ["mlp.down"], "to": "fp8"}]}, f)
        found = container.read_directory(self.convert(self.write(model), "apart", "--recipe", recipe))
        for name, (dtype, _) in found.items():
            if not name.endswith("_scale_inv"):
                quantized = "shared_experts.gate_proj" in name or ("down_proj" in name and ".experts." not in name)
                self.assertEqual(dtype == "F8_E4M3", quantized, name)

    def test_scales_of_rows_under_the_names_of_modelopt(self):
        """They stay [rows, 1], which is said where readers are known to want [rows]."""
        model = Glm4Moe(fp8="row")
        source = self.write(model)
        for options, said in ((("--recipe", "nvfp4-experts"), True), (("--recipe", "nvfp4"), False),
                              (("--recipe", "nvfp4-experts", "--dialect", "compressed-tensors"), False), (("--copy",), False)):
            with self.subTest(options=options):
                result = self.run_tool("mimo-convert", source, self.at("-".join(options)), *options)
                self.assertEqual("scales of [rows, 1]" in result.stderr, said, result.stderr)

    def test_readers_ask_for_shared_gate_and_up_as_one(self):
        model = Glm4Moe(fp8="block")
        out = self.convert(self.write(model), "nvfp4", "--recipe", "nvfp4")
        ignored = set(self.ignored(out, "ignore"))
        for n in range(1, 4):
            for module in ("shared_experts.gate_up_proj", "shared_experts.down_proj"):
                self.assertIn(f"model.layers.{n}.mlp.{module}", ignored)

    def test_engine_directories(self):
        model = Glm4Moe(heads=16, kv_heads=4, intermediate=1024, moe_intermediate=512, experts=4)
        source = self.write(model)
        for tp in (1, 2, 4, 8):
            with self.subTest(tp=tp):
                self.assert_same_tensors(model.tensors, self.convert(source, f"tp{tp}", "--to", "vllm", "--tp", tp))
        fp8 = self.convert(source, "fp8", "--recipe", "fp8-all+head")
        whole = container.read_directory(fp8)
        self.assert_same_tensors(whole, self.convert(fp8, "fp8-tp4", "--to", "vllm", "--tp", 4))
        result = self.run_tool("mimo-convert", fp8, self.at("no"), "--to", "vllm", "--tp", 8, code=2)
        self.assertIn("shared experts", result.stderr)
        result = self.run_tool("mimo-convert", fp8, self.at("no"), "--to", "vllm", "--tp", 8, "--ep", 8, code=2)
        self.assertIn("experts", result.stderr)

    def test_a_partial_block_within_a_rank_is_refused_and_padded(self):
        """Air's dense layer: at TP 2 a rank would begin inside a block."""
        model = Glm4Moe(fp8="block", heads=8, kv_heads=2, intermediate=1216, moe_intermediate=256)
        source = self.write(model)
        self.assert_same_tensors(model.tensors, self.convert(source, "tp1", "--to", "vllm", "--tp", 1, "--pad"))
        result = self.run_tool("mimo-convert", source, self.at("no"), "--to", "vllm", "--tp", 2, code=2)
        self.assertIn("dense layers", result.stderr)
        out = self.convert(source, "tp2", "--to", "vllm", "--tp", 2, "--pad")
        self.assertEqual(compare.load_json(out, "config.json")["intermediate_size"], 1280)

    def test_channels_need_no_blocks(self):
        model = Glm4Moe(fp8="row", heads=16, kv_heads=4, intermediate=1216 - 64, moe_intermediate=192)
        source = self.write(model)
        self.assert_same_tensors(model.tensors, self.convert(source, "tp2", "--to", "vllm", "--tp", 2))

    def test_padded_heads_have_bias(self):
        """Heads that --pad adds are zero in weight and bias alike, and what was there stays in front."""
        model = Glm4Moe(heads=8, kv_heads=2, moe_intermediate=384, intermediate=384)
        out = self.convert(self.write(model), "padded", "--to", "vllm", "--tp", 3, "--pad")
        found, config = container.read_directory(out), compare.load_json(out, "config.json")
        self.assertEqual((config["num_attention_heads"], config["num_key_value_heads"]), (12, 3))
        for n in range(4):
            for x, heads in (("q", 12), ("k", 3), ("v", 3)):
                for part in ("weight", "bias"):
                    name = f"model.layers.{n}.self_attn.{x}_proj.{part}"
                    before = model.tensors[name][1]
                    self.assertEqual(found[name][1].shape[0], heads * 128, name)
                    self.assertTrue(np.array_equal(found[name][1][:before.shape[0]], before), name)
                    self.assertFalse(found[name][1][before.shape[0]:].any(), name)

    def test_compare_and_mtp(self):
        model = Glm4Moe(fp8="row")
        source = self.write(model)
        bf16 = self.convert(source, "bf16", "--dtype", "bf16")
        self.run_tool("mimo-verify", "compare", source, bf16, "--within-codec")
        found = json.loads(self.run_tool("mimo-verify", "mtp", source, "--json").stdout)
        self.assertEqual((found["whole"], found["announced"]), (1, 1))
        tensors = dict(model.as_bf16())
        name = "model.layers.2.mlp.shared_experts.up_proj.weight"
        tensors[name] = ("BF16", tensors[name][1][::-1].copy())
        other = Glm4Moe(seed=1)
        other.tensors = tensors
        result = self.run_tool("mimo-verify", "compare", bf16, self.write(other, "other"), code=1)
        self.assertIn(name, result.stdout)

    def test_fused_attention_and_megatron_are_refused(self):
        source = self.write(Glm4Moe())
        for options in (("--qkv", "fused:2"), ("--to", "megatron", "--dtype", "bf16")):
            with self.subTest(options=options):
                self.run_tool("mimo-convert", source, self.at("no"), *options, code=2)
                self.assert_nothing_published(self.at("no"))

    def test_what_the_family_has_not_is_refused(self):
        for name, shape in (("model.layers.0.self_attn.o_proj.bias", (256,)),
                            ("model.layers.0.self_attn.attention_sink_bias", (8,)),
                            ("model.layers.0.enorm.weight", (256,)),
                            ("model.layers.3.mlp.gate_proj.weight", (192, 256)),
                            ("model.layers.0.mlp.shared_experts.gate_proj.weight", (128, 256))):
            with self.subTest(name):
                self.setUp()
                model = Glm4Moe()
                model.put(name, np.zeros(shape))
                result = self.run_tool("mimo-convert", self.write(model), self.at("out"), "--dtype", "bf16", code=3)
                self.assertIn(name, result.stderr)
                self.assert_nothing_published(self.at("out"))

    def test_what_is_missing_is_found(self):
        for name in ("model.layers.1.self_attn.v_proj.bias", "model.layers.2.mlp.shared_experts.up_proj.weight",
                     "model.layers.3.shared_head.head.weight", "model.layers.3.mlp.experts.2.down_proj.weight"):
            with self.subTest(name):
                self.setUp()
                model = Glm4Moe()
                del model.tensors[name]
                result = self.run_tool("mimo-convert", self.write(model), self.at("out"), "--dtype", "bf16", code=3)
                self.assertIn(name, result.stderr)


if __name__ == "__main__":
    unittest.main()
