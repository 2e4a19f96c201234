//! The end of the demo: a table, what it shows, and what isn't as it must be.

use super::live::Attempt;
use super::story::{NO_EVENT_REASON, Tally};

/// One subscription.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) found: Tally,
    pub(super) expected: Tally,
}

/// All that is known at the end.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) rows: Vec<Row>,
    /// Letters that came to the queues of dead deliveries and of dead events.
    pub(super) letters: [u32; 2],
    pub(super) letters_wanted: [u32; 2],
    /// A delivery that was tried again.
    pub(super) example: Option<Attempt>,
}

impl Ending {
    /// For people, on any terminal.
    pub(super) fn table(&self) -> String {
        let mut lines = vec![
            String::new(),
            "subscription  delivered  retried  dead  requests  signatures right".to_owned(),
        ];
        for Row { name, found, .. } in &self.rows {
            lines.push(format!(
                "{name:<12}  {:>9}  {:>7}  {:>4}  {:>8}  {:>16}",
                found.delivered, found.retried, found.dead, found.requests, found.signed
            ));
        }
        let [deliveries, events] = self.letters;
        lines.push(String::new());
        lines.push(format!("dead letters: {deliveries} given up (postrider.deliveries.dead), {events} that was no event"));
        lines.push(format!(
            "              (postrider.events.dead, {NO_EVENT_REASON}: it has no data.id)"
        ));
        if let Some(Attempt { request, .. }) = &self.example {
            lines.push(String::new());
            lines.push(format!(
                "A retry keeps its requestId ({request}), so that a receiver knows it again;"
            ));
            lines.push(
                "what one receiver does holds up no other; and nothing ends without a word."
                    .to_owned(),
            );
        }
        lines.join("\n")
    }

    /// What isn't as it must be; empty if all is.
    pub(super) fn differences(&self) -> Vec<String> {
        let rows = self
            .rows
            .iter()
            .filter(|row| row.found != row.expected)
            .map(|row| {
                format!(
                    "{}: expected {:?}, found {:?}",
                    row.name, row.expected, row.found
                )
            });
        let letters = (self.letters != self.letters_wanted).then(|| {
            format!(
                "dead letters (deliveries, events): expected {:?}, found {:?}",
                self.letters_wanted, self.letters
            )
        });
        rows.chain(letters).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(delivered: u32) -> Ending {
        let tally = Tally {
            delivered: 2,
            retried: 0,
            dead: 0,
            requests: 2,
            signed: 2,
        };
        Ending {
            rows: vec![Row {
                name: "healthy",
                found: Tally { delivered, ..tally },
                expected: tally,
            }],
            letters: [0, 1],
            letters_wanted: [0, 1],
            example: None,
        }
    }

    #[test]
    fn what_differs_is_named() {
        assert!(ending(2).differences().is_empty());

        let differences = ending(1).differences();

        assert_eq!(differences.len(), 1);
        assert!(
            differences[0].starts_with("healthy: expected"),
            "{differences:?}"
        );
    }
}
