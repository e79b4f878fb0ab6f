#!/usr/bin/env python3
"""Writes nn.bin: what PyTorch computes for the ops and for a small Llama.

Records: u32 length of the name, the name, u32 count, count little-endian f32.
Per op `NAME`: NAME/in0.., NAME/w0.., NAME/target, NAME/y, NAME/loss, NAME/din0..,
NAME/dw0...  The shapes are those of test/laws/test_ops.c; the loss is the mean over rows
of |y - target|^2.  The Llama is that of test/mini_llama.h.  Made with PyTorch 1.13.1,
in double, rounded at the end (inputs are rounded first).

    python3 test/golden/nn_golden.py test/golden/nn.bin
"""
import math
import struct
import sys

import torch
import torch.nn.functional as F

torch.manual_seed(20)
torch.set_default_dtype(torch.float64)
records = []


def put(name, t):
    data = t.detach().reshape(-1).to(torch.float32).tolist()
    raw = name.encode()
    records.append(struct.pack("<I", len(raw)) + raw + struct.pack("<I", len(data))
                   + struct.pack("<%df" % len(data), *data))


def leaf(*shape):
    return torch.randn(*shape).float().double().requires_grad_(True)


def example(name, ins, ws, fn):
    ins, ws = [leaf(*s) for s in ins], [leaf(*s) for s in ws]
    y = fn(*ins, *ws)
    y = y.reshape(y.shape[0], -1)
    target = torch.randn(*y.shape).float().double()
    loss = ((y - target) ** 2).sum(1).mean()
    loss.backward()
    for i, t in enumerate(ins):
        put(f"{name}/in{i}", t)
        put(f"{name}/din{i}", t.grad)
    for i, t in enumerate(ws):
        put(f"{name}/w{i}", t)
        put(f"{name}/dw{i}", t.grad)
    put(f"{name}/target", target)
    put(f"{name}/y", y)
    put(f"{name}/loss", loss)


# ---- ops ---------------------------------------------------------------------------------

EPS = struct.unpack("<f", struct.pack("<f", 1e-2))[0]


def rmsnorm(x, w, eps=EPS):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * w


def rope_angles(pos, d, base=10000.0):
    freq = base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    return torch.as_tensor(pos, dtype=torch.float64)[:, None] * freq[None, :]


