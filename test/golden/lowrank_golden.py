"""The linear algebra of the low-rank methods by NumPy, in double precision: what
test/laws/test_lowrank.c compares with.  Writes lowrank.txt.

    python3 test/golden/lowrank_golden.py > test/golden/lowrank.txt

Three clients of ranks 3, 1, 2 with 5, 2, 3 samples hold B_i (7, r_i) and A_i (4, r_i)' of
numbers that the test makes by the same formula."""
import numpy as np

ROWS, COLS, RANKS, SAMPLES = 7, 4, [3, 1, 2], [5, 2, 3]


def number(i, j, k, which):
    return ((i * 7 + j * 5 + k * 11 + which * 3) % 17 - 8) / 8 + 0.01 * k


def factors(i):
    r = RANKS[i]
    b = np.array([[number(i, j, k, 1) for j in range(r)] for k in range(ROWS)])
    a = np.array([[number(i, j, k, 0) for k in range(COLS)] for j in range(r)])
    return b, a


def put(name, x):
    print(name, x.size, *(f"{v:.12g}" for v in np.ravel(x)))


w = np.array(SAMPLES) / sum(SAMPLES)
fs = [factors(i) for i in range(3)]
mean = sum(w[i] * fs[i][0] @ fs[i][1] for i in range(3))
u, s, vt = np.linalg.svd(mean, full_matrices=False)
put("mean_product", mean)                                   # FlexLoRA before the cut
put("singular", s)
put("rank2", (u[:, :2] * s[:2]) @ vt[:2])                   # what a client of rank 2 gets
stack_b = np.hstack([w[i] * 16 / RANKS[i] * fs[i][0] for i in range(3)])
stack_a = np.vstack([fs[i][1] for i in range(3)])
put("flora", stack_b @ stack_a)                             # alpha 16
pad = 3
a = sum(w[i] * np.vstack([fs[i][1], np.zeros((pad - RANKS[i], COLS))]) for i in range(3))
b = sum(w[i] * np.hstack([fs[i][0], np.zeros((ROWS, pad - RANKS[i]))]) for i in range(3))
put("fedit", np.concatenate([a.ravel(), b.ravel()]))
norms = np.array([np.linalg.norm(b_ @ a_) for b_, a_ in fs])
p = norms / norms.sum()
a = sum(p[i] * np.vstack([fs[i][1], np.zeros((pad - RANKS[i], COLS))]) for i in range(3))
b = sum(p[i] * np.hstack([fs[i][0], np.zeros((ROWS, pad - RANKS[i]))]) for i in range(3))
put("hetlora", np.concatenate([a.ravel(), b.ravel()]))
