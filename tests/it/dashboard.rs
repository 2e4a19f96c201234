//! The dashboard `deploy/grafana/postrider.json` against a real Prometheus that scrapes a worker under load: each panel's queries
//! find something, with the variables as Grafana would fill them in.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tests::prometheus::Prometheus;
use tests::receiver::Reply;
use tests::wait::wait_until;

use crate::docs::repository;
use crate::world::World;

/// Some scrapes, some retries, and a slow machine.
const LIMIT: Duration = Duration::from_secs(90);
/// Grafana's: four scrapes and more.
const RATE_INTERVAL: &str = "8s";

fn dashboard() -> Value {
    let text = fs::read_to_string(repository().join("deploy/grafana/postrider.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row")
}

/// The variables in order, each with what its query finds once those before it are filled in.
async fn variables(dashboard: &Value, prometheus: &Prometheus) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "datasource" {
            continue;
        }
        let query = filled(variable["query"]["query"].as_str().unwrap(), &variables);
        let asked = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap();
        let (selector, label) = asked.rsplit_once(", ").unwrap();
        let values = wait_until(LIMIT, &query, async || {
            let values = prometheus.label_values(selector, label).await;
            (!values.is_empty()).then_some(values)
        })
        .await;
        variables.push((
            format!("${}", variable["name"].as_str().unwrap()),
            values.join("|"),
        ));
    }
    variables
}

fn filled(query: &str, variables: &[(String, String)]) -> String {
    let query = query.replace("$__rate_interval", RATE_INTERVAL);
    variables
        .iter()
        .fold(query, |query, (name, value)| query.replace(name, value))
}

#[tokio::test]
async fn every_panel_of_the_dashboard_finds_something() {
    let world = World::new("dashboard").await;
    world.subscribe("/well").await;
    world.subscribe("/fails").await;
    world.receiver.script("/fails", [Reply::status(503)]);
    let settings = [("POSTRIDER__CIRCUIT__FAILURES", "1000")];
    let worker = world.worker_with(&settings).await;
    let prometheus = Prometheus::start(&[worker.admin()]).await;
    let dashboard = dashboard();
    let variables = variables(&dashboard, &prometheus).await;
    let mut left: Vec<(String, String)> = panels(&dashboard)
        .flat_map(|panel| {
            let title = panel["title"].as_str().unwrap().to_owned();
            let targets = panel["targets"].as_array().unwrap().iter();
            targets.map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
        })
        .map(|(title, query)| (title, filled(&query, &variables)))
        .collect();
    assert!(left.len() > 30, "the dashboard is read wrongly");

    // Load goes on until all have found something: rates are of the last seconds.
    let mut number = 0;
    let asked = tokio::time::timeout(LIMIT, async {
        while !left.is_empty() {
            for _ in 0..5 {
                number += 1;
                world
                    .publish("card-published", &format!("ev-{number}"))
                    .await;
            }
            world.publish("nobody-wants-it", "ev-0").await;
            world.publish_raw(b"no event").await;
            let mut empty = Vec::new();
            for (title, query) in left.drain(..) {
                let found = prometheus.query(&query).await;
                if found.is_empty() || found.iter().any(|value| value.is_nan()) {
                    empty.push((title, query));
                }
            }
            left = empty;
        }
    })
    .await;

    assert!(
        asked.is_ok(),
        "after {number} events these find nothing: {left:#?}"
    );
    for failing in [
        r#"sum(rate(postrider_attempts_total{outcome="http_status"}[1m]))"#,
        r#"sum(increase(postrider_dead_letters_total{reason="not_json"}[1m]))"#,
        r#"sum(increase(postrider_dead_letters_total{reason="attempts_exhausted"}[1m]))"#,
    ] {
        wait_until(LIMIT, failing, async || {
            prometheus
                .query(failing)
                .await
                .first()
                .is_some_and(|value| *value > 0.0)
                .then_some(())
        })
        .await;
    }
}

#[test]
fn every_panel_says_what_it_is_and_in_which_unit() {
    let dashboard = dashboard();

    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(
            panel["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{title}"
        );
        assert!(defaults["unit"].is_string(), "{title} has no unit");
        assert!(
            defaults["thresholds"]["steps"].is_array(),
            "{title} has no thresholds"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
    let rows = dashboard["panels"].as_array().unwrap().iter();
    let rows: Vec<&str> = rows
        .filter(|panel| panel["type"] == "row")
        .filter_map(|panel| panel["title"].as_str())
        .collect();
    assert_eq!(
        rows,
        [
            "Is it healthy",
            "How late is it",
            "What fails and why",
            "What waits",
            "What died",
            "What it costs"
        ]
    );
}
