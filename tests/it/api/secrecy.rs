//! No secret, token or header value stands in the database, in a log, in a metric or on the broker, and no URL's query but
//! in its subscription, whatever is done and whatever goes wrong; at the loudest level, libraries' lines included.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde_json::json;
use tests::http_call::call_with;
use tests::postrider::Postrider;
use tests::receiver::{Receiver, Reply};
use tests::servers::{Certificates, free_port};
use tests::wait::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::needle::Needle;
use super::tenant::{Tenant, token};
use crate::world::{DEAD_DELIVERIES, SECRET, SOON, World};

const HEADER: &str = "Bearer hush-header \"+/=&\\ 5bd84c5a";
const NEW_HEADER: &str = "hush-new-header-0f1ad7a2c9";
const URL_TOKEN: &str = "hush-url-token-7e41c2f09b";
const BODY: &str = "hush-body-3c9f5de2740a";
/// Sent where nobody asks for it.
const STRAY: &str = "hush-stray-98d20be6f71c";

#[tokio::test]
async fn no_secret_is_in_the_database_the_metrics_or_a_log_as_text() {
    no_secret_is_left_behind("secrecy_text", "text").await;
}

#[tokio::test]
async fn no_secret_is_in_the_database_the_metrics_or_a_log_as_json() {
    no_secret_is_left_behind("secrecy_json", "json").await;
}

/// What is still to come of [`subscriptions_and_deliveries`].
const UNSETTLED: &str =
    "SELECT 11 - (SELECT count(*) FROM deliveries) + (SELECT count(*) FROM outbox)";

/// What must not turn up, gathered on the way.
struct Needles {
    /// Nowhere.
    secret: Vec<Needle>,
    /// In the table of subscriptions only.
    of_urls: Vec<Needle>,
    /// In tables of payloads and on the broker only.
    of_bodies: Vec<Needle>,
}

