"""Models after 25 rounds of federated methods, in double precision, from the papers' update
rules alone: what test/laws/test_algo_golden.c compares with.  Writes fl.txt.

    python3 test/golden/fl_golden.py > test/golden/fl.txt

Problem: 4 clients, 12 numbers, f_i(x) = 1/2 sum_j a_ij (x_j - c_ij)^2.  The random numbers are
those of base/rng.c (splitmix64 over a mixed key), so randomised methods compare too."""
import math

import numpy as np

N, D, ROUNDS, SEED, K = 4, 12, 25, 11, 3
A = np.array([[0.1 + 0.09 * ((3 * i + 7 * j) % 11) for j in range(D)] for i in range(N)])
C = np.array([[((5 * i + 3 * j) % 13 - 6) / 4 + 0.01 * j + 0.003 * i for j in range(D)]
              for i in range(N)])
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
USE_CODEC, USE_COIN = 0x20000000, 0x31000000


def grad(i, x):
    return A[i] * (x - C[i])


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def key_for(rnd, client, use):
    k = mix((SEED + GOLDEN) & MASK)
    k = mix(k ^ (rnd << 32 | client))
    return mix((k + GOLDEN * (1 + use)) & MASK)


def at(key, i):
    return mix((key + GOLDEN * (i + 1)) & MASK)


def unit(key, i=0):
    return (at(key, i) >> 11) * 2.0**-53


def topk(v):
    out = np.zeros(D)
    for j in sorted(range(D), key=lambda j: (-abs(v[j]), j))[:K]:
        out[j] = v[j]
    return out


def randk(v, rnd, client):
    coin, draw, want, out = at(key_for(rnd, client, USE_CODEC), 0), 0, K, np.zeros(D)
    for j in range(D):
        left = D - j
        if want == left:
            hit = True
        elif want == 0:
            hit = False
        else:
            hit = unit(coin, draw) * left < want
            draw += 1
        if hit:
            out[j] = D / K * v[j]
            want -= 1
    return out


OMEGA = D / K - 1


def throws(rnd, p, use):
    return 1 + math.floor(math.log(1 - unit(key_for(rnd, 0, USE_COIN + use))) / math.log1p(-p))


def ef21(lr, heavy=0.0, eta=1.0, twice=False):
    x, g, v = np.zeros(D), np.zeros((N, D)), np.zeros(D)
    m, u = np.zeros((N, D)), np.zeros((N, D))
    for k in range(ROUNDS):
        for i in range(N):
            h = grad(i, x)
            if eta < 1:
                m[i] = h if k == 0 else (1 - eta) * m[i] + eta * h
                h = m[i]
            if twice:
                u[i] = h if k == 0 else (1 - eta) * u[i] + eta * h
                h = u[i]
            g[i] = h if k == 0 else g[i] + topk(h - g[i])
        v = heavy * v + g.mean(axis=0)
        x = x - lr * v
    return x


def ef21_p(lr):
    x, w, g = np.zeros(D), np.zeros(D), np.zeros((N, D))
    for k in range(ROUNDS):
        w = w + topk(x - w)
        for i in range(N):
            g[i] = grad(i, w) if k == 0 else g[i] + topk(grad(i, w) - g[i])
        x = x - lr * g.mean(axis=0)
    return x


def ef21_bc(lr):
    x, b, g = np.zeros(D), np.zeros(D), np.zeros((N, D))
    for k in range(ROUNDS):
        for i in range(N):
            g[i] = grad(i, x) if k == 0 else g[i] + topk(grad(i, x) - g[i])
        b = b + topk(g.mean(axis=0) - b)
        x = x - lr * b
    return x


def threepc(lr, rule):
    x, g, y = np.zeros(D), np.zeros((N, D)), np.zeros((N, D))
    for k in range(ROUNDS):
        for i in range(N):
            z = grad(i, x)
            g[i] = z if k == 0 else rule(g[i], y[i], z)
            y[i] = z
        x = x - lr * g.mean(axis=0)
    return x


ZETA = 0.5


def triggered(h, y, z):
    return ((z - h) ** 2).sum() > ZETA * ((z - y) ** 2).sum()


def lag(h, y, z):
    return z if triggered(h, y, z) else h


def clag(h, y, z):
    return h + topk(z - h) if triggered(h, y, z) else h


def v1(h, y, z):
    return y + topk(z - y)


def v3(h, y, z):
    b = clag(h, y, z)
    return b + topk(z - b)


def v4(h, y, z):
    b = h + topk(z - h)
    return b + topk(z - b)


