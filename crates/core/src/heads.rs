//! Where a replica is in many scopes, in a few bytes: so that a thousand idle scopes cost nothing.
//!
//! A device and the authority each sum up (scope, seq, chain) of the scopes that a request does not ask about, in as many buckets
//! as the device has chosen. Buckets that differ hold a scope that moved; the authority names all scopes of those with a check of
//! where it is, and the device asks about the ones whose check is not its own. Nothing of it is remembered by either side: a
//! device put back from a backup, or an authority that was, is found out like any other difference.

use crate::digest::chain_of;
use crate::ids::{Chain, ScopeId, Seq};
use crate::protocol::Memberships;
use serde::{Deserialize, Serialize};

/// Scopes in a bucket, about: of a moved scope so many are named.
const BUCKET: usize = 16;
/// The most buckets that an authority sums up.
pub const BUCKETS_MAX: usize = 1_024;

/// Where a replica is in many scopes, summed up in buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads(pub Vec<u32>);

/// Where the authority is in a scope that may have moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Which.
    pub scope: ScopeId,
    /// Its head.
    pub seq: Seq,
    /// The check of both and of the chain there.
    pub check: u32,
}

impl Heads {
    /// Returns empty sums for about so many scopes.
    pub fn for_scopes(count: usize) -> Heads {
        Heads(vec![0; count.div_ceil(BUCKET).next_power_of_two().min(BUCKETS_MAX) * usize::from(count > 0)])
    }
    /// Returns the bucket of a scope; `None` where there are none.
    pub fn bucket(&self, scope: &ScopeId) -> Option<usize> {
        let n = self.0.len().min(BUCKETS_MAX);
        (n > 0).then(|| number(&chain_of(&[b"syncline bucket 1", scope.0.as_bytes()])) as usize % n)
    }
    /// Adds where the replica is in a scope.
    pub fn add(&mut self, scope: &ScopeId, seq: Seq, chain: &Chain) {
        if let Some(bucket) = self.bucket(scope) {
            self.0[bucket] = self.0[bucket].wrapping_add(check(scope, seq, chain));
        }
    }
    /// Returns empty sums in as many buckets.
    pub fn emptied(&self) -> Heads {
        Heads(vec![0; self.0.len().min(BUCKETS_MAX)])
    }
}

/// Returns the check of where a replica is in a scope.
pub fn check(scope: &ScopeId, seq: Seq, chain: &Chain) -> u32 {
    number(&chain_of(&[b"syncline head 1", scope.0.as_bytes(), &seq.0.to_be_bytes(), &chain.0]))
}

/// Hashes what an account is and was a member of, whatever the order; 0 where there is nothing.
pub fn members_hash(members: &Memberships) -> u64 {
    let one = |scope: &ScopeId, word: &str| {
        let hash = chain_of(&[b"syncline member 1", scope.0.as_bytes(), word.as_bytes()]);
        u64::from(number(&hash)) << 32 | u64::from(number(&chain_of(&[&hash.0])))
    };
    let now = members.now.iter().map(|m| one(&m.scope_id, m.role.word()));
    now.chain(members.gone.iter().map(|scope| one(scope, "gone"))).fold(0, u64::wrapping_add)
}

fn number(hash: &Chain) -> u32 {
    u32::from_be_bytes([hash.0[0], hash.0[1], hash.0[2], hash.0[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_that_moved_is_in_a_bucket_that_differs_and_few_others_are() {
        let scopes: Vec<ScopeId> = (0..1_000).map(|n| ScopeId(format!("list {n}"))).collect();
        let mut here = Heads::for_scopes(scopes.len());
        assert_eq!(here.0.len(), 64);
        let mut there = here.emptied();
        for (n, scope) in scopes.iter().enumerate() {
            here.add(scope, Seq(n as u64), &Chain([1; 16]));
            // In one the number moved, in another only the past did.
            let (seq, chain) = (Seq(n as u64 + u64::from(n == 7)), Chain([1 + u8::from(n == 300); 16]));
            there.add(scope, seq, &chain);
        }
        let differs = |scope: &ScopeId| here.bucket(scope).is_some_and(|b| here.0[b] != there.0[b]);
        assert!(differs(&scopes[7]) && differs(&scopes[300]));
        assert!(scopes.iter().filter(|s| differs(s)).count() < 100);
        assert_eq!(Heads::for_scopes(0).0.len(), 0);
    }
}
