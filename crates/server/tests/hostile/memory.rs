//! What grows out of all proportion to its bytes is refused before it has grown.

use crate::bed::*;
use serde::ser::{Serialize, SerializeSeq, Serializer};
use syncline_core::*;

/// As many copies of one thing as are said, without the memory for them.
struct Many<T>(usize, T);

impl<T: Serialize> Serialize for Many<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut seq = s.serialize_seq(Some(self.0))?;
        for _ in 0..self.0 {
            seq.serialize_element(&self.1)?;
        }
        seq.end()
    }
}

/// Text that hardly compresses: a frame may be a hundred times as large as it was on the wire.
fn noise(bytes: usize) -> String {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        b'!' + (x >> 32) as u8 % 90
    };
    (0..bytes).map(|_| next() as char).collect()
}

/// A sync for anna as tuples, so that its parts may be of any type.
fn as_tuple(tables: impl Serialize, writers: impl Serialize, rows: impl Serialize, acked: impl Serialize) -> Vec<u8> {
    let none: Vec<u8> = vec![];
    let push = (1u64, 2u64, 3u64, (tables, writers, rows));
    let scope = ("anna", None::<u8>, &none, acked, SourceId([1; 16]), Some(push), None::<u8>, 0u64, false);
    frame::encode(&(VERSION, now_ms(), Fingerprint::default(), 0u64, false, [scope])).unwrap()
}

#[test]
fn small_bodies_that_grow_into_giant_lists_cost_no_more_than_their_bytes() {
    let (server, mut anna, _) = Server::start();
    let (none, noise, empty) = ([0u8; 0], noise(MIB), Value::Blob(vec![]));
    let row = |values| (0u32, &empty, 0u64, 0u64, &empty, Many(values, ()));
    let padding = [(&noise, none)];
    let bombs = [
        ("values", as_tuple(padding, none, [row(50_000_000)], none)),
        ("columns", as_tuple([("note", Many(1, &*noise)), ("note", Many(50_000_000, ""))], none, none, none)),
        ("rows", as_tuple(padding, none, Many(6_000_000, row(0)), none)),
    ];
    for (what, bomb) in bombs {
        assert!(bomb.len() < 8 * MIB);
        let mut status = 0;
        let grown = growth(|| status = server.post(&anna, MSGPACK, &bomb).status);
        println!("{what}: {} KiB on the wire, {} MiB of memory, {status}", bomb.len() >> 10, grown >> 20);
        assert!(grown < 200 * MIB, "{what}: {} MiB", grown >> 20);
        assert!(status == 413 || status == 400, "{what}: {status}");
        server.survives(&mut anna);
    }
}

#[test]
fn who_has_no_token_cannot_fill_the_memory() {
    let (server, mut anna, _) = Server::start();
    let none: Vec<u8> = vec![];
    let def = (
        &"t",
        &none,
        &none,
        Many(14_000_000, [0u8; 0]),
        &none,
        &none,
        &none,
        false,
        false,
        false,
        ("normal", None::<u8>, false, [0u8; 0], "Account", None::<u8>),
    );
    let request = (VERSION, "syt_none", DeviceId([1; 16]), "", "", "", Some((1u64, [def])));
    let body = frame::encode(&request).unwrap();
    let grown = growth(|| server.send("POST", "/v1/devices", &[("content-type", MSGPACK)], &body).refused(413, "too_large"));
    assert!(grown < 40 * MIB, "{} MiB", grown >> 20);
    server.survives(&mut anna);
}

#[test]
fn a_decompression_bomb_is_too_large() {
    let (server, mut anna, _) = Server::start();
    let bomb = as_tuple([("x".repeat(60 * MIB), [0u8; 0])], [0u8; 0], [0u8; 0], [0u8; 0]);
    assert!(bomb.len() < 100_000);
    let grown = growth(|| server.post(&anna, MSGPACK, &bomb).refused(413, "too_large"));
    assert!(grown < 100 * MIB, "{} MiB", grown >> 20);
    server.survives(&mut anna);
}
