"""Run by itself, without torchrun: it is the agent, and deadlocks on zombies. Function mode, two ranks.

Ranks that have returned wait for the agent's go-ahead, an event whose set() waits in turn for each waiter to wake.
Here the ranks stop while they wait, and are killed once the agent is in set(): zombies that the agent waits for
without end.
"""

import logging
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

POLL = 0.02
MONITOR_INTERVAL = 2.0  # long enough for all ranks to be stopped before the agent looks again


def wait_until_main_thread_is_in(function):
    """In multiprocessing's own code, seen twice."""
    seen = 0
    while seen < 2:
        time.sleep(POLL)
        frame = sys._current_frames()[threading.main_thread().ident]
        names = set()
        while frame is not None:
            if frame.f_code.co_filename.endswith("multiprocessing/synchronize.py"):
                names.add(frame.f_code.co_name)
            frame = frame.f_back
        seen = seen + 1 if function in names else 0


def stop_when_waiting():
    wait_until_main_thread_is_in("wait")
    os.kill(os.getpid(), signal.SIGSTOP)


def train(pids):
    pathlib.Path(pids, str(os.getpid())).touch()
    threading.Thread(target=stop_when_waiting, daemon=True).start()


def kill_ranks_when_agent_waits(pids):
    wait_until_main_thread_is_in("notify")
    ranks = sorted(int(path.name) for path in pathlib.Path(pids).iterdir())
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    print(f"deadlock: ranks {' '.join(map(str, ranks))} are zombies", flush=True)


if __name__ == "__main__":
    logging.basicConfig()
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="zombie_deadlock", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", monitor_interval=MONITOR_INTERVAL, start_method="spawn",
    )
    with tempfile.TemporaryDirectory() as directory:
        threading.Thread(target=kill_ranks_when_agent_waits, args=(directory,), daemon=True).start()
        elastic_launch(config, train)(directory)
