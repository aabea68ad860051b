"""Proves that what other tools leave is refused by its true name: exit code 3, an id, the name said, nothing written, the
directory as it was; that the advice asks for nothing that destroys or re-fetches a valid file, and that commands in it
run; that inspect describes what it can; and that no release is called foreign, whole or damaged.
"""
import json
import os
import re
import shlex
import shutil
import unittest

import numpy as np

from harness import checkpoints, compare, foreign, tools
from harness.case import ToolCase
from harness.foreign import GGUF, POINTER, Box

COMMAND = re.compile(r"mimo-(?:inspect|convert|verify)(?: [^;,\[\]]+)")
HARMFUL = re.compile(r"remove the|delete|fetch the (?:file|shard) again|fetch it again|complete the checkpoint|rm -", re.I)

# What makes it of a V2.5 of ours: the id, and words that must be said.
BOXES = {
    "gptq": (foreign.gptq, "foreign.gptq", ["GPTQ"]),
    "gptq_without_config": (foreign.gptq_without_config, "foreign.gptq", ["GPTQ", "qweight"]),
    "gptq_old_config": (foreign.gptq_old_config, "foreign.gptq", ["GPTQ"]),
    "awq": (foreign.awq, "foreign.awq", ["AWQ"]),
    "awq_experts_only": (foreign.awq_experts_only, "foreign.awq", ["AWQ"]),
    "packed_integers": (foreign.packed_integers, "foreign.packed_integers", ["GPTQ or AWQ"]),
    "auto_round": (foreign.auto_round, "foreign.auto_round", ["auto-round"]),
    "compressed_int4": (foreign.compressed_int4, "foreign.compressed_int", ["compressed-tensors", "INT4"]),
    "compressed_int8": (foreign.compressed_int8, "foreign.compressed_int", ["compressed-tensors", "INT8"]),
    "compressed_int8_mixed": (foreign.compressed_int8_mixed, "foreign.compressed_int", ["INT8"]),
    "modelslim": (foreign.modelslim, "foreign.msmodelslim", ["msmodelslim", "INT8"]),
    "modelslim_bare": (foreign.modelslim_bare, "foreign.msmodelslim", ["msmodelslim", "weight_offset"]),
    "mlx_quantized": (foreign.mlx_quantized, "foreign.mlx", ["MLX"]),
    "mlx_mxfp4": (foreign.mlx_mxfp4, "foreign.mlx", ["MLX"]),
    "mlx_stacked": (foreign.mlx_stacked, "foreign.mlx_stacked", ["MLX", "switch_mlp"]),
    "exl3": (foreign.exl3, "foreign.exl3", ["EXL3"]),
    "exl2": (foreign.exl2, "foreign.exl2", ["EXL2"]),
    "bitsandbytes_nf4": (foreign.bitsandbytes_nf4, "foreign.bitsandbytes", ["bitsandbytes"]),
    "bitsandbytes_int8": (foreign.bitsandbytes_int8, "foreign.bitsandbytes", ["bitsandbytes", "SCB"]),
    "hqq": (foreign.hqq, "foreign.hqq", ["HQQ"]),
    "torchao": (foreign.torchao, "foreign.torchao", ["torchao"]),
    "quanto": (foreign.quanto, "foreign.quanto", ["quanto"]),
    "aqlm": (foreign.aqlm, "foreign.vector_codes", ["AQLM"]),
    "modelopt_awq": (foreign.modelopt_awq, "foreign.modelopt_int", ["ModelOpt"]),
    "int8": (foreign.int8, "foreign.int8", ["INT8"]),
    "e5m2": (foreign.e5m2, "foreign.e5m2", ["E5M2"]),
    "fnuz": (foreign.fnuz, "foreign.fnuz", ["FNUZ"]),
    "fnuz_one_layer": (foreign.fnuz_one_layer, "foreign.fnuz", ["FNUZ", "layers.1."]),
    "f6": (foreign.f6, "foreign.f6", ["six-bit"]),
    "transformers5": (foreign.transformers5, "foreign.stacked_experts",
                      ["stacked experts as transformers 5 saves them", "save_original_format"]),
    "native": (foreign.native, "foreign.transformers_native", ["transformers", "sinks"]),
    "native_config_only": (foreign.native_config_only, "foreign.transformers_native", ["layer_types"]),
    "engine_memory": (foreign.engine_memory, "foreign.engine_names", ["w13_weight"]),
    "nested_config": (foreign.nested_config, "foreign.nested_config", ["text_config"]),
    "unknown_prefix": (foreign.unknown_prefix, "foreign.prefix", ['"thinker.brain."', "model.layers.0"]),
    "base_model": (foreign.base_model, "foreign.base_model", ["without its head"]),
    "megatron_names": (foreign.megatron_names, "foreign.megatron_names", ["Megatron"]),
    "deepseek_names": (foreign.original_names(("self_attn.qkv_proj", "attn.wq_a"), ("self_attn.o_proj", "attn.wo"),
                                              (".mlp.", ".ffn."), ("gate_proj", "w1")),
                       "foreign.original_names", ["another project's names"]),
    "meta_names": (foreign.original_names(("self_attn.qkv_proj", "attention.wq"), ("self_attn.o_proj", "attention.wo"),
                                          (".mlp.", ".feed_forward.")),
                   "foreign.original_names", ["another project's names"]),
    "mtp_alone": (foreign.mtp_alone, "foreign.mtp_alone", ["MTP layers alone"]),
    "dcp_safetensors_two": (foreign.dcp_safetensors_two, "foreign.dcp_safetensors", ["DCP_SHARDING_INFO"]),
    "stale_scale": (foreign.stale_scale, "pair.stale_scale", ["weight_scale_inv", "stale", "down_proj.weight"]),
    "raw_codes": (foreign.raw_codes, "pair.no_scale", ["F8_E4M3", "weight_scale_inv", "down_proj.weight"]),
    "two_scales": (foreign.two_scales, "pair.two_scales", ["weight_scale"]),
    "mimo_7b": (foreign.other_model("mimo", "MiMoForCausalLM", dense=True), "foreign.mimo_7b", ["MiMo-7B"]),
    "mimo_vl": (foreign.other_model("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"), "foreign.mimo_vl", ["MiMo-VL"]),
    "mimo_audio": (foreign.other_model("qwen2", "MiMoAudioForCausalLM"), "foreign.mimo_audio", ["MiMo-Audio"]),
    "mimo_asr": (foreign.other_model("qwen2", "MiMoV2ASRForCausalLM"), "foreign.mimo_asr", ["MiMo-V2.5-ASR"]),
    "audio_tokenizer": (foreign.other_model("mimo_audio_tokenizer", "MiMoAudioTokenizer"), "foreign.audio_tokenizer",
                        ["audio tokenizer"]),
    "gpt_oss": (foreign.other_model("gpt_oss", "GptOssForCausalLM"), "foreign.gpt_oss", ["gpt-oss"]),
    "dflash": (foreign.other_model("qwen3", "DFlashDraftModel"), "foreign.dflash", ["DFlash"]),
    "deepseek": (foreign.other_model("deepseek_v3", "DeepseekV3ForCausalLM"), "foreign.deepseek", ["DeepSeek"]),
    "qwen3_next": (foreign.other_model("qwen3_next", "Qwen3NextForCausalLM"), "foreign.qwen", ["Qwen"]),
    "glm": (foreign.other_model("glm4", "Glm4ForCausalLM"), "foreign.glm", ["GLM"]),
    "minimax": (foreign.other_model("minimax_m1", "MiniMaxM1ForCausalLM"), "foreign.minimax", ["MiniMax"]),
    "kimi": (foreign.other_model("kimi_k2", "KimiK2ForCausalLM"), "foreign.kimi", ["Kimi"]),
    "stranger": (foreign.other_model("ernie4_5_moe", "Ernie4_5_MoeForCausalLM"), "foreign.model", ["ernie4_5_moe"]),
}


