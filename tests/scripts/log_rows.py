"""Logs rows in the way that the first argument names, and ends with the code that the third one is. Needs no torch.

    log_rows.py lines|log|sdk STEPS [CODE [FOLDER]]

With a folder, it waits there for the file `go` after half of the rows, and for `end` after all of them.
"""

import json
import os
import sys
import time

way, steps = sys.argv[1], int(sys.argv[2])
code = int(sys.argv[3]) if len(sys.argv) > 3 else 0
folder = sys.argv[4] if len(sys.argv) > 4 else None
rank = int(os.environ["RANK"])


def wait_for(name):
    while folder and not os.path.exists(os.path.join(folder, name)):
        time.sleep(0.02)


def row(step):
    bad = float("nan") if step % 2 else float("-inf")
    return {"loss": 1 / (step + 1), "rank": rank, "nested": {"x": step}, "big": 2**60 + step, "bad": bad}


if way == "sdk":
    import wandb

    run = wandb.init(config={"lr": 0.1, "layers": [1, 2], "of": {"rank": rank}})
elif way == "log":
    import elastictop

print(f"rank {rank} begins", flush=True)
for step in range(steps):
    if step == steps // 2:
        wait_for("go")
    if way == "sdk":
        run.log(row(step), step=step)
    elif way == "log":
        elastictop.log(row(step), step=step)
    else:
        print(json.dumps({"_step": step, **row(step)}), flush=True)
wait_for("end")
if way == "sdk":
    run.finish(exit_code=code)
if code:
    # The first that fails ends the others: not before they have logged all.
    run_id, world_size = os.environ.get("TORCHELASTIC_RUN_ID"), int(os.environ.get("WORLD_SIZE", 1))
    open(f"logged-{run_id}-{rank}", "w").close()
    while not all(os.path.exists(f"logged-{run_id}-{other}") for other in range(world_size)):
        time.sleep(0.02)
sys.exit(code)
