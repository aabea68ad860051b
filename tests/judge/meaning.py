"""What a directory means: the model's own tensors, whatever codec, layout and files they are stored in."""
import re
from collections import namedtuple

import numpy as np

from judge import weights
from reference import layouts

# kind, dtype: as stored (weights.Stored). values: float32. unit: what codes are multiplied by, None where plain.
Logical = namedtuple("Logical", "kind dtype values unit")

ATTENTION = re.compile(r"(.*\.self_attn)\.(qkv|q|k|v)_proj$")
KV_SCALE = re.compile(r"(.*\.self_attn)\.(?:attn\.|(?:qkv|q|k|v)_proj\.)?(q|k|v|kv)_scale$")
INPUT_SCALE = re.compile(r"(.*)\.input_(global_)?scale$")
COMPANION = re.compile(r"(.*)\.weight_(scale|scale_inv|scale_2|global_scale)$")
LAYER = re.compile(r"(.*?)model\.layers\.\d+\.")


class Geometry:
    """Heads by layer and the layout of stored attention. layout: fused:C, cut:C or independent, or a function of the
    stored scale rows that finds it. pattern: 1 for each window layer; MTP layers are window layers."""

    def __init__(self, heads, kv, pattern, layout, head_dims=(192, 128)):
        self.heads, self.kv, self.pattern, self.layout = heads, tuple(kv), list(pattern), layout
        assert head_dims == (layouts.HEAD_DIM, layouts.V_HEAD_DIM)

    def of(self, prefix):
        """(query heads, KV heads) of an attention block."""
        match = re.match(r"model\.layers\.(\d+)\.", prefix)
        number = int(match.group(1)) if match else None
        window = number is None or (number < len(self.pattern) and self.pattern[number] == 1)
        heads = self.heads if isinstance(self.heads, int) else self.heads[window]
        return heads, self.kv[window]


def common_prefix(names):
    """What stands before `model.layers.` in every name that has it, where no other name lacks it."""
    found = {m.group(1) for m in map(LAYER.match, names) if m}
    if len(found) != 1:
        return ""
    prefix = found.pop()
    return prefix if prefix and all(name.startswith(prefix) for name in names) else ""