async fn no_secret_is_left_behind(name: &str, format: &str) {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::write(folder.path());
    let settings = [
        ("POSTRIDER__LOG__LEVEL", "trace"),
        ("POSTRIDER__LOG__FORMAT", format),
        ("POSTRIDER__RETRY__ATTEMPTS_MAX", "2"),
        ("POSTRIDER__DELIVERY__TIMEOUT", "1s"),
        (
            "POSTRIDER__EGRESS__CA_FILE",
            certificates.ca_file.to_str().unwrap(),
        ),
    ];
    let mut t = Tenant::with(name, &settings).await;
    let secure = Receiver::start_tls(&certificates);
    let mut needles = Needles {
        secret: vec![
            Needle::new("header", HEADER),
            Needle::new("changed header", NEW_HEADER),
            Needle::new("stray value", STRAY),
            Needle::new(
                "key of secrets",
                "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
            ),
            Needle::new(
                "key of tokens",
                "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
            ),
            Needle::new("secret by the store", SECRET),
            Needle::new("token of auth", &t.auth),
            Needle::new("token of workbench", &t.workbench),
            Needle::new("token of events", &t.events),
        ],
        of_urls: vec![Needle::new("query of a URL", URL_TOKEN)],
        of_bodies: vec![Needle::new("body", BODY)],
    };

    let commands = commands_log(&t, &mut needles).await;
    subscriptions_and_deliveries(&t, &secure, &mut needles).await;
    odd_requests(&t).await;
    wait_until(SOON, "all to be settled and published", async || {
        (t.world.number(UNSETTLED).await == 0).then_some(())
    })
    .await;
    let metrics = t.serve.metrics().await;
    let feed = t.world.broker.take_all(DEAD_DELIVERIES).await;
    assert!(!feed.is_empty());
    t.world.stop_with_all_acked(&mut t.serve).await;

    let log = t.serve.stderr();
    let whole = log.contains("TRACE") && log.contains("postrider::access");
    assert!(whole, "the log isn't what it was meant to be");
    let places = [
        ("the log", log),
        ("standard output", t.serve.stdout()),
        ("a command's log", commands),
        ("the metrics", metrics),
    ];
    let mut found = Vec::new();
    for (place, text) in &places {
        let all = needles
            .secret
            .iter()
            .chain(&needles.of_urls)
            .chain(&needles.of_bodies);
        look(place, text, all, &mut found);
    }
    look(
        "the feed of the dead",
        &format!("{feed:?}"),
        needles.secret.iter().chain(&needles.of_urls),
        &mut found,
    );
    let tables = dump(&t.world).await;
    for (table, rows) in &tables {
        look(table, rows, &needles.secret, &mut found);
        if table != "public.subscriptions" {
            look(table, rows, &needles.of_urls, &mut found);
        }
        let holds_bodies = table.contains("payloads") || table == "public.test_deliveries";
        if !holds_bodies {
            look(table, rows, &needles.of_bodies, &mut found);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    // Who looks in vain everywhere may be blind.
    let seen = |needle: &Needle| {
        tables
            .iter()
            .any(|(_, rows)| needle.found_in(rows).is_some())
    };
    assert!(seen(&needles.of_urls[0]) && seen(&needles.of_bodies[0]));
}

fn look<'a>(
    place: &str,
    text: &str,
    needles: impl IntoIterator<Item = &'a Needle>,
    found: &mut Vec<String>,
) {
    for needle in needles {
        if let Some(kind) = needle.found_in(text) {
            found.push(format!("{}, {kind}, in {place}", needle.what));
        }
    }
}

/// Credentials by the command line and by the API; returns what the commands logged.
async fn commands_log(t: &Tenant, needles: &mut Needles) -> String {
    let loud = [("POSTRIDER__LOG__LEVEL", "trace")];
    let environment = t.world.environment(&loud);
    let arguments = [
        "credentials",
        "create",
        "--environment",
        "env-1",
        "--role",
        "auth",
    ];
    let made = Postrider::run(&arguments, &environment).await;
    let by_api = t.made_credential("workbench").await;
    for credential in [serde_json::from_str(&made.stdout).unwrap(), by_api] {
        let secret = credential["clientSecret"].as_str().unwrap();
        needles.secret.push(Needle::new("client secret", secret));
        let token = token(&t.base, &credential).await;
        needles.secret.push(Needle::new("token", &token));
    }
    let checked = Postrider::run(&["check", "--throw-away"], &environment).await;
    let rekeyed = Postrider::run(&["secrets", "rekey"], &environment).await;
    assert!(made.status.success() && rekeyed.status.success());
    [
        made.stderr,
        checked.stderr,
        checked.stdout,
        rekeyed.stderr,
        rekeyed.stdout,
    ]
    .concat()
}

/// Subscriptions to receivers good and bad, a rotation, changes, tests, and an event for all of them.
async fn subscriptions_and_deliveries(t: &Tenant, secure: &Receiver, needles: &mut Needles) {
    let plain = &t.world.receiver;
    plain.script("/fails", [Reply::status(500).body("no")]);
    plain.script("/gone", [Reply::status(410)]);
    plain.script("/slow", [Reply::hang()]);
    plain.script("/resets", [Reply::reset()]);
    plain.script("/garbles", [Reply::raw("HTTP/1.1 zzz\r\n\r\n")]);
    plain.script(
        "/redirects",
        [Reply::status(302).header("location", &format!("/else?token={STRAY}"))],
    );
    let closed = format!("http://127.0.0.1:{}/", free_port());
    let no_tls = plain.url("/").replace("http:", "https:");
    let mut made = Vec::new();
    for url in [
        secure.url_by_name("/hook"),
        plain.url("/fails"),
        plain.url("/gone"),
        plain.url("/slow"),
        plain.url("/resets"),
        plain.url("/garbles"),
        plain.url("/redirects"),
        closed,
        no_tls,
        "http://nobody.invalid/".into(),
    ] {
        let body = json!({
            "types": ["card-published"],
            "url": format!("{url}?token={URL_TOKEN}"),
            "headers": {"Authorization": HEADER, "X-Api-Key": HEADER},
        });
        made.push(t.subscribe(body).await);
    }
    // A place that is refused only when it is to be reached.
    let refused = format!("http://10.0.0.1/?token={URL_TOKEN}");
    t.world.subscribe_with("/", |new| new.url = refused).await;
    let good = format!("/v1/env-1/webhook/{}", made[0]["id"].as_str().unwrap());
    let changed = json!({"headers": {"X-Api-Key": NEW_HEADER}}).to_string();
    let changed = t.send(&t.workbench, Method::PATCH, &good, &changed).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let rotated = t
        .post(&t.workbench, &format!("{good}/secret/rotate"), json!({}))
        .await;
    made.push(rotated.json()["data"].clone());
    for subscription in &made {
        for name in ["secret", "signingSecret"] {
            let secret = subscription[name].as_str().unwrap();
            needles.secret.push(Needle::new(name, secret));
            let bare = secret.trim_start_matches("whsec_");
            needles.secret.push(Needle::new(name, bare));
        }
    }

    let tested = t
        .post(&t.workbench, &format!("{good}/test"), json!({}))
        .await;
    assert_eq!(
        tested.json()["data"]["outcome"],
        "delivered",
        "{}",
        tested.text()
    );
    let failing = format!("/v1/env-1/webhook/{}/test", made[1]["id"].as_str().unwrap());
    let tested = t.post(&t.workbench, &failing, json!({})).await;
    assert_eq!(tested.json()["data"]["status"], 500, "{}", tested.text());
    let event = json!({"data": {"id": "ev-1", "analyticsEvent": "card-published", "more": BODY}});
    let accepted = t.post(&t.events, "/v1/env-1/events", event).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    // And what is no event.
    t.world
        .publish_raw(format!("{{\"data\":\"{BODY}").as_bytes())
        .await;
    plain.wait_for(2, "/fails", SOON).await;
    let delivered = secure.wait_for(2, "/hook", SOON).await;
    for request in &delivered {
        assert_eq!(request.header("authorization"), Some(HEADER));
        for signature in request.header("webhook-signature").unwrap().split(' ') {
            needles
                .secret
                .push(Needle::new("signature", &signature[3..]));
        }
    }
}

/// Method, path, headers, body.
type Odd<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// Requests with values where they don't belong.
async fn odd_requests(t: &Tenant) {
    let form = ("content-type", "application/x-www-form-urlencoded");
    let json = ("content-type", "application/json");
    let basic = format!("Basic {}", STANDARD.encode(format!("client:{STRAY}")));
    let bearer = format!("Bearer {}", t.workbench);
    let (bearer, basic) = (
        ("authorization", bearer.as_str()),
        ("authorization", basic.as_str()),
    );
    let tampered = format!("Bearer {}{STRAY}", t.workbench);
    let webhook = "/v1/env-1/webhook";
    let in_query = format!("{webhook}?access_token={}&x={STRAY}", t.workbench);
    let secret_in_query = format!("/oauth2/token?client_secret={STRAY}");
    let grant_in_query = format!("/oauth2/token?grant_type={STRAY}&client_id={STRAY}");
    let permanently = format!("{webhook}/00000000?permanently={STRAY}");
    let by_form = format!("grant_type=client_credentials&client_id={STRAY}&client_secret={STRAY}");
    let token_by_form = format!("access_token={}", t.workbench);
    let no_json = format!("{{\"url\": {STRAY}");
    let bad = json!({
        "types": [STRAY.to_uppercase()],
        "url": format!("http://user:{STRAY}@10.0.0.1/?token={URL_TOKEN}"),
        "headers": {"Host": HEADER, STRAY: format!("{STRAY}\u{1}")},
        STRAY: STRAY,
    })
    .to_string();
    let requests: [Odd<'_>; 16] = [
        (Method::GET, &in_query, &[], ""),
        (
            Method::GET,
            webhook,
            &[("cookie", STRAY), ("x-api-key", STRAY)],
            "",
        ),
        (Method::GET, webhook, &[("authorization", STRAY)], ""),
        (Method::GET, webhook, &[("authorization", &tampered)], ""),
        (Method::GET, webhook, &[basic], ""),
        (Method::DELETE, &permanently, &[bearer], ""),
        (Method::PUT, &in_query, &[bearer], &by_form),
        (Method::POST, webhook, &[form], &token_by_form),
        (Method::POST, webhook, &[bearer, form], &token_by_form),
        (Method::POST, webhook, &[bearer, json], &no_json),
        (Method::POST, webhook, &[bearer, json], &bad),
        (Method::POST, "/oauth2/token", &[form], &by_form),
        (Method::POST, "/oauth2/token", &[form, basic], &by_form),
        (Method::POST, "/oauth2/token", &[json], &bad),
        (Method::POST, &secret_in_query, &[], ""),
        (Method::POST, &grant_in_query, &[form], &token_by_form),
    ];
    for (method, path, headers, body) in requests {
        let url = format!("{}{path}", t.base);
        let answer = call_with(method, &url, headers, body.to_owned())
            .await
            .unwrap();
        assert!(answer.status.is_client_error(), "{path}: {}", answer.text());
    }
    for text in [
        format!("GET /?token={STRAY} HTTP/9.9\r\n\r\n"),
        format!("GET /{STRAY} with spaces HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nauthorization {STRAY}\r\n\r\n"),
        format!(
            "GET / HTTP/1.1\r\nauthorization: {}\r\n\r\n",
            STRAY.repeat(1000)
        ),
        format!("POST / HTTP/1.1\r\ncontent-length: {STRAY}\r\n\r\n{STRAY}"),
        format!(
            "POST /oauth2/token HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{STRAY}\r\n"
        ),
    ] {
        let address = t.base.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        // It may be cut off with a reset.
        stream.read_to_string(&mut String::new()).await.ok();
    }
}

/// All rows of all tables as text, bytes once in hexadecimal and once as the text that they may be.
async fn dump(world: &World) -> Vec<(String, String)> {
    const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) \
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'm') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'";
    let mut tables = Vec::new();
    for row in world.sql.query(TABLES, &[]).await.unwrap() {
        let table: String = row.get(0);
        let mut rows = String::new();
        for bytes in ["hex", "escape"] {
            let set = format!("SET bytea_output = {bytes}");
            world.sql.batch_execute(&set).await.unwrap();
            let all = format!("SELECT t::text FROM {table} t");
            for row in world.sql.query(&all, &[]).await.unwrap() {
                writeln!(rows, "{}", row.get::<_, String>(0)).unwrap();
            }
        }
        tables.push((table, rows));
    }
    assert!(tables.len() > 10, "these aren't all tables");
    tables
}
