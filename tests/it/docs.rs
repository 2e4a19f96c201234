//! Documents that are made of the code: they stand in `docs/`, and a test says when they differ. With UPDATE_DOCS=1 in the
//! environment it writes them instead.

mod configuration;
mod metrics;

use std::path::PathBuf;

/// Set, the tests write the documents instead of comparing them.
const UPDATE: &str = "UPDATE_DOCS";

#[test]
fn the_api_s_description_is_the_code_s() {
    keep("openapi.json", |_| api::openapi_document().to_owned());
}

#[test]
fn the_metrics_table_is_the_catalogue_s() {
    keep("metrics.md", |text| {
        between(text, "table", &metrics::table())
    });
}

#[test]
fn the_configuration_s_page_is_the_defaults_file_s() {
    let defaults = std::fs::read_to_string(repository().join("config/postrider.toml")).unwrap();
    keep("configuration.md", |_| configuration::page(&defaults));
}

/// The folder of the whole repository.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Compares `docs/NAME` with what the code makes of its text, or writes it.
fn keep(name: &str, made: impl Fn(&str) -> String) {
    let path = repository().join("docs").join(name);
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let made = made(&kept);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &made).unwrap();
        return;
    }

    assert!(
        kept == made,
        "docs/{name} isn't what the code says. If the code is right: {UPDATE}=1 cargo test -p tests --test it docs"
    );
}

/// The text with `part` between its two marks, and all around them as it stands.
fn between(text: &str, mark: &str, part: &str) -> String {
    let (begin, end) = (
        format!("<!-- {mark}: made by the code -->\n"),
        format!("<!-- {mark}: end -->"),
    );
    let (before, rest) = text.split_once(&begin).expect("the page has its marks");
    let (_, after) = rest.split_once(&end).expect("the page has its marks");
    format!("{before}{begin}{part}{end}{after}")
}
