"""Small GLM-4.5 checkpoints with known values: bias of Q, K and V, norms of Q and K where `qk_norm`, dense layers in
front, a shared expert, a router with a bias in F32, and an MTP layer behind the decoder with its own embedding and head.
Released in BF16, or FP8 with a scale per channel as compressed-tensors stores it.

Facts: docs/reference/glm-checkpoints.md.
"""
from reference.probe import BLOCK, Probe


class Glm4Moe(Probe):
    def __init__(self, layers=3, hidden=256, heads=8, kv_heads=2, head_dim=128, experts=3, intermediate=192,
                 moe_intermediate=128, vocab=320, dense=1, shared=1, mtp=1, qk_norm=True, fp8="", **storage):
        self.layers, self.hidden, self.n_heads, self.kv_heads = layers, hidden, heads, kv_heads
        self.head_dim, self.experts, self.vocab = head_dim, experts, vocab
        self.intermediate, self.moe_intermediate = intermediate, moe_intermediate
        self.dense, self.shared, self.mtp, self.qk_norm = dense, shared, mtp, qk_norm
        super().__init__(fp8=fp8, **storage)

    def build(self):
        self.matrix("model.embed_tokens.weight", self.vocab, self.hidden)
        self.matrix("lm_head.weight", self.vocab, self.hidden)
        self.norm("model.norm.weight", self.hidden)
        for n in range(self.layers + self.mtp):
            layer = f"model.layers.{n}"
            self._attention(f"{layer}.self_attn")
            self.norm(f"{layer}.input_layernorm.weight", self.hidden)
            self.norm(f"{layer}.post_attention_layernorm.weight", self.hidden)
            if n < self.dense:
                self._mlp(f"{layer}.mlp", self.intermediate)
            else:
                self.matrix(f"{layer}.mlp.gate.weight", self.experts, self.hidden)
                bias = 8.5 + 3e-3 * self.random.standard_normal(self.experts)
                self.put(f"{layer}.mlp.gate.e_score_correction_bias", bias, "F32")
                for e in range(self.experts):
                    self._mlp(f"{layer}.mlp.experts.{e}", self.moe_intermediate)
                self._mlp(f"{layer}.mlp.shared_experts", self.shared * self.moe_intermediate, 3)
            if n >= self.layers:
                self.matrix(f"{layer}.embed_tokens.weight", self.vocab, self.hidden, 0.1)
                self.matrix(f"{layer}.shared_head.head.weight", self.vocab, self.hidden, 0.5)
                self.matrix(f"{layer}.eh_proj.weight", self.hidden, 2 * self.hidden)
                for norm in ("enorm", "hnorm", "shared_head.norm"):
                    self.norm(f"{layer}.{norm}.weight", self.hidden)

    def _attention(self, prefix):
        for x, heads, magnitude, mean in (("q", self.n_heads, 0.02, 1), ("k", self.kv_heads, 0.2, 20),
                                          ("v", self.kv_heads, 0.004, 400)):
            rows = heads * self.head_dim
            self.linear(f"{prefix}.{x}_proj.weight", rows, self.hidden, magnitude)
            self.heads(f"{prefix}.{x}_proj.bias", heads, self.head_dim, mean)
            if self.qk_norm and x != "v":
                self.heads(f"{prefix}.{x}_norm.weight", 1, self.head_dim, 1 if x == "q" else 2)
        self.linear(f"{prefix}.o_proj.weight", self.hidden, self.n_heads * self.head_dim, 0.05)

    def _mlp(self, prefix, width, factor=1):
        self.linear(f"{prefix}.gate_proj.weight", width, self.hidden, 0.02 * factor)
        self.linear(f"{prefix}.up_proj.weight", width, self.hidden, 0.3 * factor)
        self.linear(f"{prefix}.down_proj.weight", self.hidden, width, 0.05 * factor)

    def config(self):
        document = {
            "architectures": ["Glm4MoeForCausalLM"], "attention_bias": True, "first_k_dense_replace": self.dense,
            "head_dim": self.head_dim, "hidden_act": "silu", "hidden_size": self.hidden,
            "intermediate_size": self.intermediate, "max_position_embeddings": 131072, "model_type": "glm4_moe",
            "moe_intermediate_size": self.moe_intermediate, "n_group": 1, "n_routed_experts": self.experts,
            "n_shared_experts": self.shared, "norm_topk_prob": True, "num_attention_heads": self.n_heads,
            "num_experts_per_tok": min(8, self.experts), "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads, "num_nextn_predict_layers": self.mtp, "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 1000000, "routed_scaling_factor": 1.0,
            "tie_word_embeddings": False, "topk_group": 1, "torch_dtype": "bfloat16", "use_qk_norm": self.qk_norm,
            "vocab_size": self.vocab}
        ignored = ["lm_head"] + [f"model.layers.{n}.mlp.gate" for n in range(self.dense, self.layers + self.mtp)]
        ignored += [f"model.layers.{n}.eh_proj" for n in range(self.layers, self.layers + self.mtp)]
        if self.fp8 == "row":
            weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
            activations = dict(weights, strategy="token", dynamic=True)
            document["quantization_config"] = {
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights,
                                              "input_activations": activations}},
                "format": "float-quantized", "ignore": ignored, "quant_method": "compressed-tensors",
                "quantization_status": "compressed"}
        elif self.fp8:
            document["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                               "weight_block_size": [BLOCK, BLOCK],
                                               "modules_to_not_convert": ignored}
        return document
