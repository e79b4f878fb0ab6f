"""agg_peers.py - bench_agg beside NumPy and PyTorch, interleaved in one run.

    python3 bench/agg_peers.py build/dev/bench/bench_agg [--threads 2] [--turns 3]

Each turn runs every operation once here and once in bench_agg, so that both meet the
same machine.  For each operation: our median seconds, the best peer's, and the ratio
with its least and greatest value over the turns.
"""
import argparse
import subprocess
import time

import numpy as np
import torch

ap = argparse.ArgumentParser()
ap.add_argument("bench")
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--turns", type=int, default=3)
ap.add_argument("--clients", type=int, default=100)
ap.add_argument("--dim", type=int, default=1000000)
ap.add_argument("--long", type=int, default=100000000)
ap.add_argument("names", nargs="*")
a = ap.parse_args()
torch.set_num_threads(a.threads)
n, d, f = a.clients, a.dim, a.clients // 5
rng = np.random.default_rng(7)
V = rng.standard_normal((n, d), dtype=np.float32)
T = torch.from_numpy(V)
VT = torch.from_numpy(np.ascontiguousarray(V.T))
X = None


def numpy_median():
    return np.median(V, axis=0)


def torch_median_transposed():
    return VT.median(dim=1).values


def torch_kthvalue_transposed():
    return VT.kthvalue(n // 2, dim=1).values


def numpy_trim_sort():
    c = n // 10
    return np.sort(V, axis=0)[c:n - c].mean(axis=0)


def numpy_trim_partition():
    c = n // 10
    return np.partition(V, (c, n - c - 1), axis=0)[c:n - c].mean(axis=0)


def torch_trim_sort():
    c = n // 10
    return T.sort(dim=0).values[c:n - c].mean(dim=0)


def numpy_krum():
    g = V @ V.T
    s = np.diag(g)
    dist = np.maximum(s[:, None] + s[None] - 2 * g, 0)
    np.fill_diagonal(dist, np.inf)
    score = np.sort(dist, axis=1)[:, :n - f - 2].sum(axis=1)
    return V[np.argmin(score)].copy()


def numpy_geometric_median():
    z = V.mean(axis=0)
    s = np.einsum("ij,ij->i", V, V)
    for _ in range(10):
        dist = np.sqrt(np.maximum(s - 2 * (V @ z) + z @ z, 0))
        w = (1 / np.maximum(dist, 1e-6)).astype(np.float32)
        z = (w / w.sum()) @ V
    return z


def torch_top():
    k = a.long // 100
    i = torch.topk(X.abs(), k, sorted=False).indices
    return X[i]


ops = {
    "mean": [lambda: V.mean(axis=0)],
    "median": [numpy_median, torch_median_transposed, torch_kthvalue_transposed],
    "trimmed_mean": [numpy_trim_sort, numpy_trim_partition, torch_trim_sort],
    "krum": [numpy_krum],
    "geometric_median": [numpy_geometric_median],
    "top": [torch_top],
}
for name, peers in ops.items():
    if a.names and name not in a.names:
        continue
    if name == "top":
        X = torch.from_numpy(rng.standard_normal(a.long, dtype=np.float32))
    ours, theirs, ratios = [], [], []
    for _ in range(a.turns):
        best = None
        for p in peers:
            t = time.perf_counter()
            p()
            t = time.perf_counter() - t
            best = t if best is None or t < best else best
        line = subprocess.run(
            [a.bench, "--threads", str(a.threads), "--clients", str(n), "--dim", str(d),
             "--long", str(a.long), "--repeat", "3", name],
            capture_output=True, text=True, check=True).stdout.split()
        ours.append(float(line[1]))
        theirs.append(best)
        ratios.append(best / float(line[1]))
    print(f"{name:18s} ours {np.median(ours):.4f} s  best peer {np.median(theirs):.4f} s"
          f"  ratio {np.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
          flush=True)
