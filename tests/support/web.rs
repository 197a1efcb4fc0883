//! Certificates and clients for the tests that speak TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reqwest::blocking::{Client, ClientBuilder};
use reqwest::{Certificate, Identity};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// The beginning of a handshake: a record's header that promises 512 bytes.
pub const HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];

/// An encrypted connection.
pub type Encrypted = StreamOwned<ClientConnection, TcpStream>;

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

    /// A client that trusts only this authority, and opens a new connection each time.
    pub fn client(&self) -> ClientBuilder {
        Client::builder()
            .tls_built_in_root_certs(false)
            .add_root_certificate(Certificate::from_pem(self.pem.as_bytes()).expect("a certificate"))
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(20))
    }
}

impl Authority {
    /// A connection whose handshake is done.
    pub fn connect(&self, address: SocketAddr) -> io::Result<Encrypted> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let name = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let mut stream = StreamOwned::new(connection, connect(address)?);
        stream.conn.complete_io(&mut stream.sock)?;
        Ok(stream)
    }
}

/// A connection that takes little before it has to be read.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    static RUNTIME: std::sync::LazyLock<tokio::runtime::Runtime> = std::sync::LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    });
    let stream = RUNTIME.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4_096)?;
        socket.connect(address).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// Prometheus's default: a scrape that takes longer is lost.
pub const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Clients that are stuck: half of them in the handshake, silent or sending a byte now and then; the others behind it,
/// with a header that does not end or with responses that they do not read.
pub struct Stuck<'a> {
    authority: &'a Authority,
    address: SocketAddr,
    /// User and password in base64, for those who do get a response.
    credentials: String,
    clients: Vec<Option<StuckClient>>,
}

enum StuckClient {
    Silent(TcpStream),
    Hello(TcpStream),
    Header(Box<Encrypted>),
    Reader(#[expect(dead_code, reason = "held open")] Box<Encrypted>),
}

impl Stuck<'_> {
    /// So many clients, not connected yet.
    pub fn new<'a>(clients: usize, address: SocketAddr, authority: &'a Authority, credentials: &str) -> Stuck<'a> {
        let clients = (0..clients).map(|_| None).collect();
        Stuck { authority, address, credentials: credentials.into(), clients }
    }

    /// Sends a byte from every sending client, and connects those that are not, or no longer, connected. Returns how
    /// many are connected.
    pub fn tick(&mut self) -> usize {
        for n in 0..self.clients.len() {
            let open = self.clients[n].as_mut().is_some_and(StuckClient::tick);
            if !open {
                self.clients[n] = self.open(n).ok();
            }
        }
        self.clients.iter().flatten().count()
    }

    fn open(&self, n: usize) -> io::Result<StuckClient> {
        Ok(match n % 4 {
            0 => StuckClient::Silent(connect(self.address)?),
            1 => {
                let mut stream = connect(self.address)?;
                stream.write_all(HELLO)?;
                StuckClient::Hello(stream)
            }
            2 => {
                let mut stream = self.authority.connect(self.address)?;
                stream.write_all(b"GET /metrics HTTP/1.1\r\nx-header: ")?;
                StuckClient::Header(Box::new(stream))
            }
            _ => {
                let mut stream = self.authority.connect(self.address)?;
                let credentials = &self.credentials;
                // Many at once: together they are more than any buffer holds.
                let request = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Basic {credentials}\r\n\r\n");
                stream.write_all(request.repeat(50).as_bytes())?;
                StuckClient::Reader(Box::new(stream))
            }
        })
    }
}

impl StuckClient {
    /// Whether it is still connected, as far as it knows.
    fn tick(&mut self) -> bool {
        match self {
            Self::Silent(stream) => {
                let looked = stream.set_nonblocking(true).and_then(|()| stream.read(&mut [0; 1]));
                looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Hello(stream) => stream.write_all(&[0]).is_ok(),
            Self::Header(stream) => stream.write_all(b"x").is_ok(),
            Self::Reader(_) => true,
        }
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

/// Sets the flag when dropped: whatever fails, the threads that check it end.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
