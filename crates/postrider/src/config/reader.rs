//! Typed values out of the merged layers; what is senseless becomes a fault that names its key and what is allowed, and
//! some harmless value stands in for it until all faults are told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use toml::Value;
use worker::topology::{DEAD_DELIVERIES_QUEUE, DEAD_EVENTS_QUEUE, DEAD_EXCHANGE, NOTICES_EXCHANGE};

use super::layers::Values;

/// AMQP's limit on names; whoever makes a longer one for lapin panics.
pub(super) const NAME_BYTES_MAX: usize = 255;
/// They have a use already: dead letters that are consumed as events, for one, would go round for ever.
const OWN_NAMES: [&str; 4] = [
    DEAD_EXCHANGE,
    DEAD_EVENTS_QUEUE,
    DEAD_DELIVERIES_QUEUE,
    NOTICES_EXCHANGE,
];

pub(super) struct Reader<'a> {
    values: &'a Values,
    faults: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(values: &'a Values, faults: &'a mut Vec<String>) -> Self {
        Self { values, faults }
    }

    /// A fault of one key.
    pub(super) fn fault(&mut self, key: &str, what: &str) {
        self.say(format!("{key}: {what}"));
    }

    /// A fault in its own words.
    pub(super) fn say(&mut self, sentence: String) {
        self.faults.push(sentence);
    }

    pub(super) fn text(&mut self, key: &str) -> String {
        self.value(key).as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn boolean(&mut self, key: &str) -> bool {
        self.value(key).as_bool().unwrap_or_default()
    }

    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let items = self.value(key).as_array();
        items
            .into_iter()
            .flatten()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    }

    pub(super) fn integer<T: TryFrom<u64>>(&mut self, key: &str, least: u64, most: u64) -> T {
        let given = self.value(key).as_integer().unwrap_or_default();
        let value = u64::try_from(given)
            .ok()
            .filter(|value| (least..=most).contains(value));
        if value.is_none() {
            self.fault(key, &format!("must be from {least} to {most}, not {given}"));
        }
        T::try_from(value.unwrap_or(least))
            .unwrap_or_else(|_| panic!("{key}'s bounds are wider than its type"))
    }

    pub(super) fn number(&mut self, key: &str, least: f64, most: f64) -> f64 {
        let given = self.value(key).as_float().unwrap_or(f64::NAN);
        if !(least..=most).contains(&given) {
            self.fault(key, &format!("must be from {least} to {most}, not {given}"));
        }
        given
    }

    pub(super) fn duration(&mut self, key: &str, least: Duration, most: Duration) -> Duration {
        let given = self.text(key);
        match humantime::parse_duration(&given) {
            Ok(duration) if (least..=most).contains(&duration) => return duration,
            Ok(_) => {
                let (least, most) = (
                    humantime::format_duration(least),
                    humantime::format_duration(most),
                );
                self.fault(
                    key,
                    &format!("must be from {least} to {most}, not {given:?}"),
                );
            }
            Err(_) => self.fault(
                key,
                &format!("expected a duration like 200ms, 5s, 12h or 7d, not {given:?}"),
            ),
        }
        least
    }

    pub(super) fn address(&mut self, key: &str) -> SocketAddr {
        let given = self.text(key);
        given.parse().unwrap_or_else(|_| {
            self.fault(
                key,
                &format!("expected IP:PORT like 127.0.0.1:9464 or [::]:9464, not {given:?}"),
            );
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
        })
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(PathBuf::from(self.value(key).as_str()?)).filter(|path| !path.as_os_str().is_empty())
    }

    /// A PEM file with a certificate at least; none if the text is empty, or that is wrong with it.
    pub(super) fn authorities(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.path(key)?;
        match check_authorities(&path) {
            Ok(()) => Some(path),
            Err(reason) => {
                self.fault(key, &format!("{} {reason}", path.display()));
                None
            }
        }
    }

    pub(super) fn networks(&mut self, key: &str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in self.texts(key) {
            // A single address is the network that holds nothing else.
            match text
                .parse()
                .or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)))
            {
                Ok(network) => networks.push(network),
                Err(_) => self.fault(
                    key,
                    &format!(
                        "expected networks like 10.0.0.0/8 or fd00::/8, or addresses, not {text:?}"
                    ),
                ),
            }
        }
        networks
    }

    /// A name at the broker.
    pub(super) fn name(&mut self, key: &str) -> String {
        let name = self.text(key);
        self.check_name(key, &name);
        name
    }

    /// Names at the broker, at least one, each once.
    pub(super) fn names(&mut self, key: &str) -> Vec<String> {
        let names = self.texts(key);
        if names.is_empty() {
            self.fault(key, "must hold at least one name");
        }
        for (position, name) in names.iter().enumerate() {
            self.check_name(key, name);
            if names[..position].contains(name) {
                self.fault(key, &format!("{name:?} stands twice"));
            }
        }
        names
    }

    fn check_name(&mut self, key: &str, name: &str) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            self.fault(key, &format!("a name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        if OWN_NAMES.contains(&name) {
            self.fault(
                key,
                &format!("{name:?} is Postrider's own, for dead letters or notices: take another"),
            );
        }
    }

    fn value(&self, key: &str) -> &'a Value {
        self.values
            .get(key)
            .unwrap_or_else(|| panic!("{key} has no default in config/postrider.toml"))
    }
}

/// Whether one certificate at least can be trusted as an authority; of a bundle, connections pass over the others too.
fn check_authorities(path: &Path) -> Result<(), String> {
    let cannot = |error: String| format!("can't be read: {error}");
    let content = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| cannot(error.to_string()))?;
    let (usable, _) = RootCertStore::empty().add_parsable_certificates(certificates);
    if usable == 0 {
        return Err("holds no certificate; expected PEM (-----BEGIN CERTIFICATE-----)".into());
    }
    Ok(())
}
