//! Any message, for property tests: valid ones with anything beside what is read, and the same after damage.

use proptest::prelude::*;

use crate::any_json::{json_text, member, number_text, space, string_text_beginning};

/// A valid body and the text of its `data`, with anything beside the fields that are read.
pub(crate) fn any_message() -> impl Strategy<Value = (String, String)> {
    // Such a key is none that is read.
    let extra = || prop::collection::vec(member(string_text_beginning("x"), json_text()), 0..4);
    let named = |name: &'static str, value: BoxedStrategy<String>| {
        member(Just(format!("\"{name}\"")), value).boxed()
    };
    let name = || "\"[a-z0-9é]{1,20}\"".boxed();
    let match_id = || prop_oneof![name(), number_text()].boxed();
    let context = move |key: &'static str| {
        (extra(), named(key, match_id()))
            .prop_map(|(mut members, id)| {
                members.push(id);
                format!("{{{}}}", members.join(","))
            })
            .boxed()
    };
    let shuffled_object = |members: BoxedStrategy<Vec<String>>| {
        members
            .prop_shuffle()
            .prop_map(|members| format!("{{{}}}", members.join(",")))
    };
    let data = (
        extra(),
        named("id", name()),
        named("analyticsEvent", name()),
        prop::option::of(named("cardContext", context("cardTemplateId"))),
        prop::option::of(named("platformContext", context("flowConfigId"))),
    )
        .prop_map(|(mut members, id, event_type, card, flow)| {
            members.extend([id, event_type]);
            members.extend(card);
            members.extend(flow);
            members
        })
        .boxed();
    shuffled_object(data).prop_flat_map(move |data| {
        let members = (
            extra(),
            named("environmentId", name()),
            named("data", Just(data.clone()).boxed()),
        )
            .prop_map(|(mut members, environment_id, data)| {
                members.extend([environment_id, data]);
                members
            })
            .boxed();
        (space(), shuffled_object(members), space())
            .prop_map(move |(before, object, after)| (before + &object + &after, data.clone()))
    })
}

/// A valid body with some bytes changed, taken out or doubled.
pub(crate) fn any_damaged_message() -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<prop::sample::Index>(), 0_usize..8, 0..3, any::<u8>());
    (any_message(), prop::collection::vec(damage, 1..4)).prop_map(|((body, _), damages)| {
        let mut bytes = body.into_bytes();
        for (index, length, kind, byte) in damages {
            let start = index.index(bytes.len() + 1);
            let end = bytes.len().min(start + length);
            match kind {
                0 => drop(bytes.drain(start..end)),
                1 => bytes.insert(start, byte),
                _ => bytes.extend_from_within(start..end),
            }
        }
        bytes
    })
}
