"""The language model in float64, from its equations: tensors by their Hugging Face names with q, k and v apart, sizes and
constants from the keys of config.json.

    h = embed[token];   in every layer  h += attention(norm(h)),  h += mlp(norm(h));   logits = lm_head norm(h)

One sequence, all positions at once, nothing cached. Towers and MTP layers have no part in it.
"""
import numpy as np

from reference import codecs


def rms_norm(x, weight, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def rotated(x, dims, theta):
    """x [heads, positions, head_dim], its first `dims` turned: element i with element i + dims / 2, by the angle
    position * theta^(-2i / dims)."""
    half = dims // 2
    angle = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:dims]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle), x[..., dims:]],
                          axis=-1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class LanguageModel:
    def __init__(self, config, stored):
        """stored: {name: (dtype, array)} of BF16, FP16 or F32 tensors, as decode.stored_as gives them."""
        assert config["scoring_func"] == "sigmoid" and not config["attention_bias"] and config["n_shared_experts"] is None
        self.config = config
        self.weights = {name: codecs.decode_plain(*tensor).astype(np.float64) for name, tensor in stored.items()}
        # The closest that an expert left out came to one that was chosen, of all tokens so far. An engine adds sigmoid and
        # bias in FP32, whose step near 71 is 7.6e-6: below that it may choose otherwise and be right.
        self.margin = np.inf

    def logits(self, tokens):
        """[positions, vocabulary]"""
        config, weights = self.config, self.weights
        h = weights["model.embed_tokens.weight"][list(tokens)]
        for layer in range(config["num_hidden_layers"]):
            base = f"model.layers.{layer}"
            h = h + self.attention(f"{base}.self_attn", config["hybrid_layer_pattern"][layer] == 1,
                                   self.norm(f"{base}.input_layernorm", h))
            mlp = self.experts if config["moe_layer_freq"][layer] else self.dense
            h = h + mlp(f"{base}.mlp", self.norm(f"{base}.post_attention_layernorm", h))
        return self.norm("model.norm", h) @ weights["lm_head.weight"].T

    def greedy(self, prompt, count):
        """The `count` tokens that follow, each the likeliest after all before it; and how far ahead of the second the
        least decided of them was."""
        tokens, lead = list(prompt), np.inf
        for _ in range(count):
            last = self.logits(tokens)[-1]
            second, first = np.partition(last, -2)[-2:]
            tokens.append(int(np.argmax(last)))
            lead = min(lead, first - second)
        return tokens[len(prompt):], lead

    def norm(self, name, x):
        return rms_norm(x, self.weights[f"{name}.weight"], self.config["layernorm_epsilon"])

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T

    def attention(self, base, window, x):
        """Grouped queries; part of each head rotary; V times attention_value_scale. A layer with sinks has one more
        logit per head in the denominator; one with a window sees that many positions, its own included."""
        config, kind = self.config, "swa_" if window else ""
        heads, size = config[kind + "num_attention_heads"], config[kind + "head_dim"]
        n, kv = len(x), config[kind + "num_key_value_heads"]
        q, k, v = (self.linear(f"{base}.{letter}_proj", x).reshape(n, count, -1).swapaxes(0, 1)
                   for letter, count in (("q", heads), ("k", kv), ("v", kv)))
        assert q.shape[-1] == k.shape[-1] == size and v.shape[-1] == config[kind + "v_head_dim"]
        dims, theta = int(size * config["partial_rotary_factor"]), float(config[kind + "rope_theta"])
        q, k = rotated(q, dims, theta), rotated(k, dims, theta)
        k, v = (np.repeat(part, heads // kv, axis=0) for part in (k, v * (config["attention_value_scale"] or 1.0)))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(size)
        behind = np.arange(n)[:, None] - np.arange(n)
        seen = (behind >= 0) & ((behind < config["sliding_window"]) | (not window))
        scores = np.where(seen, scores, -np.inf)
        if config["add_swa_attention_sink_bias" if window else "add_full_attention_sink_bias"]:
            sink = self.weights[f"{base}.attention_sink_bias"]
            scores = np.concatenate([scores, np.broadcast_to(sink[:, None, None], (heads, n, 1))], axis=-1)
        share = np.exp(scores - scores.max(axis=-1, keepdims=True))
        share = (share / share.sum(axis=-1, keepdims=True))[..., :n]
        return self.linear(f"{base}.o_proj", (share @ v).swapaxes(0, 1).reshape(n, -1))

    def dense(self, base, x):
        gate = self.linear(f"{base}.gate_proj", x)
        return self.linear(f"{base}.down_proj", gate * sigmoid(gate) * self.linear(f"{base}.up_proj", x))

    def experts(self, base, x):
        chosen, share = self.routes(base, x)
        result = np.zeros_like(x)
        for expert in np.unique(chosen):
            token, slot = np.nonzero(chosen == expert)
            result[token] += share[token, slot][:, None] * self.dense(f"{base}.experts.{expert}", x[token])
        return result

    def routes(self, base, x):
        """-> experts [positions, chosen] and what each counts. The bias has a say in the choice, none in the share."""
        config, top = self.config, self.config["num_experts_per_tok"]
        score = sigmoid(self.linear(f"{base}.gate", x))
        choice = score + self.weights[f"{base}.gate.e_score_correction_bias"]
        groups, kept = config["n_group"], config["topk_group"]
        if groups > kept:                                   # of each group its best two speak for it
            best = np.sort(choice.reshape(len(x), groups, -1), axis=-1)[..., -2:].sum(axis=-1)
            out = np.argsort(best, axis=-1)[:, :groups - kept]
            member = np.arange(choice.shape[1]) // (choice.shape[1] // groups)
            choice = np.where((member[None, :, None] == out[:, None, :]).any(axis=-1), -np.inf, choice)
        order = np.argsort(-choice, axis=-1)
        if choice.shape[1] > top:
            ranked = np.take_along_axis(choice, order, axis=-1)
            self.margin = min(self.margin, (ranked[:, top - 1] - ranked[:, top]).min())
        chosen = order[:, :top]
        share = np.take_along_axis(score, chosen, axis=-1)
        if config["norm_topk_prob"]:
            share = share / share.sum(axis=-1, keepdims=True)
        return chosen, share * (config["routed_scaling_factor"] or 1.0)
