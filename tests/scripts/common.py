"""What these scripts share: who this rank is, and waiting for a file or a signal instead of for a time."""

import json
import os
import pathlib
import signal
import time

RANK = int(os.environ.get("RANK", "0"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))
RESTART = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def say(text):
    """One write, so that ranks that share a pipe do not mix within a line."""
    os.write(1, f"{text}\n".encode())


def say_metrics(**metrics):
    say(json.dumps(metrics))


def wait_for(path):
    """Returns when `path` exists."""
    path = pathlib.Path(path)
    while not path.exists():
        time.sleep(0.02)


def wait_for_all_ranks(directory):
    """A barrier without torch; `directory` serves once per restart."""
    meeting = pathlib.Path(directory) / f"restart-{RESTART}"
    meeting.mkdir(parents=True, exist_ok=True)
    (meeting / str(RANK)).touch()
    for rank in range(WORLD_SIZE):
        wait_for(meeting / str(rank))


def wait_to_be_ended():
    while True:
        signal.pause()
