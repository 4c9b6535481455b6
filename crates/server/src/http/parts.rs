//! Parts of large pushes, kept until the push that names them comes: files in a directory of their own, by device and hash.
//!
//! A part is durable for nobody: it is verified by its name when it is read, a lost one is sent again, and no commit depends on
//! one that is not in memory by then. So nothing here is synced to the disk, and no store knows of it. What a device may keep,
//! what all may, and for how long, is bounded; whoever is over a bound loses the oldest parts first.

use super::{App, wire};
use crate::accounts::Caller;
use crate::api_error::ApiError;
use axum::body::Body;
use axum::http::HeaderMap;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use syncline_core::parts::{self, PART_HEAD, PARTS_MAX};
use syncline_core::{DeviceId, Limits, PartName, Push};

/// What the parts of a device may take: a few bundles.
const DEVICE_BYTES_MAX: u64 = 32 << 20;
/// What all of them may.
const ALL_BYTES_MAX: u64 = 1 << 30;
/// A part that nobody has asked for so long belongs to a device that has changed its mind.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The parts of all devices.
pub(super) struct Spool {
    dir: PathBuf,
    /// Whether the directory is this process's own and ends with it.
    is_own: bool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    parts: HashMap<(DeviceId, PartName), Held>,
    bytes: u64,
}

struct Held {
    bytes: u64,
    at: SystemTime,
}

impl Spool {
    /// Opens a directory of parts, with what an earlier process left in it; without one, makes a directory for this process.
    pub fn open(dir: Option<PathBuf>) -> Spool {
        let is_own = dir.is_none();
        let dir = dir.unwrap_or_else(|| std::env::temp_dir().join(format!("syncline-parts-{}-{:016x}", std::process::id(), crate::engine::random())));
        let mut kept = Kept::default();
        for device in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Some(id) = device.file_name().to_str().and_then(DeviceId::parse) else { continue };
            for part in std::fs::read_dir(device.path()).into_iter().flatten().flatten() {
                let named = part.file_name().to_str().and_then(PartName::parse).zip(part.metadata().ok());
                if let Some((name, about)) = named {
                    kept.bytes += about.len();
                    kept.parts.insert((id, name), Held { bytes: about.len(), at: about.modified().unwrap_or(SystemTime::UNIX_EPOCH) });
                }
            }
        }
        Spool { dir, is_own, kept: Mutex::new(kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, device: DeviceId, name: PartName) -> PathBuf {
        self.dir.join(device.to_string()).join(name.to_string())
    }

    /// Keeps a part that bears its name.
    pub fn keep(&self, device: DeviceId, name: PartName, frame: &[u8]) -> Result<(), ApiError> {
        parts::unwrap(name, frame)?;
        let path = self.path(device, name);
        self.make_room(device, frame.len() as u64);
        let written = self.make_dir(device).and_then(|()| std::fs::write(&path, frame));
        if let Err(e) = written {
            let _ = std::fs::remove_file(&path);
            return Err(match e.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ApiError::StorageFull,
                _ => ApiError::Internal(format!("keeping a part in {}: {e}", self.dir.display())),
            });
        }
        let mut kept = self.kept();
        kept.bytes += frame.len() as u64;
        if let Some(before) = kept.parts.insert((device, name), Held { bytes: frame.len() as u64, at: SystemTime::now() }) {
            kept.bytes -= before.bytes;
        }
        Ok(())
    }

