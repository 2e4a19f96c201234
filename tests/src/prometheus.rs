//! A private Prometheus that scrapes each second and answers queries: on 127.0.0.1, data in a folder of its own.

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::http_call::call;
use crate::process::{Process, Watchdog, new_folder};
use crate::servers::free_port;
use crate::wait::wait_until;

/// A start takes a second; machines are slow at times.
const START_LIMIT: Duration = Duration::from_secs(60);

/// One server. Dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Prometheus {
    address: String,
    _process: Process,
}

impl Prometheus {
    /// Starts one that scrapes `targets` (`HOST:PORT` each) as the job `postrider`, and waits until it is ready.
    ///
    /// # Panics
    /// If Prometheus isn't installed, or isn't ready within a minute.
    pub async fn start(targets: &[&str]) -> Self {
        let folder = new_folder("postrider-prometheus-");
        let watchdog = Watchdog::start(Some(&folder));
        let targets = serde_json::to_string(targets).expect("texts are JSON");
        let config = format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: postrider, static_configs: [{{targets: {targets}}}]}}]\n"
        );
        let path = folder.join("prometheus.yml");
        fs::write(&path, config).expect("our own folder");
        let address = format!("127.0.0.1:{}", free_port());
        let log = File::create(folder.join("log")).expect("our own folder");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(&folder)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        // Its own words on what is missing would be "No such file or directory".
        let mut process = Process::start(
            "prometheus (scripts/install-prometheus)",
            &mut command,
            watchdog,
        );
        let ready = format!("http://{address}/-/ready");
        wait_until(START_LIMIT, "Prometheus's readiness", async || {
            if let Some(status) = process.exit_status() {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                panic!("Prometheus ended at once ({status}):\n{log}");
            }
            let answer = call(Method::GET, &ready).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        Self {
            address,
            _process: process,
        }
    }

    /// What a query finds now: the values of all series.
    ///
    /// # Panics
    /// If Prometheus can't read the query.
    pub async fn query(&self, query: &str) -> Vec<f64> {
        let data = self.ask(&format!("query?query={}", escaped(query))).await;
        let found = data["result"].as_array().cloned().unwrap_or_default();
        let value = |series: &Value| series["value"][1].as_str()?.parse().ok();
        found.iter().filter_map(value).collect()
    }

    /// The values that a label has in the series of a selector.
    ///
    /// # Panics
    /// If Prometheus can't read the selector.
    pub async fn label_values(&self, selector: &str, label: &str) -> Vec<String> {
        let path = format!("label/{label}/values?match[]={}", escaped(selector));
        let found = self.ask(&path).await;
        let values = found.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        values.iter().filter_map(text).collect()
    }

    async fn ask(&self, path: &str) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.address);
        let answer = call(Method::GET, &url)
            .await
            .unwrap_or_else(|error| panic!("Prometheus doesn't answer: {error:#}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["data"].clone()
    }
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
