//! `docs/configuration.md`, of `config/postrider.toml`: its comments are the text, a table a section.

/// One row: keys that share a comment share it.
#[derive(Default)]
struct Row {
    /// Name and default.
    keys: Vec<(String, String)>,
    comment: String,
}

/// The whole page.
///
/// # Panics
/// If the file has a key without a section, or a first key of a section without a comment.
pub(super) fn page(toml: &str) -> String {
    let (head, sections) = toml.split_once("\n[").expect("it has sections");
    let mut page = format!(
        "# Configuration\n\n<!-- Made by the code of config/postrider.toml: change that, then UPDATE_DOCS=1 cargo test -p tests --test it docs -->\n\n{}\n",
        prose(head)
    );
    for section in format!("\n[{sections}").split("\n[").skip(1) {
        let (name, lines) = section.split_once("]\n").expect("a section has a name");
        page += &format!(
            "\n## `{name}`\n\n| key | default | variable | what it is |\n|---|---|---|---|\n"
        );
        for row in rows(lines) {
            page += &cells(name, &row);
        }
    }
    page
}

/// Comment lines as paragraphs.
fn prose(comments: &str) -> String {
    let lines = comments
        .lines()
        .map(|line| line.trim_start_matches('#').trim());
    let paragraphs: Vec<String> = lines
        .collect::<Vec<_>>()
        .split(|line| line.is_empty())
        .map(|lines| lines.join("\n"))
        .filter(|paragraph| !paragraph.is_empty())
        .collect();
    paragraphs.join("\n\n")
}

fn rows(lines: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut comment = Vec::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
            continue;
        }
        let (key, default) = line.split_once(" = ").expect("a key has a default");
        if !comment.is_empty() {
            rows.push(Row {
                keys: Vec::new(),
                comment: std::mem::take(&mut comment).join(" "),
            });
        }
        let row = rows.last_mut().expect("a section begins with a comment");
        row.keys.push((key.to_owned(), default.to_owned()));
    }
    rows
}

fn cells(section: &str, row: &Row) -> String {
    let cell = |of: &dyn Fn(&str, &str) -> String| {
        let parts: Vec<String> = row
            .keys
            .iter()
            .map(|(key, default)| format!("`{}`", of(key, default)))
            .collect();
        parts.join("<br>")
    };
    let variable = |key: &str| {
        format!(
            "POSTRIDER__{}__{}",
            section.to_uppercase(),
            key.to_uppercase()
        )
    };
    let secret = row.comment.starts_with("Secret.");
    let mut variables = cell(&|key, _| variable(key));
    if secret {
        variables += &format!("<br>{}", cell(&|key, _| variable(key) + "_FILE"));
    }
    format!(
        "| {} | {} | {variables} | {} |\n",
        cell(&|key, _| format!("{section}.{key}")),
        cell(&|_, default| default.to_owned()),
        row.comment.replace('|', "\\|").replace('<', "\\<"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_share_a_comment_share_a_row() {
        let made =
            page("# Intro.\n\n[retry]\n# Secret. Both a|b.\n# And more.\nx = 1\ny = \"2\"\n");

        let row = "| `retry.x`<br>`retry.y` | `1`<br>`\"2\"` | \
            `POSTRIDER__RETRY__X`<br>`POSTRIDER__RETRY__Y`<br>`POSTRIDER__RETRY__X_FILE`<br>`POSTRIDER__RETRY__Y_FILE` | \
            Secret. Both a\\|b. And more. |\n";
        assert!(
            made.contains("\nIntro.\n\n## `retry`\n") && made.ends_with(row),
            "{made}"
        );
    }
}
