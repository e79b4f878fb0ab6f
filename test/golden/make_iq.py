#!/usr/bin/python3
"""Writes iq.bin: blocks of the types IQ1_S to IQ3_S and their values by ggml's own NumPy
decoder (the package `gguf`; nothing is shared with src/kern).

File: records of u32 type id, u32 blocks, u32 bytes, the blocks, and per block the values'
sum weighted by place, as f64: with d = 1/4 all are exact, so a weight that is off shows.
Code book indices run through all entries in order, signs and scales are random.
"""
import os
import struct

import numpy as np
from gguf.constants import GGMLQuantizationType as T
from gguf.quants import dequantize

rng = np.random.default_rng(20261201)
D = np.float16(0.25).tobytes()
noise = lambda n: bytearray(rng.integers(0, 256, n, dtype=np.uint8).tobytes())


def block(t, b):
    """Block b, whose indices continue those of the block before."""
    e = np.arange(32) + 32 * b
    f = np.arange(64) + 64 * b
    if t == T.IQ2_XXS:
        out = noise(64)
        for i in range(32):
            out[i // 4 * 8 + i % 4] = e[i] % 256
        return D + out
    if t == T.IQ2_XS:
        words = (e % 512 | rng.integers(0, 128, 32) << 9).astype("<u2")
        return D + words.tobytes() + noise(8)
    high = lambda v, bits, per: [
        int(sum((int(v[per * i + j]) >> 8 & ((1 << bits) - 1)) << bits * j for j in range(per)))
        for i in range(len(v) // per)]
    low = lambda v: bytes(int(x) & 255 for x in v)
    if t == T.IQ2_S:
        return D + low(e) + noise(32) + bytes(high(e % 1024, 2, 4)) + noise(8)
    if t == T.IQ3_XXS:
        return D + low(f) + noise(32)
    if t == T.IQ3_S:
        return D + low(f) + bytes(high(f % 512, 1, 8)) + noise(32) + noise(4)
    top = rng.integers(0, 16, 8)
    if t == T.IQ1_S:
        words = np.array(high(e % 2048, 3, 4)) | top << 12
        return D + low(e) + words.astype("<u2").tobytes()
    qh = [(int(e[2 * i]) >> 8 & 7) | (int(e[2 * i + 1]) >> 8 & 7) << 4
          | int(top[i % 8] & 1) << 3 | int(top[i % 8] >> 1 & 1) << 7 for i in range(16)]
    d = int(np.frombuffer(D, "<u2")[0])
    words = [int(rng.integers(0, 4096)) | (d >> 4 * j & 15) << 12 for j in range(4)]
    return low(e) + bytes(qh) + np.array(words).astype("<u2").tobytes()


COUNT = {T.IQ1_S: 64, T.IQ1_M: 64, T.IQ2_XXS: 8, T.IQ2_XS: 16, T.IQ2_S: 32, T.IQ3_XXS: 4,
         T.IQ3_S: 8}
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "iq.bin")
with open(path, "wb") as out:
    for t, n in COUNT.items():
        raw = b"".join(bytes(block(t, b)) for b in range(n))
        values = dequantize(np.frombuffer(raw, np.uint8).reshape(n, -1), t)
        place = np.arange(1, 257, dtype=np.float64)
        sums = (values.reshape(n, 256).astype(np.float64) * place).sum(axis=1)
        out.write(struct.pack("<III", int(t), n, len(raw)) + raw + sums.astype("<f8").tobytes())
