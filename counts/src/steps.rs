//! The steps that are counted, each on an input of its own, and the one function that Callgrind watches.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use webhook::{
    Answer, Envelope, Event, Method, Outcome, RequestId, RetryPolicy, Secret, SigningKey, Status,
    Subscription, SubscriptionIndex, decode_event, settle, sign,
};

/// So often each step is done while it is counted; what is told is the mean.
pub(crate) const REPETITIONS: u64 = 16;

const KIB: usize = 1024;
const BODY_BYTES_MAX: usize = 1024 * KIB;

/// One step with its input.
pub(crate) struct Step {
    /// What it does, and on what.
    pub(crate) name: String,
    run: Box<dyn FnMut()>,
}

impl Step {
    fn new<T>(name: impl Into<String>, mut step: impl FnMut() -> T + 'static) -> Self {
        Self {
            name: name.into(),
            run: Box::new(move || drop(black_box(step()))),
        }
    }
}

/// Does each step, counted; once before that, so that what is only done once (linking, the allocator's first blocks)
/// isn't counted.
pub(crate) fn run() {
    for mut step in all() {
        (step.run)();
        repeat_counted(&mut *step.run);
    }
}

/// Callgrind counts while this runs, and writes down what it has counted when this ends.
#[inline(never)]
fn repeat_counted(step: &mut dyn FnMut()) {
    for _ in 0..REPETITIONS {
        step();
    }
}

/// All steps, in the order of a delivery.
pub(crate) fn all() -> Vec<Step> {
    vec![
        decode("an event of 1 KiB", message(&padding(KIB))),
        decode("an event of 100 KiB", message(&padding(100 * KIB))),
        decode("100 KiB of brackets", message(&brackets(100 * KIB))),
        decode("100 KiB of escapes", message(&escapes(100 * KIB))),
        find("1 subscription that wants it", 1, 1),
        find("100 subscriptions, 1 wants it", 100, 1),
        find("100 subscriptions that want it", 100, 100),
        Step::new("requestId of an event", || {
            RequestId::of_event(black_box("2nBrJUjz"), black_box(TYPE), black_box("ev-1"))
        }),
        batch(100),
        envelope(),
        signature("1 KiB", KIB, 1),
        signature("1 KiB, by two secrets", KIB, 2),
        signature("100 KiB", 100 * KIB, 1),
        settlement("a success", Outcome::Delivered),
        settlement("a failure", Outcome::HttpStatus),
    ]
}

const ENVIRONMENT: &str = "env-1";
const TYPE: &str = "card-published";

/// A message's body with these members of `data` behind those that are read.
fn message(members: &str) -> Bytes {
    Bytes::from(format!(
        r#"{{"environmentId":"{ENVIRONMENT}","data":{{"id":"ev-1","analyticsEvent":"{TYPE}","endUserId":"u-ada","timestamp":"2026-03-01T09:01:17.083Z","cardContext":{{"cardInstanceStatus":"active","cardTemplateId":"card-welcome","cardTemplateVersion":3}},"platformContext":{{"flowConfigId":7,"targetPlatforms":["Web","iOS"]}},{members}}}}}"#
    ))
}

/// Members as events have them, of so many bytes.
fn padding(bytes: usize) -> String {
    let member = r#""answer":"yes, please","rating":4.5,"tags":["a","b",null,true]"#;
    let members = vec![member; bytes / (member.len() + 1)];
    format!(r#""properties":{{{}}}"#, members.join(","))
}

/// Hostile: as deep as so many bytes go.
fn brackets(bytes: usize) -> String {
    format!(
        r#""deep":{}{}"#,
        "[".repeat(bytes / 2),
        "]".repeat(bytes / 2)
    )
}

/// Hostile: keys of `data` that have to be unescaped to be known, as many as there is room for.
fn escapes(bytes: usize) -> String {
    let member = r#""\u0061\n":"\ud83d\ude00\\""#;
    vec![member; bytes / (member.len() + 1)].join(",")
}

fn decode(what: &str, body: Bytes) -> Step {
    assert!(decode_event(&body, BODY_BYTES_MAX).is_ok(), "{what}");
    Step::new(format!("decode {what}"), move || {
        decode_event(black_box(&body), BODY_BYTES_MAX)
    })
}

/// `all` subscriptions in the event's environment, of which `wanting` want it; the others want other types.
fn find(what: &str, all: usize, wanting: usize) -> Step {
    let subscriptions: Vec<Subscription> = (0..all)
        .map(|n| {
            subscription(if n < wanting {
                TYPE.into()
            } else {
                format!("type-{n}")
            })
        })
        .collect();
    let index = SubscriptionIndex::new(subscriptions.iter());
    let event = event();
    assert_eq!(index.matching(&event).count(), wanting, "{what}");
    Step::new(format!("match with {what}"), move || {
        index.matching(black_box(&event)).sum::<usize>()
    })
}

fn event() -> Event {
    decode_event(&message(&padding(KIB)), BODY_BYTES_MAX).expect("it is an event")
}

fn subscription(event_type: String) -> Subscription {
    Subscription {
        environment_id: ENVIRONMENT.into(),
        id: "2nBrJUjz".into(),
        name: None,
        types: vec![event_type],
        card_template_id: None,
        action_flow_config_id: None,
        url: "https://example.com/".into(),
        method: Method::Post,
        headers: Vec::new(),
        batch: None,
        rate_limit: None,
        secrets: Vec::new(),
        status: Status::Active,
    }
}

fn batch(events: usize) -> Step {
    let members: Vec<RequestId> = (0..events)
        .map(|n| RequestId::of_event("2nBrJUjz", TYPE, &format!("ev-{n}")))
        .collect();
    Step::new(format!("requestId of a batch of {events}"), move || {
        RequestId::of_batch("2nBrJUjz", black_box(&members))
    })
}

fn envelope() -> Step {
    let request_id = request_id();
    let data = event().data;
    Step::new("envelope of an event", move || {
        Envelope::new(
            request_id,
            black_box(ENVIRONMENT),
            "2nBrJUjz",
            black_box(&data).clone(),
        )
    })
}

fn request_id() -> RequestId {
    RequestId::of_event("2nBrJUjz", TYPE, "ev-1")
}

/// As the worker does it: the requestId as text, the body in the envelope's pieces.
fn signature(what: &str, bytes: usize, secrets: usize) -> Step {
    let secret = Secret::new("0f8fad5b-d9cb-469f-a165-70867728950e".into());
    let keys = vec![SigningKey::from(&secret); secrets];
    let data = message(&padding(bytes));
    let chunks = Envelope::new(request_id(), ENVIRONMENT, "2nBrJUjz", data).chunks();
    let request_id = request_id().to_string();
    Step::new(format!("sign {what}"), move || {
        sign(&keys, &request_id, 1_772_355_677, black_box(&chunks))
    })
}

fn settlement(what: &str, outcome: Outcome) -> Step {
    let policy = RetryPolicy {
        delay_base: Duration::from_secs(5),
        factor: 5.0,
        delay_max: Duration::from_secs(12 * 3600),
        jitter: 0.2,
        attempts_max: 12,
        age_max: Duration::from_secs(72 * 3600),
    };
    let answer = Answer {
        outcome,
        retry_after: None,
    };
    Step::new(format!("settle {what}"), move || {
        settle(
            black_box(3),
            Duration::from_secs(30),
            black_box(&answer),
            &policy,
            0.3,
        )
    })
}
