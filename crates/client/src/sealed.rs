//! A revoked device: what it wrote and could not send goes, sealed, into a file for its owner; its rows go.
//!
//! *Its owner* is the account. The key comes with the authority's refusal, which only the device's own bearer gets; it is made for
//! this one revocation, kept at the authority, and told there to the account's other devices and to the operator. The device
//! forgets it. So whoever holds the device from then on holds a file that does not open, and the owner opens it with any other
//! device ([`Database::unseal`]), from where the work goes on under its old stamps.
//!
//! ```text
//! "syncline sealed 1\n" | header, one line of JSON | 12 bytes nonce | ChaCha20-Poly1305 over the rows | Ed25519 signature of all before
//! ```
//!
//! The header is bound in as associated data; the signature is that of the device's key, as the authority knows it.

use crate::anchor::meta;
use crate::database::{Database, Inner, now_ms};
use crate::error::Error;
use crate::identity::Identity;
use crate::link::{Method, path_part};
use crate::machine::Event;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use syncline_core::ids::unhex;
use syncline_core::{ErrorBody, Limits, frame};
use syncline_replica::carry::{Carried, CarriedIn};

const MAGIC: &[u8] = b"syncline sealed 1\n";
const NONCE_BYTES: usize = 12;
const SIGNATURE_BYTES: usize = 64;

/// What a sealed file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedHeader {
    /// Whose work it is.
    pub account: String,
    /// The device that was revoked.
    pub device_id: String,
    /// What people called it.
    pub device_name: String,
    /// When it was sealed, by that device's clock.
    pub sealed_at_ms: i64,
    /// How many rows are in it.
    pub rows: u64,
}

/// What opens a device's sealed file: `GET /v1/devices/{id}/seal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealKey {
    /// 64 hex digits.
    pub seal_key: String,
    /// The device's public key, 64 hex digits: whether the file is that device's.
    pub public_key: String,
}

/// What opening a sealed file brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsealed {
    /// The file's header.
    #[serde(flatten)]
    pub header: SealedHeader,
    /// Rows that wait to be sent from here now.
    pub taken: u64,
    /// Rows that were known here already.
    pub known: u64,
    /// Rows of scopes that this device is not in.
    pub elsewhere: u64,
    /// Rows whose integer key is another thing's here: table and values. Write them under another key.
    pub aside: Vec<(String, serde_json::Value)>,
}

impl Database {
    /// Opens what a revoked device of this account sealed, and takes its rows in as work of this one: the next sync sends them. Safe
    /// to repeat. Without a key the server is asked for it.
    pub fn unseal(&self, file: &Path, key: Option<SealKey>) -> Result<Unsealed, Error> {
        let bytes = fs::read(file).map_err(|cause| Error::Io { doing: "reading", path: file.to_owned(), cause })?;
        let (header, _) = split(&bytes)?;
        let account = self.status()?.account.ok_or(Error::NotAttached)?;
        if header.account != account {
            return Err(Error::Refused(format!("the file is for account `{}`, this device is of `{account}`", header.account)));
        }
        let key = match key {
            Some(key) => key,
            None => self.ask(Method::Get, &format!("/v1/devices/{}/seal", path_part(&header.device_id)), None::<&()>)?,
        };
        let scopes = open(&bytes, &key)?;
        let mut unsealed = Unsealed { header, taken: 0, known: 0, elsewhere: 0, aside: vec![] };
        let done: Vec<CarriedIn> = self.inner.with(|tx| {
            tx.absorb()?;
            let mut done = Vec::new();
            for carried in scopes {
                match tx.find_scope(&carried.scope)? {
                    Some(scope) => done.push(tx.carry_in(&scope, carried)?),
                    None => unsealed.elsewhere += carried.rows.rows.len() as u64,
                }
            }
            Ok(done)
        })?;
        for one in done {
            unsealed.taken += one.rows;
            unsealed.known += one.known;
            unsealed.aside.extend(one.aside.into_iter().map(|(table, row)| (table, serde_json::from_str(&row).unwrap_or(serde_json::Value::String(row)))));
            self.inner.tell_applied(&one.changed)?;
        }
        self.inner.hub.wake(Event::LocalWrite { high_priority: true });
        Ok(unsealed)
    }
}

