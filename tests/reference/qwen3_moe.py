"""Small Qwen3-MoE checkpoints with known values: block FP8 everywhere but embeddings, head, norms and router, which are
F32, F16 or BF16 by release; norms of Q and K over one head; no bias, no shared expert, no MTP layer.

Facts: docs/reference/qwen3-checkpoints.md.
"""
from reference.probe import BLOCK, Probe


class Qwen3Moe(Probe):
    def __init__(self, layers=2, hidden=256, heads=8, kv_heads=2, head_dim=128, experts=3, intermediate=256, vocab=320,
                 dense=(), **storage):
        self.layers, self.hidden, self.n_heads, self.kv_heads = layers, hidden, heads, kv_heads
        self.head_dim, self.experts, self.intermediate, self.vocab = head_dim, experts, intermediate, vocab
        self.dense = tuple(dense)
        super().__init__(**storage)

    def build(self):
        self.matrix("model.embed_tokens.weight", self.vocab, self.hidden)
        self.matrix("lm_head.weight", self.vocab, self.hidden)
        self.norm("model.norm.weight", self.hidden)
        q_rows, kv_rows = self.n_heads * self.head_dim, self.kv_heads * self.head_dim
        for n in range(self.layers):
            layer = f"model.layers.{n}"
            attention = f"{layer}.self_attn"
            self.linear(f"{attention}.q_proj.weight", q_rows, self.hidden, 0.02)
            self.linear(f"{attention}.k_proj.weight", kv_rows, self.hidden, 0.2)
            self.linear(f"{attention}.v_proj.weight", kv_rows, self.hidden, 0.004)
            self.linear(f"{attention}.o_proj.weight", self.hidden, q_rows, 0.05)
            for x in "qk":
                self.heads(f"{attention}.{x}_norm.weight", 1, self.head_dim, 1 if x == "q" else 2)
            self.norm(f"{layer}.input_layernorm.weight", self.hidden)
            self.norm(f"{layer}.post_attention_layernorm.weight", self.hidden)
            experts = [""] if n in self.dense else [f"experts.{e}." for e in range(self.experts)]
            if n not in self.dense:
                self.matrix(f"{layer}.mlp.gate.weight", self.experts, self.hidden)
            for expert in experts:
                self.linear(f"{layer}.mlp.{expert}gate_proj.weight", self.intermediate, self.hidden, 0.02)
                self.linear(f"{layer}.mlp.{expert}up_proj.weight", self.intermediate, self.hidden, 0.3)
                self.linear(f"{layer}.mlp.{expert}down_proj.weight", self.hidden, self.intermediate, 0.05)

    def config(self):
        document = {
            "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "decoder_sparse_step": 1,
            "head_dim": self.head_dim, "hidden_act": "silu", "hidden_size": self.hidden,
            "intermediate_size": self.intermediate, "max_position_embeddings": 40960,
            "mlp_only_layers": list(self.dense), "model_type": "qwen3_moe",
            "moe_intermediate_size": self.intermediate, "norm_topk_prob": True, "num_attention_heads": self.n_heads,
            "num_experts": self.experts, "num_experts_per_tok": min(8, self.experts),
            "num_hidden_layers": self.layers, "num_key_value_heads": self.kv_heads, "rms_norm_eps": 1e-06,
            "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
            "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": self.vocab}
        if self.fp8:
            ignored = ["lm_head"] + [f"model.layers.{n}.{x}" for n in range(self.layers)
                                     for x in ("input_layernorm", "mlp.gate", "post_attention_layernorm")
                                     if x != "mlp.gate" or n not in self.dense]
            document["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                               "weight_block_size": [BLOCK, BLOCK],
                                               "modules_to_not_convert": ignored}
        return document
