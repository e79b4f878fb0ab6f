"""FedNL beside ufednl (the C++20 record-holder), in turns in one run.

    UFEDNL=path/to/bin_fednl_local BENCH=build/release/bench/bench_second \\
        python3 bench/second.py DATA_FOLDER set:codec:ours_rounds:peer_rounds[:ls] ... [--turns N]

DATA_FOLDER holds LIBSVM files w8a, a9a, phishing.  142 clients, l2 = 1e-3, option B, K = 8 d,
intercept, shuffled, 2 threads.  Milliseconds a round: of wall time in the rounds, and of
processor time of the whole program, which others on the machine disturb less.  Then rounds
and seconds until |grad f| <= 1e-9 (-1: not within those run) and peak memory.  Rounds of the
line search: ours are exchanges, two or more a step; the peer's are steps.  Without UFEDNL,
ours alone."""
import json
import os
import struct
import subprocess
import sys
import tempfile

TARGET = 1e-9
PEER_NAME = {"randseqk": "seqk", "identity": "identical"}


def ours(folder, name, codec, rounds, ls):
    child = subprocess.Popen([os.environ["BENCH"], f"{folder}/{name}",
                              "fednl-ls" if ls else "fednl", codec, "142", str(rounds),
                              str(TARGET), "2"], stdout=subprocess.PIPE)
    r = json.loads(child.stdout.read())
    _, status, use = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"bench_second ended with {status}")
    return (r["ms_per_round"], r["rounds_to"], r["seconds_to"], r["slope"], r["rss_mb"],
            (use.ru_utime + use.ru_stime) * 1e3 / rounds)


def peer(folder, name, codec, rounds, ls):
    with tempfile.NamedTemporaryFile() as f:
        args = [os.environ["UFEDNL"], "--algorithm", "fednl1", "--train", "--train_dataset", name,
                "--add_intercept", "--reshuffle_train", "--clients", "142", "--lambda", "0.001",
                "--fednl-option-b", "--rounds", str(rounds), "--workers", "2",
                "--k_compressor_as_d_mult", "8", "--tracking", "--compressor",
                PEER_NAME.get(codec, codec), "--theoretical_alpha",
                "--use_theoretical_alpha_option_2", "--out", f.name]
        if ls:
            args += ["--line_search", "--c_line_search", ".49", "--gamma_line_search", ".5"]
        child = subprocess.Popen(args, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, use = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"the peer ended with {status}: {' '.join(args)}")
        d = open(f.name, "rb").read()
    at = len(d) - 52 * rounds  # a record: u32 round, f64 gradient, ..., f64 seconds at 44
    rows = [struct.unpack_from("<Id", d, at + 52 * k) +
            struct.unpack_from("<d", d, at + 52 * k + 44) for k in range(rounds)]
    if [r[0] for r in rows] != list(range(rounds)):
        sys.exit("the peer's tracking file is not as expected")
    hit = next((r for r in rows if r[1] <= TARGET), None)
    return (rows[-1][2] * 1e3 / rounds, hit[0] if hit else -1, hit[2] if hit else -1,
            rows[-1][1], use.ru_maxrss / 1024, (use.ru_utime + use.ru_stime) * 1e3 / rounds)


def main():
    args = sys.argv[1:]
    turns = int(args.pop(args.index("--turns") + 1)) if "--turns" in args else 3
    folder, cases = args[0], [a for a in args[1:] if a != "--turns"]
    both = "UFEDNL" in os.environ
    print("| set, codec | who | ms a round, each turn | CPU ms a round | rounds to 1e-9 |"
          " s to 1e-9 | last gradient | MB |\n|---|---|---|---|---|---|---|---|")
    for case in cases:
        name, codec, mine, theirs, *ls = case.split(":")
        got = {"octomil": [], "ufednl": []}
        for _ in range(turns):
            got["octomil"].append(ours(folder, name, codec, int(mine), bool(ls)))
            if both:
                got["ufednl"].append(peer(folder, name, codec, int(theirs), bool(ls)))
        for who, runs in got.items():
            if not runs:
                print(f"| {name} {codec} | {who} | absent: UFEDNL is not set | | | | | |")
                continue
            best = min(runs, key=lambda r: r[0])
            print(f"| {name} {codec}{' LS' if ls else ''} | {who} | "
                  + ", ".join(f"{r[0]:.2f}" for r in runs)
                  + " | " + ", ".join(f"{r[5]:.2f}" for r in runs) + f" | {best[1]} | "
                  + ", ".join(f"{r[2]:.3f}" for r in runs)
                  + f" | {best[3]:.1e} | {best[4]:.0f} |", flush=True)
        if both:
            ratio = [p[0] / o[0] for o, p in zip(got["octomil"], got["ufednl"])]
            cpu = [p[5] / o[5] for o, p in zip(got["octomil"], got["ufednl"])]
            print(f"| | ratio | {min(ratio):.1f} to {max(ratio):.1f} | {min(cpu):.1f} to "
                  f"{max(cpu):.1f} | | | | |", flush=True)


main()
