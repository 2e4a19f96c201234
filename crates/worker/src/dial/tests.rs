//! The dialer against a name server of the test's own: mixed answers, rebinding, names that hang.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::Instant;
use webhook::AddressPolicy;

use super::{DialError, Dialer};

const TIMEOUT: Duration = Duration::from_secs(3);
/// Stands for a public address: the only one of loopback that the policy allows.
const PUBLIC: &str = "127.0.0.2";
const PRIVATE: &str = "127.0.0.1";

fn policy() -> AddressPolicy {
    AddressPolicy::new(vec![format!("{PUBLIC}/32").parse().unwrap()], Vec::new())
}

/// What the name server says to one question.
enum Say {
    Addresses(&'static [&'static str]),
    NoSuchName,
    Broken,
    Nothing,
}

/// A name server on 127.0.0.1 that answers by a function of name, type and how often this was asked before.
struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<HashMap<(String, RecordType), usize>>>,
    _task: JoinSet<()>,
}

impl NameServer {
    async fn start(say: impl Fn(&str, RecordType, usize) -> Say + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked: Arc<Mutex<HashMap<(String, RecordType), usize>>> = Arc::default();
        let counts = Arc::clone(&asked);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut packet = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut packet).await.unwrap();
                let asked = Message::from_vec(&packet[..length]).unwrap();
                let question = asked.queries.first().unwrap().clone();
                let name = question.name().to_string().to_lowercase();
                let before = {
                    let mut counts = counts.lock().unwrap();
                    let count = counts
                        .entry((name.clone(), question.query_type()))
                        .or_default();
                    *count += 1;
                    *count - 1
                };
                let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
                answer.add_queries([question.clone()]);
                match say(&name, question.query_type(), before) {
                    Say::Nothing => continue,
                    Say::NoSuchName => answer.metadata.response_code = ResponseCode::NXDomain,
                    Say::Broken => answer.metadata.response_code = ResponseCode::ServFail,
                    Say::Addresses(addresses) => {
                        for address in addresses {
                            let data = match (address.parse().unwrap(), question.query_type()) {
                                (IpAddr::V4(address), RecordType::A) => RData::A(address.into()),
                                (IpAddr::V6(address), RecordType::AAAA) => {
                                    RData::AAAA(address.into())
                                }
                                _ => continue,
                            };
                            // A life of 0 s, as one who rebinds gives it.
                            answer.add_answer(Record::from_rdata(question.name().clone(), 0, data));
                        }
                    }
                }
                socket
                    .send_to(&answer.to_vec().unwrap(), from)
                    .await
                    .unwrap();
            }
        });
        Self {
            address,
            asked,
            _task: task,
        }
    }

    fn dialer(&self) -> Dialer {
        let mut udp = ConnectionConfig::udp();
        udp.port = self.address.port();
        let server = NameServerConfig::new(self.address.ip(), true, vec![udp]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Dialer::with_resolver(Ok(builder), policy(), TIMEOUT, 1000)
    }

    /// How often the IPv4 address of a name was asked for.
    fn asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked
            .get(&(format!("{name}."), RecordType::A))
            .copied()
            .unwrap_or(0)
    }
}

