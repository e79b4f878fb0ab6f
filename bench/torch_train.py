#!/usr/bin/env python3
"""The peer of bench_nn: the same training steps in PyTorch, eager, float32.

    OPENBLAS_CORETYPE=SkylakeX bench/torch_train.py full15m|lora110m|lora05b [STEPS]

Prints one JSON line: ms per step (median and best), tokens/s, processor time, peak RSS.
Set OMP_NUM_THREADS: PyTorch may take one thread where there are two processors.  Weights are random; the
shapes are those of bench_nn.  SDPA does not exist in PyTorch 1.13, so attention is the
usual masked softmax; the loss is torch's cross_entropy on all logits."""
import json, math, resource, sys, time
import torch

SHAPES = {
    # dim, layers, heads, kv heads, ffn, vocabulary, batch, tokens, LoRA rank (0: full)
    "full15m": (288, 6, 6, 6, 768, 32000, 4, 256, 0),
    "lora110m": (768, 12, 12, 12, 2048, 32000, 4, 256, 8),
    "lora05b": (896, 24, 14, 2, 4864, 151936, 1, 256, 8),
}
name, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
DIM, LAYERS, HEADS, KV, FFN, VOCAB, B, T, RANK = SHAPES[name]
HD = DIM // HEADS
torch.manual_seed(1)
F = torch.nn.functional


def param(*shape, scale=0.02):
    return (torch.randn(*shape) * scale).requires_grad_(RANK == 0)


class Linear:
    def __init__(self, n_out, n_in, lora):
        self.w = param(n_out, n_in)
        self.a = self.b = None
        if lora and RANK:
            self.a = (torch.rand(RANK, n_in) * 0.02 - 0.01).requires_grad_()
            self.b = torch.zeros(n_out, RANK).requires_grad_()

    def __call__(self, x):
        y = F.linear(x, self.w)
        return y if self.a is None else y + 2.0 * F.linear(F.linear(x, self.a), self.b)

    def params(self):
        return [p for p in (self.w, self.a, self.b) if p is not None and p.requires_grad]


class Block:
    def __init__(self):
        self.n1, self.n2 = torch.ones(DIM).requires_grad_(RANK == 0), torch.ones(DIM).requires_grad_(RANK == 0)
        self.q, self.v = Linear(HEADS * HD, DIM, True), Linear(KV * HD, DIM, True)
        self.k, self.o = Linear(KV * HD, DIM, False), Linear(DIM, HEADS * HD, False)
        self.g, self.u = Linear(FFN, DIM, False), Linear(FFN, DIM, False)
        self.d = Linear(DIM, FFN, False)

    def params(self):
        out = [p for p in (self.n1, self.n2) if p.requires_grad]
        for l in (self.q, self.k, self.v, self.o, self.g, self.u, self.d):
            out += l.params()
        return out

    def __call__(self, x, cos, sin, mask):
        h = norm(x, self.n1)
        q = rope(self.q(h).view(B, T, HEADS, HD), cos, sin).transpose(1, 2)
        k = rope(self.k(h).view(B, T, KV, HD), cos, sin).transpose(1, 2)
        v = self.v(h).view(B, T, KV, HD).transpose(1, 2)
        if KV != HEADS:
            k, v = k.repeat_interleave(HEADS // KV, 1), v.repeat_interleave(HEADS // KV, 1)
        s = (q @ k.transpose(-1, -2)) / math.sqrt(HD) + mask
        x = x + self.o((s.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1))
        h = norm(x, self.n2)
        return x + self.d(F.silu(self.g(h)) * self.u(h))


def norm(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w


def rope(x, cos, sin):
    a, b = x[..., : HD // 2], x[..., HD // 2:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


embed, final = param(VOCAB, DIM), torch.ones(DIM).requires_grad_(RANK == 0)
blocks = [Block() for _ in range(LAYERS)]
params = [p for p in (embed, final) if p.requires_grad] + [p for b in blocks for p in b.params()]
opt = torch.optim.AdamW(params, lr=1e-4)
angle = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, HD, 2) / HD)[None]
cos, sin = angle.cos()[:, None], angle.sin()[:, None]
mask = torch.full((T, T), float("-inf")).triu(1)
ids = torch.randint(0, VOCAB, (B, T + 1))


def step():
    x = embed[ids[:, :-1]]
    for b in blocks:
        x = b(x, cos, sin, mask)
    loss = F.cross_entropy(F.linear(norm(x, final), embed).view(-1, VOCAB), ids[:, 1:].reshape(-1))
    opt.zero_grad(set_to_none=True)
    loss.backward()
    opt.step()
    return loss.item()


step()
times, cpu = [], []
for _ in range(steps):
    start, used = time.perf_counter(), time.process_time()
    loss = step()
    times.append(time.perf_counter() - start)
    cpu.append(time.process_time() - used)
ms = 1000 * sorted(times)[len(times) // 2]
print(json.dumps({"peer": "torch " + torch.__version__, "case": name, "threads": torch.get_num_threads(),
                  "ms_per_step": round(ms, 1), "tokens_per_second": round(1000 * B * T / ms, 1),
                  "best_ms": round(1000 * min(times), 1), "best_cpu_ms": round(1000 * min(cpu), 1),
                  "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)}))
