//! Opened databases that a history leaves to the next one of its schema: to open them, which is to parse a whole schema each time,
//! took longer than to play.
//!
//! Always: what a history gets is a disk with the image's bytes and nothing else, and connections that have read it anew. A
//! history that failed, and a disk without power, leave nothing.

use crate::image::{self, DB};
use crate::spy::Tape;
use crate::vfs::Disk;
use rusqlite::Connection;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A disk and what is open on it.
pub struct Kit {
    /// The disk.
    pub disk: Disk,
    /// The tape that runs on connections of Syncline.
    pub tape: Tape,
    /// Connections.
    pub spare: Spare,
}

/// Connections that nobody uses.
#[derive(Default)]
pub struct Spare {
    /// Of Syncline, with the tape.
    pub sync: Vec<Connection>,
    /// Of programs that know nothing of Syncline.
    pub app: Vec<Connection>,
}

thread_local! {
    static POOL: RefCell<BTreeMap<(usize, bool), Vec<Kit>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Returns a disk with the variant's image of a device or of the authority, and draws of its own.
pub fn take(variant: usize, authority: bool, seed: u64) -> Kit {
    let image = image::image(variant);
    let bytes = if authority { &image.server } else { &image.device };
    let kept = POOL.with_borrow_mut(|pool| pool.get_mut(&(variant, authority)).and_then(Vec::pop));
    if let Some(kit) = kept.filter(|kit| renew(kit, seed, bytes).is_ok()) {
        return kit;
    }
    let disk = Disk::new(if authority { "server" } else { "device" }, seed);
    disk.put(DB, bytes);
    Kit { disk, tape: Tape::default(), spare: Spare::default() }
}

/// Keeps a disk for a later history.
pub fn give(variant: usize, authority: bool, kit: Kit) {
    if kit.spare.sync.iter().chain(&kit.spare.app).all(Connection::is_autocommit) {
        POOL.with_borrow_mut(|pool| pool.entry((variant, authority)).or_default().push(kit));
    }
}

fn renew(kit: &Kit, seed: u64, bytes: &[u8]) -> rusqlite::Result<()> {
    kit.disk.renew(seed, DB, bytes);
    kit.tape.take();
    for conn in kit.spare.sync.iter().chain(&kit.spare.app) {
        // One by one: a connection that finds the index as it remembers it, made by another, would take its cached pages for true. A
        // statement on the schema makes it compare the schema that it knows, too.
        kit.disk.forget_index();
        conn.prepare_cached("SELECT count(*) FROM sqlite_schema").and_then(|mut q| q.query_row([], |r| r.get::<_, i64>(0)))?;
    }
    Ok(())
}
