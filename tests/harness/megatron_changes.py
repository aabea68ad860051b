"""What must come of changed weights: source checkpoints with other codes, and codes by the published rule."""
import os

import numpy as np

from harness import requant
from reference import codecs, container, decode, layouts, megatron, quantize


def other_codes(directory, seed, part=0.01):
    """Gives a hundredth of the elements of every weight of the decoder and of MTP another value that its scale holds;
    the largest element of a block stays. -> how many"""
    rng, count = np.random.default_rng(seed), 0
    for file in container.tensor_files(directory):
        path = os.path.join(directory, file)
        tensors = {n: (d, a.copy()) for n, (d, a) in container.read(path).items()}
        for name, (dtype, array) in tensors.items():
            if name in megatron.dropped([name]) or name.endswith(("_scale_inv", "weight_scale")):
                continue
            flat = array.reshape(-1)
            at = rng.choice(flat.size, max(1, int(flat.size * part)), replace=False)
            if dtype == "F8_E4M3":
                at = at[(flat[at] & 0x7F) != 0x7E]
                flat[at] = rng.integers(0, 0x7E, at.size) | (rng.integers(0, 2, at.size) << 7)
            elif dtype == "U8":                              # never -0, whose sign the rule does not keep
                nibble = rng.integers(0, 15, at.size).astype(np.uint8)
                flat[at] = (flat[at] & 0xF0) | np.where(nibble >= 8, nibble + 1, nibble)
            elif dtype == "BF16":
                flat[at] ^= 1
            else:
                flat[at] *= np.float32(1.25)
            count += at.size
        container.write(path, tensors, {"format": "pt"})
    return count


def fresh_block(values):
    return quantize.fp8_block(values)


def attention_parts(fixture, prefix):
    """{stored name: layouts.Stored} of an attention."""
    return layouts.parse(fixture.qkv, *decode.geometry(fixture.config, prefix))


def fresh_attention(fixture, stored, prefix):
    """Codes and scales of a whole attention by the published rule. -> {name: (dtype, array)}"""
    parts = attention_parts(fixture, prefix)
    logical = [codecs.decode_plain(*stored[f"{prefix}.{x}_proj.weight"]) for x in layouts.LETTERS]
    first = dict(zip(parts, np.cumsum([0] + [part.scale_rows for part in parts.values()])))
    rows, cells = [], []
    for part in parts.values():
        values = np.empty((part.row.size, fixture.config["hidden_size"]), np.float32)
        for letter in range(3):
            mine = part.letter == letter
            values[mine] = logical[letter][part.row[mine]]
        rows.append(values)
        cells.append(np.array([first[o] for o in part.owner]) + part.scale_row)
    codes, scales = requant.block_fp8_rows(np.concatenate(rows), np.concatenate(cells))
    result = {}
    for (name, part), mine in zip(parts.items(), np.split(codes, np.cumsum([len(r) for r in rows])[:-1])):
        weight = f"{prefix}.{name}_proj.weight"
        result[weight] = ("F8_E4M3", mine)
        result[weight + "_scale_inv"] = ("F32", np.stack([scales[first[name] + r] for r in range(part.scale_rows)]))
    return result


def with_fresh_cells(fixture, stored, prefix, elements):
    """The source's tensors, with the cells of these (letter, row, column) of an attention by the published rule."""
    expected = {n: (d, a.copy()) for n, (d, a) in container.read_directory(fixture.directory).items()}
    made = fresh_attention(fixture, stored, prefix)
    parts = attention_parts(fixture, prefix)
    for letter, row, column in elements:
        block, number = slice(column // 128 * 128, column // 128 * 128 + 128), layouts.LETTERS.index(letter)
        (owner, scale_row), = {(part.owner[i], part.scale_row[i]) for part in parts.values()
                               for i in np.flatnonzero((part.letter == number) & (part.row == row))}
        for name, part in parts.items():
            mine = (part.owner == owner) & (part.scale_row == scale_row)
            weight = f"{prefix}.{name}_proj.weight"
            expected[weight][1][mine, block] = made[weight][1][mine, block]
        scale = f"{prefix}.{owner}_proj.weight_scale_inv"
        expected[scale][1][scale_row, column // 128] = made[scale][1][scale_row, column // 128]
    return expected


def fresh(fixture):
    """All tensors of the model in the source's layout, codes and scales from the BF16 values by the published rules."""
    source, stored = container.read_directory(fixture.directory), fixture.split()
    result = {}
    for prefix in decode.attention_prefixes(source):
        result.update(fresh_attention(fixture, stored, prefix))
    for name, value in stored.items():
        dtype = source.get(name, ("",))[0]
        if name in result or not dtype:
            continue
        if dtype == "F8_E4M3":
            made = quantize.fp8_block(codecs.decode_plain(*value))
            result[name], result[name + "_scale_inv"] = ("F8_E4M3", made.codes), ("F32", made.scales)
        elif dtype == "U8":
            made = quantize.mxfp4(codecs.decode_plain(*value))
            result[name], result[name + "_scale"] = ("U8", made.codes), ("U8", made.scales)
        else:
            result[name] = value
    return result
