//! The five subscriptions of the demo, and what must become of each delivery. What is expected is worked out here by
//! a plain comparison, apart from the code that is shown.

use std::net::SocketAddr;

use store::NewSubscription;
use uuid::Uuid;
use webhook::{Event, Method, Secret};

/// The tenant of the sample file.
pub(super) const ENVIRONMENT: &str = "demo";
/// A message that is no event.
pub(super) const NO_EVENT: &[u8] =
    br#"{"environmentId":"demo","data":{"analyticsEvent":"card-published"}}"#;
/// What becomes of it.
pub(super) const NO_EVENT_REASON: &str = "field_missing";
/// The attempt at which the one that recovers does.
pub(super) const RECOVERS_AT: u32 = 3;

/// How its receiver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Well,
    RecoversAtThird,
    NeverWell,
}

/// One subscription of the demo.
#[derive(Debug)]
pub(super) struct Story {
    /// Its name, and its path at the receiver.
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) types: &'static [&'static str],
    pub(super) card: Option<&'static str>,
    pub(super) method: Method,
    pub(super) manner: Manner,
}

/// All five.
pub(super) const STORIES: [Story; 5] = [
    Story {
        name: "healthy",
        about: "wants every published and completed card",
        types: &["card-published", "card-completed"],
        card: None,
        method: Method::Post,
        manner: Manner::Well,
    },
    Story {
        name: "one-card",
        about: "wants the events of a single card",
        types: &["card-published", "card-completed", "card-dismissed"],
        card: Some("card-limit"),
        method: Method::Post,
        manner: Manner::Well,
    },
    Story {
        name: "recovers",
        about: "answers 503 twice, then works",
        types: &["card-completed"],
        card: None,
        method: Method::Post,
        manner: Manner::RecoversAtThird,
    },
    Story {
        name: "put",
        about: "takes PUT, with a header of its own",
        types: &["card-completed"],
        card: None,
        method: Method::Put,
        manner: Manner::Well,
    },
    Story {
        name: "broken",
        about: "answers 500 whatever comes",
        types: &["card-dismissed"],
        card: None,
        method: Method::Post,
        manner: Manner::NeverWell,
    },
];

/// What must have become of one subscription's deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) delivered: u32,
    /// Of those delivered, how many needed more than one attempt.
    pub(super) retried: u32,
    pub(super) dead: u32,
    pub(super) requests: u32,
    /// Requests whose signature was right.
    pub(super) signed: u32,
}

impl Story {
    /// The subscription, with an id and a secret of its own.
    pub(super) fn subscription(&self, receiver: SocketAddr) -> NewSubscription {
        let own_header = ("X-Api-Key".to_owned(), "demo-key".to_owned());
        NewSubscription {
            environment_id: ENVIRONMENT.into(),
            id: webhook::new_webhook_id(*Uuid::new_v4().as_bytes()),
            name: Some(self.name.into()),
            types: self.types.iter().map(|name| (*name).to_owned()).collect(),
            card_template_id: self.card.map(str::to_owned),
            action_flow_config_id: None,
            url: format!("http://{receiver}/{}", self.name),
            method: self.method,
            headers: if self.method == Method::Put {
                vec![own_header]
            } else {
                Vec::new()
            },
            batch: None,
            rate_limit: None,
            secret: Secret::new(Uuid::new_v4().to_string()),
        }
    }

    /// Whether it wants an event.
    pub(super) fn wants(&self, event: &Event) -> bool {
        self.types.contains(&event.event_type.as_str())
            && self
                .card
                .is_none_or(|card| event.card.as_deref() == Some(card))
    }

    /// What must become of its deliveries.
    pub(super) fn expected(&self, events: &[Event], attempts_max: u32) -> Tally {
        let wanted = events.iter().filter(|event| self.wants(event)).count();
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let (delivered, retried, dead, requests) = match self.manner {
            Manner::Well => (wanted, 0, 0, wanted),
            Manner::RecoversAtThird => (wanted, wanted, 0, wanted * RECOVERS_AT),
            Manner::NeverWell => (0, 0, wanted, wanted * attempts_max),
        };
        Tally {
            delivered,
            retried,
            dead,
            requests,
            signed: requests,
        }
    }
}