def scaffold(lr, steps):
    x, c, ci = np.zeros(D), np.zeros(D), np.zeros((N, D))
    for _ in range(ROUNDS):
        ys, new = [], []
        for i in range(N):
            y = x.copy()
            for _ in range(steps):
                y = y - lr * (grad(i, y) - ci[i] + c)
            ys.append(y)
            new.append(ci[i] - c + (x - y) / (steps * lr))
        c = c + (np.array(new) - ci).mean(axis=0)
        ci = np.array(new)
        x = np.mean(ys, axis=0)
    return x


def fedavgm(lr, steps, momentum):
    x, m = np.zeros(D), np.zeros(D)
    for _ in range(ROUNDS):
        ys = []
        for i in range(N):
            y = x.copy()
            for _ in range(steps):
                y = y - lr * grad(i, y)
            ys.append(y)
        m = momentum * m + np.mean(ys, axis=0) - x
        x = x + m
    return x


def diana(lr):
    x, h = np.zeros(D), np.zeros((N, D))
    for k in range(ROUNDS):
        q = np.array([randk(grad(i, x) - h[i], k, i) for i in range(N)])
        x = x - lr * (h.mean(axis=0) + q.mean(axis=0))
        h = h + q / (1 + OMEGA)
    return x


def marina(lr, p):
    x, last, g = np.zeros(D), np.zeros(D), np.zeros(D)
    for k in range(ROUNDS):
        if k == 0 or unit(key_for(k, 0, USE_COIN + 3)) < p:
            g = np.mean([grad(i, x) for i in range(N)], axis=0)
        else:
            g = g + np.mean([randk(grad(i, x) - grad(i, last), k, i) for i in range(N)], axis=0)
        last, x = x, x - lr * g
    return x


def trimmed(v):
    """The mean without the least and the greatest of each coordinate."""
    return np.sort(v, axis=0)[1:-1].mean(axis=0)


def byz_marina(lr, p, rule):
    x, last, g = np.zeros(D), np.zeros(D), np.zeros(D)
    for k in range(ROUNDS):
        if k == 0 or unit(key_for(k, 0, USE_COIN + 9)) < p:
            g = rule(np.array([grad(i, x) for i in range(N)]))
        else:
            g = g + rule(np.array([randk(grad(i, x) - grad(i, last), k, i) for i in range(N)]))
        last, x = x, x - lr * g
    return x


def byz_marina_pp(lr, p, clip, rule):
    x, last, g = np.zeros(D), np.zeros(D), np.zeros(D)
    for k in range(ROUNDS):
        if k == 0 or unit(key_for(k, 0, USE_COIN + 9)) < p:
            g = rule(np.array([grad(i, x) for i in range(N)]))
        else:
            most = clip * np.linalg.norm(x - last)
            v = [randk(grad(i, x) - grad(i, last), k, i) for i in range(N)]
            g = g + rule(np.array([w * min(1, most / np.linalg.norm(w)) for w in v]))
        last, x = x, x - lr * g
    return x


def byz_ef21(lr, eta, rule):
    x, g, m = np.zeros(D), np.zeros((N, D)), np.zeros((N, D))
    for k in range(ROUNDS):
        for i in range(N):
            m[i] = grad(i, x) if k == 0 else (1 - eta) * m[i] + eta * grad(i, x)
            g[i] = m[i] if k == 0 else g[i] + topk(m[i] - g[i])
        x = x - lr * rule(g)
    return x


def byz_dasha(lr, rule):
    a = 1 / (2 * OMEGA + 1)
    x, h, g = np.zeros(D), np.zeros((N, D)), np.zeros((N, D))
    for k in range(ROUNDS):
        for i in range(N):
            new = grad(i, x)
            g[i] = new if k == 0 else g[i] + randk(new - h[i] - a * (g[i] - h[i]), k, i)
            h[i] = new
        x = x - lr * rule(g)
    return x


def clip21(lr, tau, eta):
    x, g, v = np.zeros(D), np.zeros((N, D)), np.zeros((N, D))
    for k in range(ROUNDS):
        for i in range(N):
            v[i] = grad(i, x) if k == 0 else (1 - eta) * v[i] + eta * grad(i, x)
            c = v[i] - g[i]
            g[i] = g[i] + c * min(1, tau / np.linalg.norm(c))
        x = x - lr * g.mean(axis=0)
    return x


