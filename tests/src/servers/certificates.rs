//! A certificate authority of our own and a server certificate of it, for TLS towards RabbitMQ, Postgres and the
//! receiver on 127.0.0.1 and localhost.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// PEM files in one folder. The keys are worth nothing outside the test.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate: what a client is given as `ca_file`.
    pub ca_file: PathBuf,
    /// The server's certificate, for `localhost`, `127.0.0.1` and `::1`.
    pub cert_file: PathBuf,
    /// The server's key.
    pub key_file: PathBuf,
}

impl Certificates {
    /// Makes both and writes them into `folder`.
    ///
    /// # Panics
    /// If the folder can't be written.
    pub fn write(folder: &Path) -> Self {
        let (authority, authority_key) = authority();
        let server_key = KeyPair::generate().expect("the ring provider makes P-256 keys");
        let server = server_params()
            .signed_by(
                &server_key,
                &Issuer::from_params(&authority, &authority_key),
            )
            .expect("the parameters are fixed");
        let authority_pem = authority
            .self_signed(&authority_key)
            .expect("the parameters are fixed")
            .pem();

        let written = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).expect("the folder can be written");
            path
        };
        Self {
            ca_file: written("ca.pem", authority_pem),
            cert_file: written("server.pem", server.pem()),
            key_file: written("server-key.pem", server_key.serialize_pem()),
        }
    }
}

fn authority() -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Postrider test authority");
    let key = KeyPair::generate().expect("the ring provider makes P-256 keys");
    (params, key)
}

fn server_params() -> CertificateParams {
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let mut params = CertificateParams::new(names).expect("fixed names");
    params
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    params
}
