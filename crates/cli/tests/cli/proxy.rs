//! A TCP proxy between a device and the server that does to connections what bad networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to connections made from now on.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Nothing.
    Pass,
    /// Closed at once.
    Refuse,
    /// Reset as soon as the device has said something.
    Reset,
    /// Cut after so many bytes from the device.
    CutUp(u64),
    /// Cut after so many bytes from the server.
    CutDown(u64),
    /// The request arrives whole, the answer does not.
    LoseAnswer,
    /// Passed, at most so many KiB from the server per 10 ms.
    Slow(u64),
    /// Every piece is late by so many ms, both ways: what loss is to those above TCP.
    Late(u64),
    /// A byte from the server at a time, for ever.
    Drip,
    /// Accepted, read, and never answered.
    BlackHole,
    /// After so many bytes from the server, silence; the connection stays.
    HalfOpen(u64),
    /// After so many bytes from the device it seems to have ended; the other way stays open.
    HalfClose(u64),
    /// A bit of this byte from the device is another.
    FlipUp(u64),
    /// A bit of this byte from the server is another.
    FlipDown(u64),
    /// Each request is answered with these bytes, and nothing reaches the server.
    Answer(Arc<Vec<u8>>),
    /// Answers arrive with a body cut to so many parts of 256, and a length that fits.
    Truncate(u64),
}

/// The proxy; it ends with the test's process.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mutex<Mode>,
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
    /// Once so many bytes came from devices, no more are passed on.
    hold: AtomicU64,
    /// What the server said last on a connection that passed.
    said: Mutex<Vec<u8>>,
}

impl Proxy {
    /// Begins to pass connections on to `server` (host:port).
    pub fn to(server: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            hold: AtomicU64::new(u64::MAX),
            said: Mutex::default(),
        });
        let own = shared.clone();
        std::thread::spawn(move || {
            for device in listener.incoming().flatten() {
                let (shared, server) = (own.clone(), server.clone());
                std::thread::spawn(move || serve(device, &server, &shared));
            }
        });
        Proxy { address, shared }
    }
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }
    /// Returns bytes from devices, bytes from the server, and connections since the last call.
    pub fn count(&self) -> (u64, u64, u64) {
        (self.shared.up.swap(0, SeqCst), self.shared.down.swap(0, SeqCst), self.shared.connections.swap(0, SeqCst))
    }
    /// Returns bytes from devices since the last `count`.
    pub fn up(&self) -> u64 {
        self.shared.up.load(SeqCst)
    }
    /// Passes no more on from devices than so many bytes since the last `count`: whoever waits for them may be sure to see them go by.
    pub fn hold_at(&self, bytes: u64) {
        self.shared.hold.store(bytes, SeqCst);
    }
    /// Returns bytes from the server so far.
    pub fn down(&self) -> u64 {
        self.shared.down.load(SeqCst)
    }
    /// Returns what the server said on the last connection that passed, as a cache would keep it.
    pub fn said(&self) -> Arc<Vec<u8>> {
        Arc::new(self.shared.said.lock().unwrap().clone())
    }
}

fn serve(mut device: TcpStream, server: &str, shared: &Arc<Shared>) {
    shared.connections.fetch_add(1, SeqCst);
    let mode = shared.mode.lock().unwrap().clone();
    match &mode {
        Mode::Refuse => return,
        Mode::Reset => {
            // A socket that is closed with bytes unread is reset.
            let _ = device.peek(&mut [0]);
            return;
        }
        Mode::BlackHole => {
            while device.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
            return;
        }
        Mode::Answer(bytes) => {
            while let Some(request) = read_message(&mut device) {
                shared.up.fetch_add(request.len() as u64, SeqCst);
                if device.write_all(bytes).is_err() {
                    break;
                }
            }
            return;
        }
        _ => {}
    }
    let Ok(mut server) = TcpStream::connect(server) else { return };
    if let Mode::Truncate(parts) = mode {
        while let Some(request) = read_message(&mut device) {
            if server.write_all(&request).is_err() {
                return;
            }
            let Some(answer) = read_message(&mut server) else { return };
            if device.write_all(&truncated(&answer, parts)).is_err() {
                return;
            }
        }
        return;
    }
    let (device2, server2) = (device.try_clone().unwrap(), server.try_clone().unwrap());
    let (own, of_up) = (shared.clone(), mode.clone());
    let up = std::thread::spawn(move || copy(device2, server2, &own.up, &of_up, Some(&own.hold), None));
    let record = matches!(mode, Mode::Pass).then_some(&shared.said);
    copy(server, device, &shared.down, &mode, None, record);
    let _ = up.join();
}

