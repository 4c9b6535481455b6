//! Who a database's device is: an Ed25519 key and an anchor, kept outside the database file.
//!
//! Under `HOME/devices/<device_id>/` lie `key` (the seed, readable by this user only) and `anchor`. A copy or a backup of the
//! database file takes neither along: that is what tells it from the original. Nothing here knows SQL or the network.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use syncline_core::ids::{hex, unhex};
use syncline_core::{BundleId, DeviceId, HistoryId, Nonce, SourceId};

const KEY_FILE: &str = "key";
const ANCHOR_FILE: &str = "anchor";
/// A bearer's life, in seconds. The authority takes up to 10 minutes and 5 of skew; half of that leaves room on both sides.
const BEARER_LIFE_S: i64 = 300;

/// Why a device's identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no place for keys.
    #[error("no directory for device keys is known here; set SYNCLINE_HOME to one")]
    NoHome,
    /// A file cannot be read or written.
    #[error("{doing} {}: {cause}; check that this user may write there, or set SYNCLINE_HOME", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The key file is not one.
    #[error("{} is damaged; put it back from a backup, or delete its directory and attach the database again", .0.display())]
    Damaged(PathBuf),
    /// The system gives no randomness.
    #[error("the system gave no random bytes: {0}; a key cannot be made without them")]
    Random(getrandom::Error),
}

/// Returns the directory of device keys and anchors: `SYNCLINE_HOME`, or else `syncline` in the platform's data directory.
/// The only place that reads the environment; everything else takes the directory as an argument.
pub fn home_dir() -> Result<PathBuf, IdentityError> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = var("SYNCLINE_HOME") {
        return Ok(home);
    }
    let data = if cfg!(windows) {
        var("APPDATA")
    } else if cfg!(target_os = "macos") {
        var("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        // The XDG base directory specification: a relative path is to be ignored.
        var("XDG_DATA_HOME").filter(|path| path.is_absolute()).or_else(|| var("HOME").map(|home| home.join(".local/share")))
    };
    Ok(data.ok_or(IdentityError::NoHome)?.join("syncline"))
}

/// A device's key.
///
/// `create` makes one, `load` finds it again, `remove` ends it. `write_anchor` comes at each freeze, before the bundle is sent;
/// `anchor` at each opening, to be compared with the database.
#[derive(Clone)]
pub struct Identity {
    device_id: DeviceId,
    key: SigningKey,
    dir: PathBuf,
}

/// What the database said at the last freeze. If the database says less when it is opened, it was put back from a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The source that bundles went out of.
    pub source_id: SourceId,
    /// The last bundle that was frozen.
    pub source_bundle_id: BundleId,
    /// Its last attempt.
    pub attempt: u64,
    /// The nonce of that attempt.
    pub nonce: Nonce,
    /// Where the database lay.
    pub database: PathBuf,
}

impl Identity {
    /// Makes a new device under `home` and stores its key durably.
    pub fn create(home: &Path) -> Result<Identity, IdentityError> {
        let (mut id, mut seed) = ([0; 16], [0; 32]);
        getrandom::fill(&mut id).map_err(IdentityError::Random)?;
        getrandom::fill(&mut seed).map_err(IdentityError::Random)?;
        let device_id = DeviceId(id);
        let identity = Identity { device_id, key: SigningKey::from_bytes(&seed), dir: dir_of(home, device_id) };
        create_private_dir(&identity.dir)?;
        // Durable before anybody else hears of the key: an enrolled device that lost it could never speak again.
        identity.replace(KEY_FILE, hex(&seed).as_bytes(), true)?;
        Ok(identity)
    }

    /// Returns a device's key, or `None` if `home` has none: then the database is a copy, or was never attached here.
    pub fn load(home: &Path, device_id: DeviceId) -> Result<Option<Identity>, IdentityError> {
        let dir = dir_of(home, device_id);
        let path = dir.join(KEY_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == ErrorKind::InvalidData => return Err(IdentityError::Damaged(path)),
            Err(cause) => return Err(IdentityError::Io { doing: "reading", path, cause }),
        };
        let seed = unhex::<32>(text.trim()).ok_or(IdentityError::Damaged(path))?;
        Ok(Some(Identity { device_id, key: SigningKey::from_bytes(&seed), dir }))
    }

