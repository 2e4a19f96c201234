//! Reads Prometheus's text format as far as tests ask it: the value of a series, or the sum of several.

/// The sum of all series called `name` whose labels include all of `labels`; nothing if there is none.
pub(crate) fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut values = text
        .lines()
        .filter_map(|line| value_if_matching(line, name, labels))
        .peekable();
    values.peek()?;
    Some(values.sum())
}

fn value_if_matching(line: &str, name: &str, wanted: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        // The last one: a label's value may hold braces.
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest),
    };
    if !value.starts_with(' ') {
        return None;
    }
    let labels = read_labels(labels);
    let includes = |(name, value): &(&str, &str)| {
        labels
            .iter()
            .any(|(other, its)| other == name && its == value)
    };
    if !wanted.iter().all(includes) {
        return None;
    }
    value.split_whitespace().next()?.parse().ok()
}

/// `a="x",b="y"`; a value's quotes, backslashes and line feeds are escaped by a backslash.
fn read_labels(text: &str) -> Vec<(&str, String)> {
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some((name, quoted)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut escaped = false;
        let mut end = quoted.len();
        for (at, character) in quoted.char_indices() {
            match (escaped, character) {
                (true, 'n') => value.push('\n'),
                (true, other) => value.push(other),
                (false, '"') => {
                    end = at;
                    break;
                }
                (false, '\\') => {}
                (false, other) => value.push(other),
            }
            escaped = !escaped && character == '\\';
        }
        labels.push((name.trim_start_matches(','), value));
        rest = quoted.get(end + 1..).unwrap_or("");
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a counter\n\
        a{outcome=\"delivered\",queue=\"x{}\"} 2\n\
        a{outcome=\"timeout\",queue=\"say \\\"y\\\"\"} 3\n\
        a_total 7\n\
        b 1.5 1700000000\n";

    #[test]
    fn series_are_summed_by_the_labels_that_are_asked_for() {
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str)],
            Option<f64>,
        );
        let cases: [Case; 6] = [
            ("a", &[], Some(5.0)),
            ("a", &[("outcome", "timeout")], Some(3.0)),
            ("a", &[("queue", "x{}")], Some(2.0)),
            ("a", &[("queue", "say \"y\"")], Some(3.0)),
            ("a", &[("outcome", "gone")], None),
            ("b", &[], Some(1.5)),
        ];
        for (name, labels, expected) in cases {
            assert_eq!(sum(TEXT, name, labels), expected, "{name} {labels:?}");
        }
    }
}
