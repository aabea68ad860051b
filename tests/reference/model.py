"""Small checkpoints of the family with known values, made codes first.

Nothing is quantized here: codes and scales are drawn, and the values follow from their definition. Every true block
of a grid has its own scale and exactly one element at the largest magnitude (as amax quantization leaves it), Q, K
and V scales lie orders of magnitude apart, and -0, subnormal codes and odd bit patterns are sprinkled everywhere.

That makes every wrong index show, and a forward pass chaotic. A mild checkpoint is one to run: weights so large that every
activation is about 1, blocks within a factor of 4 of each other, norms about 1, no outliers.
"""
import numpy as np

from reference import codecs, layouts, quantize
from reference.config import AUDIO, VISION
from reference.decode import Value

VARIANTS = ("v2-flash", "v2.5", "v2.5-pro", "v2.6", "plain")
LETTER_MAGNITUDE = {layouts.Q: 2.0**-12, layouts.K: 2.0**-8, layouts.V: 2.0**-16}
MILD_MAGNITUDE = {layouts.Q: 2.0**-10.5, layouts.K: 2.0**-10, layouts.V: 2.0**-11}


STORES = ("fp8", "ue8m0", "bf16", "nvfp4", "nvfp4-ct", "mxfp8")


class Spec:
    """What to make. qkv: "" (the variant's own) or fused:C, cut:C, independent. store: fp8; ue8m0 (fp8 under powers of
    two); bf16 (dequantized); or experts nvfp4 (ModelOpt's names), nvfp4-ct (those of compressed-tensors) or mxfp8, all
    else dequantized."""

    def __init__(self, variant, seed=1, hidden=256, experts=4, heads=None, intermediate=384, moe_intermediate=256,
                 vocab=320, pattern=(0, 1, 1, 0), qkv="", store="fp8", replicate=0, towers=None, sidecars=True,
                 tp_size="auto", placement="released", extremes=True, mtp=3, mild=False):
        pro = variant == "v2.5-pro"
        self.variant, self.seed, self.hidden, self.experts = variant, seed, hidden, experts
        self.heads = heads or (32 if pro else 16)
        self.kv = (8, 8) if pro else (4, 8)                       # global, window: the model's own
        self.stored_kv = tuple(max(n, replicate) for n in self.kv)  # as stored and configured
        self.intermediate, self.moe_intermediate, self.vocab = intermediate, moe_intermediate, vocab
        self.pattern, self.moe = list(pattern), [0] + [1] * (len(pattern) - 1)
        own = {"v2-flash": "cut:4", "plain": "fused:1", "v2.5-pro": "fused:8"}.get(variant, "fused:4")
        re_exported = store in ("nvfp4", "mxfp8") and own.startswith("fused")     # as ModelOpt stores what it loaded
        self.qkv = qkv or (f"fused:{replicate}" if replicate else "fused:1" if re_exported else own)
        self.store, self.mtp, self.extremes, self.placement = store, mtp, extremes and not mild, placement
        self.mild = mild
        self.dequantized = store not in ("fp8", "ue8m0")
        self.towers = variant in ("v2.5", "v2.6") if towers is None else towers
        self.sidecars = sidecars
        kind, _, chunks = self.qkv.partition(":")
        if tp_size == "auto":
            tp_size = int(chunks) if kind == "fused" and variant != "plain" and not re_exported else None
        self.tp_size = tp_size
        self.fused = kind == "fused"