/// A listener on the public address and one on the private, with the same port.
async fn public_and_private() -> (TcpListener, TcpListener) {
    loop {
        let public = TcpListener::bind((PUBLIC, 0)).await.unwrap();
        let port = public.local_addr().unwrap().port();
        if let Ok(private) = TcpListener::bind((PRIVATE, port)).await {
            return (public, private);
        }
    }
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

fn is_untouched(listener: TcpListener) -> bool {
    let listener = listener.into_std().unwrap();
    listener
        .accept()
        .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn dial(dialer: &Dialer, url: &str) -> Result<IpAddr, DialError> {
    let connection = dialer.clone().dial(url.parse().unwrap()).await?;
    Ok(connection.inner().peer().ip())
}

#[tokio::test]
async fn a_literal_address_is_judged_like_any_other() {
    let dialer = Dialer::new(AddressPolicy::default(), TIMEOUT, 8);
    for host in [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "169.254.169.254",
        "[fe80::1]",
    ] {
        let refused = dial(&dialer, &format!("http://{host}:9/")).await;

        let refused = refused.unwrap_err();
        assert!(matches!(refused, DialError::Refused(_)), "{host}");
        // A subscription's owner reads it.
        let bare = host.trim_matches(['[', ']']);
        assert!(!refused.to_string().contains(bare), "{refused}");
    }
}

#[tokio::test]
async fn an_allowed_address_is_dialled() {
    let listener = TcpListener::bind((PUBLIC, 0)).await.unwrap();
    let dialer = Dialer::new(policy(), TIMEOUT, 8);

    let connected = dial(&dialer, &format!("http://{PUBLIC}:{}/", port(&listener))).await;

    assert_eq!(connected.unwrap().to_string(), PUBLIC);
}

#[tokio::test]
async fn the_systems_own_names_are_judged_by_their_addresses() {
    let dialer = Dialer::new(policy(), TIMEOUT, 8);

    for name in ["localhost", "localhost.", "LOCALHOST"] {
        let refused = dial(&dialer, &format!("http://{name}:9/")).await;

        assert!(
            matches!(refused, Err(DialError::Refused(_))),
            "{name}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_name_with_one_address_that_is_not_allowed_is_refused_as_a_whole() {
    let names = NameServer::start(|name, _, _| match name {
        "mixed.test." => Say::Addresses(&[PUBLIC, PRIVATE]),
        "mixed6.test." => Say::Addresses(&[PUBLIC, "fd00:ec2::254"]),
        "mapped.test." => Say::Addresses(&[PUBLIC, "::ffff:169.254.169.254"]),
        "private.test." => Say::Addresses(&[PRIVATE]),
        _ => Say::Addresses(&[PUBLIC]),
    })
    .await;
    let dialer = names.dialer();
    let (public, private) = public_and_private().await;
    let url = |name: &str| format!("http://{name}:{}/", port(&public));

    for name in [
        "mixed.test",
        "mixed6.test",
        "mapped.test",
        "private.test",
        "private.test.",
    ] {
        let refused = dial(&dialer, &url(name)).await;
        assert!(
            matches!(refused, Err(DialError::Refused(_))),
            "{name}: {refused:?}"
        );
    }
    let connected = dial(&dialer, &url("public.test")).await;

    assert_eq!(connected.unwrap().to_string(), PUBLIC);
    assert!(is_untouched(private));
}

#[tokio::test]
async fn a_name_that_is_rebound_never_leads_to_the_private_address() {
    let names = NameServer::start(|_, _, before| {
        Say::Addresses(if before == 0 { &[PUBLIC] } else { &[PRIVATE] })
    })
    .await;
    let dialer = names.dialer();
    let (public, private) = public_and_private().await;
    let url = format!("http://rebound.test:{}/", port(&public));

    let first = dial(&dialer, &url).await;
    let asked = names.asked("rebound.test");
    let second = dial(&dialer, &url).await;
    let third = dial(&dialer, &url).await;

    assert_eq!(first.unwrap().to_string(), PUBLIC);
    assert_eq!(asked, 1, "looked up once per connection");
    assert!(matches!(second, Err(DialError::Refused(_))));
    assert!(matches!(third, Err(DialError::Refused(_))));
    assert!(is_untouched(private));
}

#[tokio::test]
async fn a_name_without_an_address_is_a_dns_failure_at_once() {
    let names = NameServer::start(|name, _, _| match name {
        "no-such.test." => Say::NoSuchName,
        "broken.test." => Say::Broken,
        _ => Say::Addresses(&[]),
    })
    .await;
    let dialer = names.dialer();

    for name in [
        "no-such.test",
        "broken.test",
        "empty.test",
        "a..b",
        &"a".repeat(64),
    ] {
        let began = Instant::now();
        let failed = dial(&dialer, &format!("http://{name}/")).await;

        assert!(
            matches!(failed, Err(DialError::Dns(_))),
            "{name}: {failed:?}"
        );
        assert!(
            began.elapsed() < TIMEOUT / 2,
            "{name}: {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn a_name_server_that_is_silent_on_ipv6_does_not_keep_the_ipv4_address_back() {
    let names = NameServer::start(|_, kind, _| match kind {
        RecordType::AAAA => Say::Nothing,
        _ => Say::Addresses(&[PUBLIC]),
    })
    .await;
    let dialer = names.dialer();
    let listener = TcpListener::bind((PUBLIC, 0)).await.unwrap();

    let connected = dial(&dialer, &format!("http://half.test:{}/", port(&listener))).await;

    assert_eq!(connected.unwrap().to_string(), PUBLIC);
}

#[tokio::test]
async fn five_hundred_names_that_hang_end_in_time_and_hold_up_no_other_name() {
    const HANGING: usize = 500;
    let names = NameServer::start(|name, _, _| {
        if name.starts_with("hangs") {
            Say::Nothing
        } else {
            Say::Addresses(&[PUBLIC])
        }
    })
    .await;
    let dialer = names.dialer();
    let listener = TcpListener::bind((PUBLIC, 0)).await.unwrap();

    let began = Instant::now();
    let mut hanging = JoinSet::new();
    for n in 0..HANGING {
        let dialer = dialer.clone();
        hanging.spawn(async move { dial(&dialer, &format!("http://hangs-{n}.test/")).await });
    }
    // Not all: of a thousand questions at once some are lost on the way, as UDP may.
    tests::wait::wait_until(TIMEOUT / 2, "most names to hang", async || {
        let names = names.asked.lock().unwrap();
        let hanging = names.keys().filter(|(name, _)| name.starts_with("hangs"));
        (hanging.count() > HANGING).then_some(())
    })
    .await;
    let mut slowest = Duration::ZERO;
    for n in 0..100 {
        let began = Instant::now();
        let url = format!("http://healthy-{n}.test:{}/", port(&listener));
        dial(&dialer, &url).await.unwrap();
        slowest = slowest.max(began.elapsed());
    }

    assert!(hanging.try_join_next().is_none(), "they still hang");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    for failed in hanging.join_all().await {
        assert!(matches!(failed, Err(DialError::Dns(_))), "{failed:?}");
    }
    assert!(
        began.elapsed() < TIMEOUT + Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}