def dcp_metadata(names):
    """As much of a pickle as a search for names sees."""
    return b"\x80\x04\x95" + b"".join(b"\x8c" + bytes([len(n)]) + n.encode() for n in names) + b"."


class Foreign(ToolCase):
    def source(self, variant="v2.5"):
        return checkpoints.ours(variant, **checkpoints.TINY)[0]

    def refused(self, directory, id, words, before=None):
        """Both tools refuse, alike; -> inspect's document."""
        if before is None and os.path.isdir(directory):
            before = compare.tree(directory)
        result = self.run_tool("mimo-convert", directory, self.at("out"), "--dtype", "bf16", code=3)
        self.assert_nothing_published(self.at("out"))
        self.assertFalse(os.path.exists(self.at("out")), "a refused run left something")
        self.assertIn(f"[{id}]", result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertIsNone(HARMFUL.search(result.stderr), result.stderr)
        inspected = self.run_tool("mimo-inspect", directory, "--json", code=3)
        document = json.loads(inspected.stdout or inspected.stderr)
        error = document.get("error", document)
        self.assertEqual(error["id"], id)
        self.follow(error["advice"], id)
        if before:
            self.assertEqual(compare.tree(directory), before)
        return document

    def follow(self, advice, id):
        """Commands that the advice names succeed, or reach another refusal."""
        for command in COMMAND.findall(advice):
            tool, *arguments = shlex.split(command)
            result = tools.run(tool, *arguments)
            if result.code != 0:
                other = re.search(r"\[([a-z_.0-9]+)\]", result.stderr)
                self.assertTrue(other and other.group(1) != id, tools.describe(result))

    def test_boxes(self):
        for name, (edit, id, words) in BOXES.items():
            with self.subTest(name):
                box = Box(self.source())
                edit(box)
                directory = box.write(self.at(name))
                if hasattr(box, "second"):
                    foreign.save(os.path.join(directory, box.second[0]), box.second[1], box.header)
                self.refused(directory, id, words)
                shutil.rmtree(directory)

    def test_every_row_of_the_table_has_a_case(self):
        """A row that no test names can be lost without a word."""
        with open(os.path.join(tools.SOURCE, "schemas", "foreign.json")) as f:
            ids = {row["id"] for row in json.load(f)["findings"]}
        with open(os.path.abspath(__file__)) as f:
            named = set(re.findall(r'"(foreign\.[a-z0-9_]+)"', f.read()))
        self.assertEqual(sorted(ids - named), [])

    def test_split_attention_of_v2_flash(self):
        for name in ("gptq", "awq", "compressed_int4", "modelslim", "mlx_quantized", "exl3", "fnuz", "transformers5"):
            with self.subTest(name):
                edit, id, words = BOXES[name]
                box = Box(self.source("v2-flash"))
                edit(box)
                self.refused(box.write(self.at(name)), id, words)

    def test_made_of_what_we_wrote(self):
        """Our marker in config.json, which stays when the model is saved again, hides no name."""
        split = self.convert(self.source("v2-flash"), "split", "--dtype", "bf16", "--qkv", "split")
        box = Box(split)
        self.assertIn("mimo_layout", box.config)
        foreign.transformers5(box)
        self.refused(box.write(self.at("stacked")), "foreign.stacked_experts", ["gate_up_proj"])

    def test_what_inspect_still_says(self):
        box = Box(self.source())
        foreign.modelslim(box)
        document = self.refused(box.write(self.at("modelslim")), "foreign.msmodelslim", ["msmodelslim"])
        self.assertEqual((document["layers"], document["mtp_layers"]), (2, 1))
        self.assertIn("I8", [d["dtype"] for d in document["quantization"]["dtypes"]])
        self.assertEqual({row["qkv_storage"] for row in document["layer_table"]}, {"I8"})
        self.assertGreater(document["files"], 0)

    # ---- files --------------------------------------------------------------------------------------------------------

    def copy(self, name="copy"):
        out = self.at(name)
        shutil.copytree(self.source(), out)
        return out

    def put(self, path, content):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())

    def test_pointers(self):
        for file in ("model_mtp.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json",
                     "chat_template.jinja", "dflash/model.safetensors"):
            with self.subTest(file):
                directory = self.copy()
                self.put(os.path.join(directory, file), POINTER)
                self.refused(directory, "foreign.lfs_pointer", ["Git LFS", "git lfs pull", file])
                shutil.rmtree(directory)

    def test_a_pointer_to_a_picture_harms_nobody(self):
        directory = self.copy()
        self.put(os.path.join(directory, "assets", "logo.png"), POINTER)
        self.run_tool("mimo-inspect", directory)

    def test_error_pages(self):
        for file, page in (("config.json", "<!DOCTYPE html>\n<html><body>Sign in</body></html>"), ("tokenizer.json", "Entry not found"),
                           ("model_mtp.safetensors", "<html>\n<head><title>429</title></head></html>"),
                           ("model.safetensors.index.json", '{"error":"Invalid username or password."}')):
            with self.subTest(file):
                directory = self.copy()
                self.put(os.path.join(directory, file), page)
                self.refused(directory, "foreign.error_page", [file])
                shutil.rmtree(directory)

    def test_unfinished(self):
        directory = self.copy()
        os.remove(os.path.join(directory, "model_pp0_ep1_shard0.safetensors"))
        self.put(os.path.join(directory, "model_pp0_ep1_shard0.safetensors.incomplete"), b"\0" * 100)
        self.refused(directory, "foreign.unfinished", ["unfinished download"])

    def test_truncated(self):
        directory = self.copy()
        path = os.path.join(directory, "model_pp0_ep1_shard0.safetensors")
        os.truncate(path, os.path.getsize(path) - 1000)
        self.refused(directory, "files.truncated", ["model_pp0_ep1_shard0.safetensors"])

    def test_dangling_cache(self):
        snapshot = self.at("models--XiaomiMiMo--MiMo-V2.5", "snapshots", "abc")
        os.makedirs(snapshot)
        for file in ("config.json", "model.safetensors.index.json", "model.safetensors"):
            os.symlink(f"../../blobs/{file}", os.path.join(snapshot, file))
        self.refused(snapshot, "foreign.dangling_link", ["links whose files are not there"], before={})

    def test_parent(self):
        directory = self.at("around", "MiMo-V2.5")
        shutil.copytree(self.source(), directory)
        self.refused(self.at("around"), "foreign.parent", ["mimo-inspect", directory])

    def test_cache_of_a_repository(self):
        cache = self.at("models--XiaomiMiMo--MiMo-V2.5")
        shutil.copytree(self.source(), os.path.join(cache, "snapshots", "0123abc"))
        self.put(os.path.join(cache, "refs", "main"), "0123abc")
        self.refused(cache, "foreign.parent", [os.path.join(cache, "snapshots", "0123abc")])

    def test_containers(self):
        config = json.dumps(Box(self.source()).config)
        cases = {
            "gguf": ({"model-00001-of-00002.gguf": GGUF}, "foreign.gguf", "GGUF"),
            "gguf_with_config": ({"model-q4_k.gguf": GGUF, "config.json": config}, "foreign.gguf", "GGUF"),
            "bin": ({"config.json": config, "pytorch_model-00001-of-00002.bin": b"PK\3\4",
                     "pytorch_model.bin.index.json": "{}"}, "foreign.pytorch_bin", "PyTorch"),
            "deepspeed": ({"zero_to_fp32.py": "#", "latest": "global_step10",
                           "global_step10/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": b"PK\3\4"},
                          "foreign.deepspeed", "DeepSpeed"),
            "onnx": ({"config.json": config, "model.onnx": b"\x08\x08"}, "foreign.other_framework", "ONNX"),
            "lora": ({"adapter_config.json": json.dumps({"peft_type": "LORA"}), "adapter_model.safetensors": b""},
                     "foreign.adapter", "LoRA"),
            "dcp": ({".metadata": dcp_metadata(["model.model.embed_tokens.weight", "model.model.layers.0.self_attn.o_proj.weight"]),
                     "__0_0.distcp": b"PK\3\4", "config.json": config}, "foreign.dcp_hf", "Hugging Face names"),
            "fsdp": ({"metadata.json": json.dumps({"sharded_backend": "fsdp_dtensor", "sharded_backend_version": 1}),
                      ".metadata": dcp_metadata(["module.decoder"]), "__0_0.distcp": b"PK\3\4"},
                     "foreign.megatron_fsdp", "Megatron FSDP"),
            "trtllm": ({"config.json": json.dumps({"architecture": "QWenForCausalLM", "mapping": {"tp_size": 1}}),
                        "rank0.safetensors": foreign.container.pack_header({})}, "foreign.tensorrt_llm", "TensorRT-LLM"),
        }
        for name, (files, id, word) in cases.items():
            with self.subTest(name):
                for file, content in files.items():
                    self.put(self.at(name, file), content)
                self.refused(self.at(name), id, [word])

    def test_a_file(self):
        self.put(self.at("model.gguf"), GGUF)
        self.refused(self.at("model.gguf"), "foreign.gguf_file", ["GGUF"])
        self.refused(os.path.join(self.source(), "model_mtp.safetensors"), "foreign.file", ["directory"])

    def test_lora_arrays_alone(self):
        box = Box(self.source())
        box.tensors = {f"base_model.model.model.layers.0.self_attn.o_proj.lora_{x}.weight": foreign.zeros("BF16", 8, 8) for x in "AB"}
        box.files = {}
        self.refused(box.write(self.at("lora")), "foreign.adapter", ["LoRA"])

    # ---- what opens without being this model ---------------------------------------------------------------------------

    def test_a_dense_model_that_would_open(self):
        """Every name that a config without experts asks for is there; it is a Llama all the same."""
        box = Box(self.source("v2-flash"))
        box.decode()
        c = box.config
        for key in ("hybrid_layer_pattern", "moe_layer_freq", "n_routed_experts", "add_swa_attention_sink_bias"):
            c.pop(key, None)
        c.update(model_type="llama", architectures=["LlamaForCausalLM"], num_hidden_layers=1, vocab_size=64)
        c.pop("num_nextn_predict_layers", None)
        box.tensors = {n: t for n, t in box.tensors.items() if ".layers.1." not in n and ".mtp." not in n}
        directory = box.write(self.at("llama"))
        self.refused(directory, "foreign.llama", ["Llama"])
        c.update(model_type="mimo_v2_flash", architectures=["MiMoV2FlashForCausalLM"])
        shutil.rmtree(directory)
        self.run_tool("mimo-inspect", box.write(directory))

    # ---- the counterpart -------------------------------------------------------------------------------------------------

    def test_no_release_is_foreign(self):
        for variant in ("v2.5", "v2-flash"):
            with self.subTest(variant):
                self.run_tool("mimo-inspect", self.source(variant))

    def test_no_damaged_release_is_foreign(self):
        """What is merely incomplete or contradictory keeps its own refusal."""
        def lose(*names):
            def edit(box):
                for name in names:
                    box.tensors.pop(name)
            return edit

        def shrink(box):
            box.config["n_routed_experts"] = 3

        def narrow(box):
            box.config["hidden_size"] = 512

        def float64(box):
            name = "model.norm.weight"
            box.tensors[name] = ("F64", np.zeros(256, np.float64))

        cases = {"lost norm": lose("model.norm.weight"), "lost head": lose("lm_head.weight"), "more experts": shrink,
                 "another width": narrow, "a type": float64,
                 "lost expert": lose("model.layers.1.mlp.experts.1.up_proj.weight",
                                     "model.layers.1.mlp.experts.1.up_proj.weight_scale_inv")}
        for variant in ("v2.5", "v2-flash"):
            for name, edit in cases.items():
                with self.subTest(name, variant=variant):
                    box = Box(self.source(variant))
                    edit(box)
                    directory = box.write(self.at("damaged"))
                    result = self.run_tool("mimo-inspect", directory, code=3)
                    self.assertNotIn("[foreign.", result.stderr)
                    self.assertIsNone(HARMFUL.search(result.stderr), result.stderr)
                    shutil.rmtree(directory)

    def test_no_synthetic_release_is_foreign(self):
        for preset in ("mimo-v2-flash", "mimo-v2.5", "mimo-v2.5-pro-fp4", "mimo-v2.6-flash"):
            with self.subTest(preset):
                out = self.at(preset)
                self.run_tool("mimo-synth", preset, out, "--sparse", "--layers", "3", "--experts", "8")
                os.remove(os.path.join(out, "model.safetensors.index.json"))
                self.run_tool("mimo-inspect", out)
                largest = max((f for f in os.listdir(out) if f.endswith(".safetensors")),
                              key=lambda f: os.path.getsize(os.path.join(out, f)))
                os.remove(os.path.join(out, largest))
                self.assertNotIn("[foreign.", self.run_tool("mimo-inspect", out, code=3).stderr)
                shutil.rmtree(out)


