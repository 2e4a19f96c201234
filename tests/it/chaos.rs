//! A short run of `chaos` (`make chaos` makes the long ones): faults that are mended within seconds, under load.

use std::process::Command;

fn run(settings: &[(&str, &str)]) {
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_chaos"));
    for (name, value) in settings {
        chaos.env(name, value);
    }

    let ended = chaos.output().unwrap();

    let (out, log) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    assert!(ended.status.success(), "{log}\n{out}");
    eprintln!("{log}\n{out}");
}

#[test]
fn a_handful_of_faults_breaks_no_promise() {
    run(&[("SEED", "7"), ("FAULTS", "6"), ("MODE", "brief")]);
}

#[test]
fn orderly_restarts_under_load_repeat_nothing() {
    run(&[("SEED", "7"), ("FAULTS", "4"), ("MODE", "restarts")]);
}
