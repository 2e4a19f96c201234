//! The table of `docs/metrics.md`.

use worker::metrics::{CATALOGUE, Label, PROCESS, Values};

/// A row for each metric, labels with all that they may say.
pub(super) fn table() -> String {
    let mut table = String::from(
        "| name | type | labels | unit | help | what it tells |\n|---|---|---|---|---|---|\n",
    );
    for metric in CATALOGUE {
        let labels: Vec<String> = metric.labels.iter().map(label).collect();
        table += &format!(
            "| `{}` | {} | {} | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            labels.join("; "),
            metric.unit.as_str(),
            metric.help,
            metric.tells,
        );
    }
    for (name, kind, help, tells) in PROCESS {
        let unit = name
            .trim_end_matches("_total")
            .rsplit('_')
            .find(|word| ["seconds", "bytes"].contains(word))
            .unwrap_or("count");
        table += &format!(
            "| `{name}` | {} | | {unit} | {help} | {tells} |\n",
            kind.as_str()
        );
    }
    table
}

fn label(label: &Label) -> String {
    let values = match &label.values {
        Values::Words(words) => words()
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", "),
        Values::Named(sense) => (*sense).to_owned(),
    };
    format!("`{}`: {values}", label.name)
}