class Model:
    def __init__(self, spec):
        self.spec = spec
        self.random = np.random.default_rng([spec.seed, VARIANTS.index(spec.variant)])
        self.tensors = {}       # name -> (dtype, array), as stored
        self.values = {}        # name in split naming -> decode.Value
        self.palette = self._palette()
        self._decoder()
        for layer in range(spec.mtp):
            self._mtp(f"model.mtp.layers.{layer}")
        if spec.towers:
            self._towers()

    # ---- drawing ---------------------------------------------------------------------------------------------------

    def _palette(self):
        """Codes as Gaussian weights have them, none of the largest magnitude; one in 50 is odd."""
        codes = codecs.e4m3_encode(np.clip(self.random.standard_normal(65535) * 90, -400, 400))
        odd = np.array([0, 0x80, 1, 7, 8, 0x81, 0x87, 0x7D, 0xFD], np.uint8)
        codes[::50] = np.resize(odd, codes[::50].size)
        return codes

    def _bf16(self, shape, magnitude=0.02, mean=0.0):
        raw = codecs.bf16_from_f32(mean + self.random.standard_normal(shape) * magnitude).reshape(-1)
        odd = np.array([0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x3F80], np.uint16)
        if self.spec.mild:
            odd = odd[:-1]
        where = self.random.integers(0, raw.size, max(1, raw.size // 97))
        raw[where] = self.random.choice(odd, where.size)
        return raw.reshape(shape)

    def _f32(self, shape, mean, deviation):
        raw = (mean + deviation * self.random.standard_normal(shape)).astype(np.float32).reshape(-1)
        if not self.spec.mild:
            raw[:: 53] *= np.float32(-1)
            raw[1:: 101] = np.float32(-0.0)
        return raw.reshape(shape)

    def _scales(self, rows, columns, magnitude):
        """Random mantissas over six binades, or two, around the magnitude; per row a scalar or an array."""
        binade = np.exp2(self.random.uniform(*((-1, 1) if self.spec.mild else (-3, 3)), (rows, columns)))
        if self.spec.store == "ue8m0":
            binade = np.exp2(self.random.integers(-3, 4, (rows, columns)))
        return (np.asarray(magnitude).reshape(-1, 1) * binade).astype(np.float32)

    def _codes(self, cell, columns):
        """E4M3 codes [len(cell), columns]; rows with equal `cell` share scale rows. One 0x7E or 0xFE per block."""
        raw = self.palette[self.random.integers(0, self.palette.size, (cell.size, columns), dtype=np.uint16)]
        for value in np.unique(cell):
            members = np.flatnonzero(cell == value)
            for start in range(0, columns, 128):
                row = self.random.choice(members)
                column = self.random.integers(start, min(start + 128, columns))
                raw[row, column] = self.random.choice((0x7E, 0xFE))
        return raw

    # ---- storing ---------------------------------------------------------------------------------------------------

    def _plain(self, name, dtype, array):
        self.tensors[name] = (dtype, array)
        self.values[name] = Value(dtype, array, None)

    def _quantized(self, name, values, dtype, parts):
        """`parts` are what an unconverted checkpoint stores; a dequantized one stores the BF16 values instead."""
        if self.spec.dequantized:
            return self._plain(name, "BF16", codecs.bf16_from_f32(values))
        self.values[name] = Value(dtype, None, values)
        self.tensors.update(parts)

    def _fp8(self, name, rows, columns):
        cell = np.arange(rows) // 128
        codes = self._codes(cell, columns)
        scales = self._scales(-(-rows // 128), -(-columns // 128), 2.0 ** (-10.5 if self.spec.mild else -13))
        self._quantized(name, codecs.decode_fp8(codes, scales, cell), "F8_E4M3",
                        {name: ("F8_E4M3", codes), name + "_scale_inv": ("F32", scales)})

    def _mxfp4(self, name, rows, columns):
        packed = self.random.integers(0, 256, (rows, columns // 2), dtype=np.uint8)
        scale = self.random.integers(*((120, 123) if self.spec.mild else (112, 122)), (rows, columns // 32), dtype=np.uint8)
        scale[:: 31, 0] = 0                                   # a block of nothing
        packed[:: 31, :16] = 0
        if self.spec.extremes:                                # the ends of the exponent range that BF16 still holds
            scale[5, 1], scale[6, 1], scale[7, 1] = 0, 1, 252
        self._quantized(name, codecs.decode_mxfp4(packed, scale), "U8",
                        {name: ("U8", packed), name + "_scale": ("U8", scale)})

    def _mxfp8(self, name, rows, columns):
        codes = self.palette[self.random.integers(0, self.palette.size, (rows, columns), dtype=np.uint16)]
        scale = self.random.integers(108, 118, (rows, columns // 32), dtype=np.uint8)
        scale[::29, 0], codes[::29, :32] = 0, 0
        self.tensors.update({name: ("F8_E4M3", codes), name + "_scale": ("U8", scale)})
        self.values[name] = Value("F8_E4M3", None, quantize.decode_mxfp8(codes, scale))

    def _nvfp4(self, name, rows, columns, multiplier):
        packed = self.random.integers(0, 256, (rows, columns // 2), dtype=np.uint8)
        scale = self.random.integers(1, 127, (rows, columns // 16), dtype=np.uint8)
        scale[::23, 1], packed[::23, 8:16] = 0x38, 0
        divides = self.spec.store == "nvfp4-ct"
        stored = np.float32(1) / multiplier if divides else multiplier
        self.values[name] = Value("U8", None, quantize.decode_nvfp4(packed, scale, stored, divides))
        self.tensors[name + "_scale"] = ("F8_E4M3", scale)
        self.tensors[name + ("_packed" if divides else "")] = ("U8", packed)
        if divides:
            self.tensors[name + "_global_scale"] = ("F32", np.array([stored], np.float32))
        else:
            self.tensors[name + "_scale_2"] = ("F32", np.array(stored, np.float32))

    def _experts(self, prefix):
        """The routed experts' three matrices; under NVFP4 gate and up share their global."""
        spec = self.spec
        shapes = {"gate": (spec.moe_intermediate, spec.hidden), "up": (spec.moe_intermediate, spec.hidden),
                  "down": (spec.hidden, spec.moe_intermediate)}
        if spec.store.startswith("nvfp4"):
            shared, own = (np.float32(2.0**-16 * m) for m in self.random.uniform(1, 2, 2))
        for letter, shape in shapes.items():
            name = f"{prefix}.{letter}_proj.weight"
            if spec.store.startswith("nvfp4"):
                self._nvfp4(name, *shape, own if letter == "down" else shared)
            elif spec.store == "mxfp8":
                self._mxfp8(name, *shape)
            else:
                (self._mxfp4 if spec.variant == "v2.6" else self._fp8)(name, *shape)

    # ---- attention -------------------------------------------------------------------------------------------------

    def _attention(self, prefix, window):
        spec = self.spec
        kv = spec.stored_kv[window]
        stored = layouts.parse(spec.qkv, spec.heads, kv)
        columns = -(-spec.hidden // 128)
        scales, leader = {}, {}
        for name, part in stored.items():
            leader[name] = np.full(part.scale_rows, layouts.Q)
        for part in stored.values():                          # letter of the first row in each scale row
            for letter, owner, row in zip(part.letter[::-1], part.owner[::-1], part.scale_row[::-1]):
                leader[owner][row] = letter
        for name, part in stored.items():
            magnitude = np.array([(MILD_MAGNITUDE if spec.mild else LETTER_MAGNITUDE)[letter] for letter in leader[name]])
            scales[name] = self._scales(part.scale_rows, columns, magnitude)
        numbers = {name: 10000 * i for i, name in enumerate(stored)}
        cells = {name: np.array([numbers[o] for o in part.owner]) + part.scale_row for name, part in stored.items()}
        everything = np.concatenate(list(cells.values()))
        codes = self._codes(everything, spec.hidden)
        codes = dict(zip(stored, np.split(codes, np.cumsum([c.size for c in cells.values()])[:-1])))
        self._replicate(stored, codes, scales, kv, spec.kv[window])
        logical = {letter: np.zeros(((spec.heads if letter == layouts.Q else kv) * layouts.head_rows(letter),
                                     spec.hidden), np.float32) for letter in range(3)}
        for name, part in stored.items():
            rows = np.stack([scales[o][r] for o, r in zip(part.owner, part.scale_row)])
            values = codecs.decode_fp8(codes[name], rows, np.arange(part.row.size))
            for letter in range(3):
                mine = part.letter == letter
                logical[letter][part.row[mine]] = values[mine]
        self._store_attention(prefix, stored, codes, scales, logical)
        self._plain(f"{prefix}.o_proj.weight", "BF16", self._bf16((spec.hidden, spec.heads * layouts.V_HEAD_DIM)))
        if window:
            self._plain(f"{prefix}.attention_sink_bias", "BF16", self._bf16(spec.heads, 1.0))

    @staticmethod
    def _replicate(stored, codes, scales, kv, model_kv):
        """Stored head j repeats model head floor(j * model_kv / kv): copy codes, and the scale rows they lie under."""
        if kv == model_kv:
            return
        part = stored["qkv"]
        repeat = kv // model_kv
        for letter in (layouts.K, layouts.V):
            size = layouts.head_rows(letter)
            place = np.flatnonzero(part.letter == letter)
            place = place[np.argsort(part.row[place], kind="stable")].reshape(kv, size)
            for head in range(kv):
                origin, copy = place[head // repeat * repeat], place[head]
                codes["qkv"][copy] = codes["qkv"][origin]
                scales["qkv"][part.scale_row[copy]] = scales["qkv"][part.scale_row[origin]]

    def _store_attention(self, prefix, stored, codes, scales, logical):
        dequantized = self.spec.dequantized
        for letter, name in enumerate(layouts.LETTERS):
            raw = codecs.bf16_from_f32(logical[letter])
            self.values[f"{prefix}.{name}_proj.weight"] = Value(
                *(("BF16", raw, None) if dequantized else ("F8_E4M3", None, logical[letter])))
        for name, part in stored.items():
            weight = f"{prefix}.{name}_proj.weight"
            if dequantized:
                array = np.empty((part.row.size, self.spec.hidden), np.uint16)
                for letter in range(3):
                    mine = part.letter == letter
                    array[mine] = codecs.bf16_from_f32(logical[letter])[part.row[mine]]
                self.tensors[weight] = ("BF16", array)
            else:
                self.tensors[weight] = ("F8_E4M3", codes[name])
                self.tensors[weight + "_scale_inv"] = ("F32", scales[name])

    # ---- the model -------------------------------------------------------------------------------------------------

    def _norm(self, name):
        self._plain(name + ".weight", "BF16", self._bf16(self.spec.hidden, *((0.1, 1.0) if self.spec.mild else (1.0,))))

    def _dense(self, prefix):
        spec = self.spec
        self._fp8(f"{prefix}.gate_proj.weight", spec.intermediate, spec.hidden)
        self._fp8(f"{prefix}.up_proj.weight", spec.intermediate, spec.hidden)
        self._fp8(f"{prefix}.down_proj.weight", spec.hidden, spec.intermediate)

    def _decoder(self):
        spec = self.spec
        self._plain("model.embed_tokens.weight", "BF16", self._bf16((spec.vocab, spec.hidden)))
        self._plain("lm_head.weight", "BF16", self._bf16((spec.vocab, spec.hidden), spec.hidden**-0.5 if spec.mild else 0.02))
        self._norm("model.norm")
        for layer, window in enumerate(spec.pattern):
            base = f"model.layers.{layer}"
            self._norm(f"{base}.input_layernorm")
            self._norm(f"{base}.post_attention_layernorm")
            self._attention(f"{base}.self_attn", window)
            if not spec.moe[layer]:
                self._dense(f"{base}.mlp")
                continue
            spread = spec.hidden**-0.5 if spec.mild else 0.02
            router = ("BF16", self._bf16((spec.experts, spec.hidden), spread)) if spec.variant == "v2.6" else \
                ("F32", self._f32((spec.experts, spec.hidden), 0.0, spread))
            self._plain(f"{base}.mlp.gate.weight", *router)
            self._plain(f"{base}.mlp.gate.e_score_correction_bias", "F32", self._f32(spec.experts, 70.9, 3e-2 if spec.mild else 3e-4))
            for expert in range(spec.experts):
                self._experts(f"{base}.mlp.experts.{expert}")

    def _mtp(self, base):
        spec = self.spec
        for norm in ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm"):
            self._norm(f"{base}.{norm}")
        self._plain(f"{base}.eh_proj.weight", "BF16", self._bf16((spec.hidden, 2 * spec.hidden)))
        self._attention(f"{base}.self_attn", 1)
        self._dense(f"{base}.mlp")

    def _towers(self):
        width, inner, patch = VISION["hidden_size"], VISION["intermediate_size"], VISION["patch_size"]
        head = 64
        heads, kv = VISION["num_heads"], VISION["num_key_value_heads"]
        merged = width * VISION["spatial_merge_size"] ** 2
        shapes = {"patch_embed.proj.weight": (width, 3, VISION["temporal_patch_size"], patch, patch),
                  "merger.ln_q.weight": (width,), "merger.mlp.0.weight": (merged, merged),
                  "merger.mlp.2.weight": (self.spec.hidden, merged)}
        for i in range(VISION["depth"]):
            shapes.update({
                f"blocks.{i}.norm1.weight": (width,), f"blocks.{i}.norm2.weight": (width,),
                f"blocks.{i}.attn.qkv.weight": ((heads + 2 * kv) * head, width),
                f"blocks.{i}.attn.qkv.bias": ((heads + 2 * kv) * head,),
                f"blocks.{i}.attn.proj.weight": (width, heads * head), f"blocks.{i}.attn.proj.bias": (width,),
                f"blocks.{i}.mlp.gate_proj.weight": (inner, width), f"blocks.{i}.mlp.gate_proj.bias": (inner,),
                f"blocks.{i}.mlp.up_proj.weight": (inner, width), f"blocks.{i}.mlp.up_proj.bias": (inner,),
                f"blocks.{i}.mlp.down_proj.weight": (width, inner), f"blocks.{i}.mlp.down_proj.bias": (width,)})
            if i not in VISION["fullatt_block_indexes"]:
                shapes[f"blocks.{i}.attn.sinks"] = (heads,)
        for name, shape in shapes.items():
            self._plain("visual." + name, "BF16", self._bf16(shape))
        local, inner = AUDIO["input_local_dim"], AUDIO["input_local_intermediate_size"]
        base, grouped = "audio_encoder.input_local_transformer", local * AUDIO["group_size"]
        shapes = {f"{base}.norm.weight": (local,), "audio_encoder.projection.mlp.0.weight": (4 * grouped, grouped),
                  "audio_encoder.projection.mlp.2.weight": (self.spec.hidden, 4 * grouped)}
        for i in range(AUDIO["input_local_layers"]):
            at = f"{base}.layers.{i}"
            for letter in layouts.LETTERS:
                shapes[f"{at}.self_attn.{letter}_proj.weight"] = (local, local)
                shapes[f"{at}.self_attn.{letter}_proj.bias"] = (local,)
            shapes.update({f"{at}.self_attn.o_proj.weight": (local, local),
                           f"{at}.mlp.gate_proj.weight": (inner, local), f"{at}.mlp.up_proj.weight": (inner, local),
                           f"{at}.mlp.down_proj.weight": (local, inner),
                           f"{at}.input_layernorm.weight": (local,), f"{at}.post_attention_layernorm.weight": (local,)})
        for i in range(AUDIO["audio_channels"]):
            shapes[f"speech_embeddings.{i}.weight"] = (int(AUDIO["speech_vocab_size"]), local)
        for name, shape in shapes.items():
            self._plain(name, "BF16", self._bf16(shape))
