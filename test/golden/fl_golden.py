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


def randk(v, rnd, client, use=USE_CODEC):
    coin, draw, want, out = at(key_for(rnd, client, use), 0), 0, K, np.zeros(D)
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


# Asynchronous: client i takes TAU[i] seconds for a gradient over its 10 samples.
TAU = np.sqrt(1.0 + np.arange(N))


def events(step, take, full, close, oldest, steps=1, stops=False):
    """ROUNDS versions.  step(i, x, n): the message of client i's n-th task, which began at x."""
    x, version, now, task, count = np.zeros(D), 0, 0.0, [None] * N, [0] * N
    got = []
    while version < ROUNDS:
        due = [i for i in range(N) if task[i] and task[i][0] <= now]
        if not due:
            for i in range(N):
                if task[i] is None:
                    task[i] = (now + steps * TAU[i], version, step(i, x, count[i]))
                    count[i] += 1
            now = min(t[0] for t in task)
            continue
        _, began, message = task[due[0]]
        task[due[0]] = None
        if version - began > oldest:
            continue
        got.append((due[0], version - began, take(message)))
        if not full(got):
            continue
        x, got, version = close(x, got), [], version + 1
        for i in range(N):
            if stops and task[i] and version - task[i][1] > oldest:
                task[i] = None
    return x


def local(i, x, steps, lr, mu=0.0):
    y = x.copy()
    for _ in range(steps):
        y = y - lr * (grad(i, y) + mu * (y - x))
    return y


def poly(age, a=0.5):
    return (1 + age) ** -a


def fedbuff(lr, steps, k, momentum):
    m = np.zeros(D)

    def close(x, got):
        nonlocal m
        m = momentum * m + sum(poly(age) * d for _, age, d in got) / k
        return x + m

    return events(lambda i, x, n: local(i, x, steps, lr) - x, lambda d: d,
                  lambda got: len(got) == k, close, 10**9, steps)


def fedasync(lr, mix, mu, a, b):
    def close(x, got):
        _, age, y = got[0]
        part = mix * (1 if age <= b else 1 / (a * (age - b) + 1))
        return (1 - part) * x + part * y

    return events(lambda i, x, n: local(i, x, 2, lr, mu), lambda y: y, lambda got: True, close,
                  10**9, 2)


def one_gradient(i, x, n):
    return grad(i, x)


def asgd(lr):
    def close(x, got):
        _, age, g = got[0]
        return x - lr * (1 if age <= N else N / age) * g

    return events(lambda i, x, n: randk(grad(i, x), n, i), lambda g: g, lambda got: True, close,
                  10**9)


def ringmaster(lr, bound, stops):
    return events(one_gradient, lambda g: g, lambda got: True,
                  lambda x, got: x - lr * got[0][2], bound, 1, stops)


def rennala(lr, b):
    return events(one_gradient, lambda g: g, lambda got: len(got) == b,
                  lambda x, got: x - lr * sum(g for _, _, g in got) / b, 0, 1, True)


def malenia(lr, s):
    def counts(got):
        return [sum(1 for i, _, _ in got if i == c) for c in range(N)]

    def full(got):
        c = counts(got)
        return min(c) > 0 and N / sum(1 / v for v in c) >= s / N - 1e-12

    def close(x, got):
        c = counts(got)
        return x - lr * sum(g / c[i] for i, _, g in got) / N

    return events(one_gradient, lambda g: g, full, close, 0, 1, True)


USE_COPY = 0x33000000


def shadowheart(lr, r, message):
    """message: seconds of one Rand-K message."""
    w, order = OMEGA, sorted(range(N), key=lambda i: max(TAU[i], message))
    best = math.inf
    for j in range(N):
        lo, hi = 1e-12, 1e12
        for _ in range(300):
            s = math.sqrt(lo * hi)
            total = sum(1 / (2 * message * w + 4 * message * TAU[i] * w * r / s + 2 * TAU[i] * r)
                        for i in order[:j + 1])
            lo, hi = (s, hi) if s < 1 / total else (lo, s)
        best = min(best, max(hi, TAU[order[j]], message))
    b = [math.floor(best / t) for t in TAU]
    m = [math.floor(best / message)] * N
    x = np.zeros(D)
    for k in range(ROUNDS):
        top, bottom = np.zeros(D), 0.0
        for i in range(N):
            if b[i] == 0 or m[i] == 0:
                continue
            wi = 1 / (b[i] * w + w * r + m[i] * r)
            top += wi * sum(randk(b[i] * grad(i, x), k, i, USE_COPY + l) for l in range(m[i]))
            bottom += wi * m[i] * b[i]
        x = x - lr * top / bottom
    return x


def mindflayer(lr):
    """Constant times: every trial is finished."""
    x = np.zeros(D)
    for _ in range(ROUNDS):
        x = x - lr * np.mean([grad(i, x) for i in range(N)], axis=0)
    return x


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
    ("fedbuff lr=0.2,batch=0,local_steps=3,buffer_size=3,server_momentum=0.4", ID,
     fedbuff(0.2, 3, 3, 0.4)),
    ("fedasync lr=0.2,batch=0,local_steps=2,mix=0.6,mu=0.1,staleness=hinge,staleness_a=10,"
     "staleness_b=3", ID, fedasync(0.2, 0.6, 0.1, 10, 3)),
    ("asgd lr=0.1", RAND, asgd(0.1)),
    ("ringmaster lr=0.2,staleness_bound=3", ID, ringmaster(0.2, 3, False)),
    ("ringmaster lr=0.2,staleness_bound=2,restart=stop", ID, ringmaster(0.2, 2, True)),
    ("rennala lr=0.3,buffer_size=5", ID, rennala(0.3, 5)),
    ("malenia lr=0.3,buffer_size=8", ID, malenia(0.3, 8)),
    ("shadowheart lr=0.3,noise_ratio=0.7", RAND, shadowheart(0.3, 0.7, 8e-6 * 24 / 1e-3)),
    ("mindflayer lr=0.3,trials=3", ID, mindflayer(0.3)),
]
for name, codec, x in RUNS:
    print(name, codec, " ".join("%.9g" % v for v in x))