    /// Deletes key and anchor. The device cannot speak for itself any more.
    pub fn remove(self) -> Result<(), IdentityError> {
        match fs::remove_dir_all(&self.dir) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => Err(IdentityError::Io { doing: "removing", path: self.dir, cause }),
            _ => Ok(()),
        }
    }

    /// Returns the device's id.
    pub fn device_id(&self) -> DeviceId {
        self.device_id
    }

    /// Returns the public key, 64 hex digits.
    pub fn public_key(&self) -> String {
        hex(self.key.verifying_key().as_bytes())
    }

    /// Returns a bearer for an authority's history: `v1.<device_id>.<expires>.<signature>`, good for five minutes from `now_s`
    /// (unix seconds by the authority's clock). docs/protocol.md, "Bearer".
    pub fn bearer(&self, history: HistoryId, now_s: i64) -> String {
        let expires_s = now_s.saturating_add(BEARER_LIFE_S);
        let signature = self.key.sign(format!("syncline bearer 1\n{history}\n{}\n{expires_s}", self.device_id).as_bytes());
        format!("v1.{}.{expires_s}.{}", self.device_id, URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    /// Returns this device's signature of a message of its own making.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// Returns the anchor. One that is absent, cut short or unreadable counts as none: that loses one of the two ways in which
    /// a restored database is noticed (the other is the nonce in the authority's answer), and nothing else.
    pub fn anchor(&self) -> Option<Anchor> {
        serde_json::from_slice(&fs::read(self.dir.join(ANCHOR_FILE)).ok()?).ok()
    }

    /// Replaces the anchor. Not durable at once, on purpose: a freeze would wait for the disk a second time, and a stale anchor
    /// is below the database, never above it, so it accuses nobody falsely.
    pub fn write_anchor(&self, anchor: &Anchor) -> Result<(), IdentityError> {
        let text = serde_json::to_vec(anchor).unwrap_or_default();
        self.replace(ANCHOR_FILE, &text, false)
    }

    /// Writes beside the file and renames, so that a reader sees the old or the new one.
    fn replace(&self, name: &str, bytes: &[u8], durable: bool) -> Result<(), IdentityError> {
        let (path, temp) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let write = || -> std::io::Result<()> {
            let mut file = private_file(&temp)?;
            file.write_all(bytes)?;
            if durable {
                file.sync_all()?;
            }
            drop(file);
            fs::rename(&temp, &path)?;
            // The rename is in the directory, and so is the directory itself.
            if durable && cfg!(unix) {
                for dir in self.dir.ancestors().take(3) {
                    File::open(dir)?.sync_all()?;
                }
            }
            Ok(())
        };
        write().map_err(|cause| IdentityError::Io { doing: "writing", path: path.clone(), cause })
    }
}

/// Whether a signature is that of the device with this public key (64 hex digits).
pub fn verify(public_key: &str, message: &[u8], signature: &[u8]) -> bool {
    let key = unhex::<32>(public_key).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
    let signature = <[u8; 64]>::try_from(signature).ok().map(|bytes| Signature::from_bytes(&bytes));
    key.zip(signature).is_some_and(|(key, signature)| key.verify_strict(message, &signature).is_ok())
}

/// Shows the id; never the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Identity({})", self.device_id)
    }
}

fn dir_of(home: &Path, device_id: DeviceId) -> PathBuf {
    home.join("devices").join(device_id.to_string())
}

fn create_private_dir(dir: &Path) -> Result<(), IdentityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|cause| IdentityError::Io { doing: "making", path: dir.to_owned(), cause })
}

/// Makes a file that only this user can read from its first byte on. One left over from a crash is replaced: its mode is not
/// known.
fn private_file(path: &Path) -> std::io::Result<File> {
    if let Err(e) = fs::remove_file(path)
        && e.kind() != ErrorKind::NotFound
    {
        return Err(e);
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(attempt: u64) -> Anchor {
        let (source_id, source_bundle_id) = (SourceId([4; 16]), BundleId(9));
        Anchor { source_id, source_bundle_id, attempt, nonce: Nonce(u64::MAX), database: "/tmp/a.db".into() }
    }

    #[test]
    fn a_device_is_found_again_and_is_gone_once_removed() {
        let home = tempfile::tempdir().unwrap();
        let made = Identity::create(home.path()).unwrap();
        let other = Identity::create(home.path()).unwrap();
        assert_ne!(made.device_id(), other.device_id());
        let found = Identity::load(home.path(), made.device_id()).unwrap().unwrap();
        assert_eq!((found.public_key(), found.bearer(HistoryId([1; 16]), 5)), (made.public_key(), made.bearer(HistoryId([1; 16]), 5)));
        let id = made.device_id();
        made.remove().unwrap();
        found.remove().unwrap();
        assert!(Identity::load(home.path(), id).unwrap().is_none());
        assert!(Identity::load(home.path(), other.device_id()).unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn only_this_user_reads_the_key() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let made = Identity::create(home.path()).unwrap();
        // Left over from a crash, and open to all: its mode must not be taken over.
        fs::write(made.dir.join("anchor.new"), "x").unwrap();
        fs::set_permissions(made.dir.join("anchor.new"), fs::Permissions::from_mode(0o666)).unwrap();
        made.write_anchor(&anchor(1)).unwrap();
        let mode = |name: &str| fs::metadata(made.dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("key"), mode("anchor")), (0o700, 0o600, 0o600));
        assert_eq!(fs::read_dir(&made.dir).unwrap().count(), 2);
    }

    #[test]
    fn a_damaged_key_is_named_and_a_damaged_anchor_is_none() {
        let home = tempfile::tempdir().unwrap();
        let made = Identity::create(home.path()).unwrap();
        assert_eq!(made.anchor(), None);
        made.write_anchor(&anchor(1)).unwrap();
        made.write_anchor(&anchor(2)).unwrap();
        assert_eq!(made.anchor(), Some(anchor(2)));
        let whole = fs::read(made.dir.join("anchor")).unwrap();
        fs::write(made.dir.join("anchor"), &whole[..whole.len() / 2]).unwrap();
        assert_eq!(made.anchor(), None);
        for bad in [&b"abc"[..], b"\xff\xfe", b""] {
            fs::write(made.dir.join("key"), bad).unwrap();
            assert!(matches!(Identity::load(home.path(), made.device_id()), Err(IdentityError::Damaged(_))));
        }
    }

    /// The same bytes as in the authority's `accounts`: the two ends build them apart.
    #[test]
    fn the_bearer_has_these_bytes() {
        let identity = Identity { device_id: DeviceId([1; 16]), key: SigningKey::from_bytes(&[3; 32]), dir: PathBuf::new() };
        assert_eq!(
            identity.bearer(HistoryId([7; 16]), 1_800_000_000),
            "v1.01010101010101010101010101010101.1800000300.\
             PGLBiwpByoQ3vJm16Yz2v9h032jIcYjcFVUFQqVXbe15vWMjmiw7P5JR_vUR4rDVcmncFxsS7VGQ-JTULVyOBw"
        );
        assert_eq!(format!("{identity:?}"), "Identity(01010101010101010101010101010101)");
    }
}
