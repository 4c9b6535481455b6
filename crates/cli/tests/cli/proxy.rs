//! A TCP proxy between a device and the server that does to connections what bad networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// What happens to connections made from now on.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// Nothing.
    Pass,
    /// Closed at once.
    Refuse,
    /// Cut after so many bytes from the device.
    CutUp(u64),
    /// Cut after so many bytes from the server.
    CutDown(u64),
    /// The request arrives whole, the answer does not.
    LoseAnswer,
    /// Passed, at most so many KiB from the server per 10 ms.
    Slow(u64),
}

impl Mode {
    fn pack(self) -> u64 {
        let (kind, n) = match self {
            Mode::Pass => (0, 0),
            Mode::Refuse => (1, 0),
            Mode::CutUp(n) => (2, n),
            Mode::CutDown(n) => (3, n),
            Mode::LoseAnswer => (4, 0),
            Mode::Slow(n) => (5, n),
        };
        n << 8 | kind
    }
    fn unpack(packed: u64) -> Mode {
        let n = packed >> 8;
        match packed & 0xff {
            0 => Mode::Pass,
            1 => Mode::Refuse,
            2 => Mode::CutUp(n),
            3 => Mode::CutDown(n),
            4 => Mode::LoseAnswer,
            _ => Mode::Slow(n),
        }
    }
}

/// The proxy; it ends with the test's process.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    mode: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
}

impl Proxy {
    /// Begins to pass connections on to `server` (host:port).
    pub fn to(server: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { mode: AtomicU64::new(0), up: AtomicU64::new(0), down: AtomicU64::new(0), connections: AtomicU64::new(0) });
        let own = shared.clone();
        std::thread::spawn(move || {
            for device in listener.incoming().flatten() {
                let (shared, server) = (own.clone(), server.clone());
                std::thread::spawn(move || pass_on(device, &server, &shared));
            }
        });
        Proxy { address, shared }
    }
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
    pub fn set(&self, mode: Mode) {
        self.shared.mode.store(mode.pack(), SeqCst);
    }
    /// Returns bytes from devices, bytes from the server, and connections since the last call.
    pub fn count(&self) -> (u64, u64, u64) {
        (self.shared.up.swap(0, SeqCst), self.shared.down.swap(0, SeqCst), self.shared.connections.swap(0, SeqCst))
    }
    /// Returns bytes from devices since the last `count`.
    pub fn up(&self) -> u64 {
        self.shared.up.load(SeqCst)
    }
    /// Returns bytes from the server so far.
    pub fn down(&self) -> u64 {
        self.shared.down.load(SeqCst)
    }
}

fn pass_on(device: TcpStream, server: &str, shared: &Arc<Shared>) {
    shared.connections.fetch_add(1, SeqCst);
    let mode = Mode::unpack(shared.mode.load(SeqCst));
    if matches!(mode, Mode::Refuse) {
        return;
    }
    let Ok(server) = TcpStream::connect(server) else { return };
    let (device2, server2) = (device.try_clone().unwrap(), server.try_clone().unwrap());
    let own = shared.clone();
    let up = std::thread::spawn(move || {
        let most = if let Mode::CutUp(n) = mode { n } else { u64::MAX };
        copy(device2, server2, &own.up, most, None);
    });
    let (most, pace) = match mode {
        Mode::CutDown(n) => (n, None),
        Mode::LoseAnswer => (0, None),
        Mode::Slow(kib) => (u64::MAX, Some(kib * 1024)),
        _ => (u64::MAX, None),
    };
    copy(server, device, &shared.down, most, pace);
    let _ = up.join();
}

/// Copies until an end closes or `most` bytes have passed; then cuts both ways.
fn copy(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64, most: u64, pace: Option<u64>) {
    let mut left = most;
    let mut buffer = vec![0; pace.map_or(16 * 1024, |p| p as usize)];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(n) if n > 0 => n as u64,
            _ => break,
        };
        let passed = n.min(left);
        if to.write_all(&buffer[..passed as usize]).is_err() {
            break;
        }
        count.fetch_add(passed, SeqCst);
        left -= passed;
        if passed < n || left == 0 {
            break;
        }
        if pace.is_some() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
