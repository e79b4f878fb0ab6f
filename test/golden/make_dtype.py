#!/usr/bin/python3
"""Writes dtype.bin: random blocks of every packed type and their values in f32.

An independent reading of GGUF's block formats in NumPy, one bit extraction at a time and
in double precision where the format's result is exact; nothing is shared with src/kern.
File: records of u32 type id, u32 elements, u32 bytes, the blocks, the elements as f32.
"""
import numpy as np
import os
import struct

rng = np.random.default_rng(20261121)
IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
f32 = np.float32


def half(b, at):
    return f32(np.frombuffer(bytes(b[at:at + 2]), "<f2")[0])


def bit(b, first, i):
    """Bit i of the bit string that starts at byte `first`, low bit first."""
    return b[first + i // 8] >> (i % 8) & 1


def simple(b, bits, zero, qs, qh, has_min, table=None):
    d = half(b, 0)
    out = []
    for i in range(32):
        q = b[qs + i % 16] >> (4 * (i // 16)) & 15
        if bits == 5:
            q += 16 * bit(b, qh, i)
        v = table[q] if table else q - zero
        out.append(f32(f32(v) * d) + (half(b, 2) if has_min else f32(0)))
    return out


def q8_0(b):
    return [f32(np.int8(np.uint8(b[2 + i]))) * half(b, 0) for i in range(32)]


def six_bits(s, j):
    """Scale and min j of the 12 bytes of Q4_K and Q5_K."""
    if j < 4:
        return s[j] % 64, s[4 + j] % 64
    return s[4 + j] % 16 + 16 * (s[j - 4] // 64), s[4 + j] // 16 + 16 * (s[j] // 64)


def affine(d, sc, q, dmin, mn):
    return f32(f32(d * f32(sc)) * f32(q)) - f32(dmin * f32(mn))


def q2_k(b):
    out = []
    for i in range(256):
        byte = 32 * (i // 128) + i % 32
        q = b[16 + byte] >> (2 * (i % 128 // 32)) & 3
        s = b[i // 16]
        out.append(affine(half(b, 80), s % 16, q, half(b, 82), s // 16))
    return out


def q3_k(b):
    out = []
    for i in range(256):
        byte = 32 * (i // 128) + i % 32
        q = b[32 + byte] >> (2 * (i % 128 // 32)) & 3
        if not b[i % 32] >> (i // 32) & 1:
            q -= 4
        g = i // 16
        s = b[96:108]
        low = s[g % 8] % 16 if g < 8 else s[g % 8] // 16
        high = s[8 + g % 4] >> (2 * (g // 4)) & 3
        out.append(affine(half(b, 108), low + 16 * high - 32, q, f32(0), 0))
    return out


def q45_k(b, bits):
    out = []
    qs = 48 if bits == 5 else 16
    for i in range(256):
        j = i // 32
        q = b[qs + 32 * (i // 64) + i % 32] >> (4 * (j % 2)) & 15
        if bits == 5:
            q += 16 * (b[16 + i % 32] >> j & 1)
        sc, mn = six_bits(b[4:16], j)
        out.append(affine(half(b, 0), sc, q, half(b, 2), mn))
    return out


def q6_k(b):
    out = []
    for i in range(256):
        h, r = divmod(i, 128)
        s, l = divmod(r, 32)
        low = b[64 * h + 32 * (s % 2) + l] >> (4 * (s // 2)) & 15
        high = b[128 + 32 * h + l] >> (2 * s) & 3
        sc = int(np.int8(np.uint8(b[192 + i // 16])))
        out.append(affine(half(b, 208), sc, low + 16 * high - 32, f32(0), 0))
    return out


def iq4_xs(b):
    out = []
    hi = b[2] + 256 * b[3]
    for i in range(256):
        j, r = divmod(i, 32)
        ls = (b[4 + j // 2] >> (4 * (j % 2)) & 15) + 16 * (hi >> (2 * j) & 3)
        q = b[8 + 16 * j + r % 16] >> (4 * (r // 16)) & 15
        out.append(affine(half(b, 0), ls - 32, IQ4[q], f32(0), 0))
    return out


# id, block, bytes, where f16 scales lie, decoder
TYPES = [
    (2, 32, 18, [0], lambda b: simple(b, 4, 8, 2, 0, False)),
    (3, 32, 20, [0, 2], lambda b: simple(b, 4, 0, 4, 0, True)),
    (6, 32, 22, [0], lambda b: simple(b, 5, 16, 6, 2, False)),
    (7, 32, 24, [0, 2], lambda b: simple(b, 5, 0, 8, 4, True)),
    (8, 32, 34, [0], q8_0),
    (10, 256, 84, [80, 82], q2_k),
    (11, 256, 110, [108], q3_k),
    (12, 256, 144, [0, 2], lambda b: q45_k(b, 4)),
    (13, 256, 176, [0, 2], lambda b: q45_k(b, 5)),
    (14, 256, 210, [208], q6_k),
    (20, 32, 18, [0], lambda b: simple(b, 4, 0, 2, 0, False, IQ4)),
    (23, 256, 136, [0], iq4_xs),
]

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dtype.bin")
with open(path, "wb") as f:
    for tid, block, size, halves, decode in TYPES:
        count = 4 if block == 32 else 2
        raw, values = b"", []
        for _ in range(count):
            b = bytearray(rng.integers(0, 256, size, dtype=np.uint8).tobytes())
            for at in halves:
                b[at:at + 2] = np.float16(rng.normal() * 0.05).tobytes()
            raw += bytes(b)
            values += decode(b)
        f.write(struct.pack("<III", tid, count * block, len(raw)) + raw)
        f.write(np.array(values, "<f4").tobytes())
