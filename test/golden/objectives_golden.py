"""CODA and CODASCA in double precision from the papers' update rules: what
test/laws/test_objectives.c compares with.  Prints w (3), bias, a, b, alpha.

    python3 test/golden/objectives_golden.py

Rows v_ij = ((7 i + 5 j) mod 11 - 5) / 4, i < 20, j < 3; positive when 5 divides i; dealt
in order to the clients.  Full batches, 4 local steps, 10 rounds, lr 0.05, linear scores."""
import numpy as np

ROWS, ROUNDS, STEPS, LR = 20, 10, 4, 0.05
X = np.array([[((7 * i + 5 * j) % 11 - 5) / 4 for j in range(3)] + [1.0]
              for i in range(ROWS)])
POS = np.array([i % 5 == 0 for i in range(ROWS)])
P = POS.mean()


def slope(v, rows):
    """Of F over these rows in (w, a, b) and, as a descent, in alpha."""
    w, a, b, al = v[:4], v[4], v[5], v[6]
    g, h, n = np.zeros(7), X[rows] @ w, len(rows)
    wp, wn = POS[rows] / (n * P), ~POS[rows] / (n * (1 - P))
    g[:4] = X[rows].T @ (2 * wp * (h - a - al) + 2 * wn * (h - b + al))
    g[4], g[5] = -2 * wp @ (h - a), -2 * wn @ (h - b)
    g[6] = -2 * (1 + wn @ h - wp @ h) + 2 * al
    return g


def run(clients, controlled):
    parts = [np.arange(ROWS * k // clients, ROWS * (k + 1) // clients) for k in range(clients)]
    x, c = np.zeros(7), np.zeros(7)
    own = [np.zeros(7) for _ in parts]
    for _ in range(ROUNDS):
        moved = []
        for k, rows in enumerate(parts):
            y = x.copy()
            for _ in range(STEPS):
                y -= LR * (slope(y, rows) + (c - own[k] if controlled else 0))
                y[6] = min(max(y[6], 0), 999)
            moved.append(y - x)
        own = [o - c - d / (STEPS * LR) for o, d in zip(own, moved)]
        x = x + np.mean(moved, axis=0)
        c = np.mean(own, axis=0)
    return x


for name, clients in (("coda", 1), ("coda", 2), ("codasca", 2)):
    print('    {"%s", %d, {%s}},' % (name, clients, ", ".join(
        "%.9g" % v for v in run(clients, name == "codasca"))))
