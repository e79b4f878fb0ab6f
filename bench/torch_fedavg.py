#!/usr/bin/env python3
"""The peer of bench_sim: federated averaging in PyTorch, plain and batched.

    OPENBLAS_CORETYPE=SkylakeX bench/torch_fedavg.py [ROUNDS]

100 clients x 600 samples, MLP 784-200-10, 10 clients a round, one local epoch, batch 10,
lr 0.05.  `plain` is the usual loop (a module, autograd, torch.optim.SGD); `batched` trains
the ten clients side by side as one bmm with gradients written by hand.  Each with one and
with all threads; prints the median and the best of ROUNDS (default 5) rounds, and the
processor time of one."""
import sys, time
import torch

CLIENTS, EACH, COHORT, BATCH, LR = 100, 600, 10, 10, 0.05
rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
torch.manual_seed(1)
X = torch.randint(0, 256, (CLIENTS, EACH, 784)).float() / 255
Y = torch.randint(0, 10, (CLIENTS, EACH))


def plain(model):
    new = [torch.zeros_like(p) for p in model.parameters()]
    start = [p.detach().clone() for p in model.parameters()]
    for client in torch.randperm(CLIENTS)[:COHORT].tolist():
        with torch.no_grad():
            for p, s in zip(model.parameters(), start):
                p.copy_(s)
        sgd = torch.optim.SGD(model.parameters(), LR)
        order = torch.randperm(EACH)
        for at in range(0, EACH, BATCH):
            rows = order[at:at + BATCH]
            sgd.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(X[client, rows]), Y[client, rows]).backward()
            sgd.step()
        for n, p in zip(new, model.parameters()):
            n += p.detach() / COHORT
    with torch.no_grad():
        for p, n in zip(model.parameters(), new):
            p.copy_(n)


@torch.no_grad()
def batched(model):
    chosen = torch.randperm(CLIENTS)[:COHORT]
    w1, b1, w2, b2 = [p.detach().unsqueeze(0).repeat(COHORT, *[1] * p.dim())
                      for p in model.parameters()]
    order = torch.stack([torch.randperm(EACH) for _ in range(COHORT)])
    x, y = X[chosen], Y[chosen]
    who = torch.arange(COHORT).unsqueeze(1)
    for at in range(0, EACH, BATCH):
        rows = order[:, at:at + BATCH]
        a, t = x[who, rows], y[who, rows]
        h = torch.relu(torch.baddbmm(b1.unsqueeze(1), a, w1.transpose(1, 2)))
        d = torch.softmax(torch.baddbmm(b2.unsqueeze(1), h, w2.transpose(1, 2)), 2)
        d.scatter_add_(2, t.unsqueeze(2), torch.full_like(d[:, :, :1], -1)).mul_(1 / BATCH)
        dh = torch.bmm(d, w2) * (h > 0)
        w2.baddbmm_(d.transpose(1, 2), h, alpha=-LR)
        b2.add_(d.sum(1), alpha=-LR)
        w1.baddbmm_(dh.transpose(1, 2), a, alpha=-LR)
        b1.add_(dh.sum(1), alpha=-LR)
    for p, n in zip(model.parameters(), (w1, b1, w2, b2)):
        p.copy_(n.mean(0))


for threads in sorted({1, torch.get_num_threads()}):
    torch.set_num_threads(threads)
    for step in (plain, batched):
        model = torch.nn.Sequential(torch.nn.Linear(784, 200), torch.nn.ReLU(),
                                    torch.nn.Linear(200, 10))
        step(model)
        seconds, cpu = [], time.process_time()
        for _ in range(rounds):
            begin = time.perf_counter()
            step(model)
            seconds.append(time.perf_counter() - begin)
        cpu = (time.process_time() - cpu) / rounds
        seconds.sort()
        print("torch fedavg, %s, %d threads: median %.1f ms, %.2f rounds/s (best %.2f), "
              "%.1f ms of CPU a round" % (
            step.__name__, threads, 1e3 * seconds[rounds // 2], 1 / seconds[rounds // 2],
            1 / seconds[0], 1e3 * cpu), flush=True)
