"""What the injected thread costs a rank: CPU of its thread, and the time of a 1 ms step with and without it.

    .venv/bin/python tests/bench/beat_cost.py [--seconds 20] [--rounds 4] [--against FOLDER]

`--against` names a folder with another `sitecustomize.py`, which is measured in the same rounds.

A rank of one with a gloo group, as it would run under elastictop, with somebody who reads its beats. Rounds with and
without the thread alternate, so that a machine with other things to do disturbs both alike; medians are compared. What the
first beats do once (torch's worker server is started, the list of groups read) is told apart.
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
import threading

INJECT = pathlib.Path(__file__).resolve().parents[2] / "src" / "supervisor" / "inject"

RANK = """
import json, os, sys, time
# Before torch brings threads of its own.
beating = [tid for tid in map(int, os.listdir("/proc/self/task")) if tid != os.getpid()]
import torch, torch.distributed as dist
seconds = float(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=0, world_size=1)
tensor = torch.ones(1)

def used():
    total = 0
    for tid in beating:
        with open(f"/proc/self/task/{tid}/schedstat") as stat:
            total += int(stat.read().split()[0])
    return total

def step():
    # 1 ms of work in Python: the part that another thread could hold up.
    until = time.perf_counter() + 0.001
    count = 0
    while time.perf_counter() < until:
        count += 1
    dist.all_reduce(tensor)
    return count

warm, first = time.perf_counter() + 4, used()
while time.perf_counter() < warm:
    step()
before, began, steps, work = used(), time.perf_counter(), 0, 0
while time.perf_counter() - began < seconds:
    work += step()
    steps += 1
passed, after = time.perf_counter() - began, used()
print(json.dumps({"step_us": passed / steps * 1e6, "work": work / passed, "threads": len(beating),
                  "first_ms": (before - first) / 1e6, "percent": (after - before) / passed / 1e7}))
"""


def rank(inject, beats, seconds, folder, number):
    env = dict(os.environ, RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", OMP_NUM_THREADS="1")
    env |= {"TORCHELASTIC_RESTART_COUNT": "0", "ELASTICTOP_RANK_DIR": str(folder)}
    start = [sys.executable, "-c", RANK, str(seconds), f"{folder}/store-{number}"]
    if inject:
        # The shim would set its own pid and become the rank: a shell does the same here.
        env |= {"PYTHONPATH": str(inject), "ELASTICTOP_BEAT": str(beats), "PYTHONDONTWRITEBYTECODE": "1"}
        start = ["sh", "-c", 'ELASTICTOP_RANK_PID=$$ exec "$@"', "sh", *start]
    output = subprocess.run(start, env=env, check=True, capture_output=True, text=True).stdout
    told = json.loads(output.splitlines()[-1])
    assert told["threads"] == bool(inject), told
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--against", type=pathlib.Path)
    args = parser.parse_args()
    ways = {"plain": None, "beating": INJECT}
    if args.against:
        ways["against"] = args.against.resolve()
    runs = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        address = pathlib.Path(folder) / "beats"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(str(address))
        threading.Thread(target=lambda: [receiver.recv(1 << 16) for _ in iter(int, 1)], daemon=True).start()
        for number in range(args.rounds):
            for way, inject in ways.items():
                runs[way].append(rank(inject, address, args.seconds, folder, f"{way}-{number}"))

    def median(way, what):
        return statistics.median(run[what] for run in runs[way])

    told = {"rounds": args.rounds, "seconds": args.seconds, "load": os.getloadavg()[0]}
    for way in list(ways)[1:]:
        told[way] = {
            "thread_cpu_percent_of_a_core": round(median(way, "percent"), 4),
            "each_round": [round(run["percent"], 4) for run in runs[way]],
            "first_beats_ms": round(median(way, "first_ms"), 1),
            "step_slower_percent": round((median(way, "step_us") / median("plain", "step_us") - 1) * 100, 3),
            "work_lost_percent": round((1 - median(way, "work") / median("plain", "work")) * 100, 3),
        }
    print(json.dumps(told, indent=2))


main()
