//! Ports for servers that must keep theirs over a restart.
//!
//! Not asked of the operating system: what it gives lies in the range of outgoing connections, so while a server is
//! down any client's connection may take its port. One that keeps dialling it can even connect to itself.
//!
//! A server may take seconds until it listens, and other tests look for ports meanwhile. So a port is this process's from
//! the moment it was given out, by a locked file of its name, until the process ends.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use uuid::Uuid;

/// Below Linux's default range for outgoing connections (32768 and up), above the well-known servers.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A port of 127.0.0.1 that nobody listens on at this moment, and nobody else is given as long as this process lives.
///
/// # Panics
/// If none of 200 tries was free, or there is no place for the locks.
pub fn free_port() -> u16 {
    (0..200)
        .map(|_| FIRST + (Uuid::new_v4().as_u128() % u128::from(COUNT)) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok() && is_taken_by_us(*port))
        .expect("most of 20,000 ports are free")
}

fn is_taken_by_us(port: u16) -> bool {
    let folder = folder();
    fs::create_dir_all(&folder).expect("a folder for the locks of ports");
    let file = File::create(folder.join(port.to_string())).expect("a lock of a port");
    let locked = file.try_lock().is_ok();
    if locked {
        // Released by the end of the process, however that comes.
        std::mem::forget(file);
    }
    locked
}

/// A user's own: others couldn't write there.
fn folder() -> PathBuf {
    let user = fs::metadata("/proc/self").map_or(0, |us| us.uid());
    std::env::temp_dir().join(format!("postrider-ports-{user}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_given_out_is_given_to_nobody_else() {
        let port = free_port();

        assert!(!is_taken_by_us(port));
    }
}
