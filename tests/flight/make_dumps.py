"""Writes the flight recorder dumps in this folder anew: real ones, of real torch on gloo, one folder per story.

    .venv/bin/python tests/flight/make_dumps.py [STORY...]

Three ranks each. While they wait for each other for ever, a thread in each of them writes the dump; then they end.
Stack frames are left out: they would name folders of whoever ran this.
"""

import os
import pathlib
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
WORLD = 3


def ones(size=4, dtype="float32"):
    import torch

    return torch.ones(size, dtype=getattr(torch, dtype))


def sleep():
    while True:
        time.sleep(60)


def missing(rank, dist):
    """Rank 1 never joins the fourth all_reduce."""
    for _ in range(3):
        dist.all_reduce(ones())
    if rank == 1:
        sleep()
    dist.all_reduce(ones())


def size(rank, dist):
    """Rank 2 brings twice as many elements to the third all_reduce. gloo aborts rank 1 for it, which leaves no dump."""
    for _ in range(2):
        dist.all_reduce(ones())
    dist.all_reduce(ones(8 if rank == 2 else 4))
    dist.all_reduce(ones())


def dtype(rank, dist):
    """Rank 0 brings float64 to the second all_reduce."""
    dist.all_reduce(ones())
    dist.all_reduce(ones(dtype="float64" if rank == 0 else "float32"))
    dist.all_reduce(ones())


def op(rank, dist):
    """Rank 1 broadcasts where the others reduce."""
    dist.all_reduce(ones())
    if rank == 1:
        dist.broadcast(ones(), 0)
    else:
        dist.all_reduce(ones())
    dist.barrier()


def skip(rank, dist):
    """Rank 1 leaves one all_reduce out, and so lacks one at the end."""
    for step in range(5):
        if (rank, step) != (1, 2):
            dist.all_reduce(ones())
    dist.all_reduce(ones())


def wrapped(rank, dist):
    """As `missing`, after more collectives than the recorder keeps (4)."""
    for _ in range(20):
        dist.all_reduce(ones())
    if rank == 1:
        sleep()
    dist.all_reduce(ones())


def chain(rank, dist):
    """Rank 0 waits for rank 1, which waits for rank 2 in another group, which sleeps."""
    first, second = dist.new_group([0, 1]), dist.new_group([1, 2])
    dist.all_reduce(ones())
    for group, ranks in ((first, (0, 1)), (second, (1, 2))):
        if rank in ranks:
            dist.all_reduce(ones(), group=group)
    if rank == 2:
        sleep()
    if rank == 1:
        dist.all_reduce(ones(), group=second)
    dist.all_reduce(ones(), group=first)


def p2p(rank, dist):
    """Rank 0 receives from rank 1 a second time; rank 1 sends once."""
    if rank == 1:
        dist.send(ones(), 0)
        sleep()
    if rank == 0:
        dist.recv(ones(), 1)
        dist.recv(ones(), 1)
    sleep()


def healthy(rank, dist):
    """Nothing is wrong; the collectives are of all kinds."""
    dist.all_reduce(ones())
    dist.broadcast(ones(), 0)
    dist.reduce(ones(), 0)
    dist.all_gather([ones() for _ in range(WORLD)], ones())
    dist.gather(ones(), [ones() for _ in range(WORLD)] if rank == 0 else None, dst=0)
    dist.scatter(ones(), [ones() for _ in range(WORLD)] if rank == 0 else None, src=0)
    dist.reduce_scatter_tensor(ones(2), ones(2 * WORLD))
    dist.all_to_all_single(ones(WORLD), ones(WORLD))
    pair = dist.new_group([0, 2])
    if rank != 1:
        dist.all_reduce(ones(), group=pair)
    if rank == 0:
        dist.send(ones(), 1)
    if rank == 1:
        dist.recv(ones(), 0)
    dist.barrier()
    sleep()


STORIES = {f.__name__: f for f in (missing, size, dtype, op, skip, wrapped, chain, p2p, healthy)}


def run_rank(story, rank, out):
    import torch.distributed as dist
    from torch._C._distributed_c10d import _dump_fr_trace, _dump_fr_trace_json

    def dump():
        time.sleep(3)
        pickled = _dump_fr_trace(True, False, False, backend="gloo")
        (out / f"rank_{rank}").write_bytes(pickled)
        if story == "missing":
            (out / f"rank_{rank}.json").write_bytes(_dump_fr_trace_json(True, False, backend="gloo"))
        # The others must not see this rank leave before they have written theirs; one may have been aborted by gloo.
        until = time.monotonic() + 3
        while len(list(out.glob("rank_?"))) < WORLD and time.monotonic() < until:
            time.sleep(0.02)
        os._exit(0)

    dist.init_process_group("gloo")
    threading.Thread(target=dump, daemon=True).start()
    try:
        STORIES[story](rank, dist)
    except RuntimeError as error:
        print(f"{story}: rank {rank}: {error}"[:200])
    sleep()


def make(story):
    out = HERE / story
    out.mkdir(exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    env = {
        "WORLD_SIZE": str(WORLD), "MASTER_ADDR": "localhost", "MASTER_PORT": "29813",
        "TORCH_FR_BUFFER_SIZE": "4" if story == "wrapped" else "2000",
    }
    ranks = [
        subprocess.Popen([sys.executable, __file__, "--rank", story], env={**os.environ, **env, "RANK": str(rank)})
        for rank in range(WORLD)
    ]
    for rank in ranks:
        rank.wait(timeout=60)
    print(story, sorted(path.name for path in out.iterdir()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        run_rank(sys.argv[2], int(os.environ["RANK"]), HERE / sys.argv[2])
    else:
        for name in sys.argv[1:] or STORIES:
            make(name)
