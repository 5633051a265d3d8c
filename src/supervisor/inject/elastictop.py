"""For training scripts that run under elastictop; harmless elsewhere.

    import elastictop
    elastictop.log({"loss": loss}, step=step)

    run = elastictop.get_run()  # None on ranks that are silent under the run mode
    if run:
        run.log({"loss": loss})
"""

import dataclasses
import json
import math
import operator
import os
import sys
import time
import typing

__all__ = ["DistributedInfo", "Run", "get_distributed_info", "get_run", "log"]

_last_step = None  # (step, when, collectives of the default group by then): what the beats of this rank tell
_write_error = None
_nan = None  # (name, step, rows in a row): a loss that is no number


def log(metrics: dict, step: typing.Optional[int] = None, commit: typing.Optional[bool] = None) -> None:
    """Appends one row to this rank's metrics; without `step`, the one after the last row's.

    What is logged with the same `step` one after the other is one row. It waits for more until another step comes, unless
    `commit` is True; without `step`, that is what it is.

    Numbers of numpy and torch are stored as numbers, whatever JSON has no form for as text. A row that cannot be
    written (disk full, ...) is lost and elastictop says so; the script goes on."""
    global _last_step, _write_error
    if not isinstance(metrics, dict) or not all(isinstance(name, str) for name in metrics):
        raise TypeError("elastictop.log: metrics must be a dict with text keys")
    reserved = {"_step", "_timestamp", "_commit"} & metrics.keys()
    if reserved:
        raise ValueError(f"elastictop.log: {', '.join(sorted(reserved))} is set by log; pass step= for the step")
    if commit is None:
        commit = step is None
    if step is None:
        step = 0 if _last_step is None else _last_step[0] + 1
    else:
        try:
            step = operator.index(step)
        except TypeError:
            raise TypeError(f"elastictop.log: step must be a whole number, not {step!r}") from None
    now = time.time()
    about = {"_step": step, "_timestamp": now, **({"_commit": True} if commit else {})}
    row = json.dumps({**about, **metrics}, default=_plain) + "\n"
    _last_step = step, now, _collectives()
    _look_for_nan(metrics, step)
    try:
        directory = _rank_dir()
        if directory is not None:
            _append(os.path.join(directory, "metrics.jsonl"), row.encode())
            _write_error = None
    except OSError as error:
        _write_error = f"elastictop.log: row of step {step} is lost: {error}"


def _collectives():
    """How many the default process group has begun; None where there is none."""
    world = getattr(sys.modules.get("torch.distributed.distributed_c10d"), "_world", None)
    try:
        return world.default_pg._get_sequence_number_for_group() or None
    except Exception:
        return None


def _look_for_nan(metrics, step):
    """For the beats: whether a loss of the newest row that has one is NaN or infinite, and for how many rows."""
    global _nan
    losses = [name for name in metrics if "loss" in name.lower()]
    try:
        bad = [name for name in losses if not math.isfinite(metrics[name])]
    except Exception:
        return  # text, or a tensor of several numbers
    if bad:
        _nan = bad[0], step, 1 if _nan is None else _nan[2] + 1
    elif losses:
        _nan = None


def _plain(value):
    try:
        return value.item()  # scalars of numpy and torch
    except Exception:
        return str(value)


def _rank_dir():
    """Where this rank's files go; None when not started by elastictop."""
    directory = os.environ.get("ELASTICTOP_RANK_DIR")
    if directory:
        return directory
    job = os.environ.get("ELASTICTOP_JOB_DIR")
    if not job or os.environ.get("ELASTICTOP_AGENT_PID") != str(os.getppid()):
        return None
    # A rank that multiprocessing spawned: no shim could make its directory. Same name rule as elastictop's.
    with open("/proc/self/stat", "rb") as stat:
        start_time = int(stat.read().rpartition(b")")[2].split()[19])
    directory = os.path.join(job, "ranks", f"{os.getpid()}-{start_time}")
    os.makedirs(directory, exist_ok=True)
    return directory


