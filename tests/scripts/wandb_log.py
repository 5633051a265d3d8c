"""Logs with W&B's own SDK: `wandb_log.py ROWS EXIT_CODE`. Which run it is says the environment."""

import sys

import wandb

rows, code = int(sys.argv[1]), int(sys.argv[2])
run = wandb.init(config={"lr": 0.1, "opt": {"name": "adam"}})
run.define_metric("loss", step_metric="epoch", summary="min")
for n in range(rows):
    run.log({"loss": n + 0.5, "epoch": n, "d": {"x": n}, "nan": float("nan")})
print("a line of the console", flush=True)
run.config.update({"late": [1, 2]})
run.finish(exit_code=code)
