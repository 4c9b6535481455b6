//! TLS to the database, by rustls: `sslmode` and `sslrootcert` of the URL, with libpq's meaning.

use crate::engine::OpenError;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How connections to the database are secured.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

/// What is asked of the server's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    /// Nothing: the way is encrypted, and nobody knows to whom.
    Nothing,
    /// Somebody trusted vouches for it.
    Chain,
    /// It is also this host's.
    Full,
}

/// Reads a URL: where the database is, and how the way there is secured.
pub fn parse(url: &str) -> Result<(Config, Tls), OpenError> {
    let (bare, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut root, mut rest) = (String::new(), None, Vec::new());
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = value.to_owned(),
            Some(("sslrootcert", value)) => root = Some(percent(value)),
            _ => rest.push(pair),
        }
    }
    let bare = if rest.is_empty() { bare.to_owned() } else { format!("{bare}?{}", rest.join("&")) };
    let mut config: Config = bare.parse().map_err(|e| OpenError::Url(crate::postgres::db::told(&e)))?;
    let check = match (mode.as_str(), &root) {
        ("disable", _) => {
            config.ssl_mode(SslMode::Disable);
            Check::Nothing
        }
        ("" | "prefer" | "allow", _) => Check::Nothing,
        ("require", None) => Check::Nothing,
        ("require" | "verify-ca", Some(_)) => Check::Chain,
        ("verify-full", Some(_)) => Check::Full,
        ("verify-ca" | "verify-full", None) => {
            return Err(OpenError::Url(format!("sslmode={mode} needs the certificate of who vouches for the server: add &sslrootcert=FILE")));
        }
        (other, _) => {
            return Err(OpenError::Url(format!("sslmode={other} is unknown; it is one of disable, prefer, require, verify-ca, verify-full")));
        }
    };
    if matches!(mode.as_str(), "require" | "verify-ca" | "verify-full") {
        config.ssl_mode(SslMode::Require);
    }
    let tls = Tls::new(check, root.as_deref()).map_err(OpenError::Url)?;
    Ok((config, tls))
}

/// Reads a URL's %XX.
fn percent(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(b) = bytes.next() {
        let mut ahead = bytes.clone();
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (b, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                bytes = ahead;
            }
            _ => out.push(b),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Tls {
    fn new(check: Check, root: Option<&str>) -> Result<Tls, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let inner = match (check, root) {
            (Check::Nothing, _) | (_, None) => None,
            (_, Some(path)) => {
                let failed = |e: &dyn std::fmt::Display| format!("reading {path}, given as sslrootcert: {e}");
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_file_iter(Path::new(path)).map_err(|e| failed(&e))? {
                    roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
                }
                Some(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(|e| failed(&e))?)
            }
        };
        let verifier = Arc::new(Verifier { check, inner, provider });
        Ok(Tls(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())))
    }
}

/// Asks of a certificate what the URL says, and always that the server holds its key.
#[derive(Debug)]
struct Verifier {
    check: Check,
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(own, others, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
                if self.check == Check::Chain =>
            {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }
    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = Connect;
    type Error = io::Error;
    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, io::Error> {
        // Through a Unix socket nobody asks for TLS, and the path is no name.
        let name = ServerName::try_from(host.to_owned()).or_else(|_| ServerName::try_from("localhost")).map_err(io::Error::other)?;
        Ok(Connect { connector: TlsConnector::from(self.0.clone()), name })
    }
}

/// One connection about to be secured.
pub struct Connect {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Connect {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;
    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(|s| Stream(Box::new(s))) })
    }
}

/// A secured connection.
pub struct Stream<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_how_the_way_is_secured() {
        let mode = |url: &str| parse(url).map(|(config, _)| config.get_ssl_mode()).map_err(|e| e.to_string());
        assert_eq!(mode("postgres://u@h/d"), Ok(SslMode::Prefer));
        assert_eq!(mode("postgres://u@h/d?sslmode=disable&connect_timeout=3"), Ok(SslMode::Disable));
        assert_eq!(mode("postgres://u@h/d?sslmode=require"), Ok(SslMode::Require));
        assert!(mode("postgres://u@h/d?sslmode=verify-full").unwrap_err().contains("sslrootcert"));
        assert!(mode("postgres://u@h/d?sslmode=verify-full&sslrootcert=%2Fno%2Fsuch").unwrap_err().contains("/no/such"));
        assert!(mode("postgres://u@h/d?sslmode=maybe").unwrap_err().contains("verify-full"));
    }
}
