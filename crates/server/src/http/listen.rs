//! Connections: accepted, wrapped in TLS, served, and drained at the end.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig, crypto::ring, pki_types::pem::PemObject, pki_types::*};

/// How long requests have to finish once the authority shuts down.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may wait for the head of its next request; longer than a device keeps one (45 s), so that it is the
/// device that closes and no request meets a closing connection.
const NEXT_HEAD: Duration = Duration::from_secs(60);
/// After a failed accept (usually: no file descriptor left) the listener rests.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Why the authority cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A certificate or key file cannot be read.
    #[error("reading {path}: {cause}; name a PEM file with --tls-cert and --tls-key")]
    Pem {
        /// The file.
        path: String,
        /// Why.
        cause: String,
    },
    /// Certificate and key do not make a server.
    #[error("the certificate and the key do not go together: {0}; check --tls-cert and --tls-key")]
    Certificate(#[from] rustls::Error),
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// Reads a certificate chain and its key from PEM files. They are read once: a renewed certificate needs a restart.
    pub fn from_files(cert: &Path, key: &Path) -> Result<Tls, ServeError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |e: pem::Error| ServeError::Pem { path, cause: e.to_string() }
        };
        let chain = CertificateDer::pem_file_iter(cert).map_err(failed(cert))?.collect::<Result<Vec<_>, _>>().map_err(failed(cert))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
        // The provider is named, so that no other crate's choice of a default matters.
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }
}

/// Ends on SIGTERM or ctrl-c. What `serve` takes as `shutdown` in a program of its own. SIGTERM is listened to from the call on,
/// not only from the first poll: call it before telling anybody that the server is there. Must be called inside a runtime.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send {
    #[cfg(unix)]
    let terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    async move {
        let interrupted = tokio::signal::ctrl_c();
        #[cfg(unix)]
        match terminated {
            Ok(mut terminated) => {
                tokio::select! { _ = interrupted => {}, _ = terminated.recv() => {} }
                return;
            }
            Err(cause) => tracing::warn!(%cause, "SIGTERM cannot be listened to; ctrl-c still works"),
        }
        let _ = interrupted.await;
    }
}

pub(super) async fn run(
    router: Router,
    listener: TcpListener,
    tls: Option<Tls>,
    drain: tokio::sync::watch::Sender<bool>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let connections = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            _ = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(stream, tls.clone(), router.clone(), connections.watcher()));
                }
                Err(cause) => {
                    tracing::warn!(%cause, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            },
        }
    }
    drop(listener);
    // Streams first: they are requests that would never finish.
    drain.send_replace(true);
    if tokio::time::timeout(DRAIN, connections.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish within {} seconds and were cut", DRAIN.as_secs());
    }
    Ok(())
}

async fn connection(stream: TcpStream, tls: Option<Tls>, router: Router, watcher: Watcher) {
    // Answers are small and awaited: Nagle's algorithm would hold them back for up to 40 ms.
    let _ = stream.set_nodelay(true);
    match tls {
        None => serve_stream(TokioIo::new(stream), router, watcher).await,
        Some(Tls(acceptor)) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                serve_stream(TokioIo::new(stream), router, watcher).await;
            }
        }
    }
}

async fn serve_stream<S>(stream: S, router: Router, watcher: Watcher)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(NEXT_HEAD);
    // An error here is the other end going away; its request, if it was a push, is safe to repeat.
    let _ = watcher.watch(http.serve_connection(stream, TowerToHyperService::new(router))).await;
}
