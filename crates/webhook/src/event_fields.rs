//! What is read of a message and of its `data`, as raw values: each key found in any spelling, and whether it stood
//! twice. Whether that makes an event is judged in `event`.

use std::borrow::Cow;

use crate::members::{decode_string, for_each_member};

/// What the message itself holds.
#[derive(Default)]
pub(crate) struct Message<'a> {
    pub(crate) environment_id: Field<'a>,
    pub(crate) data: Field<'a>,
}

impl<'a> Message<'a> {
    /// Reads the object that `text` is.
    ///
    /// # Errors
    /// When `text` as a whole is no JSON object.
    pub(crate) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        let mut message = Self::default();
        for_each_member(text, |key, value| match key {
            "environmentId" => message.environment_id.put(value),
            "data" => message.data.put(value),
            _ => {}
        })?;
        Ok(message)
    }
}

/// What is read of `data`.
#[derive(Default)]
pub(crate) struct Fields<'a> {
    pub(crate) id: Field<'a>,
    pub(crate) analytics_event: Field<'a>,
    pub(crate) timestamp: Field<'a>,
    pub(crate) card_context: Field<'a>,
    pub(crate) card_template_id: Field<'a>,
    pub(crate) platform_context: Field<'a>,
    pub(crate) flow_config_id: Field<'a>,
}

impl<'a> Fields<'a> {
    /// Reads the object that `data` is.
    ///
    /// # Errors
    /// When `data` as a whole is no JSON object.
    pub(crate) fn read(data: &'a str) -> Result<Self, serde_json::Error> {
        let mut fields = Self::default();
        for_each_member(data, |key, value| match key {
            "id" => fields.id.put(value),
            "analyticsEvent" => fields.analytics_event.put(value),
            "timestamp" => fields.timestamp.put(value),
            "cardContext" => fields.card_context.put(value),
            "platformContext" => fields.platform_context.put(value),
            _ => {}
        })?;
        if let Some(context) = fields.card_context.object() {
            for_each_member(context, |key, value| {
                if key == "cardTemplateId" {
                    fields.card_template_id.put(value);
                }
            })?;
        }
        if let Some(context) = fields.platform_context.object() {
            for_each_member(context, |key, value| {
                if key == "flowConfigId" {
                    fields.flow_config_id.put(value);
                }
            })?;
        }
        Ok(fields)
    }
}

/// The raw value of one key that is read. Of several values the last counts, so that "absent" can be judged first.
#[derive(Default)]
pub(crate) struct Field<'a> {
    pub(crate) raw: Option<&'a str>,
    pub(crate) twice: bool,
}

impl<'a> Field<'a> {
    fn put(&mut self, raw: &'a str) {
        self.twice |= self.raw.replace(raw).is_some();
    }

    /// The raw value if it is an object.
    pub(crate) fn object(&self) -> Option<&'a str> {
        self.raw.filter(|raw| raw.starts_with('{'))
    }

    /// The decoded value if it is a string.
    pub(crate) fn string(&self) -> Option<Cow<'a, str>> {
        self.raw.and_then(decode_string)
    }

    /// A number's text as received or a string's decoded value.
    pub(crate) fn match_key(&self) -> Option<String> {
        let raw = self.raw?;
        match raw.as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => Some(raw.to_owned()),
            _ => decode_string(raw).map(Cow::into_owned),
        }
    }
}
