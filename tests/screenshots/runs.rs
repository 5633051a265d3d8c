//! Runs in W&B, offline.

use crate::{ALL, ESC, LARGE, Stage, USUAL, WIDE};

const RANK: &str =
    r#"i=0; while :; do i=$((i+1)); echo "{\"step\": $i, \"loss\": 0.$((9000 - i))}"; sleep 0.2; done"#;

pub fn pictures() {
    let Some(stage) = Stage::new() else { return };
    std::fs::write(stage.folder().join("train.sh"), RANK).unwrap();
    let job = "./elastictop run --launcher=local --name=llama --nproc-per-node=4 --no-python --run-mode=new \
               --rank-scope=worker --wandb-project=llama --wandb-entity=ada --wandb-mode=offline sh train.sh";
    let mut screen = stage.open(job, LARGE);
    screen.until("four ranks", |text| text.contains("running"));
    screen.press("5jj");
    screen.until("rows", |text| text.contains("rank-1") && text.contains("loss 0.897"));
    screen.take("wandb", &ALL);
    screen.go("m", "apply");
    screen.take("wandb-preview", &[USUAL, WIDE]);
    screen.leave(ESC, "apply");
    screen.close();
    let mut screen = stage.open("./elastictop attach --theme=default-light", LARGE);
    screen.go("5", "kept here");
    screen.take("light-wandb", &[WIDE]);
    screen.close();
}
