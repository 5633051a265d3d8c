//! The W&B test server by itself: `cargo run --example wandb_server -- [PORT] [--cheap]`.

#[path = "mod.rs"]
mod wandb_server;

use std::time::Duration;

use wandb_server::{KEY, Options, Server};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let port = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(0);
    let cheap = args.iter().any(|arg| arg == "--cheap");
    let server =
        Server::with(Options { address: ([127, 0, 0, 1], port).into(), cheap, ..Options::default() });
    println!("WANDB_BASE_URL={}\nWANDB_API_KEY={KEY}", server.url());
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