impl Inner {
    /// Ends what a revoked device has: seals its work, then drops its rows. Without a key (an authority that gives none) everything
    /// stays as it is. Safe to repeat, and to be killed in: rows go only after the file is on the disk.
    pub(crate) fn end_revoked(&self, identity: &Identity, refusal: &ErrorBody, notices: &mut Vec<String>) -> Result<(), Error> {
        let key = refusal.details.as_deref().and_then(|d| d.strip_prefix("seal ")).and_then(unhex::<32>);
        let Some(key) = key else { return Ok(()) };
        let (account, name) = self.read(|conn| Ok((meta::<String>(conn, "account")?, meta::<String>(conn, "device_name")?)))?;
        let scopes = self.with(|tx| {
            tx.absorb()?;
            let mut scopes = Vec::new();
            let mut n = 1;
            while let Ok(scope) = tx.scope(n) {
                let carried = tx.pack_unconfirmed(&scope)?;
                if !carried.rows.rows.is_empty() || !carried.aside.is_empty() {
                    scopes.push(carried);
                }
                n += 1;
            }
            Ok(scopes)
        })?;
        let rows: u64 = scopes.iter().map(|s| (s.rows.rows.len() + s.aside.len()) as u64).sum();
        if rows > 0 {
            let header = SealedHeader {
                account: account.unwrap_or_default(),
                device_id: identity.device_id().to_string(),
                device_name: name.unwrap_or_default(),
                sealed_at_ms: now_ms(),
                rows,
            };
            let path = self.write_sealed(&seal(identity, &header, &scopes, &key)?)?;
            self.note(&[("sealed_file", &path.display().to_string())])?;
            notices.push(format!(
                "this device was revoked: {rows} rows that were never sent are sealed in {} for account `{}`; `syncline devices DB unseal FILE` on another device of the account opens it",
                path.display(),
                header.account
            ));
        }
        let gone = self.with(|tx| {
            // Written while the file was: it goes with the next try.
            if tx.absorb()?.rows > 0 { Ok(None) } else { tx.drop_synced_rows().map(Some) }
        })?;
        match gone {
            Some(0) => {}
            Some(gone) => notices.push(format!("this device was revoked: the account's {gone} rows are gone from it")),
            None => notices.push("something was written while this device's work was sealed; the next sync seals that, too".into()),
        }
        Ok(())
    }

    /// Writes a new file beside the database, durably.
    fn write_sealed(&self, bytes: &[u8]) -> Result<PathBuf, Error> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for n in 1.. {
            let path = self.path.with_file_name(if n == 1 { format!("{name}.sealed") } else { format!("{name}.sealed{n}") });
            let write = || -> std::io::Result<()> {
                let temp = path.with_extension("sealing");
                let mut file = File::create(&temp)?;
                file.write_all(bytes)?;
                file.sync_all()?;
                // `hard_link` refuses a name that is taken, which `rename` does not.
                let linked = fs::hard_link(&temp, &path);
                fs::remove_file(&temp)?;
                linked?;
                match path.parent() {
                    Some(dir) if cfg!(unix) => File::open(dir)?.sync_all(),
                    _ => Ok(()),
                }
            };
            match write() {
                Ok(()) => return Ok(path),
                Err(e) if e.kind() == ErrorKind::AlreadyExists && n < 1_000 => {}
                Err(cause) => return Err(Error::Io { doing: "writing", path, cause }),
            }
        }
        Err(Error::Busy)
    }
}

