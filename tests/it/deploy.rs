//! What stands in `deploy/` for others to run, judged by the programs that will read it.

use std::fs;
use std::process::Command;

use crate::docs::repository;

#[test]
fn systemd_takes_the_unit() {
    let unit = fs::read_to_string(repository().join("deploy/systemd/postrider.service")).unwrap();
    // The program must be there; any will do.
    let program = "ExecStart=/usr/local/bin/postrider ";
    assert!(unit.contains(program));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.service");
    fs::write(&path, unit.replace(program, "ExecStart=/bin/true ")).unwrap();

    let verified = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&path)
        .output();
    let Ok(verified) = verified else {
        eprintln!("systemd-analyze isn't here: the unit was not verified");
        return;
    };

    let said = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("postrider.service"))
        .collect();
    assert!(verified.status.success() && ours.is_empty(), "{said}");
}