/// Copies one way until an end closes or the mode says so; then cuts both ways.
fn copy(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64, mode: &Mode, hold: Option<&AtomicU64>, record: Option<&Mutex<Vec<u8>>>) {
    let up = hold.is_some();
    let most = match (mode, up) {
        (Mode::CutUp(n), true) | (Mode::CutDown(n), false) => *n,
        (Mode::LoseAnswer, false) => 0,
        _ => u64::MAX,
    };
    let flip = match (mode, up) {
        (Mode::FlipUp(n), true) | (Mode::FlipDown(n), false) => Some(*n),
        _ => None,
    };
    let size = match (mode, up) {
        (Mode::Slow(kib), false) => *kib as usize * 1024,
        (Mode::Drip, false) => 1,
        _ => 16 * 1024,
    };
    let mut buffer = vec![0; size];
    let mut at = 0;
    if let Some(said) = record {
        said.lock().unwrap().clear();
    }
    loop {
        let n = match from.read(&mut buffer) {
            Ok(n) if n > 0 => n as u64,
            _ => break,
        };
        if let Some(byte) = flip.filter(|f| (at..at + n).contains(f)) {
            buffer[(byte - at) as usize] ^= 1 << (byte % 7);
        }
        match mode {
            Mode::Late(ms) => std::thread::sleep(Duration::from_millis(*ms)),
            Mode::HalfOpen(n) if !up && at >= *n => {
                // Nobody knows that nothing comes any more.
                while from.read(&mut buffer).is_ok_and(|n| n > 0) {}
                return;
            }
            _ => {}
        }
        let passed = n.min(most - at);
        if to.write_all(&buffer[..passed as usize]).is_err() {
            break;
        }
        if let Some(said) = record {
            said.lock().unwrap().extend_from_slice(&buffer[..passed as usize]);
        }
        count.fetch_add(passed, SeqCst);
        at += passed;
        while hold.is_some_and(|hold| count.load(SeqCst) >= hold.load(SeqCst)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if passed < n || at == most {
            break;
        }
        match mode {
            Mode::Slow(_) if !up => std::thread::sleep(Duration::from_millis(10)),
            Mode::Drip if !up => std::thread::sleep(Duration::from_millis(40)),
            Mode::HalfClose(n) if up && at >= *n => {
                let _ = to.shutdown(Shutdown::Write);
                while from.read(&mut buffer).is_ok_and(|n| n > 0) {}
                return;
            }
            _ => {}
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Reads one HTTP message with a length.
fn read_message(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length: usize = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if bytes.len() >= head + length {
                return Some(bytes);
            }
        }
        match from.read(&mut buffer) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

fn truncated(answer: &[u8], parts: u64) -> Vec<u8> {
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let kept = (answer.len() - head) * parts as usize / 256;
    let text = String::from_utf8_lossy(&answer[..head]).into_owned();
    let lines: Vec<String> =
        text.lines().map(|line| if line.to_lowercase().starts_with("content-length") { format!("content-length: {kept}") } else { line.to_owned() }).collect();
    [(lines.join("\r\n") + "\r\n").as_bytes(), &answer[head..head + kept]].concat()
}
