//! Replays the corpus: what was found once stays found.

#![expect(
    clippy::unwrap_used,
    reason = "a test has nothing better to do than to end there"
)]

use std::fs;
use std::path::Path;

use fuzz::TARGETS;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn every_target_holds_its_properties_on_the_whole_corpus() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for (file, bytes) in inputs {
            let judged = std::panic::catch_unwind(|| target(&bytes));

            assert!(judged.is_ok(), "fuzz/corpus/{name}/{file}");
        }
    }
}

#[test]
fn every_folder_of_the_corpus_is_a_targets() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();

        assert!(fuzz::target(&name).is_some(), "{name}");
    }
}
