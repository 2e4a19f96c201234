//! `postrider dead-letters`: an operator lists what was given up, looks at one, and has it sent again.

mod deliveries;
mod events;

use serde_json::Value;
use tests::postrider::{Finished, Postrider};

use crate::world::World;

async fn run(world: &World, args: &[&str]) -> Finished {
    let args = [&["dead-letters"], args].concat();
    Postrider::run(&args, &world.environment(&[])).await
}

async fn done(world: &World, args: &[&str]) -> String {
    let finished = run(world, args).await;
    assert!(finished.status.success(), "{}", finished.stderr);
    finished.stdout
}

fn lines(stdout: &str) -> Vec<Value> {
    let parsed = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    parsed.collect()
}
