"""All-reduces on gloo until --rank stops joining at --step.

--mode: asleep (sleep), busy in Python (busy), or holding the GIL in C (gil). The others wait until gloo's timeout.
"""

import argparse
import ctypes
import time

import torch
import torch.distributed as dist
from common import RANK, say, say_metrics, wait_to_be_ended


def busy():
    while True:
        pass


def hold_gil():
    ctypes.PyDLL(None).pause()  # PyDLL, unlike CDLL, keeps the GIL during the call


MODES = {"sleep": wait_to_be_ended, "busy": busy, "gil": hold_gil}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rank", type=int, default=1)
parser.add_argument("--step", type=int, default=5)
parser.add_argument("--step-ms", type=float, default=0, help="length of a step")
parser.add_argument("--mode", choices=MODES, default="sleep")
parser.add_argument("--api-key", help="told in the log, where it does not belong")
args = parser.parse_args()
if args.api_key:
    say(f"the key is {args.api_key}")

dist.init_process_group("gloo")
for step in range(args.step):
    total = torch.ones(1)
    dist.all_reduce(total)
    say_metrics(step=step, loss=1 / (step + 1))
    time.sleep(args.step_ms / 1000)
if RANK == args.rank:
    say(f"rank {RANK} hangs: {args.mode}")
    MODES[args.mode]()
dist.all_reduce(torch.ones(1))