def dasha(lr):
    a = 1 / (2 * OMEGA + 1)
    x, h, g = np.zeros(D), np.zeros((N, D)), np.zeros((N, D))
    for k in range(ROUNDS):
        for i in range(N):
            new = grad(i, x)
            g[i] = new if k == 0 else g[i] + randk(new - h[i] - a * (g[i] - h[i]), k, i)
            h[i] = new
        x = x - lr * g.mean(axis=0)
    return x


def proxskip(lr, p):
    x, h = np.zeros(D), np.zeros((N, D))
    for k in range(ROUNDS):
        y = np.array([x] * N)
        for _ in range(throws(k, p, 7)):
            y = np.array([y[i] - lr * (grad(i, y[i]) - h[i]) for i in range(N)])
        x = y.mean(axis=0)
        h = h + p / lr * (x - y)
    return x


def locodl(lr, p, strong):
    w = OMEGA
    r = 1 / (1 + w / N)
    s = p * r / (lr * (1 + 2 * w))
    x, y, u, v = np.zeros((N, D)), np.zeros(D), np.zeros((N, D)), np.zeros(D)
    for k in range(ROUNDS):
        for _ in range(throws(k, p, 8)):
            x = np.array([x[i] - lr * (grad(i, x[i]) - strong * x[i] - u[i]) for i in range(N)])
            y = y - lr * (strong * y - v)
        di = np.array([randk(x[i] - y, k, i) for i in range(N)])
        d = di.sum(axis=0) / (2 * N)
        x = (1 - r) * x + r * (y + d)
        y = y + r * d
        u = u + s * (d - di)
        v = v + s * d
    return y


TOP, RAND, ID = "topk k=3", "randk k=3", "identity -"
RUNS = [
    ("ef21 lr=0.3", TOP, ef21(0.3)),
    ("ef21-hb lr=0.05,server_momentum=0.8", TOP, ef21(0.05, heavy=0.8)),
    ("ef21-sgdm lr=0.2,eta=0.3", TOP, ef21(0.2, eta=0.3)),
    ("ef21-sgdm lr=0.2,eta=0.3,twice=yes", TOP, ef21(0.2, eta=0.3, twice=True)),
    ("ef21-p lr=0.2,down=topk,down_ratio=0.25", TOP, ef21_p(0.2)),
    ("ef21-bc lr=0.2,down=topk,down_ratio=0.25", TOP, ef21_bc(0.2)),
    ("lag lr=0.3,zeta=0.5", ID, threepc(0.3, lag)),
    ("clag lr=0.3,zeta=0.5", TOP, threepc(0.3, clag)),
    ("3pc-v1 lr=0.3", TOP, threepc(0.3, v1)),
    ("3pc-v3 lr=0.3,zeta=0.5,second=topk,second_ratio=0.25", TOP, threepc(0.3, v3)),
    ("3pc-v4 lr=0.3,second=topk,second_ratio=0.25", TOP, threepc(0.3, v4)),
    ("scaffold lr=0.2,batch=0,local_steps=5", ID, scaffold(0.2, 5)),
    ("fedavgm lr=0.1,batch=0,local_steps=3,server_momentum=0.7,weights=equal", ID,
     fedavgm(0.1, 3, 0.7)),
    ("diana lr=0.3", RAND, diana(0.3)),
    ("marina lr=0.3,p=0.3", RAND, marina(0.3, 0.3)),
    ("dasha lr=0.2", RAND, dasha(0.2)),
    ("clip21 lr=0.3,tau=0.4,eta=0.5", ID, clip21(0.3, 0.4, 0.5)),
    ("byz-vr-marina/trimmed_mean lr=0.3,p=0.3", RAND, byz_marina(0.3, 0.3, trimmed)),
    ("byz-vr-marina/median lr=0.3,p=0.3", RAND,
     byz_marina(0.3, 0.3, lambda v: np.median(v, axis=0))),
    ("byz-vr-marina-pp/trimmed_mean lr=0.2,p=0.3,clip=0.7", RAND,
     byz_marina_pp(0.2, 0.3, 0.7, trimmed)),
    ("byz-ef21-sgdm/trimmed_mean lr=0.2,eta=0.3", TOP, byz_ef21(0.2, 0.3, trimmed)),
    ("byz-dasha/median lr=0.2", RAND, byz_dasha(0.2, lambda v: np.median(v, axis=0))),
    ("proxskip lr=0.8,p=0.4", ID, proxskip(0.8, 0.4)),
    ("locodl lr=0.8,p=0.4,strong=0.05", RAND, locodl(0.8, 0.4, 0.05)),
]
for name, codec, x in RUNS:
    print(name, codec, " ".join("%.9g" % v for v in x))
