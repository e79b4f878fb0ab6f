#!/usr/bin/env python3
"""Writes prune.txt: what pruning makes of a small layer, computed with NumPy in double from
the papers' descriptions, with explicit inverses where the library has factors.

    python3 test/golden/prune_golden.py >test/golden/prune.txt

Lines are "NAME rows cols" and the numbers.  w (6, 16), x (40, 16); H = X^T X + 0.01 mean of
its diagonal; blocks of 8 columns, sparsity one half.  Made with NumPy 1.24 or later."""
import numpy as np

ROWS, COLS, BLOCK, S, DAMP = 6, 16, 8, 0.5, 0.01
rng = np.random.default_rng(4)
w = rng.normal(size=(ROWS, COLS)).astype(np.float32).astype(float)
x = rng.normal(size=(40, COLS)) * np.linspace(0.5, 2, COLS)
for j in range(1, COLS):
    x[:, j] += 0.7 * x[:, j - 1]
x = x.astype(np.float32).astype(float)


def put(name, a):
    print(name, *a.shape)
    for row in a:
        print(*(f"{v:.9g}" for v in row))


gram = x.T @ x
H = gram + DAMP * np.mean(np.diag(gram)) * np.eye(COLS)
norm = np.sqrt(np.sum(x * x, axis=0))


def lowest(score, n):
    keep = np.ones(score.size, bool)
    keep[np.argsort(score.ravel(), kind="stable")[:n]] = False
    return keep.reshape(score.shape)


def by_row(score):
    return np.array([lowest(r, int(S * COLS)) for r in score])


def pattern(score, stay, of):
    keep = np.zeros(score.shape, bool)
    for r in range(score.shape[0]):
        for c in range(0, score.shape[1], of):
            order = np.argsort(-score[r, c:c + of], kind="stable")[:stay]
            keep[r, c + order] = True
    return keep


def sparsegpt(nm):
    """Frantar and Alistarh's loop: U is the upper Cholesky factor of H^-1."""
    W, U = w.copy(), np.linalg.cholesky(np.linalg.inv(H)).T
    for i1 in range(0, COLS, BLOCK):
        i2 = i1 + BLOCK
        d = np.diag(U)[i1:i2]
        keep = np.ones((ROWS, BLOCK), bool)
        if not nm:
            keep = lowest(W[:, i1:i2] ** 2 / d ** 2, int(S * ROWS * BLOCK))
        for i in range(BLOCK):
            if nm and i % 4 == 0:
                keep[:, i:i + 4] = pattern(W[:, i1 + i:i1 + i + 4] ** 2 / d[i:i + 4] ** 2, 2, 4)
            q = W[:, i1 + i] * keep[:, i]
            e = (W[:, i1 + i] - q) / d[i]
            W[:, i1 + i:] -= np.outer(e, U[i1 + i, i1 + i:])
            W[:, i1 + i] = q
    return W


def joint(row, inverse, gone):
    """All of `gone` to zero at once: w - (H^-1)_q^T ((H^-1)_qq)^-1 w_q."""
    if len(gone):
        row = row - inverse[gone].T @ np.linalg.solve(inverse[np.ix_(gone, gone)], row[gone])
        row[gone] = 0
    return row


def thanos(nm):
    W, zeros = w.copy(), 0
    for i1 in range(0, COLS, BLOCK):
        score = np.abs(W[:, i1:]) * norm[i1:]
        if nm:
            keep = pattern(score[:, :BLOCK], 2, 4)
        else:
            keep = lowest(score, int(S * ROWS * COLS) - zeros)[:, :BLOCK]
            zeros += int((~keep).sum())
        inverse = np.linalg.inv(H[i1:, i1:])
        for r in range(ROWS):
            W[r, i1:] = joint(W[r, i1:], inverse, np.flatnonzero(~keep[r]))
    return W


def columns(keep):
    """Least squares over the kept columns for all rows."""
    W = np.zeros_like(w)
    W[:, keep] = w @ H[:, keep] @ np.linalg.inv(H[np.ix_(keep, keep)])
    return W


share = np.abs(w) / np.abs(w).sum(0) + np.abs(w) / np.abs(w).sum(1, keepdims=True)
out2 = np.sum((x @ w.T) ** 2, axis=0)
wanda = np.abs(w) * norm
put("w", w)
put("x", x)
put("magnitude", w * lowest(np.abs(w), ROWS * COLS // 2))
put("wanda", w * by_row(wanda))
put("ria", w * lowest(share * np.sqrt(norm), ROWS * COLS // 2))
put("symmetric-wanda", w * by_row(np.abs(w) * np.sqrt(norm ** 2 + out2[:, None])))
put("wanda-2:4", w * pattern(wanda, 2, 4))
put("sparsegpt", sparsegpt(False))
put("sparsegpt-2:4", sparsegpt(True))
put("thanos", thanos(False))
put("thanos-2:4", thanos(True))
keep = np.argsort(np.sum(wanda ** 2, axis=0), kind="stable")[COLS // 2:]
put("columns", columns(np.sort(keep)))
