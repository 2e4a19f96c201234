//! A certificate authority of our own and a server certificate of it, for TLS towards RabbitMQ, Postgres and the
//! receiver on 127.0.0.1 and localhost.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

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
        Self::write_server(folder, server_params(&["localhost", "127.0.0.1", "::1"]))
    }

    /// The same, but the server's certificate is for another name.
    ///
    /// # Panics
    /// If the folder can't be written.
    pub fn write_for(folder: &Path, name: &str) -> Self {
        Self::write_server(folder, server_params(&[name]))
    }

    /// The same, but the server's certificate is long expired.
    ///
    /// # Panics
    /// If the folder can't be written.
    pub fn write_expired(folder: &Path) -> Self {
        let mut params = server_params(&["localhost", "127.0.0.1", "::1"]);
        params.not_after = date_time_ymd(2020, 1, 1);
        Self::write_server(folder, params)
    }

    fn write_server(folder: &Path, server: CertificateParams) -> Self {
        let (authority, authority_key) = authority();
        let server_key = KeyPair::generate().expect("the ring provider makes P-256 keys");
        let server = server
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

fn server_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("fixed names");
    params
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    params
}