fn seal(identity: &Identity, header: &SealedHeader, scopes: &[Carried], key: &[u8; 32]) -> Result<Vec<u8>, Error> {
    let failed = |what: &str| Error::Refused(format!("sealing unsent rows: {what}; they stay here"));
    let mut out = MAGIC.to_vec();
    out.extend(serde_json::to_vec(header).map_err(|e| failed(&e.to_string()))?);
    out.push(b'\n');
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(crate::identity::IdentityError::Random)?;
    let mut rows = frame::encode(&scopes).map_err(|e| failed(&e.to_string()))?;
    cipher(key)?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&out[..]), &mut rows).map_err(|_| failed("the cipher fails"))?;
    out.extend(nonce);
    out.extend(rows);
    out.extend(identity.sign(&out));
    Ok(out)
}

fn open(bytes: &[u8], key: &SealKey) -> Result<Vec<Carried>, Error> {
    let bad = |what: &str| Error::Refused(format!("the sealed file does not open: {what}"));
    let (_, body) = split(bytes)?;
    let (signed, signature) = bytes.split_at(bytes.len() - SIGNATURE_BYTES);
    if !crate::identity::verify(&key.public_key, signed, signature) {
        return Err(bad("it is damaged, or not that device's"));
    }
    let key = unhex::<32>(&key.seal_key).ok_or_else(|| bad("the key has 64 hex digits"))?;
    let (nonce, rows) = signed[body..].split_at(NONCE_BYTES);
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| bad("it is too short"))?;
    let mut rows = rows.to_vec();
    let rows = cipher(&key)?.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(&bytes[..body]), &mut rows).map_err(|_| bad("the key is another"))?;
    let own = Limits { wire_bytes: usize::MAX, body_bytes: usize::MAX, ratio: usize::MAX, ..Limits::default() };
    frame::decode(rows, &own).map_err(|e| bad(&e.to_string()))
}

/// Returns a file's header, and where what follows it begins.
fn split(bytes: &[u8]) -> Result<(SealedHeader, usize), Error> {
    let bad = || Error::Refused("this is no file that a revoked device sealed".into());
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(bad)?;
    let end = rest.iter().position(|b| *b == b'\n').ok_or_else(bad)?;
    let header = serde_json::from_slice(&rest[..end]).map_err(|_| bad())?;
    let body = MAGIC.len() + end + 1;
    if bytes.len() < body + NONCE_BYTES + SIGNATURE_BYTES { Err(bad()) } else { Ok((header, body)) }
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, Error> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| Error::Refused("the cipher takes no such key".into()))?;
    Ok(LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_core::ids::hex;

    #[test]
    fn a_sealed_file_opens_with_its_key_alone_and_not_once_a_bit_has_changed() {
        let home = tempfile::tempdir().unwrap();
        let (identity, other) = (Identity::create(home.path()).unwrap(), Identity::create(home.path()).unwrap());
        let header =
            SealedHeader { account: "anna".into(), device_id: identity.device_id().to_string(), device_name: "phone".into(), sealed_at_ms: 5, rows: 1 };
        let scopes = vec![Carried { aside: vec![("t".into(), "{\"secret\":1}".into())], ..Carried::default() }];
        let bytes = seal(&identity, &header, &scopes, &[7; 32]).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"secret"));
        let key = SealKey { seal_key: hex(&[7; 32]), public_key: identity.public_key() };
        assert_eq!((split(&bytes).unwrap().0, open(&bytes, &key).unwrap()), (header, scopes));
        assert!(open(&bytes, &SealKey { seal_key: hex(&[8; 32]), ..key.clone() }).is_err());
        assert!(open(&bytes, &SealKey { public_key: other.public_key(), ..key.clone() }).is_err());
        for i in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[i] ^= 1;
            assert!(open(&broken, &key).is_err(), "byte {i}");
        }
        for cut in [0, 10, MAGIC.len(), bytes.len() - 1] {
            assert!(open(&bytes[..cut], &key).is_err());
        }
    }
}