def _append(path, line):
    """One write, so that rows of several threads or children never mix; opened anew, as a script may close any file."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        written = os.write(fd, line)
    finally:
        os.close(fd)
    if written != len(line):
        raise OSError(f"{path}: wrote {written} of {len(line)} bytes")


class Run:
    """This rank's run where elastictop writes it: rows go to `elastictop.log`."""

    def __init__(self, run_id):
        self.id = run_id

    def __repr__(self):
        return f"<elastictop.Run {self.id}>"

    def log(
        self, metrics: dict, step: typing.Optional[int] = None, commit: typing.Optional[bool] = None
    ) -> None:
        """Appends one row, as `elastictop.log` does."""
        log(metrics, step, commit)


def get_run():
    """The run that this rank's rows go to, to be called after `wandb.init()` if there is one; None on silent ranks.

    It is the script's own `wandb.run` once there is one that is not disabled. Else it is a `Run` where elastictop
    writes, and None where the script is to write. It is what was planned when the rank started: when somebody changes
    the run mode while the job runs, rows find their way by themselves. `elastictop.log` can be called on every rank."""
    try:
        _tell_wandb()
    except Exception as error:
        sys.stderr.write(f"elastictop: W&B is left to the script: {error}\n")
    writer = os.environ.get("ELASTICTOP_RANK_WRITER")
    run_id = os.environ.get("ELASTICTOP_RANK_RUN")
    if writer and not run_id:
        return None
    active = getattr(sys.modules.get("wandb"), "run", None)
    if active is not None and not getattr(active, "disabled", False):
        return active
    return Run(run_id) if writer == "elastictop" else None


_told_wandb = False


def _tell_wandb():
    """Does once what the rank shim does where there is one: sets what W&B's SDK reads in `wandb.init()`. What follows
    from this rank's number only elastictop itself knows."""
    global _told_wandb
    job = os.environ.get("ELASTICTOP_JOB_DIR")
    spawned = os.environ.get("ELASTICTOP_AGENT_PID") == str(os.getppid())
    if _told_wandb or not spawned or not job or "RANK" not in os.environ:
        return
    if "ELASTICTOP_RANK_DIR" in os.environ or not os.path.exists(os.path.join(job, "wandb", "settings.json")):
        return
    _told_wandb = True
    import subprocess

    told = subprocess.run([os.path.join(job, "bin", "elastictop"), "__wandb", _rank_dir()],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=10, check=True)
    changes = json.loads(told.stdout)
    for name in changes["unset"]:
        os.environ.pop(name, None)
    os.environ.update(dict(changes["set"]))


@dataclasses.dataclass(frozen=True)
class DistributedInfo:
    """This process's place in the job; a worker is a node."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    worker_index: int
    num_workers: int


def get_distributed_info() -> typing.Optional[DistributedInfo]:
    """From the variables that torchrun sets; None in a job of one process."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    world_size = _variable("WORLD_SIZE")
    if world_size <= 1:
        return None
    rank = _variable("RANK")
    local_rank = _variable("LOCAL_RANK", 0)
    local_world_size = _variable("LOCAL_WORLD_SIZE", world_size)
    worker_index = _variable("GROUP_RANK", 0)
    num_workers = world_size // local_world_size if local_world_size > 0 else 1
    # torchrun --virtual-local-rank says LOCAL_RANK=0 to all. On nodes of equal size the true one follows from the rank.
    told = all(name in os.environ for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"))
    if told and local_rank == 0 and world_size == num_workers * local_world_size:
        place = rank - worker_index * local_world_size
        if 0 <= place < local_world_size:
            local_rank = place
    return DistributedInfo(rank, local_rank, world_size, local_world_size, worker_index, num_workers)


def _variable(name, otherwise=None):
    text = os.environ.get(name)
    if text is None:
        return otherwise
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"environment variable {name}={text!r} is not a whole number; torchrun sets it, or leave it unset"
        ) from None