    /// What is in it is users' data: nobody else on the machine may read it.
    fn make_dir(&self, device: DeviceId) -> std::io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(self.dir.join(device.to_string()))
    }

    /// Drops what is too old, and the oldest where there is too much.
    fn make_room(&self, device: DeviceId, bytes: u64) {
        let now = SystemTime::now();
        let mut kept = self.kept();
        let of_device: u64 = kept.parts.iter().filter(|(of, _)| of.0 == device).map(|p| p.1.bytes).sum();
        let over_device = (of_device + bytes).saturating_sub(DEVICE_BYTES_MAX);
        let over_all = (kept.bytes + bytes).saturating_sub(ALL_BYTES_MAX);
        let is_old = |held: &Held| now.duration_since(held.at).is_ok_and(|age| age > KEPT);
        if over_device == 0 && over_all == 0 && !kept.parts.values().any(is_old) {
            return;
        }
        let mut by_age: Vec<(SystemTime, u64, (DeviceId, PartName))> = kept.parts.iter().map(|(of, held)| (held.at, held.bytes, *of)).collect();
        by_age.sort();
        let (mut from_device, mut from_all) = (0, 0);
        for (at, bytes, of) in by_age {
            let too_old = now.duration_since(at).is_ok_and(|age| age > KEPT);
            if too_old || from_all < over_all || (of.0 == device && from_device < over_device) {
                from_all += bytes;
                from_device += if of.0 == device { bytes } else { 0 };
                self.drop_one(&mut kept, of);
            }
        }
    }

    fn drop_one(&self, kept: &mut Kept, of: (DeviceId, PartName)) {
        if let Some(held) = kept.parts.remove(&of) {
            kept.bytes -= held.bytes;
            let _ = std::fs::remove_file(self.path(of.0, of.1));
        }
    }

    /// Returns which of the parts that a push names are not here.
    fn missing(&self, device: DeviceId, names: &[PartName]) -> Vec<u32> {
        let kept = self.kept();
        names.iter().enumerate().filter(|(_, name)| !kept.parts.contains_key(&(device, **name))).map(|(i, _)| i as u32).collect()
    }

    /// Puts the parts that a push names into it, or returns those that are not here.
    pub fn put_into(&self, device: DeviceId, push: &mut Push, limits: &Limits) -> Result<Vec<u32>, ApiError> {
        if push.parts.len() > PARTS_MAX {
            return Err(ApiError::TooLarge(format!("a push comes in at most {PARTS_MAX} parts")));
        }
        if !push.rows.rows.is_empty() || !push.journal.is_empty() {
            return Err(ApiError::BadRequest("a push has its rows in parts or with it, not both".into()));
        }
        let mut missing = self.missing(device, &push.parts);
        let mut bytes = Vec::new();
        let to_read = if missing.is_empty() { &push.parts[..] } else { &[] };
        for (i, name) in to_read.iter().enumerate() {
            let read = std::fs::read(self.path(device, *name)).ok().and_then(|frame| parts::unwrap(*name, &frame).ok());
            match read {
                Some(part) if bytes.len() + part.len() > limits.body_bytes => {
                    return Err(ApiError::TooLarge(format!("a request has at most {} bytes when decompressed", limits.body_bytes)));
                }
                Some(part) => bytes.extend_from_slice(&part),
                // Torn by a crash, or taken away by somebody.
                None => {
                    missing.push(i as u32);
                    self.drop_one(&mut self.kept(), (device, *name));
                }
            }
        }
        if missing.is_empty() {
            parts::put_in(push, &bytes, limits.wire_bytes / 4 * 5)?;
        }
        Ok(missing)
    }

    /// Drops parts of a push that is through.
    pub fn forget(&self, device: DeviceId, names: &[PartName]) {
        let mut kept = self.kept();
        names.iter().for_each(|name| self.drop_one(&mut kept, (device, *name)));
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.is_own {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Takes parts in as they come: what came whole before a connection breaks is kept. Returns how many.
pub(super) async fn receive(app: &Arc<App>, caller: &Caller, headers: &HeaderMap, body: Body) -> Result<u64, ApiError> {
    let mut seal = wire::RequestSeal::of(headers);
    let mut chunks = body.into_data_stream();
    let (mut pending, mut stored, mut all) = (Vec::new(), HashSet::new(), 0);
    while let Some(chunk) = wire::next_chunk(&mut chunks).await? {
        seal.update(&chunk);
        all += chunk.len();
        if all > app.limits.wire_bytes {
            wire::discard(&HeaderMap::new(), Body::from_stream(chunks), &app.limits).await;
            return Err(ApiError::TooLarge(format!("a request has at most {} bytes on the wire", app.limits.wire_bytes)));
        }
        pending.extend_from_slice(&chunk);
        match take_whole(app, caller.device_id, &mut pending).await {
            Ok(names) => stored.extend(names),
            Err(e) => {
                // The rest is read, so that the reason arrives; damage on the way is no fault of the device.
                return Err(if wire::discard_rest(seal, chunks, &app.limits).await { wire::damaged() } else { e });
            }
        }
    }
    match seal.is_broken() {
        true => Err(wire::damaged()),
        false if !pending.is_empty() => Err(ApiError::BadRequest("the last part is not whole".into())),
        false => Ok(stored.len() as u64),
    }
}

/// Keeps the parts that are whole in what came so far, and leaves the rest.
async fn take_whole(app: &Arc<App>, device: DeviceId, pending: &mut Vec<u8>) -> Result<Vec<PartName>, ApiError> {
    let mut whole = Vec::new();
    let mut at = 0;
    while let Some(head) = pending.get(at..at + PART_HEAD) {
        let head: &[u8; PART_HEAD] = head.try_into().map_err(|_| ApiError::BadRequest("a part's head".into()))?;
        let (length, name) = parts::read_head(head)?;
        let Some(frame) = pending.get(at + PART_HEAD..at + PART_HEAD + length) else { break };
        whole.push((name, frame.to_vec()));
        at += PART_HEAD + length;
    }
    pending.drain(..at);
    if whole.is_empty() {
        return Ok(vec![]);
    }
    super::ask(app, move |app| {
        let mut names = Vec::with_capacity(whole.len());
        for (name, frame) in whole {
            app.spool.keep(device, name, &frame)?;
            names.push(name);
        }
        Ok(names)
    })
    .await
}
