#!/usr/bin/env python3
"""arch_golden.py - tiny random models of every supported family, and what they answer.

    python3 test/golden/arch_golden.py [DATA_DIR]

Writes test/golden/arch/<case>/: a Hugging Face style folder (config.json and one or
more safetensors files) and expected.bin.  Everything here is written from the papers
and the published config.json keys, in NumPy float64, one position after another and
one head after another: slow on purpose, and sharing no idea with the C code.

expected.bin is little-endian:  u32 n_seq; then per sequence  u32 n, i32 id[n],
f32 logits[n * vocab].

With DATA_DIR also test/golden/stories260K.txt: the greedy continuation (200 token
ids, from BOS) of the llama2.c checkpoint, by a NumPy implementation that
reads the .bin itself.

Sources: Touvron 2023 (Llama), Su 2021 (RoPE), Zhang and Sennrich 2019 (RMSNorm),
Shazeer 2020 (SwiGLU), Ainslie 2023 (GQA), Jiang 2023 (Mistral), Qwen2 and Qwen3
reports, Radford 2019 (GPT-2), Peng 2023 (YaRN), Llama 3.1's published rope scaling."""
import json
import math
import os
import struct
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 128


# ---- storage -------------------------------------------------------------------

def round_to(x, kind):
    """The nearest value that the file's type can hold, so that file == reference."""
    x = x.astype(np.float32)
    if kind == "F32":
        return x
    if kind == "F16":
        return x.astype(np.float16).astype(np.float32)
    u = x.view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def raw(x, kind):
    if kind == "F32":
        return x.astype("<f4").tobytes()
    if kind == "F16":
        return x.astype("<f2").tobytes()
    return (x.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()


def write_safetensors(path, tensors, kind):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, x in tensors.items():
        b = raw(x, kind)
        header[name] = {"dtype": kind, "shape": list(x.shape),
                        "data_offsets": [len(data), len(data) + len(b)]}
        data += b
    h = json.dumps(header, separators=(",", ":")).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h + data)


