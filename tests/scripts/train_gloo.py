"""All-reduces a number per step on gloo, without DDP (1 s less to start).

A JSON line per step. Ends after --steps, or after the step in which --until FILE exists.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
from common import RANK, RESTART, WORLD_SIZE, say_metrics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--until", metavar="FILE", help="go on until this file exists")
parser.add_argument("--step-ms", type=float, default=0, help="length of a step")
parser.add_argument("--crash-step", type=int)
parser.add_argument("--crash-rank", type=int, default=0)
args = parser.parse_args()

dist.init_process_group("gloo")
step = 0
while args.until or step < args.steps:
    if (step, RANK, RESTART) == (args.crash_step, args.crash_rank, 0):
        raise RuntimeError(f"rank {RANK} crashes at step {step}, as asked")
    time.sleep(args.step_ms / 1000)
    # All ranks must leave in the same step, so one that sees the file tells the others.
    seen = bool(args.until) and os.path.exists(args.until)
    total = torch.tensor([RANK + 1.0, float(seen)])
    dist.all_reduce(total)
    say_metrics(step=step, loss=total[0].item() / WORLD_SIZE / (step + 1))
    step += 1
    if total[1]:
        break
dist.barrier()
dist.destroy_process_group()
