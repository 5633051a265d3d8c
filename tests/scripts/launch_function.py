"""Run by itself, without torchrun: it is the agent. Function mode, two ranks that wait until the file argv[1] exists."""

import pathlib
import sys
import time

from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def train(path):
    while not pathlib.Path(path).exists():
        time.sleep(0.02)


if __name__ == "__main__":
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="launch_function", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", start_method="spawn",
    )
    elastic_launch(config, train)(sys.argv[1])
