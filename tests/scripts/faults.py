"""Trains on gloo at a steady pace until one rank has a fault at --step.

--fault: asleep, busy, gil, read (a pipe that gives nothing), skip (leaves a collective out), mismatch (calls another
collective), slow (each step takes longer from there on), nan, leak, oom (the text of CUDA's),
says-why (leaves with a message), or none.
"""

import argparse
import ctypes
import datetime
import os
import sys
import time

import elastictop
import torch
import torch.distributed as dist
from common import RANK, say, say_metrics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--fault", default="none")
parser.add_argument("--rank", type=int, default=1)
parser.add_argument("--step", type=int, default=40)
parser.add_argument("--steps", type=int, default=10_000_000)
parser.add_argument("--step-ms", type=float, default=100)
parser.add_argument("--timeout", type=float, default=1800, help="time limit of a collective, in seconds")
args = parser.parse_args()

kept = []


def read_a_pipe():
    reader, _writer = os.pipe()
    os.read(reader, 1)


def spin():
    while True:
        pass


def run_out_of_memory():
    if RANK == args.rank:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


ONCE = {
    "asleep": lambda: time.sleep(3600),
    "busy": spin,
    "gil": lambda: ctypes.PyDLL(None).usleep(3_600_000_000),
    "read": read_a_pipe,
    "says-why": lambda: sys.exit("the learning rate must be positive"),
    "mismatch": lambda: dist.broadcast(torch.ones(1), 0),
    "oom": run_out_of_memory,
}

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=args.timeout))
for step in range(args.steps):
    time.sleep(args.step_ms / 1000)
    faulty = RANK == args.rank and step >= args.step
    loss = 1 / (step + 1)
    if faulty and step == args.step:
        say(f"rank {RANK}: {args.fault}")
        ONCE.get(args.fault, lambda: None)()
    if faulty and args.fault == "slow":
        time.sleep(args.step_ms / 1000 * 9)
    if faulty and args.fault == "nan":
        loss = float("nan")
    if faulty and args.fault == "leak":
        kept.append(bytearray(os.urandom(1 << 20) * 8))
    if not (faulty and args.fault == "skip" and step == args.step):
        total = torch.ones(1)
        dist.all_reduce(total)
    elastictop.log({"loss": loss}, step=step)
    say_metrics(step=step, loss=loss)