class Prefixes(ToolCase):
    """Names under a prefix are read, and what is written has the released ones."""

    def both(self, rename, *options, edit=None, variant="v2.5", **size):
        source, _ = checkpoints.ours(variant, **dict(checkpoints.TINY, **size))
        box = Box(source)
        if edit:
            edit(box)
        plain = box.write(self.at("plain"))
        box.rename(rename)
        prefixed = box.write(self.at("prefixed"))
        inspected = self.run_tool("mimo-inspect", prefixed)
        self.assertIn("tensor names are under", inspected.stdout)
        expected, found = self.convert(plain, "expected", *options), self.convert(prefixed, "found", *options)
        self.assert_same_tensors(expected, found)
        for file in ("config.json", "model.safetensors.index.json"):
            with open(os.path.join(expected, file)) as a, open(os.path.join(found, file)) as b:
                self.assertEqual(json.load(a), json.load(b), file)
        self.run_tool("mimo-verify", "check", found)
        for name in ("plain", "prefixed", "expected", "found"):
            shutil.rmtree(self.at(name))

    def test_each(self):
        for prefix in ("language_model.", "base_model.model.", "module.", "_orig_mod.", "transformer.", "text_model.",
                       "module._orig_mod."):
            with self.subTest(prefix):
                self.both(lambda n: prefix + n, "--dtype", "bf16", "--qkv", "split")

    def test_inside(self):
        for prefix in ("model.language_model.", "model.model.", "model.language_model.language_model."):
            with self.subTest(prefix):
                self.both(lambda n: prefix + n.removeprefix("model.") if n.startswith("model.") else n,
                          "--dtype", "bf16", "--qkv", "split")

    def test_head_inside(self):
        self.both(lambda n: "model.language_model." + n.removeprefix("model."), "--dtype", "bf16", "--qkv", "split")

    def test_model_inside(self):
        self.both(lambda n: "model.text_model." + n.removeprefix("model.") if n.startswith("model.") else n, "--qkv", "split")

    def test_towers_beside(self):
        """Towers under the names that other classes give them, and a head inside of the model."""
        def renamed(*pairs):
            def change(name):
                for released, stored in pairs:
                    if name.startswith(released):
                        return stored + name.removeprefix(released)
                return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
            return change
        for pairs in ((("visual.", "model.visual."),), (("visual.", "vision_tower."),), (("lm_head.", "model.lm_head."),),
                      (("visual.", "model.vision_tower."), ("audio_encoder.", "model.audio_encoder."),
                       ("speech_embeddings.", "model.speech_embeddings."))):
            with self.subTest(pairs):
                self.both(renamed(*pairs), "--dtype", "bf16", "--qkv", "split", towers=True)

    def test_kept_as_it_is(self):
        """Nothing but names changes, and that is a change of every file."""
        for link in ("none", "hard"):
            with self.subTest(link):
                self.both(lambda n: "language_model." + n, "--dtype", "keep", "--qkv", "keep", "--link", link)

    def test_split_attention(self):
        self.both(lambda n: "language_model." + n, "--qkv", "fused", variant="v2-flash")

    def test_ignore_lists_follow(self):
        source, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        box = Box(source)
        box.rename(lambda n: "language_model." + n)
        quantization = box.config["quantization_config"]
        quantization["ignored_layers"] = ["language_model." + n for n in quantization["ignored_layers"]]
        quantization["ignored_layers"] += ["re:language_model\\.lm_head"]
        out = self.convert(box.write(self.at("prefixed")), "out", "--qkv", "split")
        with open(os.path.join(out, "config.json")) as f:
            listed = json.load(f)["quantization_config"]["ignored_layers"]
        self.assertIn("model.layers.0.self_attn.o_proj", listed)
        self.assertIn("re:lm_head", listed)
        self.assertEqual([n for n in listed if "language_model" in n], [])

    def test_lists_of_hf_quant_config_follow(self):
        """ModelOpt's second document: engines that read it look there for the names of modules."""
        source, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        made = self.convert(source, "made", "--dtype", "nvfp4")
        lists = {}
        for name, prefix in (("plain", ""), ("prefixed", "language_model.")):
            box = Box(made)
            box.rename(lambda n: prefix + n)
            box.config.pop("mimo_layout")
            quantization = box.config["quantization_config"]
            with open(os.path.join(made, "hf_quant_config.json")) as f:
                second = json.load(f)
            for where, key in ((quantization, "ignore"), (second["quantization"], "exclude_modules")):
                where[key] = [prefix + n for n in where[key]]
            directory = box.write(self.at(name))
            os.remove(os.path.join(directory, "mimo-manifest.json"))
            with open(os.path.join(directory, "hf_quant_config.json"), "w") as f:
                json.dump(second, f)
            self.assertNotIn("declared.", self.run_tool("mimo-inspect", directory).stdout)
            out = self.convert(directory, name + "-out", "--copy")
            with open(os.path.join(out, "hf_quant_config.json")) as f:
                lists[name] = json.load(f)
            self.run_tool("mimo-verify", "check", out)
        self.assertIn("lm_head", lists["plain"]["quantization"]["exclude_modules"])
        self.assertEqual(lists["plain"], lists["prefixed"])

    def test_reference_under_a_prefix(self):
        """What is like it would have its header, and other names: refused, and the advice works."""
        source, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        run = self.convert(source, "run", "--dtype", "bf16", "--qkv", "split")
        box = Box(source)
        box.rename(lambda n: "language_model." + n)
        reference = box.write(self.at("reference"))
        result = self.run_tool("mimo-convert", run, self.at("like"), "--like", reference, code=3)
        self.assertIn("[names.prefixed_reference]", result.stderr)
        self.assert_nothing_published(self.at("like"))
        released = self.convert(reference, "released", "--dtype", "keep")
        self.convert(run, "like", "--like", released)
        self.assert_same_tensors(source, self.at("like"))

    def test_two_names_of_one_tensor_are_refused(self):
        source, _ = checkpoints.ours("v2.5", **checkpoints.TINY)
        box = Box(source)
        box.rename(lambda n: "language_model." + n)
        box.tensors["lm_head.weight"] = box.tensors["language_model.lm_head.weight"]
        result = self.run_tool("mimo-inspect", box.write(self.at("twice")), code=3)
        self.assertIn("[travel.stored_twice]", result.stderr)

    def test_transposed_towers_keep_their_names(self):
        """MLX stores channels last: they are no tensors of the release."""
        source, _ = checkpoints.ours("v2.5", **dict(checkpoints.TINY, towers=True))
        box = Box(source)
        name = "visual.patch_embed.proj.weight"
        box.tensors[name] = ("BF16", np.zeros((16, 2, 16, 16, 3), np.uint16))
        box.rename(lambda n: n.replace("visual.", "vision_tower.") if n.startswith("visual.") else "language_model." + n)
        directory = box.write(self.at("mlx"))
        result = self.run_tool("mimo-convert", directory, self.at("out"), "--dtype", "bf16", "--qkv", "split", code=3)
        self.assertIn("vision_tower.", result.stderr)
        box.tensors["vision_tower.patch_embed.proj.weight"] = ("BF16", np.zeros((16, 3, 2, 16, 16), np.uint16))
        shutil.rmtree(directory)
        self.convert(box.write(directory), "out", "--dtype", "bf16", "--qkv", "split")


if __name__ == "__main__":
    unittest.main()
