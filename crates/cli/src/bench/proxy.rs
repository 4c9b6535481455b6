//! A wire between devices and the server that counts what passes, headers included.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts bytes. Its threads end with the process.
pub struct Proxy {
    /// Where devices connect, like `127.0.0.1:40000`.
    pub address: String,
    passed: Arc<[AtomicU64; 2]>,
}

impl Proxy {
    /// Listens on a free port and carries everything to `server` and back.
    pub fn new(server: &str) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let passed: Arc<[AtomicU64; 2]> = Arc::default();
        let (server, counters) = (server.to_owned(), passed.clone());
        std::thread::spawn(move || {
            for device in listener.incoming().flatten() {
                // A device whose server is gone finds its connection closed.
                let _ = carry_both(device, &server, &counters);
            }
        });
        Ok(Proxy { address, passed })
    }

    /// Returns the bytes that have passed so far: up, down.
    pub fn passed(&self) -> [u64; 2] {
        [self.passed[0].load(Ordering::SeqCst), self.passed[1].load(Ordering::SeqCst)]
    }
}

fn carry_both(device: TcpStream, server: &str, passed: &Arc<[AtomicU64; 2]>) -> std::io::Result<()> {
    let server = TcpStream::connect(server)?;
    device.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (back_from, back_to) = (server.try_clone()?, device.try_clone()?);
    let counters = passed.clone();
    std::thread::spawn(move || carry(device, server, &counters[0]));
    let counters = passed.clone();
    std::thread::spawn(move || carry(back_from, back_to, &counters[1]));
    Ok(())
}

fn carry(mut from: TcpStream, mut to: TcpStream, passed: &AtomicU64) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        // Counted before it goes on: who has received it may look at once.
        passed.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
