#!/usr/bin/env python3
"""Golden training runs: a tiny Llama in PyTorch, twenty AdamW steps on the same batch,
every weight and LoRA, written for test_train.c.

    python3 test/golden/train_golden.py test/golden/train

Writes model/ (Hugging Face layout), adapter/ (PEFT layout, the LoRA start) and losses.txt:
the token ids, then one loss per line for the full and the LoRA run.  The model below is
written from the Llama paper's equations, independently of the library."""
import json, math, os, struct, sys
import numpy as np
import torch

torch.manual_seed(7)
torch.set_num_threads(1)
DIM, LAYERS, HEADS, KV, FFN, VOCAB, SEQ, BATCH = 64, 2, 4, 2, 96, 96, 24, 4
HD, EPS, THETA, RANK, ALPHA = DIM // HEADS, 1e-5, 10000.0, 4, 8.0
STEPS, LR, WD = 20, 3e-3, 0.01


def write_safetensors(path, tensors):
    head, at, blob = {}, 0, b""
    for name, t in tensors.items():
        raw = t.detach().numpy().astype("<f4").tobytes()
        head[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        blob += raw
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + blob)


def weight(*shape, scale=None):
    return torch.randn(*shape) * (scale or 1 / math.sqrt(shape[-1]))


W = {"model.embed_tokens.weight": weight(VOCAB, DIM, scale=0.3)}
for i in range(LAYERS):
    p = f"model.layers.{i}."
    W[p + "input_layernorm.weight"] = 1 + 0.1 * torch.randn(DIM)
    W[p + "post_attention_layernorm.weight"] = 1 + 0.1 * torch.randn(DIM)
    W[p + "self_attn.q_proj.weight"] = weight(HEADS * HD, DIM)
    W[p + "self_attn.k_proj.weight"] = weight(KV * HD, DIM)
    W[p + "self_attn.v_proj.weight"] = weight(KV * HD, DIM)
    W[p + "self_attn.o_proj.weight"] = weight(DIM, HEADS * HD)
    W[p + "mlp.gate_proj.weight"] = weight(FFN, DIM)
    W[p + "mlp.up_proj.weight"] = weight(FFN, DIM)
    W[p + "mlp.down_proj.weight"] = weight(DIM, FFN)
W["model.norm.weight"] = 1 + 0.1 * torch.randn(DIM)
W["lm_head.weight"] = weight(VOCAB, DIM)
TARGETS = ["q_proj", "v_proj", "down_proj"]
LORA = {}
for i in range(LAYERS):
    for m in TARGETS:
        part = "mlp" if m == "down_proj" else "self_attn"
        w = W[f"model.layers.{i}.{part}.{m}.weight"]
        key = f"base_model.model.model.layers.{i}.{part}.{m}"
        LORA[key + ".lora_A.weight"] = torch.randn(RANK, w.shape[1]) * 0.1
        LORA[key + ".lora_B.weight"] = torch.randn(w.shape[0], RANK) * 0.05
IDS = torch.randint(0, VOCAB, (BATCH * SEQ + 1,))


def rmsnorm(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * w


def rope(x):  # (B, T, H, HD): halves
    t = torch.arange(x.shape[1], dtype=torch.float64)
    f = THETA ** (-torch.arange(0, HD, 2, dtype=torch.float64) / HD)
    a = t[:, None] * f[None]
    c, s = a.cos().float()[None, :, None], a.sin().float()[None, :, None]
    u, v = x[..., : HD // 2], x[..., HD // 2:]
    return torch.cat([u * c - v * s, v * c + u * s], -1)


def loss_of(w, lora):
    def linear(x, name):
        y = x @ w[name].T
        key = "base_model.model." + name[: -len(".weight")]
        if lora and key + ".lora_A.weight" in lora:
            y = y + (ALPHA / RANK) * (x @ lora[key + ".lora_A.weight"].T) @ lora[key + ".lora_B.weight"].T
        return y
    x = w["model.embed_tokens.weight"][IDS[:-1].view(BATCH, SEQ)]
    mask = torch.full((SEQ, SEQ), float("-inf")).triu(1)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        h = rmsnorm(x, w[p + "input_layernorm.weight"])
        q = rope(linear(h, p + "self_attn.q_proj.weight").view(BATCH, SEQ, HEADS, HD))
        k = rope(linear(h, p + "self_attn.k_proj.weight").view(BATCH, SEQ, KV, HD))
        v = linear(h, p + "self_attn.v_proj.weight").view(BATCH, SEQ, KV, HD)
        k, v = k.repeat_interleave(HEADS // KV, 2), v.repeat_interleave(HEADS // KV, 2)
        s = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(HD) + mask
        o = torch.einsum("bhij,bjhd->bihd", s.softmax(-1), v).reshape(BATCH, SEQ, -1)
        x = x + linear(o, p + "self_attn.o_proj.weight")
        h = rmsnorm(x, w[p + "post_attention_layernorm.weight"])
        g = linear(h, p + "mlp.gate_proj.weight")
        u = linear(h, p + "mlp.up_proj.weight")
        x = x + linear(torch.nn.functional.silu(g) * u, p + "mlp.down_proj.weight")
    logits = linear(rmsnorm(x, w["model.norm.weight"]), "lm_head.weight")
    return torch.nn.functional.cross_entropy(logits.view(-1, VOCAB), IDS[1:])


def train(w, lora, params):
    opt = torch.optim.AdamW(params, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=WD)
    out = []
    for _ in range(STEPS):
        opt.zero_grad()
        loss = loss_of(w, lora)
        loss.backward()
        opt.step()
        out.append(loss.item())
    return out


out = sys.argv[1]
os.makedirs(out + "/model", exist_ok=True)
os.makedirs(out + "/adapter", exist_ok=True)
write_safetensors(out + "/model/model.safetensors", W)
json.dump({"model_type": "llama", "hidden_size": DIM, "num_hidden_layers": LAYERS,
           "num_attention_heads": HEADS, "num_key_value_heads": KV, "intermediate_size": FFN,
           "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": EPS,
           "rope_theta": THETA, "tie_word_embeddings": False, "hidden_act": "silu"},
          open(out + "/model/config.json", "w"), indent=1)
write_safetensors(out + "/adapter/adapter_model.safetensors", LORA)
json.dump({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": TARGETS,
           "base_model_name_or_path": "model", "bias": "none"},
          open(out + "/adapter/adapter_config.json", "w"), indent=1)
full = {k: v.clone().requires_grad_() for k, v in W.items()}
lora = {k: v.clone().requires_grad_() for k, v in LORA.items()}
a = train(full, None, list(full.values()))
b = train(W, lora, list(lora.values()))
with open(out + "/losses.txt", "w") as f:
    f.write(" ".join(str(int(i)) for i in IDS) + "\n")
    for x, y in zip(a, b):
        f.write(f"{x:.9g} {y:.9g}\n")
print(a[0], a[-1], b[0], b[-1])
