"""A script that knows nothing of elastictop but for asking which run it has: it calls wandb.init() on every rank."""

import json
import os
import sys

import wandb

import elastictop

rank = int(os.environ["RANK"])
# What a script has in its source wins over the environment.
hard = json.loads(os.environ.get("HARD_CODED", "{}")).get(str(rank), {})
run = wandb.init(config={"lr": 0.1}, **hard)
mine = elastictop.get_run()
print("get_run", rank, None if mine is None else mine.id, flush=True)
for step in range(3):
    run.log({"loss": 10 * rank + step})
run.finish()
sys.exit(0)
