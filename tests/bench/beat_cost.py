"""What the injected thread costs a rank: CPU of its thread, and the time of a 1 ms step with and without it.

    .venv/bin/python tests/bench/beat_cost.py [--seconds 20] [--rounds 4]

A rank of one with a gloo group, as it would run under elastictop, with somebody who reads its beats. Rounds with and
without the thread alternate, so that a machine with other things to do disturbs both alike; medians are compared.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

INJECT = pathlib.Path(__file__).resolve().parents[2] / "src" / "supervisor" / "inject"

RANK = """
import json, os, sys, time
import torch, torch.distributed as dist
seconds = float(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=0, world_size=1)
tensor = torch.ones(1)
main = os.getpid()

def threads():
    ticks = {}
    for tid in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{tid}/schedstat") as stat:
            ticks[int(tid)] = int(stat.read().split()[0])
    return ticks

def step():
    # 1 ms of work in Python: the part that another thread could hold up.
    until = time.perf_counter() + 0.001
    count = 0
    while time.perf_counter() < until:
        count += 1
    dist.all_reduce(tensor)
    return count

for _ in range(200):
    step()
before, began, steps, work = threads(), time.perf_counter(), 0, 0
while time.perf_counter() - began < seconds:
    work += step()
    steps += 1
passed, after = time.perf_counter() - began, threads()
used = {tid: after[tid] - before.get(tid, 0) for tid in after if tid != main}
print(json.dumps({"step_us": passed / steps * 1e6, "work": work / passed, "threads": used, "seconds": passed}))
"""


def rank(beats, seconds, folder, number):
    env = dict(os.environ, RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", OMP_NUM_THREADS="1")
    start = [sys.executable, "-c", RANK, str(seconds), f"{folder}/store-{number}"]
    if beats:
        # The shim would set its own pid and become the rank: a shell does the same here.
        env |= {"PYTHONPATH": str(INJECT), "ELASTICTOP_BEAT": str(beats), "PYTHONDONTWRITEBYTECODE": "1"}
        start = ["sh", "-c", 'ELASTICTOP_RANK_PID=$$ exec "$@"', "sh", *start]
    output = subprocess.run(start, env=env, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        address = pathlib.Path(folder) / "beats"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(str(address))
        receiver.setblocking(False)
        plain, beating = [], []
        for number in range(args.rounds):
            plain.append(rank(None, args.seconds, folder, f"plain-{number}"))
            beating.append(rank(address, args.seconds, folder, f"beating-{number}"))
    step = {name: statistics.median(run["step_us"] for run in runs) for name, runs in (("plain", plain), ("beating", beating))}
    work = {name: statistics.median(run["work"] for run in runs) for name, runs in (("plain", plain), ("beating", beating))}
    # gloo's own threads are in both; the one more that the beating rank has is the beating thread.
    others = statistics.median(sum(run["threads"].values()) / run["seconds"] for run in plain)
    all_of_it = statistics.median(sum(run["threads"].values()) / run["seconds"] for run in beating)
    print(json.dumps({
        "step_us": step,
        "step_slower_percent": round((step["beating"] / step["plain"] - 1) * 100, 3),
        "work_lost_percent": round((1 - work["beating"] / work["plain"]) * 100, 3),
        "thread_cpu_percent_of_a_core": round((all_of_it - others) / 1e9 * 100, 4),
        "rounds": args.rounds, "seconds": args.seconds,
    }, indent=2))


main()