def rope_near(x, pos, d):  # adjacent pairs
    a = rope_angles(pos, d)[:, None, :]
    h = x.reshape(x.shape[0], -1, d // 2, 2)
    x0, x1 = h[..., 0], h[..., 1]
    y = torch.stack((x0 * a.cos() - x1 * a.sin(), x0 * a.sin() + x1 * a.cos()), -1)
    return y.reshape(x.shape)


def rope_neox(x, pos, d):  # halves
    a = rope_angles(pos, d)[:, None, :]
    h = x.reshape(x.shape[0], -1, d)
    x0, x1 = h[..., : d // 2], h[..., d // 2:]
    y = torch.cat((x0 * a.cos() - x1 * a.sin(), x0 * a.sin() + x1 * a.cos()), -1)
    return y.reshape(x.shape)


def attention(q, k, v, heads, kv, d, lengths, scale, window=0):
    out, row = [], 0
    for n in lengths:
        qs = q[row:row + n].reshape(n, heads, d).transpose(0, 1)
        ks = k[row:row + n].reshape(n, kv, d).transpose(0, 1).repeat_interleave(heads // kv, 0)
        vs = v[row:row + n].reshape(n, kv, d).transpose(0, 1).repeat_interleave(heads // kv, 0)
        s = qs @ ks.transpose(1, 2) * scale
        i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
        seen = j <= i if not window else (j <= i) & (j > i - window)
        o = torch.softmax(s.masked_fill(~seen, -math.inf), -1) @ vs
        out.append(o.transpose(0, 1).reshape(n, heads * d))
        row += n
    return torch.cat(out)


def ops():
    example("linear, bias", [(1, 9)], [(17, 9), (1, 17)], lambda x, w, b: F.linear(x, w, b[0]))
    example("lora", [(6, 10)], [(8, 10), (1, 8), (3, 10), (8, 3)],
            lambda x, w, b, A, B: F.linear(x, w, b[0]) + 0.5 * x @ A.T @ B.T)
    example("rmsnorm", [(4, 19)], [(1, 19)], rmsnorm)
    example("rmsnorm_heads", [(3, 24)], [(1, 8)],
            lambda x, w: rmsnorm(x.reshape(3, 3, 8), w).reshape(3, 24))
    example("layernorm", [(4, 21)], [(1, 21), (1, 21)],
            lambda x, w, b: F.layer_norm(x, (21,), w[0], b[0], EPS))
    example("silu", [(5, 13), (5, 13)], [], lambda a, b: F.silu(a) * b)
    example("gelu", [(5, 13)], [], lambda x: F.gelu(x, approximate="tanh"))
    example("relu", [(5, 13)], [], F.relu)
    example("tanh", [(5, 13)], [], torch.tanh)
    example("rows", [(4, 9)], [], lambda x: x[[3, 0, 3, 1]])
    example("embed", [], [(6, 9)], lambda w: F.embedding(torch.tensor([4, 0, 4, 2, 1]), w))
    example("rope near", [(5, 16)], [], lambda x: rope_near(x, [0, 1, 2, 300, 5], 8))
    example("rope neox", [(5, 16)], [], lambda x: rope_neox(x, [0, 1, 2, 300, 5], 8))
    scale = struct.unpack("<f", struct.pack("<f", 0.3))[0]
    example("attention grouped", [(8, 24), (8, 12), (8, 12)], [],
            lambda q, k, v: attention(q, k, v, 4, 2, 6, [3, 1, 4], scale))
    example("attention window", [(8, 8), (8, 4), (8, 4)], [],
            lambda q, k, v: attention(q, k, v, 2, 1, 4, [8], 0.5, 3))
    example("conv2d", [(2, 60)], [(3, 18), (1, 3)],
            lambda x, w, b: F.conv2d(x.reshape(2, 2, 6, 5), w.reshape(3, 2, 3, 3), b[0]))
    example("conv2d, padded", [(3, 35)], [(2, 15)],
            lambda x, w: F.conv2d(F.pad(x.reshape(3, 1, 5, 7), (2, 2, 2, 2)),
                                  w.reshape(2, 1, 3, 5), stride=2))
    example("maxpool2d", [(2, 48)], [],
            lambda x: F.max_pool2d(x.reshape(2, 2, 6, 4), 2))
    example("maxpool2d, edges", [(3, 25)], [],
            lambda x: F.max_pool2d(x.reshape(3, 1, 5, 5), 3, 2, 1))


# ---- a small Llama ------------------------------------------------------------------------

V, D, HEADS, KV, HD, FFN, LAYERS, RANK, LENGTHS = 40, 24, 4, 2, 6, 32, 2, 3, [9, 7]
SHAPES = [("embed", (V, D))]
for _l in range(LAYERS):
    SHAPES += [("norm1", (1, D)), ("q", (HEADS * HD, D)), ("k", (KV * HD, D)),
               ("v", (KV * HD, D)), ("o", (D, HEADS * HD)), ("norm2", (1, D)),
               ("gate", (FFN, D)), ("up", (FFN, D)), ("down", (D, FFN))]
SHAPES += [("out_norm", (1, D)), ("output", (V, D))]
LORA = [(RANK, D), (HEADS * HD, RANK), (RANK, D), (KV * HD, RANK)] * LAYERS
IDS = [(7 * i * i + 3 * i + 1) % V for i in range(sum(LENGTHS))]
TARGETS = [(5 * i * i + i + 2) % V if i % 6 != 4 else -1 for i in range(sum(LENGTHS))]
POS = [i for n in LENGTHS for i in range(n)]


def cut(flat, shapes):
    out, at = [], 0
    for s in shapes:
        out.append(flat[at:at + s[0] * s[1]].reshape(s))
        at += s[0] * s[1]
    return out


def llama(flat, lora):
    w = cut(flat, [s for _, s in SHAPES])
    ab = cut(lora, LORA) if lora is not None else None
    x = w[0][torch.tensor(IDS)]
    for l in range(LAYERS):
        n1, q, k, v, o, n2, gate, up, down = w[1 + 9 * l:10 + 9 * l]
        h = rmsnorm(x, n1, 1e-5)
        qs, ks, vs = h @ q.T, h @ k.T, h @ v.T
        if ab:
            aq, bq, av, bv = ab[4 * l:4 * l + 4]
            qs, vs = qs + 2 * h @ aq.T @ bq.T, vs + 2 * h @ av.T @ bv.T
        qs, ks = rope_near(qs, POS, HD), rope_near(ks, POS, HD)
        x = x + attention(qs, ks, vs, HEADS, KV, HD, LENGTHS, HD ** -0.5) @ o.T
        h = rmsnorm(x, n2, 1e-5)
        x = x + (F.silu(h @ gate.T) * (h @ up.T)) @ down.T
    logits = rmsnorm(x, w[-2], 1e-5) @ w[-1].T
    return F.cross_entropy(logits, torch.tensor(TARGETS), ignore_index=-1)


def train(name, flat, lora, trained, make):
    loss = llama(flat, lora)
    loss.backward()
    put(f"{name}/grad", trained.grad)
    trained.grad = None
    opt, losses = make([trained]), []
    for _ in range(20):
        opt.zero_grad()
        loss = llama(flat, lora)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    put(f"{name}/losses", torch.tensor(losses))
    put(f"{name}/x", trained[:64])


def models():
    n = sum(s[0] * s[1] for _, s in SHAPES)
    flat = (torch.randn(n) * 0.2).float().double()
    lora = (torch.randn(sum(s[0] * s[1] for s in LORA)) * 0.2).float().double()
    put("llama/base", flat)
    put("llama/lora", lora)
    adamw = lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)
    trained = lora.clone().requires_grad_(True)
    train("llama lora adamw", flat, trained, trained, adamw)
    for name, make in (("adamw", adamw),
                       ("sgd", lambda p: torch.optim.SGD(p, lr=0.1)),
                       ("momentum", lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9,
                                                              weight_decay=0.01)),
                       ("nesterov", lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9,
                                                              nesterov=True))):
        trained = flat.clone().requires_grad_(True)
        train("llama full " + name, trained, None, trained, make)
        if name != "adamw":  # the gradient is the same
            records.pop(-3)


ops()
models()
with open(sys.argv[1], "wb") as f:
    f.write(b"".join(records))
