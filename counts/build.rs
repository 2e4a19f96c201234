//! Tells the program what it is built by and for: counts are compared only where both are the same.

use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").expect("cargo names the compiler");
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .expect("the compiler runs");
    let version = String::from_utf8(version.stdout).expect("its version is text");
    println!("cargo::rustc-env=COMPILER={}", version.trim());
    println!(
        "cargo::rustc-env=TARGET={}",
        std::env::var("TARGET").expect("cargo names the target")
    );
    println!("cargo::rerun-if-changed=build.rs");
}
