//! Ports for servers that must keep theirs over a restart.
//!
//! Not asked of the operating system: what it gives lies in the range of outgoing connections, so while a server is
//! down any client's connection may take its port. One that keeps dialling it can even connect to itself.

use std::net::TcpListener;

use uuid::Uuid;

/// Below Linux's default range for outgoing connections (32768 and up), above the well-known servers.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A port of 127.0.0.1 that nobody listens on at this moment.
///
/// # Panics
/// If none of 200 tries was free.
pub fn free_port() -> u16 {
    (0..200)
        .map(|_| FIRST + (Uuid::new_v4().as_u128() % u128::from(COUNT)) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("most of 20,000 ports are free")
}
