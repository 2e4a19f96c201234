//! Finds the subscriptions that want an event, by hash: the cost grows with the matches, not with the subscriptions.
//! It knows positions only; keeping the subscriptions it was made from, unchanged and in order, is left to its owner.

use std::collections::HashMap;

use crate::event::Event;
use crate::subscription::{Status, Subscription};

/// Active subscriptions by environment and type, then by card and flow.
#[derive(Debug, Default)]
pub struct SubscriptionIndex {
    environments: HashMap<String, HashMap<String, ByCard>>,
}

/// Those of one type.
#[derive(Debug, Default)]
struct ByCard {
    any: ByFlow,
    of: HashMap<String, ByFlow>,
}

/// Those of one type and one card, or any card. Positions ascend.
#[derive(Debug, Default)]
struct ByFlow {
    any: Vec<usize>,
    of: HashMap<String, Vec<usize>>,
}

impl SubscriptionIndex {
    /// Indexes all but the disabled ones among `subscriptions`; positions count all of them, from 0. The events of a
    /// paused one become deliveries too, which are held.
    pub fn new<'a>(subscriptions: impl Iterator<Item = &'a Subscription>) -> Self {
        let mut index = Self::default();
        let wanting = subscriptions
            .enumerate()
            .filter(|(_, subscription)| subscription.status != Status::Disabled);
        for (position, subscription) in wanting {
            index.insert(position, subscription);
        }
        index
    }

    /// The positions of those that want `event`, ascending, each at most once.
    pub fn matching(&self, event: &Event) -> impl Iterator<Item = usize> + use<> {
        let mut positions = Vec::new();
        let wanted = self
            .environments
            .get(&event.environment_id)
            .and_then(|types| types.get(&event.event_type));
        if let Some(by_card) = wanted {
            let of_card = event.card.as_ref().and_then(|card| by_card.of.get(card));
            for by_flow in [Some(&by_card.any), of_card].into_iter().flatten() {
                let of_flow = event.flow.as_ref().and_then(|flow| by_flow.of.get(flow));
                positions.extend_from_slice(&by_flow.any);
                positions.extend(of_flow.into_iter().flatten());
            }
        }
        // The lists are disjoint and each ascends, but they don't follow one another.
        positions.sort_unstable();
        positions.into_iter()
    }

    fn insert(&mut self, position: usize, subscription: &Subscription) {
        let types = self
            .environments
            .entry(subscription.environment_id.clone())
            .or_default();
        for event_type in &subscription.types {
            let by_card = types.entry(event_type.clone()).or_default();
            let by_flow = match &subscription.card_template_id {
                Some(card) => by_card.of.entry(card.clone()).or_default(),
                None => &mut by_card.any,
            };
            let positions = match &subscription.action_flow_config_id {
                Some(flow) => by_flow.of.entry(flow.clone()).or_default(),
                None => &mut by_flow.any,
            };
            // A type that a subscription names twice is one wish.
            if positions.last() != Some(&position) {
                positions.push(position);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::subscription::Method;

    fn wish(types: &[&str], card: Option<&str>, flow: Option<&str>) -> Subscription {
        Subscription {
            environment_id: "env-1".into(),
            id: "2nBrJUjz".into(),
            name: None,
            types: types.iter().map(|text| (*text).to_owned()).collect(),
            card_template_id: card.map(str::to_owned),
            action_flow_config_id: flow.map(str::to_owned),
            url: "https://example.com/".into(),
            method: Method::Post,
            headers: Vec::new(),
            batch: None,
            rate_limit: None,
            secrets: Vec::new(),
            status: Status::Active,
        }
    }

    fn event(event_type: &str, card: Option<&str>, flow: Option<&str>) -> Event {
        Event {
            environment_id: "env-1".into(),
            id: "ev-1".into(),
            event_type: event_type.into(),
            card: card.map(str::to_owned),
            flow: flow.map(str::to_owned),
            timestamp: None,
            data: Bytes::from_static(b"{}"),
        }
    }

    fn matching(subscriptions: &[Subscription], event: &Event) -> Vec<usize> {
        SubscriptionIndex::new(subscriptions.iter())
            .matching(event)
            .collect()
    }

    #[test]
    fn card_and_flow_narrow_a_subscription_only_where_set() {
        let subscriptions = [
            wish(&["a"], Some("1"), Some("2")),
            wish(&["a"], Some("1"), None),
            wish(&["a"], None, Some("2")),
            wish(&["a"], None, None),
            wish(&["b"], None, None),
        ];
        let found = |card, flow| matching(&subscriptions, &event("a", card, flow));

        assert_eq!(found(Some("1"), Some("2")), [0, 1, 2, 3]);
        assert_eq!(found(Some("1"), Some("1")), [1, 3]);
        assert_eq!(found(None, Some("2")), [2, 3]);
        assert_eq!(found(Some("2"), None), [3]);
        assert_eq!(found(None, None), [3]);
    }

    #[test]
    fn a_type_named_twice_matches_once() {
        assert_eq!(
            matching(
                &[wish(&["a", "b", "a"], None, None)],
                &event("a", None, None)
            ),
            [0]
        );
    }

    #[test]
    fn subscriptions_of_another_environment_or_disabled_match_nothing_and_paused_ones_match() {
        let mut subscriptions = vec![wish(&["a"], None, None); 3];
        subscriptions[0].environment_id = "env-2".into();
        subscriptions[1].status = Status::Paused;
        subscriptions[2].status = Status::Disabled;

        assert_eq!(matching(&subscriptions, &event("a", None, None)), [1]);
    }

    fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::sample::select(words).prop_map(str::to_owned)
    }

    fn any_subscription() -> impl Strategy<Value = Subscription> {
        (
            one_of(&["env-1", "env-2"]),
            prop::collection::vec(one_of(&["a", "b", "c"]), 0..4),
            prop::option::of(one_of(&["", "1", "2"])),
            prop::option::of(one_of(&["", "1", "2"])),
            prop::sample::select(
                &[
                    Status::Active,
                    Status::Active,
                    Status::Paused,
                    Status::Disabled,
                ][..],
            ),
        )
            .prop_map(|(environment_id, types, card, flow, status)| Subscription {
                environment_id,
                types,
                card_template_id: card,
                action_flow_config_id: flow,
                status,
                ..wish(&[], None, None)
            })
    }

    fn any_event() -> impl Strategy<Value = Event> {
        (
            one_of(&["env-1", "env-2"]),
            one_of(&["a", "b", "c", "d"]),
            prop::option::of(one_of(&["", "1", "2", "3"])),
            prop::option::of(one_of(&["", "1", "2", "3"])),
        )
            .prop_map(|(environment_id, event_type, card, flow)| Event {
                environment_id,
                card,
                flow,
                ..event(&event_type, None, None)
            })
    }

    fn wants(subscription: &Subscription, event: &Event) -> bool {
        let narrows =
            |wanted: &Option<String>, given: &Option<String>| wanted.is_none() || wanted == given;
        subscription.status != Status::Disabled
            && subscription.environment_id == event.environment_id
            && subscription.types.contains(&event.event_type)
            && narrows(&subscription.card_template_id, &event.card)
            && narrows(&subscription.action_flow_config_id, &event.flow)
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_look_at_each_finds(
            subscriptions in prop::collection::vec(any_subscription(), 0..30),
            event in any_event(),
        ) {
            let naive: Vec<usize> = (0..subscriptions.len())
                .filter(|&position| wants(&subscriptions[position], &event))
                .collect();

            prop_assert_eq!(matching(&subscriptions, &event), naive);
        }
    }
}