def write_model(folder, config, w, kind, shards):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    names = list(w)
    if shards == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), w, kind)
        return
    where, per = {}, -(-len(names) // shards)
    for s in range(shards):
        file = "model-%05d-of-%05d.safetensors" % (s + 1, shards)
        part = names[s * per:(s + 1) * per]
        where.update({n: file for n in part})
        write_safetensors(os.path.join(folder, file), {n: w[n] for n in part}, kind)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": where}, f, indent=0)


# ---- the pieces ----------------------------------------------------------------

def rms_norm(x, g, eps):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * g


def layer_norm(x, g, b, eps):
    mu = np.mean(x, -1, keepdims=True)
    var = np.mean((x - mu) ** 2, -1, keepdims=True)
    return (x - mu) / np.sqrt(var + eps) * g + b


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def rope_frequencies(d, cfg):
    """Angle per position of each pair, and the factor on cos and sin."""
    base = cfg.get("rope_theta", 10000.0)
    f = base ** (-np.arange(0, d, 2) / d)
    s = cfg.get("rope_scaling")
    if not s:
        return f, 1.0
    kind, factor = s.get("rope_type", s.get("type")), s["factor"]
    if kind == "linear":
        return f / factor, 1.0
    if kind == "llama3":
        lo, hi = s["low_freq_factor"], s["high_freq_factor"]
        ctx = s["original_max_position_embeddings"]
        out = []
        for v in f:
            wave = 2 * math.pi / v
            if wave < ctx / hi:
                out.append(v)
            elif wave > ctx / lo:
                out.append(v / factor)
            else:
                t = (ctx / wave - lo) / (hi - lo)
                out.append((1 - t) * v / factor + t * v)
        return np.array(out), 1.0
    if kind == "yarn":
        ctx = s["original_max_position_embeddings"]
        fast, slow = s.get("beta_fast", 32), s.get("beta_slow", 1)

        def dim_of(turns):  # the pair that makes `turns` turns over the context
            return d * math.log(ctx / (turns * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(dim_of(fast)), 0)
        high = min(math.ceil(dim_of(slow)), d - 1)
        ramp = np.clip((np.arange(d // 2) - low) / max(high - low, 0.001), 0, 1)
        return f / factor * ramp + f * (1 - ramp), 0.1 * math.log(factor) + 1
    raise ValueError(kind)


def rotate_halves(x, pos, f, m):
    """Pairs (i, i + d/2): the layout of Hugging Face weights."""
    h = len(f)
    c, s = np.cos(pos * f) * m, np.sin(pos * f) * m
    a, b = x[:h], x[h:]
    return np.concatenate([a * c - b * s, b * c + a * s])


def attend(q, k, v, heads, kv_heads, window):
    """q (n, heads, d); k, v (n, kv_heads, d): causal, one position at a time."""
    n, _, d = q.shape
    out = np.zeros_like(q)
    for i in range(n):
        lo = max(0, i - window + 1) if window else 0
        for h in range(heads):
            g = h // (heads // kv_heads)
            p = softmax(k[lo:i + 1, g] @ q[i, h] / math.sqrt(d))
            out[i, h] = p @ v[lo:i + 1, g]
    return out.reshape(n, heads * d)


# ---- families ------------------------------------------------------------------

def moe(cfg, w, p, h):
    """The feed-forward of a mixture of experts on rows h; every row by itself."""
    qwen = p + "mlp.gate.weight" in w
    base = p + ("mlp." if qwen else "block_sparse_moe.")
    gate, up, down = ("gate_proj", "up_proj", "down_proj") if qwen else ("w1", "w3", "w2")
    norm = cfg.get("norm_topk_prob", not qwen)
    y = np.zeros_like(h)
    for r, x in enumerate(h):
        prob = softmax(w[base + "gate.weight"] @ x)
        best = np.argsort(-prob, kind="stable")[:cfg["num_experts_per_tok"]]
        share = prob[best] / (prob[best].sum() if norm else 1)
        for e, s in zip(best, share):
            q = "%sexperts.%d." % (base, e)
            a = silu(w[q + gate + ".weight"] @ x) * (w[q + up + ".weight"] @ x)
            y[r] += s * (w[q + down + ".weight"] @ a)
        if base + "shared_expert_gate.weight" in w:
            q = base + "shared_expert."
            a = silu(w[q + gate + ".weight"] @ x) * (w[q + up + ".weight"] @ x)
            on = 1 / (1 + np.exp(-(w[base + "shared_expert_gate.weight"] @ x)))
            y[r] += on * (w[q + down + ".weight"] @ a)
    return y


def llama_like(cfg, w, ids, qk_norm=False):
    heads, kv = cfg["num_attention_heads"], cfg["num_key_value_heads"]
    d = cfg.get("head_dim") or cfg["hidden_size"] // heads
    eps, n = cfg["rms_norm_eps"], len(ids)
    f, m = rope_frequencies(d, cfg)
    window = cfg.get("sliding_window") if cfg.get("use_sliding_window", True) else None
    x = w["model.embed_tokens.weight"][ids]

    def linear(x, name):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    for i in range(cfg["num_hidden_layers"]):
        p = "model.layers.%d." % i
        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        q, k = linear(h, p + "self_attn.q_proj"), linear(h, p + "self_attn.k_proj")
        if qk_norm == "whole":  # over all heads at once
            q = rms_norm(q, w[p + "self_attn.q_norm.weight"], eps)
            k = rms_norm(k, w[p + "self_attn.k_norm.weight"], eps)
        q, k = q.reshape(n, heads, d), k.reshape(n, kv, d)
        v = linear(h, p + "self_attn.v_proj").reshape(n, kv, d)
        if qk_norm is True:
            q = rms_norm(q, w[p + "self_attn.q_norm.weight"], eps)
            k = rms_norm(k, w[p + "self_attn.k_norm.weight"], eps)
        for t in range(n):
            q[t] = np.array([rotate_halves(r, t, f, m) for r in q[t]])
            k[t] = np.array([rotate_halves(r, t, f, m) for r in k[t]])
        x = x + linear(attend(q, k, v, heads, kv, window), p + "self_attn.o_proj")
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"], eps)
        if p + "mlp.gate_proj.weight" not in w:
            x = x + moe(cfg, w, p, h)
            continue
        gate, up = linear(h, p + "mlp.gate_proj"), linear(h, p + "mlp.up_proj")
        x = x + linear(silu(gate) * up, p + "mlp.down_proj")
    x = rms_norm(x, w["model.norm.weight"], eps)
    tied = cfg.get("tie_word_embeddings", False)
    return x @ w["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def qwen3(cfg, w, ids):
    return llama_like(cfg, w, ids, qk_norm=True)


def olmoe(cfg, w, ids):
    return llama_like(cfg, w, ids, qk_norm="whole")


def gpt2(cfg, w, ids):
    heads, dim, n = cfg["n_head"], cfg["n_embd"], len(ids)
    d, eps = dim // heads, cfg["layer_norm_epsilon"]
    x = w["wte.weight"][ids] + w["wpe.weight"][:n]
    for i in range(cfg["n_layer"]):
        p = "h.%d." % i
        h = layer_norm(x, w[p + "ln_1.weight"], w[p + "ln_1.bias"], eps)
        qkv = h @ w[p + "attn.c_attn.weight"] + w[p + "attn.c_attn.bias"]
        q, k, v = (qkv[:, j * dim:(j + 1) * dim].reshape(n, heads, d) for j in range(3))
        a = attend(q, k, v, heads, heads, None)
        x = x + a @ w[p + "attn.c_proj.weight"] + w[p + "attn.c_proj.bias"]
        h = layer_norm(x, w[p + "ln_2.weight"], w[p + "ln_2.bias"], eps)
        h = gelu_tanh(h @ w[p + "mlp.c_fc.weight"] + w[p + "mlp.c_fc.bias"])
        x = x + h @ w[p + "mlp.c_proj.weight"] + w[p + "mlp.c_proj.bias"]
    return layer_norm(x, w["ln_f.weight"], w["ln_f.bias"], eps) @ w["wte.weight"].T


# ---- random weights ------------------------------------------------------------

def llama_weights(cfg, draw, qkv_bias=False, o_bias=False, mlp_bias=False, qk_norm=False,
                  experts=None):
    dim, ffn, heads = cfg["hidden_size"], cfg["intermediate_size"], cfg["num_attention_heads"]
    d = cfg.get("head_dim") or dim // heads
    kv = cfg["num_key_value_heads"] * d
    w = {"model.embed_tokens.weight": draw((VOCAB, dim), 1.0)}

    def linear(name, out, inn, bias):
        w[name + ".weight"] = draw((out, inn), 1.6 / math.sqrt(inn))
        if bias:
            w[name + ".bias"] = draw((out,), 0.5)

    for i in range(cfg["num_hidden_layers"]):
        p = "model.layers.%d." % i
        w[p + "input_layernorm.weight"] = 1 + draw((dim,), 0.3)
        linear(p + "self_attn.q_proj", heads * d, dim, qkv_bias)
        linear(p + "self_attn.k_proj", kv, dim, qkv_bias)
        linear(p + "self_attn.v_proj", kv, dim, qkv_bias)
        linear(p + "self_attn.o_proj", dim, heads * d, o_bias)
        if qk_norm:
            whole = qk_norm == "whole"
            w[p + "self_attn.q_norm.weight"] = 1 + draw((heads * d if whole else d,), 0.3)
            w[p + "self_attn.k_norm.weight"] = 1 + draw((kv if whole else d,), 0.3)
        w[p + "post_attention_layernorm.weight"] = 1 + draw((dim,), 0.3)
        if experts:
            expert_weights(cfg, linear, p, dim, experts)
            continue
        linear(p + "mlp.gate_proj", ffn, dim, mlp_bias)
        linear(p + "mlp.up_proj", ffn, dim, mlp_bias)
        linear(p + "mlp.down_proj", dim, ffn, mlp_bias)
    w["model.norm.weight"] = 1 + draw((dim,), 0.3)
    if not cfg.get("tie_word_embeddings", False):
        w["lm_head.weight"] = draw((VOCAB, dim), 1.0)
    return w


def expert_weights(cfg, linear, p, dim, kind):
    """kind: mixtral, qwen, or shared: qwen with a shared expert."""
    mixtral = kind == "mixtral"
    base = p + ("block_sparse_moe." if mixtral else "mlp.")
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    n = cfg["num_local_experts" if mixtral else "num_experts"]
    linear(base + "gate", n, dim, False)

    def ffn(q, width):
        linear(q + gate, width, dim, False)
        linear(q + up, width, dim, False)
        linear(q + down, dim, width, False)

    for e in range(n):
        ffn("%sexperts.%d." % (base, e), cfg.get("moe_intermediate_size",
                                                 cfg["intermediate_size"]))
    if kind == "shared":
        ffn(base + "shared_expert.", cfg["shared_expert_intermediate_size"])
        linear(base + "shared_expert_gate", 1, dim, False)


def gpt2_weights(cfg, draw):
    dim, ctx = cfg["n_embd"], cfg["n_positions"]
    w = {"wte.weight": draw((VOCAB, dim), 0.5), "wpe.weight": draw((ctx, dim), 0.5)}

    def conv1d(name, inn, out):  # stored (in, out), unlike every other family
        w[name + ".weight"] = draw((inn, out), 1.6 / math.sqrt(inn))
        w[name + ".bias"] = draw((out,), 0.5)

    for i in range(cfg["n_layer"]):
        p = "h.%d." % i
        for ln in ("ln_1", "ln_2"):
            w[p + ln + ".weight"] = 1 + draw((dim,), 0.3)
            w[p + ln + ".bias"] = draw((dim,), 0.3)
        # The published files carry the causal mask as a tensor; loaders must skip it.
        w[p + "attn.bias"] = np.tril(np.ones((ctx, ctx), np.float32))[None, None]
        conv1d(p + "attn.c_attn", dim, 3 * dim)
        conv1d(p + "attn.c_proj", dim, dim)
        conv1d(p + "mlp.c_fc", dim, 4 * dim)
        conv1d(p + "mlp.c_proj", 4 * dim, dim)
    w["ln_f.weight"] = 1 + draw((dim,), 0.3)
    w["ln_f.bias"] = draw((dim,), 0.3)
    return w


# ---- cases ---------------------------------------------------------------------

def config(model_type, dim, layers, heads, kv, ffn, **more):
    c = {"model_type": model_type, "vocab_size": VOCAB, "hidden_size": dim,
         "num_hidden_layers": layers, "num_attention_heads": heads,
         "num_key_value_heads": kv, "intermediate_size": ffn, "rms_norm_eps": 1e-5,
         "max_position_embeddings": 64, "rope_theta": 10000.0, "hidden_act": "silu",
         "tie_word_embeddings": False}
    c.update(more)
    return c


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
GPT2 = {"model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4,
        "n_positions": 24, "n_inner": None, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new"}

# name: (forward, config, weights' options, type in the file, files)
CASES = {
    "llama3": (llama_like, config("llama", 32, 2, 2, 1, 64, rope_scaling=LLAMA3), {}, "F32", 1),
    "llama-linear-tied": (
        llama_like,
        config("llama", 32, 2, 4, 2, 64, tie_word_embeddings=True, rms_norm_eps=1e-6,
               rope_scaling={"type": "linear", "factor": 2.5}), {}, "BF16", 1),
    "llama-biases": (
        llama_like,
        config("llama", 32, 2, 4, 4, 48, attention_bias=True, mlp_bias=True),
        dict(qkv_bias=True, o_bias=True, mlp_bias=True), "BF16", 1),
    "mistral": (llama_like, config("mistral", 32, 3, 4, 2, 64, sliding_window=4), {}, "F16", 2),
    "smollm": (
        llama_like,
        config("llama", 48, 3, 3, 1, 96, tie_word_embeddings=True, rope_theta=100000.0), {},
        "BF16", 1),
    "qwen2": (
        llama_like,
        config("qwen2", 32, 2, 4, 2, 64, rope_theta=1000000.0, rms_norm_eps=1e-6,
               use_sliding_window=False, sliding_window=4, max_window_layers=2),
        dict(qkv_bias=True), "F32", 2),
    "qwen2-yarn": (
        llama_like,
        config("qwen2", 32, 2, 2, 1, 64, tie_word_embeddings=True, use_sliding_window=False,
               rope_scaling=YARN), dict(qkv_bias=True), "BF16", 1),
    "qwen3": (
        qwen3, config("qwen3", 32, 2, 4, 2, 64, head_dim=16, tie_word_embeddings=True,
                      rope_theta=1000000.0, rms_norm_eps=1e-6), dict(qk_norm=True), "BF16", 1),
    "gpt2": (gpt2, GPT2, {}, "F32", 1),
    "mixtral": (
        llama_like, config("mixtral", 32, 2, 4, 2, 32, num_local_experts=4,
                           num_experts_per_tok=2), dict(experts="mixtral"), "BF16", 1),
    "qwen2moe": (
        llama_like, config("qwen2_moe", 32, 2, 2, 2, 64, num_experts=5, num_experts_per_tok=3,
                           moe_intermediate_size=16, shared_expert_intermediate_size=48,
                           norm_topk_prob=False, decoder_sparse_step=1),
        dict(qkv_bias=True, experts="shared"), "BF16", 1),
    "qwen3moe": (
        qwen3, config("qwen3_moe", 32, 2, 4, 2, 64, head_dim=16, num_experts=6,
                      num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True,
                      mlp_only_layers=[]), dict(qk_norm=True, experts="qwen"), "BF16", 1),
    "olmoe": (
        olmoe, config("olmoe", 32, 2, 4, 4, 16, num_experts=8, num_experts_per_tok=3,
                      norm_topk_prob=False), dict(qk_norm="whole", experts="qwen"), "BF16", 1),
}


def make_case(name, seed):
    forward, cfg, options, kind, shards = CASES[name]
    rng = np.random.default_rng(seed)

    def draw(shape, scale):
        return rng.uniform(-scale, scale, shape)

    w = (gpt2_weights if forward is gpt2 else llama_weights)(cfg, draw, **options)
    w = {n: round_to(x, kind) for n, x in w.items()}
    folder = os.path.join(HERE, "arch", name)
    write_model(folder, cfg, w, kind, shards)
    w64 = {n: x.astype(np.float64) for n, x in w.items()}
    with open(os.path.join(folder, "expected.bin"), "wb") as f:
        lengths = (13, 6)
        f.write(struct.pack("<I", len(lengths)))
        for n in lengths:
            ids = rng.integers(0, VOCAB, n)
            logits = forward(cfg, w64, ids)
            f.write(struct.pack("<I", n) + ids.astype("<i4").tobytes())
            f.write(logits.astype("<f4").tobytes())
    size = sum(os.path.getsize(os.path.join(folder, x)) for x in os.listdir(folder))
    print("%-20s %6d bytes, |logits| up to %.2f" % (name, size, np.abs(logits).max()))


# ---- llama2.c ------------------------------------------------------------------

def read_llama2c(path):
    """Legacy header: 7 int32, then f32 tensors, layers of a kind together."""
    d = open(path, "rb").read()
    dim, ffn, layers, heads, kv, vocab, ctx = struct.unpack_from("<7i", d, 0)
    at = [28]

    def take(*shape):
        n = int(np.prod(shape))
        x = np.frombuffer(d, "<f4", n, at[0]).reshape(shape)
        at[0] += 4 * n
        return x

    hs, tied = dim // heads, vocab > 0
    vocab = abs(vocab)
    w = {"embed": take(vocab, dim), "n1": take(layers, dim),
         "q": take(layers, dim, dim), "k": take(layers, kv * hs, dim),
         "v": take(layers, kv * hs, dim), "o": take(layers, dim, dim),
         "n2": take(layers, dim), "w1": take(layers, ffn, dim),
         "w2": take(layers, dim, ffn), "w3": take(layers, ffn, dim), "n": take(dim)}
    take(ctx, hs // 2), take(ctx, hs // 2)  # rope tables of old files, unused
    w["out"] = w["embed"] if tied else take(vocab, dim)
    return dict(dim=dim, layers=layers, heads=heads, kv=kv, hs=hs), w


def llama2c_step(c, w, cache, tok, pos):
    hs = c["hs"]
    f = 10000.0 ** (-np.arange(0, hs, 2) / hs)
    cos, sin = np.cos(pos * f), np.sin(pos * f)

    def rot(x):  # adjacent pairs
        x = x.reshape(-1, hs // 2, 2)
        a, b = x[..., 0], x[..., 1]
        return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(-1, hs)

    x = w["embed"][tok].astype(np.float64)
    for i in range(c["layers"]):
        h = rms_norm(x, w["n1"][i], 1e-5)
        q, k = rot(w["q"][i] @ h), rot(w["k"][i] @ h)
        cache[i].append((k, (w["v"][i] @ h).reshape(-1, hs)))
        out = []
        for j in range(c["heads"]):
            g = j // (c["heads"] // c["kv"])
            s = np.array([kk[g] @ q[j] for kk, _ in cache[i]]) / math.sqrt(hs)
            out.append(softmax(s) @ np.array([vv[g] for _, vv in cache[i]]))
        x = x + w["o"][i] @ np.concatenate(out)
        h = rms_norm(x, w["n2"][i], 1e-5)
        x = x + w["w2"][i] @ (silu(w["w1"][i] @ h) * (w["w3"][i] @ h))
    return w["out"] @ rms_norm(x, w["n"], 1e-5)


def greedy_stories(data):
    c, w = read_llama2c(os.path.join(data, "models", "stories260K.bin"))
    cache, ids, margin = [[] for _ in range(c["layers"])], [1], np.inf
    for pos in range(200):
        logits = llama2c_step(c, w, cache, ids[-1], pos)
        best = np.sort(logits)[-2:]
        margin = min(margin, best[1] - best[0])
        ids.append(int(np.argmax(logits)))
    with open(os.path.join(HERE, "stories260K.txt"), "w") as f:
        f.write("\n".join(" ".join(map(str, ids[i:i + 20])) for i in range(0, 201, 20)) + "\n")
    print("stories260K: 200 greedy tokens, smallest margin %.4f" % margin)


if __name__ == "__main__":
    for number, case in enumerate(CASES):
        make_case(case, 1000 + number)
    if len(sys.argv) > 1:
        greedy_stories(sys.argv[1])
