//! The test kit: real servers that can be broken at will, a receiver that behaves as scripted and remembers, a proxy
//! that makes networks fail, and the real binary as a child process.
//!
//! It knows the product by its edges only (AMQP, SQL, HTTP, signals), none of its crates. Everything in it panics when
//! it can't do its part, with what was awaited and the end of the log concerned: a test has nothing better to do.

mod background;
mod exposition;
pub mod hostile;
pub mod http_call;
pub mod postrider;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod publish;
pub mod receiver;
pub mod servers;
pub mod stage;
pub mod wait;
