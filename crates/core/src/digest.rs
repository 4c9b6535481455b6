//! The additive digest of a scope: the sum of its live rows' hashes, so that one changed row costs one row.

use crate::ids::{ScopeId, Stamp};
use crate::key::Key;
use crate::row::RowState;

/// The sum of row hashes modulo 2^64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(pub u64);

impl Digest {
    /// Replaces one row's part.
    pub fn replace(&mut self, old: u64, new: u64) {
        self.0 = self.0.wrapping_sub(old).wrapping_add(new);
    }
}

/// Returns eight bytes of the BLAKE3 hash of a name, for use in row hashes.
pub fn name_hash(name: &str) -> u64 {
    first8(&blake3::hash(name.to_lowercase().as_bytes()))
}

fn first8(hash: &blake3::Hash) -> u64 {
    u64::from_be_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
}

/// Hashes a live row: its table, key, liveness, context, ground and, in the order given, the columns with stamps and values.
///
/// `columns` are (column id, hash of its name), in the order of the names' hashes, so that two replicas with other column
/// ids agree. A deleted row hashes to 0, which is nothing in the sum.
pub fn row_hash(table: u64, key: &Key, state: &RowState, columns: &[(usize, u64)]) -> u64 {
    if state.is_dead() {
        return 0;
    }
    let mut buf = Vec::with_capacity(512);
    buf.extend_from_slice(&table.to_be_bytes());
    crate::varint::put_bytes(&mut buf, &key.0);
    let put_stamp = |buf: &mut Vec<u8>, s: &Stamp| {
        buf.extend_from_slice(&s.hlc.0.to_be_bytes());
        buf.extend_from_slice(&s.writer.0);
    };
    let first = state.live[0].stamp;
    for dot in &state.live {
        buf.push(1);
        put_stamp(&mut buf, &dot.stamp);
        dot.births.iter().for_each(|b| put_stamp(&mut buf, b));
    }
    for vv in [&state.ctx, &state.ground] {
        buf.push(2);
        for (writer, hlc) in vv.entries() {
            put_stamp(&mut buf, &Stamp { hlc: *hlc, writer: *writer });
        }
    }
    for (c, name) in columns {
        let Some(cell) = state.cell(*c) else { continue };
        buf.extend_from_slice(&name.to_be_bytes());
        if cell.stamp == first {
            buf.push(3);
        } else {
            buf.push(4);
            put_stamp(&mut buf, &cell.stamp);
        }
        cell.value.encode(&mut buf);
        if let Some(extra) = state.extra(*c) {
            extra.encode(&mut buf, &mut |buf, s| put_stamp(buf, s));
        }
    }
    first8(&blake3::hash(&buf)).max(1)
}

/// Returns the chain of a scope before its first bundle.
pub fn first_chain(scope: &ScopeId) -> crate::ids::Chain {
    chain_of(&[b"syncline chain 1", scope.0.as_bytes()])
}

/// Hashes parts, each with its length, into a chain value.
pub fn chain_of(parts: &[&[u8]]) -> crate::ids::Chain {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    crate::ids::Chain(out)
}
