"""Trains a linear model with DistributedDataParallel on gloo.

A JSON line per step. --crash-rank raises at --crash-step, in restart 0 only.
"""

import argparse
import time

import torch
import torch.distributed as dist
from common import RANK, RESTART, say_metrics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--step-ms", type=float, default=0, help="length of a step")
parser.add_argument("--crash-step", type=int)
parser.add_argument("--crash-rank", type=int, default=0)
args = parser.parse_args()

dist.init_process_group("gloo")
torch.manual_seed(RANK)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(args.steps):
    if (step, RANK, RESTART) == (args.crash_step, args.crash_rank, 0):
        raise RuntimeError(f"rank {RANK} crashes at step {step}, as asked")
    inputs = torch.randn(8, 4)
    loss = (model(inputs) - inputs.sum(dim=1, keepdim=True)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    say_metrics(step=step, loss=loss.item())
    time.sleep(args.step_ms / 1000)
# Without it, about one run in ten of torch 2.15 on gloo aborts at exit:
# "terminate called without an active exception".
dist.barrier()
dist.destroy_process_group()