class Meaning:
    """logical: name in split naming -> Logical. modules: stored module -> weights.Stored. doubts: (about, why nobody can
    say what it means). ills: (about, what is unhealthy)."""

    def __init__(self, directory, geometry):
        prefix = common_prefix(directory.tensors)
        self.tensors = {name[len(prefix):]: value for name, value in directory.tensors.items()}
        self.prefix, self.geometry = prefix, geometry
        self.logical, self.modules, self.scale_of = {}, {}, {}
        self.doubts, self.ills = list(directory.doubts), []
        taken = set()
        for name in sorted(self.tensors):
            if re.search(r"\.weight(_packed)?$", name):
                module = name[:name.rindex(".")]
                if module not in self.modules:
                    self.modules[module] = stored = weights.read(self.tensors, module)
                    self.doubts += [(module, text) for text in stored.doubts]
                    self.ills += [(module, text) for text in stored.ills]
                taken |= {name, *weights.companions(self.tensors, module)}
        self._attention()
        for module, stored in self.modules.items():
            if not ATTENTION.match(module) or not module.startswith("model."):
                self._weight(module, stored)
        for name in sorted(set(self.tensors) - taken):
            self._other(name)

    def _weight(self, module, stored):
        values, unit = stored.values, stored.unit
        if stored.kind == "block":
            found = weights.on_plain_grid(stored)
            if found is None:
                self.doubts.append((module, f"{stored.scales.shape} scales for {stored.elements.shape} codes"))
                return
            values, unit = found
        if stored.kind is not None and values is not None:
            self.logical[module + ".weight"] = Logical(stored.kind, stored.dtype, values, unit)

    def _other(self, name):
        dtype, array = self.tensors[name]
        kv, activation, orphan = KV_SCALE.match(name), INPUT_SCALE.match(name), COMPANION.match(name)
        if orphan:
            self.doubts.append((name, "a scale without its weight"))
            return
        values = weights.scale_values(dtype, array) if dtype in weights.PLAIN else None
        if values is None:
            self.doubts.append((name, f"stored as {dtype}"))
            return
        if not np.isfinite(values).all():
            self.ills.append((name, "values that are not finite"))
        if kv:
            self._scalar(f"{kv.group(1)}.{kv.group(2)}_scale", dtype, values)
        elif activation:
            module, inverse = activation.groups()
            with np.errstate(all="ignore"):
                values = np.float32(1) / values if inverse else values
            match = ATTENTION.match(module)
            parts = [f"{match.group(1)}.{x}_proj" for x in "qkv"] if match and match.group(2) == "qkv" else [module]
            for part in parts:
                self._scalar(part + ".input_scale", dtype, values)
        else:
            self.logical[name] = Logical("plain", dtype, values, None)
            if name.endswith("e_score_correction_bias") and values.size > 1 and np.ptp(values) == 0:
                self.ills.append((name, "all values of the router's bias are equal"))

    def _scalar(self, name, dtype, values):
        known = self.logical.get(name)
        if known is not None and known.values.tobytes() != values.tobytes():
            self.doubts.append((name, "two values under two names"))
        self.logical[name] = Logical("scalar", dtype, values, None)

    # ---- attention -------------------------------------------------------------------------------------------------

    def _attention(self):
        blocks = {}
        for module in self.modules:
            match = ATTENTION.match(module)
            if match and module.startswith("model."):
                blocks.setdefault(match.group(1), set()).add(match.group(2))
        for prefix in sorted(blocks):
            names = blocks[prefix]
            if names not in ({"qkv"}, {"q", "k", "v"}):
                self.doubts.append((prefix, f"has {', '.join(sorted(names))}"))
                continue
            try:
                self._block(prefix, names)
            except ValueError as error:                            # heads that no layout divides
                self.doubts.append((prefix, str(error)))

    def _scale_rows(self, prefix, names):
        return {n: self.modules[f"{prefix}.{n}_proj"].scales.shape[0] for n in names
                if self.modules[f"{prefix}.{n}_proj"].kind == "block"}

    def _block(self, prefix, names):
        heads, kv = self.geometry.of(prefix)
        layout = self.geometry.layout
        if callable(layout):
            layout = layout(prefix, names, self._scale_rows(prefix, names), heads, kv)
        if layout is None or (layout.startswith("fused")) != (names == {"qkv"}):
            if layout is None or names == {"qkv"}:
                self.doubts.append((prefix, f"stored as {sorted(names)} with scale rows that no layout has"))
                return
            layout = "independent"
        parts = layouts.parse(layout, heads, kv)
        decoded = {}
        for name, part in parts.items():
            found = self._rows(prefix, name, part, parts)
            if found is None:
                return
            decoded[name] = found
        for letter, name in enumerate(layouts.LETTERS):
            self._letter(prefix, letter, name, parts, decoded)

    def _rows(self, prefix, name, part, parts):
        """values, unit of a stored projection, row by row; None, and a doubt, where its rows find no scale."""
        module = f"{prefix}.{name}_proj"
        stored = self.modules[module]
        if stored.kind is None:
            return None
        if stored.array.shape[0] != part.row.size:
            self.doubts.append((module, f"{stored.array.shape[0]} rows, the layout has {part.row.size}"))
            return None
        if stored.kind != "block":
            return stored.values, stored.unit
        columns = stored.scales.shape[1]
        rows = np.zeros((part.row.size, columns), np.float32)
        for owner in np.unique(part.owner):
            lender = self.modules[f"{prefix}.{owner}_proj"]
            if lender.kind != "block" or lender.scales.shape != (parts[owner].scale_rows, columns):
                self.doubts.append((module, f"needs {parts[owner].scale_rows} scale rows of {owner}_proj"))
                return None
            mine = part.owner == owner
            rows[mine] = lender.scales[part.scale_row[mine]]
        return weights.under_rows(stored, rows)

    def _letter(self, prefix, letter, name, parts, decoded):
        for stored_name, part in parts.items():
            mine = np.flatnonzero(part.letter == letter)
            if not mine.size:
                continue
            module = f"{prefix}.{stored_name}_proj"
            stored, (values, unit) = self.modules[module], decoded[stored_name]
            order = mine[np.argsort(part.row[mine], kind="stable")]
            logical, first = np.unique(part.row[order], return_index=True)
            if logical.size < order.size:                          # more chunks than KV heads: equal copies
                counts = np.diff(np.append(first, order.size))
                if (values[order] != np.repeat(values[order[first]], counts, axis=0)).any():
                    self.doubts.append((module, "replicas that differ"))
            order = order[first]
            self.logical[f"{prefix}.{name}_proj.weight"] = Logical(
                stored.kind, stored.dtype, values[order], None if unit is None else unit[order])
