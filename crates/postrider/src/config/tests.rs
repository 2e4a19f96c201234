//! Each kind of bad input names its key; the layers go over each other in their order.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::NamedTempFile;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect()
}

fn load(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(None, None, &environment(pairs))
}

fn faults(pairs: &[(&str, &str)]) -> Vec<String> {
    load(pairs).err().map_or_else(Vec::new, |error| error.0)
}

fn file(content: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn key(length: usize) -> String {
    STANDARD.encode(vec![7; length])
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = load(&[]).unwrap();

    let (worker, retry) = (&config.worker, &config.worker.retry);
    assert_eq!(worker.amqp.url, "amqp://guest:guest@127.0.0.1:5672/%2f");
    assert_eq!(
        (worker.amqp.exchange.as_str(), worker.amqp.queues.as_slice()),
        ("analytics.events", &["postrider.events".to_owned()][..])
    );
    assert_eq!(worker.amqp.message_bytes_max, 1 << 20);
    assert_eq!(
        config.postgres.url,
        "postgres://postrider@127.0.0.1:5432/postrider"
    );
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:9464");
    assert_eq!(
        (
            worker.delivery.timeout,
            worker.delivery.connect_timeout,
            worker.delivery.handoff_after
        ),
        (15 * SECOND, 5 * SECOND, SECOND)
    );
    assert_eq!(
        (
            retry.delay_base,
            retry.factor,
            retry.delay_max,
            retry.jitter
        ),
        (5 * SECOND, 5.0, DAY / 2, 0.2)
    );
    assert_eq!((retry.attempts_max, retry.age_max), (12, 3 * DAY));
    assert_eq!(
        (
            worker.retention.deliveries,
            worker.retention.payloads,
            worker.retention.held
        ),
        (30 * DAY, 3 * DAY, 30 * DAY)
    );
    assert_eq!(worker.shutdown_grace, 25 * SECOND);
    assert_eq!(
        (config.log.json, config.log.level.as_str()),
        (false, "info")
    );
}

#[test]
fn the_development_settings_can_be_used() {
    let config = Config::load(Some(DEVELOPMENT), None, &Environment::new()).unwrap();

    assert!(config.store().is_ok());
}

#[test]
fn the_environment_goes_before_the_file_and_the_file_before_the_defaults() {
    let file = file(
        "[delivery]\ntimeout = \"7s\"\nconnect_timeout = \"3s\"\n[retry]\nfactor = 3\n[amqp]\n",
    );

    let config = Config::load(
        None,
        Some(file.path()),
        &environment(&[("POSTRIDER__DELIVERY__TIMEOUT", "9s")]),
    )
    .unwrap();

    let delivery = &config.worker.delivery;
    assert_eq!(
        (
            delivery.timeout,
            delivery.connect_timeout,
            delivery.handoff_after
        ),
        (9 * SECOND, 3 * SECOND, SECOND)
    );
    assert!((config.worker.retry.factor - 3.0).abs() < f64::EPSILON);
}

#[test]
fn a_text_stays_a_text_whatever_it_looks_like() {
    for text in ["123", "true", "[1]", "1.5", "null"] {
        let config = load(&[("POSTRIDER__AMQP__EXCHANGE", text)]).unwrap();

        assert_eq!(config.worker.amqp.exchange, text);
    }
}

#[test]
fn every_type_is_read_from_the_environment() {
    let config = load(&[
        ("POSTRIDER__AMQP__QUEUES", r#"["one","two"]"#),
        ("POSTRIDER__AMQP__DECLARE", "false"),
        ("POSTRIDER__AMQP__PREFETCH", "20"),
        ("POSTRIDER__RETRY__JITTER", "0"),
        ("POSTRIDER__EGRESS__ALLOW", r#"["10.0.0.0/8","::1"]"#),
        ("POSTRIDER__EGRESS__DENY", "[]"),
        ("POSTRIDER__LOG__FORMAT", "json"),
        ("POSTRIDER__RETENTION__PAYLOADS", "7d"),
        ("POSTRIDER_TEST_SOMETHING", "is not ours"),
        ("PATH", "nor this"),
    ])
    .unwrap();

    assert_eq!(
        (
            config.worker.amqp.queues.len(),
            config.worker.amqp.declare,
            config.worker.amqp.prefetch
        ),
        (2, false, 20)
    );
    assert_eq!(
        config.worker.egress.allow,
        ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]
    );
    assert!(config.worker.egress.deny.is_empty() && config.log.json);
    assert_eq!(
        config.worker.retention.payloads,
        Duration::from_secs(7 * 86_400)
    );
}

#[test]
fn every_secret_is_read_from_a_file_too() {
    let url = file("amqp://u:p@broker/%2f\n");
    let keys = file(&format!("{}\n{}\n", key(32), key(32)));
    let tokens = file(&format!("[\"{}\"]", key(48)));

    let config = load(&[
        ("POSTRIDER__AMQP__URL_FILE", url.path().to_str().unwrap()),
        (
            "POSTRIDER__SECRETS__KEYS_FILE",
            keys.path().to_str().unwrap(),
        ),
        (
            "POSTRIDER__AUTH__TOKEN_KEYS_FILE",
            tokens.path().to_str().unwrap(),
        ),
    ])
    .unwrap();

    assert_eq!(config.worker.amqp.url, "amqp://u:p@broker/%2f");
    assert_eq!(config.secret_keys.len(), 2);
}

#[test]
fn bad_input_names_its_key_and_what_is_expected() {
    let (short, long) = (format!(r#"["{}"]"#, key(31)), format!(r#"["{}"]"#, key(33)));
    let name = "n".repeat(256);
    let (vhost, queues) = (format!("amqp://h/{name}"), format!(r#"["{name}"]"#));
    for (name, value, expected) in [
        ("AMQP__URL", "localhost:5672", "amqp.url: expected amqp://"),
        ("AMQP__URL", &vhost, "amqp.url: the virtual host's name"),
        ("AMQP__EXCHANGE", &name, "amqp.exchange: a name has 1 to"),
        ("AMQP__QUEUES", &queues, "amqp.queues: a name has 1 to 255"),
        ("AMQP__QUEUES", "[]", "amqp.queues: must hold at least one"),
        (
            "AMQP__QUEUES",
            "postrider.events",
            "amqp.queues by POSTRIDER__AMQP__QUEUES: expected a list",
        ),
        (
            "AMQP__QUEUES",
            r#"["a","b"]"#,
            "amqp.bytes_unacked_max: amqp.prefetch (1000) x",
        ),
        (
            "AMQP__QUEUES",
            r#"["postrider.events.dead"]"#,
            "amqp.queues: \"postrider.events.dead\" is Postrider's own",
        ),
        (
            "AMQP__EXCHANGE",
            "postrider.dead",
            "amqp.exchange: \"postrider.dead\" is Postrider's own",
        ),
        (
            "AMQP__DECLARE",
            "yes",
            "amqp.declare by POSTRIDER__AMQP__DECLARE: expected true or false",
        ),
        (
            "AMQP__PREFETCH",
            "0",
            "amqp.prefetch: must be from 1 to 65535, not 0",
        ),
        ("AMQP__PREFETCH", "-1", "amqp.prefetch: must be from 1"),
        (
            "AMQP__PREFETCH",
            "1e3",
            "amqp.prefetch by POSTRIDER__AMQP__PREFETCH: expected a whole number",
        ),
        (
            "AMQP__PREFETCH",
            "65535",
            "amqp.bytes_unacked_max: amqp.prefetch (65535)",
        ),
        (
            "AMQP__CA_FILE",
            "/nowhere.pem",
            "amqp.ca_file: /nowhere.pem can't be read",
        ),
        ("POSTGRES__URL", "mysql://x", "postgres.url can't be read"),
        (
            "POSTGRES__URL",
            "postgres://x/y?sslmode=some",
            "postgres.url: sslmode",
        ),
        (
            "POSTGRES__URL_FILE",
            "/nowhere",
            "postgres.url by POSTRIDER__POSTGRES__URL_FILE: /nowhere can't be read",
        ),
        ("DELIVERY__TIMEOUT", "0s", "delivery.timeout: must be from"),
        (
            "DELIVERY__TIMEOUT",
            "15",
            "delivery.timeout: expected a duration like 200ms",
        ),
        (
            "DELIVERY__IN_FLIGHT_MAX",
            "0",
            "delivery.in_flight_max: must be from 1",
        ),
        ("RETRY__FACTOR", "0.5", "retry.factor: must be from 1"),
        ("RETRY__JITTER", "1.5", "retry.jitter: must be from 0 to 1"),
        ("RETRY__JITTER", "-0.2", "retry.jitter: must be from 0 to 1"),
        (
            "RETRY__DELAY_MAX",
            "1s",
            "retry.delay_max: must not be below",
        ),
        (
            "EGRESS__ALLOW",
            r#"["10.0.0.0/33"]"#,
            "egress.allow: expected networks",
        ),
        ("ADMIN__LISTEN", "9464", "admin.listen: expected IP:PORT"),
        ("API__LISTEN", "here", "api.listen: expected IP:PORT"),
        (
            "TRACES__ENDPOINT",
            "grpc://otel:4317",
            "traces.endpoint: must begin with http:// or https://; expected http://HOST:4318",
        ),
        (
            "TRACES__RATIO",
            "1.5",
            "traces.ratio: must be from 0 to 1, not 1.5",
        ),
        ("LOG__FORMAT", "xml", "log.format: expected text or json"),
        ("LOG__LEVEL", "verbose", "log.level: expected error"),
        ("LOG__LEVEL", "worker=loud", "log.level: expected error"),
        ("LOG__LEVEL", "", "log.level: expected error"),
        (
            "SECRETS__KEYS",
            r#"["%"]"#,
            "secrets.keys: key 1 isn't base64 of 32 bytes",
        ),
        (
            "SECRETS__KEYS",
            &short,
            "secrets.keys: key 1 isn't base64 of 32 bytes",
        ),
        (
            "SECRETS__KEYS",
            &long,
            "secrets.keys: key 1 isn't base64 of 32 bytes",
        ),
        (
            "AUTH__TOKEN_KEYS",
            &short,
            "auth.token_keys: key 1 isn't base64 of at least 32 bytes",
        ),
        ("SHUTDOWN__GRACE", "0s", "shutdown.grace: must be from"),
        (
            "AMQP__PREFECTH",
            "1",
            "POSTRIDER__AMQP__PREFECTH in the environment is no setting; is amqp.prefetch meant?",
        ),
        (
            "AMQP_URL",
            "x",
            "POSTRIDER__AMQP_URL in the environment is no setting; is amqp.url meant?",
        ),
        (
            "EXCHANGE_FILE",
            "x",
            "POSTRIDER__EXCHANGE_FILE in the environment is no setting",
        ),
    ] {
        let told = faults(&[(&format!("POSTRIDER__{name}"), value)]);

        assert_eq!(told.len(), 1, "{name}={value}: {told:?}");
        assert!(told[0].starts_with(expected), "{name}={value}: {told:?}");
    }
}

#[test]
fn an_issuers_keys_are_read_at_once_and_each_fault_names_its_key() {
    let good = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let with = |keys: &str| {
        let file = file(&format!(r#"{{"keys":[{keys}]}}"#));
        let path = file.path().to_str().unwrap().to_owned();
        (file, path)
    };
    let (_file, path) = with(good);
    let config = load(&[("POSTRIDER__AUTH__JWKS_FILE", &path)]).unwrap();
    assert!(config.api.jwks_file.is_some() && config.api.token_keys.is_empty());

    let (_file, path) = with(&format!(
        r#"{{"kty":"RSA"}},{good},{{"kty":"oct","k":"aHVzaA"}}"#
    ));
    let told = faults(&[("POSTRIDER__AUTH__JWKS_FILE", &path)]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], format!("auth.jwks_file: {path}: key 1: lacks n"));
    assert!(told[1].starts_with(&format!(
        "auth.jwks_file: {path}: key 3: is a shared secret"
    )));
    let told = faults(&[("POSTRIDER__AUTH__JWKS_FILE", "/nowhere.json")]);
    assert!(told[0].starts_with("auth.jwks_file: /nowhere.json: can't be read"));
}

#[test]
fn a_file_that_cannot_be_used_is_told_by_line_and_key_without_its_values() {
    for (content, expected) in [
        ("[amqp]\nurl = \"amqp://u:hush@h\n", "line 2: not TOML"),
        ("[amqp]\nurl = 5\n", "amqp.url in"),
        ("[amqp]\nqueues = [1]\n", "amqp.queues in"),
        ("[amqp]\nurll = \"hush\"\n", "amqp.urll in"),
        ("amqp = 1\n", "amqp in"),
        ("[amqpp]\n", "amqpp in"),
        ("[amqp.more]\n", "amqp.more in"),
        ("[amqp.url]\n", "amqp.url in"),
    ] {
        let file = file(content);

        let told = Config::load(None, Some(file.path()), &Environment::new())
            .err()
            .unwrap();

        assert!(told.0[0].contains(expected), "{told}");
        assert!(!told.to_string().contains("hush"), "{told}");
    }
    let told = Config::load(None, Some(Path::new("/nowhere.toml")), &Environment::new())
        .err()
        .unwrap();
    assert!(
        told.0[0].starts_with("/nowhere.toml can't be read"),
        "{told}"
    );
}

#[test]
fn all_faults_are_told_at_once() {
    let told = faults(&[
        ("POSTRIDER__RETRY__FACTOR", "0"),
        ("POSTRIDER__LOG__FORMAT", "xml"),
        ("POSTRIDER__NOTHING", "x"),
    ]);

    assert_eq!(told.len(), 3, "{told:?}");
}

#[test]
fn a_queue_is_consumed_once() {
    let told = faults(&[
        ("POSTRIDER__AMQP__QUEUES", r#"["a","a"]"#),
        ("POSTRIDER__AMQP__PREFETCH", "1"),
    ]);

    assert_eq!(told, ["amqp.queues: \"a\" stands twice"]);
}

#[test]
fn an_authority_that_is_none_is_refused() {
    let none = file("no certificate\n");
    let broken = file("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");

    for name in ["AMQP__CA_FILE", "POSTGRES__CA_FILE", "EGRESS__CA_FILE"] {
        let key = name.to_lowercase().replace("__", ".");
        for path in [none.path(), broken.path(), Path::new("/")] {
            let told = faults(&[(&format!("POSTRIDER__{name}"), path.to_str().unwrap())]);

            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with(&format!("{key}: ")), "{told:?}");
        }
    }
}

#[test]
fn what_is_no_text_in_the_environment_is_told_and_not_passed_over() {
    let bytes = |bytes| OsStr::from_bytes(bytes).to_owned();

    let told = Config::load(
        None,
        None,
        &vec![
            ("POSTRIDER__LOG__LEVEL".into(), bytes(b"in\xfffo")),
            (bytes(b"POSTRIDER__LOG__FORM\xff"), "json".into()),
            (bytes(b"SOMEBODY_\xff"), bytes(b"\xff")),
        ],
    );

    assert_eq!(
        told.err().unwrap().0,
        [
            "POSTRIDER__LOG__LEVEL in the environment isn't UTF-8",
            "POSTRIDER__LOG__FORM\u{fffd} in the environment isn't UTF-8"
        ]
    );
}

#[test]
fn a_number_in_the_environment_is_bare_digits() {
    for (name, number) in [("AMQP__PREFETCH", "20"), ("RETRY__FACTOR", "2.50")] {
        assert!(load(&[(&format!("POSTRIDER__{name}"), number)]).is_ok());
        for text in [
            "1e1", "+5", " 5", "5 ", "", ".5", "5.", "1_0", "0x5", "inf", "NaN", "5.-1",
        ] {
            let told = faults(&[(&format!("POSTRIDER__{name}"), text)]);

            assert_eq!(told.len(), 1, "{name}={text}: {told:?}");
            assert!(
                told[0].contains("in bare digits"),
                "{name}={text}: {told:?}"
            );
        }
    }
}

#[test]
fn a_setting_and_its_file_are_not_both_taken() {
    let url = file("amqp://broker/%2f");

    let told = faults(&[
        ("POSTRIDER__AMQP__URL", "amqp://other/%2f"),
        ("POSTRIDER__AMQP__URL_FILE", url.path().to_str().unwrap()),
    ]);

    assert!(told[0].ends_with("are both set: keep one"), "{told:?}");
}

#[test]
fn without_keys_only_what_opens_no_secrets_can_be_done() {
    let config = load(&[]).unwrap();

    assert!(config.store().unwrap_err().0[0].starts_with("secrets.keys: none is set"));
    assert!(config.store_without_keys().is_ok());
}

/// Reading all values asks for each key once at least, and panics for one that the file lacks.
#[test]
fn the_file_holds_no_key_that_nothing_reads() {
    let source = concat!(include_str!("../config.rs"), include_str!("layers.rs"));
    let defaults: toml::Table = DEFAULTS.parse().unwrap();

    for (section, keys) in &defaults {
        for key in keys.as_table().unwrap().keys() {
            assert!(
                source.contains(&format!("\"{section}.{key}\"")),
                "{section}.{key}"
            );
        }
    }
}
