//! libFuzzer's entry: feeds the target that `FUZZ_TARGET` names. Built by `scripts/fuzz`.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer calls an exported symbol")]

use std::sync::LazyLock;

use fuzz::{Target, target};

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("FUZZ_TARGET={name:?} is none of the targets"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| CHOSEN(bytes));
