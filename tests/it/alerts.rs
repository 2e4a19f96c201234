//! The alerts of `deploy/prometheus`: right by Prometheus's own tool, each with a case in which it fires, one in which it doesn't,
//! and a section of the runbook whose queries can be run.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use worker::metrics::{CATALOGUE, Kind};

use crate::docs::repository;
use crate::world::World;

const RULES: &str = "deploy/prometheus/postrider.rules.yml";
const CASES: &str = "deploy/prometheus/postrider.rules.test.yml";

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// The alerts' names, each with the rest of its rule.
fn alerts(rules: &str) -> Vec<(&str, &str)> {
    let parts = rules.split("- alert: ").skip(1);
    let alerts: Vec<_> = parts.filter_map(|part| part.split_once('\n')).collect();
    assert!(alerts.len() > 10, "the rules are read wrongly");
    alerts
}

fn promtool(arguments: &[&str]) {
    let said = Command::new("promtool")
        .args(arguments)
        .current_dir(repository())
        .output()
        .expect("promtool is here: scripts/install-prometheus");
    let (out, errors) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert!(said.status.success(), "{out}\n{errors}");
}

#[test]
fn promtool_takes_the_rules_and_all_cases_come_out() {
    promtool(&["check", "config", "deploy/prometheus/prometheus.yml"]);
    promtool(&["check", "rules", RULES]);
    promtool(&["test", "rules", CASES]);
}

#[test]
fn each_alert_has_a_case_that_fires_one_that_does_not_and_a_section_of_the_runbook() {
    let (rules, cases, runbook) = (read(RULES), read(CASES), read("docs/runbook.md"));
    for (alert, rule) in alerts(&rules) {
        let quiet = format!("{{alertname: {alert}, eval_time: ");
        assert!(
            cases
                .lines()
                .any(|line| line.contains(&quiet) && line.contains("exp_alerts: []")),
            "{alert} has no case in which it doesn't fire"
        );
        assert!(
            cases.contains(&format!("- alertname: {alert}\n")),
            "{alert} has no case in which it fires"
        );

        let section = runbook.split(&format!("\n## {alert}\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("{alert} has no section"));
        let section = section.split("\n## ").next().unwrap();
        for part in ["**Means.**", "**Look.**", "**Do.**"] {
            assert!(section.contains(part), "{alert}: {part}");
        }
        let anchor = format!("docs/runbook.md#{}\n", alert.to_lowercase());
        assert!(rule.contains(&anchor), "{alert} has another runbook_url");
        assert!(
            rule.contains("severity: page") || rule.contains("severity: ticket"),
            "{alert} has no severity"
        );
    }
}

#[test]
fn no_section_of_the_runbook_is_without_its_alert() {
    let (rules, runbook) = (read(RULES), read("docs/runbook.md"));
    let names: BTreeSet<&str> = alerts(&rules).iter().map(|(name, _)| *name).collect();

    let sections: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();

    assert_eq!(sections, names);
}

#[test]
fn alerts_runbook_and_dashboard_ask_for_metrics_that_there_are() {
    let mut there = BTreeSet::new();
    for metric in CATALOGUE {
        there.insert(metric.name.to_owned());
        if metric.kind == Kind::Histogram {
            there.extend(["_bucket", "_count", "_sum"].map(|part| metric.name.to_owned() + part));
        }
    }
    for path in [
        RULES,
        CASES,
        "docs/runbook.md",
        "deploy/grafana/postrider.json",
    ] {
        let text = read(path);
        let asked: BTreeSet<&str> = text
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("postrider_"))
            .collect();
        assert!(asked.len() > 4, "{path} is read wrongly");
        for name in asked {
            assert!(there.contains(name), "{path}: there is no {name}");
        }
    }
}

#[tokio::test]
async fn the_runbook_s_queries_can_be_run() {
    let world = World::new("runbook").await;
    let runbook = read("docs/runbook.md");
    let queries: Vec<&str> = runbook
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(queries.len() > 3, "the runbook is read wrongly");

    for query in queries {
        if let Err(error) = world.sql.query(query, &[]).await {
            panic!("{query}: {error:?}");
        }
    }
}
