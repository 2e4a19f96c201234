//! The layers, one over the other: tables of values by dotted key. The defaults say which keys there are and of which
//! type each is; whatever else stands in a file or in the environment is a fault.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use toml::{Table, Value};

use super::{DEFAULTS, Environment};

const PREFIX: &str = "POSTRIDER__";
/// Can be read from a file that the environment names.
const SECRETS: [&str; 4] = [
    "amqp.url",
    "postgres.url",
    "auth.token_keys",
    "secrets.keys",
];

/// Values by dotted key (`amqp.url`).
pub(super) type Values = BTreeMap<String, Value>;

/// All layers merged; what is wrong in one is told, and the value below it stays.
pub(super) fn merge(
    under: Option<&str>,
    file: Option<&Path>,
    environment: &Environment,
    faults: &mut Vec<String>,
) -> Values {
    let mut values = flat(DEFAULTS.parse().expect("the embedded defaults are TOML"));
    if let Some(text) = under {
        lay_text(&mut values, text, "the embedded settings", faults);
    }
    if let Some(path) = file {
        match fs::read_to_string(path) {
            Ok(text) => lay_text(&mut values, &text, &path.display().to_string(), faults),
            Err(error) => faults.push(format!("{} can't be read: {error}", path.display())),
        }
    }
    lay_environment(&mut values, environment, faults);
    values
}

fn lay_text(values: &mut Values, text: &str, name: &str, faults: &mut Vec<String>) {
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            // Its own message shows the line, which may hold a password.
            let error: toml::de::Error = error;
            let line = error.span().map_or(1, |span| {
                text[..span.start.min(text.len())].lines().count().max(1)
            });
            faults.push(format!(
                "{name}, line {line}: not TOML: {}",
                error.message()
            ));
            return;
        }
    };
    for (key, value) in flat(table) {
        let is_section = value.is_table();
        match values.get(&key).map(|default| fit(default, value)) {
            Some(Ok(value)) => {
                values.insert(key, value);
            }
            Some(Err(expected)) => faults.push(format!("{key} in {name}: expected {expected}")),
            None if is_section && is_known(values, &key) => {}
            None => faults.push(format!(
                "{key} in {name} is no setting{}",
                nearest(values, &key)
            )),
        }
    }
}

fn is_known(values: &Values, section: &str) -> bool {
    let mut keys = values.keys();
    keys.any(|key| key.split('.').next() == Some(section))
}

/// A value of the default's type; an integer will do for a number.
fn fit(default: &Value, value: Value) -> Result<Value, &'static str> {
    match (default, value) {
        (Value::Float(_), Value::Integer(integer)) => Ok(Value::Float(integer as f64)),
        (Value::Array(_), Value::Array(items)) if items.iter().all(Value::is_str) => {
            Ok(Value::Array(items))
        }
        (Value::Array(_), _) => Err(kind(default)),
        (_, value) if default.same_type(&value) => Ok(value),
        _ => Err(kind(default)),
    }
}

fn lay_environment(values: &mut Values, environment: &Environment, faults: &mut Vec<String>) {
    let mut seen = BTreeMap::new();
    for (name, text) in environment {
        let shown = name.to_string_lossy();
        let Some(rest) = shown.strip_prefix(PREFIX) else {
            continue;
        };
        // Passed over, it would leave the value below in force.
        let (Some(name), Some(text)) = (name.to_str(), text.to_str()) else {
            faults.push(format!("{shown} in the environment isn't UTF-8"));
            continue;
        };
        let key = rest.to_lowercase().replace("__", ".");
        let secret = key
            .strip_suffix("_file")
            .filter(|key| SECRETS.contains(key));
        let key = secret.unwrap_or(&key).to_owned();
        let Some(default) = values.get(&key) else {
            faults.push(format!(
                "{name} in the environment is no setting{}",
                nearest(values, &key)
            ));
            continue;
        };
        let read = match secret {
            Some(_) => from_file(default, text),
            None => from_text(default, text),
        };
        if let Some(other) = seen.insert(key.clone(), name) {
            faults.push(format!("{name} and {other} are both set: keep one"));
        }
        match read {
            Ok(value) => {
                values.insert(key, value);
            }
            Err(fault) => faults.push(format!("{key} by {name}: {fault}")),
        }
    }
}

/// A text is taken as it is, whatever it looks like; everything else as its type is written.
fn from_text(default: &Value, text: &str) -> Result<Value, String> {
    let value = match default {
        Value::String(_) => Some(Value::String(text.to_owned())),
        Value::Integer(_) => is_bare(text)
            .then(|| text.parse().ok().map(Value::Integer))
            .flatten(),
        Value::Float(_) => is_decimal(text)
            .then(|| text.parse().ok().map(Value::Float))
            .flatten(),
        Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
        _ => serde_json::from_str::<Vec<String>>(text).ok().map(texts),
    };
    value.ok_or_else(|| format!("expected {}", kind(default)))
}

fn is_bare(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// `5` or `0.2`: what else can be read as a number (`1e1`, `.5`, `inf`) isn't taken for one.
fn is_decimal(text: &str) -> bool {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    is_bare(whole) && !part.starts_with('-') && is_bare(part)
}

/// The file's content without the line feeds at its end; a list as a JSON array or one per line.
fn from_file(default: &Value, path: &str) -> Result<Value, String> {
    let content =
        fs::read_to_string(path).map_err(|error| format!("{path} can't be read: {error}"))?;
    let content = content.trim_end_matches(['\r', '\n']);
    if !default.is_array() || content.trim_start().starts_with('[') {
        return from_text(default, content);
    }
    let lines = content
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    Ok(texts(lines.map(str::to_owned).collect()))
}

fn texts(items: Vec<String>) -> Value {
    Value::Array(items.into_iter().map(Value::String).collect())
}

fn kind(default: &Value) -> &'static str {
    match default {
        Value::Integer(_) => "a whole number in bare digits",
        Value::Float(_) => "a number in bare digits, like 5 or 0.2",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => {
            "a list of texts (in the environment: a JSON array, like [\"a\",\"b\"] or [])"
        }
        _ => "a text",
    }
}

fn flat(table: Table) -> Values {
    let mut values = Values::new();
    for (section, value) in table {
        match value {
            // An empty one stays, to be looked at by its name.
            Value::Table(keys) if !keys.is_empty() => {
                for (key, value) in keys {
                    values.insert(format!("{section}.{key}"), value);
                }
            }
            other => {
                values.insert(section, other);
            }
        }
    }
    values
}

fn nearest(values: &Values, key: &str) -> String {
    values
        .keys()
        .map(|known| (strsim::damerau_levenshtein(known, key), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 2)
        .map_or_else(String::new, |(_, known)| format!("; is {known} meant?"))
}
