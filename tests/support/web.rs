//! Certificates and clients for the tests that speak TLS.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reqwest::blocking::{Client, ClientBuilder};
use reqwest::{Certificate, Identity};

/// An authority that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub pem: String,
}

/// A certificate and its key, PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for this machine.
    pub fn sign(&self, name: &str) -> Pair {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A client that trusts this authority and nobody else, and opens a new connection each time.
    pub fn client(&self) -> ClientBuilder {
        Client::builder()
            .tls_built_in_root_certs(false)
            .add_root_certificate(Certificate::from_pem(self.pem.as_bytes()).expect("a certificate"))
            .pool_max_idle_per_host(0)
            .timeout(std::time::Duration::from_secs(20))
    }
}

impl Pair {
    /// As `<stem>.crt` and `<stem>.key`.
    pub fn write(&self, directory: &Path, stem: &str) {
        std::fs::write(directory.join(format!("{stem}.crt")), &self.certificate).expect("written");
        std::fs::write(directory.join(format!("{stem}.key")), &self.key).expect("written");
    }

    /// What a client shows.
    pub fn identity(&self) -> Identity {
        Identity::from_pem(format!("{}{}", self.certificate, self.key).as_bytes()).expect("an identity")
    }
}

/// The bcrypt hash of a password, as cheap as they come.
pub fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).expect("a hash")
}
