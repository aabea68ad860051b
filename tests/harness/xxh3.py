"""XXH3-128 by libxxhash, by nothing of ours."""
import ctypes
import ctypes.util
import functools
import json


class Hash(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


@functools.lru_cache
def xxh3():
    """None where there is no library."""
    name = ctypes.util.find_library("xxhash")
    if name is None:
        return None
    function = ctypes.CDLL(name).XXH3_128bits_withSeed
    function.restype, function.argtypes = Hash, [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    return function


def digest(data, seed=0):
    part = xxh3()(data, len(data), seed)
    return part.low + (part.high << 64)


def sealed(document):
    """A JSON file of .mimo-partial (docs/formats.md) as who writes it so would: its last member is the hash of what is before it."""
    text = json.dumps({k: v for k, v in document.items() if k != "record_hash"})[:-1]
    return text + f',"record_hash":"{digest(text.encode()):032x}"}}\n'
