//! The functions that SQLite calls. Each turns raw pointers into references, takes the disk's
//! lock once, asks `state`, and answers with a result code; no decision is made here.
//!
//! What keeps memory valid: an `Arc<Shared>` is held by the [`Disk`](super::Disk), by every open
//! file, and by the `random()` of every connection, which SQLite frees last. So the VFS outlives
//! whatever SQLite may do with it, also when a disk is dropped before its connections.
#![allow(unsafe_code)] // A VFS is a table of C functions; there is no safe way to offer one.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::size_of;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use rusqlite::ffi as sql;

use super::file::File;
use super::lock::{Busy, Held, NONE, ShmHeld};
use super::state::{Op, State, Verdict};

/// How the names of our VFSs begin, and of no other.
const NAME_PREFIX: &str = "syncline-sim-";

/// 1970-01-01 as a Julian day number in milliseconds.
const JULIAN_MS_AT_1970: i64 = 210_866_760_000_000;

const PATH_LEN_MAX: c_int = 512;

/// What a disk, its open files and its connections share.
pub(super) struct Shared {
    /// SQLite links registered VFSs through this, so it is written behind shared references.
    vfs: UnsafeCell<sql::sqlite3_vfs>,
    name: CString,
    state: Mutex<State>,
}

// SAFETY: `vfs` is written before it is registered, and afterwards only by SQLite under its global
// mutex; its raw pointers are to this same allocation. The rest is Send and Sync by itself.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn vfs_name(&self) -> &str {
        self.name.to_str().expect("made from a str")
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: nothing here panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a disk known to SQLite.
pub(super) fn register(seed: u64) -> Arc<Shared> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static HOOK: Once = Once::new();
    // SAFETY: a function of the right type that lives as long as the process.
    HOOK.call_once(|| unsafe {
        // Counting memory takes a mutex of the process with each allocation. Refused, and no harm, once SQLite is in use.
        sql::sqlite3_config(sql::SQLITE_CONFIG_MEMSTATUS, 0);
        sql::sqlite3_auto_extension(Some(on_connect));
    });
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let shared = Arc::new(Shared {
        vfs: UnsafeCell::new(VFS),
        name: CString::new(format!("{NAME_PREFIX}{number}")).expect("no zero in it"),
        state: Mutex::new(State::new(seed)),
    });
    let vfs = shared.vfs.get();
    // SAFETY: nobody else knows the VFS yet; name and state live in the allocation that
    // `pAppData` points to, which `unregister` and the holders named above keep alive.
    let rc = unsafe {
        (*vfs).zName = shared.name.as_ptr();
        (*vfs).pAppData = Arc::as_ptr(&shared).cast_mut().cast();
        sql::sqlite3_vfs_register(vfs, 0)
    };
    assert_eq!(rc, sql::SQLITE_OK, "SQLite initializes");
    shared
}

/// Makes SQLite forget a disk; open connections go on.
pub(super) fn unregister(shared: &Shared) {
    // SAFETY: registered by `register`; SQLite only unlinks it.
    unsafe { sql::sqlite3_vfs_unregister(shared.vfs.get()) };
}

/// Seeds SQLite's own generator, which belongs to the process and makes WAL salts and journal
/// nonces, the only bytes of a file that do not follow from the disk's seed.
///
/// Call it at the start of a history that must repeat to the byte, and only while one thread
/// of the process uses SQLite: connections of other threads draw from the same generator.
pub fn seed_sqlite(seed: u64) {
    // Zero would mean entropy again.
    let seed = ((seed ^ (seed >> 32)) as u32 | 1).cast_signed();
    // SAFETY: the arguments that this operation takes; a null connection is allowed.
    unsafe {
        sql::sqlite3_initialize();
        sql::sqlite3_test_control(sql::SQLITE_TESTCTRL_PRNG_SEED, seed, ptr::null_mut::<sql::sqlite3>());
    }
}

/// An open file. SQLite allocates it, `x_open` initializes it and `x_close` ends it.
#[repr(C)]
struct Handle {
    base: sql::sqlite3_file,
    shared: Arc<Shared>,
    /// Index into `State::files`, valid as long as `life` is the disk's.
    index: usize,
    life: u32,
    delete_on_close: bool,
    /// Temporary files: not counted and never failed by plan.
    is_temp: bool,
    lock: Held,
    shm: ShmHeld,
}

impl Handle {
    /// Runs `f` on the handle and its file, or fails with `error` if the power is or was off.
    fn with(&mut self, error: c_int, f: impl FnOnce(&mut Parts<'_>, &mut State) -> c_int) -> c_int {
        let mut state = self.shared.state();
        if state.dead || state.life != self.life {
            return error;
        }
        let mut parts = Parts { index: self.index, is_temp: self.is_temp, lock: &mut self.lock, shm: &mut self.shm };
        f(&mut parts, &mut state)
    }
}

/// A handle without its disk, so that both can be borrowed.
struct Parts<'a> {
    index: usize,
    is_temp: bool,
    lock: &'a mut Held,
    shm: &'a mut ShmHeld,
}

impl Parts<'_> {
    fn file<'s>(&self, state: &'s mut State) -> &'s mut File {
        &mut state.files[self.index]
    }

    fn decide(&self, state: &mut State, op: Op) -> Verdict {
        if self.is_temp {
            return Verdict::Do;
        }
        state.decide(op)
    }
}

/// # Safety
/// `file` was initialized by `x_open` and SQLite calls no other function on it meanwhile.
unsafe fn handle<'a>(file: *mut sql::sqlite3_file) -> &'a mut Handle {
    // SAFETY: by the contract; `base` is the first field of a repr(C) struct.
    unsafe { &mut *file.cast::<Handle>() }
}

/// # Safety
/// `vfs` was registered by `register` and its disk, or a connection of it, is alive.
unsafe fn shared<'a>(vfs: *mut sql::sqlite3_vfs) -> &'a Shared {
    // SAFETY: by the contract; `pAppData` is set to the `Shared` around the VFS.
    unsafe { &*(*vfs).pAppData.cast::<Shared>() }
}

/// # Safety
/// `name` is null or a C string.
unsafe fn bytes<'a>(name: *const c_char) -> Option<&'a [u8]> {
    if name.is_null() {
        return None;
    }
    // SAFETY: by the contract.
    Some(unsafe { CStr::from_ptr(name) }.to_bytes())
}

fn busy_or_ok(result: Result<(), Busy>) -> c_int {
    match result {
        Ok(()) => sql::SQLITE_OK,
        Err(Busy) => sql::SQLITE_BUSY,
    }
}

// ---- The VFS ----

const VFS: sql::sqlite3_vfs = sql::sqlite3_vfs {
    iVersion: 2,
    szOsFile: size_of::<Handle>() as c_int,
    mxPathname: PATH_LEN_MAX,
    pNext: ptr::null_mut(),
    zName: ptr::null(),
    pAppData: ptr::null_mut(),
    xOpen: Some(x_open),
    xDelete: Some(x_delete),
    xAccess: Some(x_access),
    xFullPathname: Some(x_full_pathname),
    xDlOpen: Some(x_dl_open),
    xDlError: Some(x_dl_error),
    xDlSym: Some(x_dl_sym),
    xDlClose: Some(x_dl_close),
    xRandomness: Some(x_randomness),
    xSleep: Some(x_sleep),
    xCurrentTime: Some(x_current_time),
    xGetLastError: Some(x_get_last_error),
    xCurrentTimeInt64: Some(x_current_time_int64),
    xSetSystemCall: None,
    xGetSystemCall: None,
    xNextSystemCall: None,
};

unsafe extern "C" fn x_open(
    vfs: *mut sql::sqlite3_vfs,
    name: sql::sqlite3_filename,
    file: *mut sql::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes our VFS, a name or null, and room for a `Handle`. A null `pMethods`
    // tells it not to close a file that did not open. The `Arc` count is raised for the handle.
    unsafe {
        (*file).pMethods = ptr::null();
        let mut state = shared(vfs).state();
        if state.dead {
            return sql::SQLITE_CANTOPEN;
        }
        let name = bytes(name);
        let found = name.and_then(|name| state.find(name));
        let exclusive = flags & sql::SQLITE_OPEN_EXCLUSIVE != 0;
        let index = match found {
            Some(_) if exclusive => return sql::SQLITE_CANTOPEN,
            Some(index) => index,
            None if flags & sql::SQLITE_OPEN_CREATE == 0 => return sql::SQLITE_CANTOPEN,
            None => state.create(name),
        };
        state.files[index].handles += 1;
        let app_data = (*vfs).pAppData.cast::<Shared>();
        Arc::increment_strong_count(app_data);
        file.cast::<Handle>().write(Handle {
            base: sql::sqlite3_file { pMethods: &METHODS },
            shared: Arc::from_raw(app_data),
            index,
            life: state.life,
            delete_on_close: flags & sql::SQLITE_OPEN_DELETEONCLOSE != 0,
            is_temp: name.is_none(),
            lock: Held::default(),
            shm: ShmHeld::default(),
        });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    sql::SQLITE_OK
}

unsafe extern "C" fn x_delete(vfs: *mut sql::sqlite3_vfs, name: *const c_char, _sync_dir: c_int) -> c_int {
    // SAFETY: SQLite passes our VFS and a C string.
    let (mut state, name) = unsafe { (shared(vfs).state(), bytes(name).unwrap_or_default()) };
    if state.dead {
        return sql::SQLITE_IOERR_DELETE;
    }
    if state.find(name).is_none() {
        return sql::SQLITE_IOERR_DELETE_NOENT;
    }
    if state.decide(Op::Delete) != Verdict::Do {
        return sql::SQLITE_IOERR_DELETE;
    }
    state.unlink(name);
    sql::SQLITE_OK
}

unsafe extern "C" fn x_access(vfs: *mut sql::sqlite3_vfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes our VFS, a C string and a place for the answer.
    let (state, name) = unsafe { (shared(vfs).state(), bytes(name).unwrap_or_default()) };
    if state.dead {
        return sql::SQLITE_IOERR_ACCESS;
    }
    // As on Unix, an empty file does not "exist": an empty journal is no journal.
    let yes = state.find(name).is_some_and(|index| flags != sql::SQLITE_ACCESS_EXISTS || !state.files[index].data().is_empty());
    // SAFETY: as above.
    unsafe { *out = c_int::from(yes) };
    sql::SQLITE_OK
}

unsafe extern "C" fn x_full_pathname(_vfs: *mut sql::sqlite3_vfs, name: *const c_char, out_len: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite passes a C string and a buffer of `out_len`.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes_with_nul();
        if name.len() > usize::try_from(out_len).unwrap_or(0) {
            return sql::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len());
    }
    sql::SQLITE_OK
}

unsafe extern "C" fn x_dl_open(_: *mut sql::sqlite3_vfs, _: *const c_char) -> *mut c_void {
    // There are no loadable extensions on this disk.
    ptr::null_mut()
}

unsafe extern "C" fn x_dl_error(_: *mut sql::sqlite3_vfs, len: c_int, out: *mut c_char) {
    if len > 0 {
        // SAFETY: SQLite passes a buffer of `len`.
        unsafe { *out = 0 };
    }
}

unsafe extern "C" fn x_dl_sym(
    _: *mut sql::sqlite3_vfs,
    _: *mut c_void,
    _: *const c_char,
) -> Option<unsafe extern "C" fn(*mut sql::sqlite3_vfs, *mut c_void, *const c_char)> {
    None
}

unsafe extern "C" fn x_dl_close(_: *mut sql::sqlite3_vfs, _: *mut c_void) {}

unsafe extern "C" fn x_randomness(vfs: *mut sql::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    let size = usize::try_from(len).unwrap_or(0);
    // SAFETY: SQLite passes our VFS and a buffer of `len`, which is set before it is borrowed.
    unsafe {
        ptr::write_bytes(out, 0, size);
        let out = slice::from_raw_parts_mut(out.cast::<u8>(), size);
        shared(vfs).state().rng.fill(out);
    }
    len
}

unsafe extern "C" fn x_sleep(vfs: *mut sql::sqlite3_vfs, us: c_int) -> c_int {
    // SAFETY: SQLite passes our VFS.
    unsafe { shared(vfs).state().clock_us += i64::from(us) };
    us
}

unsafe extern "C" fn x_current_time(vfs: *mut sql::sqlite3_vfs, out: *mut f64) -> c_int {
    let mut ms = 0;
    // SAFETY: SQLite passes our VFS and a place for the answer.
    unsafe {
        x_current_time_int64(vfs, &mut ms);
        *out = ms as f64 / 86_400_000.0;
    }
    sql::SQLITE_OK
}

unsafe extern "C" fn x_current_time_int64(vfs: *mut sql::sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: SQLite passes our VFS and a place for the answer.
    unsafe {
        let ms = shared(vfs).state().clock_us.div_euclid(1000);
        *out = ms.saturating_add(JULIAN_MS_AT_1970);
    }
    sql::SQLITE_OK
}

unsafe extern "C" fn x_get_last_error(_: *mut sql::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}

// ---- An open file ----

static METHODS: sql::sqlite3_io_methods = sql::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn x_close(file: *mut sql::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes an open file once and does not use it afterwards.
    let mut handle = unsafe { file.cast::<Handle>().read() };
    let mut guard = handle.shared.state();
    let state = &mut *guard;
    if state.life == handle.life {
        // Also without power: a dead process holds no locks.
        let file = &mut state.files[handle.index];
        file.locks.unlock(&mut handle.lock, NONE);
        file.shm.unmap(&mut handle.shm);
        file.handles -= 1;
        if handle.delete_on_close && !state.dead {
            file.name = None;
        }
    }
    drop(guard);
    sql::SQLITE_OK
}

unsafe extern "C" fn x_read(file: *mut sql::sqlite3_file, out: *mut c_void, len: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite passes an open file and a buffer of `len`.
    let handle = unsafe { handle(file) };
    let (len, offset) = (len as usize, offset as usize);
    handle.with(sql::SQLITE_IOERR_READ, |h, state| {
        let data = h.file(state).data();
        let found = data.get(offset..).unwrap_or_default();
        let n = found.len().min(len);
        let out = out.cast::<u8>();
        // SAFETY: `n` bytes are in `found`, and `len` in `out`, which is not our memory.
        unsafe {
            ptr::copy_nonoverlapping(found.as_ptr(), out, n);
            ptr::write_bytes(out.add(n), 0, len - n);
        }
        if n == len { sql::SQLITE_OK } else { sql::SQLITE_IOERR_SHORT_READ }
    })
}

unsafe extern "C" fn x_write(file: *mut sql::sqlite3_file, from: *const c_void, len: c_int, offset: i64) -> c_int {
    let (len, offset) = (len as usize, offset as usize);
    // SAFETY: SQLite passes an open file and `len` bytes.
    let (handle, bytes) = unsafe { (handle(file), slice::from_raw_parts(from.cast::<u8>(), len)) };
    handle.with(sql::SQLITE_IOERR_WRITE, |h, state| {
        let grows = offset + len > h.file(state).data().len();
        match h.decide(state, Op::Write { grows }) {
            Verdict::Full => return sql::SQLITE_FULL,
            Verdict::Half => h.file(state).write_half(offset, bytes),
            Verdict::Do => {
                h.file(state).write(offset, bytes);
                return sql::SQLITE_OK;
            }
            Verdict::Fail | Verdict::Pretend => {}
        }
        sql::SQLITE_IOERR_WRITE
    })
}

unsafe extern "C" fn x_truncate(file: *mut sql::sqlite3_file, size: i64) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { handle(file) };
    handle.with(sql::SQLITE_IOERR_TRUNCATE, |h, state| {
        if h.decide(state, Op::Truncate) != Verdict::Do {
            return sql::SQLITE_IOERR_TRUNCATE;
        }
        h.file(state).truncate(size as usize);
        sql::SQLITE_OK
    })
}

unsafe extern "C" fn x_sync(file: *mut sql::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { handle(file) };
    handle.with(sql::SQLITE_IOERR_FSYNC, |h, state| {
        match h.decide(state, Op::Sync) {
            Verdict::Do => h.file(state).sync(),
            Verdict::Pretend => {}
            _ => return sql::SQLITE_IOERR_FSYNC,
        }
        sql::SQLITE_OK
    })
}

unsafe extern "C" fn x_file_size(file: *mut sql::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: SQLite passes an open file and a place for the answer.
    unsafe {
        handle(file).with(sql::SQLITE_IOERR_FSTAT, |h, state| {
            *out = h.file(state).data().len() as i64;
            sql::SQLITE_OK
        })
    }
}

unsafe extern "C" fn x_lock(file: *mut sql::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { handle(file) };
    handle.with(sql::SQLITE_IOERR_LOCK, |h, state| busy_or_ok(state.files[h.index].locks.lock(h.lock, level as u8)))
}

unsafe extern "C" fn x_unlock(file: *mut sql::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { handle(file) };
    // Never fails: without power the lock ends with the handle or with the crash.
    handle.with(sql::SQLITE_OK, |h, state| {
        state.files[h.index].locks.unlock(h.lock, level as u8);
        sql::SQLITE_OK
    })
}

unsafe extern "C" fn x_check_reserved_lock(file: *mut sql::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes an open file and a place for the answer.
    unsafe {
        handle(file).with(sql::SQLITE_IOERR_CHECKRESERVEDLOCK, |h, state| {
            *out = c_int::from(h.file(state).locks.is_reserved());
            sql::SQLITE_OK
        })
    }
}

unsafe extern "C" fn x_file_control(_: *mut sql::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    sql::SQLITE_NOTFOUND
}

unsafe extern "C" fn x_sector_size(_: *mut sql::sqlite3_file) -> c_int {
    // What SQLite's own VFS for Unix says, so that it writes the same things here.
    4096
}

unsafe extern "C" fn x_device_characteristics(_: *mut sql::sqlite3_file) -> c_int {
    // What production sees: a torn write harms no neighbours. No atomic writes, no safe append.
    sql::SQLITE_IOCAP_POWERSAFE_OVERWRITE | sql::SQLITE_IOCAP_SUBPAGE_READ | sql::SQLITE_IOCAP_UNDELETABLE_WHEN_OPEN
}

unsafe extern "C" fn x_shm_map(file: *mut sql::sqlite3_file, index: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int {
    // SAFETY: SQLite passes an open file and a place for the answer. The region is kept by the
    // handle until it unmaps or closes; its memory is atomics, so it may be written through.
    unsafe {
        *out = ptr::null_mut();
        handle(file).with(sql::SQLITE_IOERR_SHMMAP, |h, state| {
            let shm = &mut state.files[h.index].shm;
            if let Some(region) = shm.map(h.shm, index as usize, size as usize, extend != 0) {
                *out = region.as_ptr().cast_mut().cast();
            }
            sql::SQLITE_OK
        })
    }
}

unsafe extern "C" fn x_shm_lock(file: *mut sql::sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    let slots = (((1_u32 << count) - 1) << offset) as u8;
    let unlock = flags & sql::SQLITE_SHM_UNLOCK != 0;
    let error = if unlock { sql::SQLITE_OK } else { sql::SQLITE_IOERR_SHMLOCK };
    // SAFETY: SQLite passes an open file.
    let handle = unsafe { handle(file) };
    handle.with(error, |h, state| {
        let shm = &mut state.files[h.index].shm;
        if unlock {
            shm.unlock(h.shm, slots);
            return sql::SQLITE_OK;
        }
        busy_or_ok(if flags & sql::SQLITE_SHM_SHARED != 0 { shm.lock_shared(h.shm, slots) } else { shm.lock_exclusive(h.shm, slots) })
    })
}

unsafe extern "C" fn x_shm_barrier(_: *mut sql::sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn x_shm_unmap(file: *mut sql::sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: SQLite passes an open file and uses no region of it afterwards.
    let handle = unsafe { handle(file) };
    // Without power the regions end with the handle.
    handle.with(sql::SQLITE_OK, |h, state| {
        state.files[h.index].shm.unmap(h.shm);
        sql::SQLITE_OK
    })
}

// ---- SQL functions that follow the disk's seed ----

/// Replaces `random()` and `randomblob()` on connections to our disks, however they were opened:
/// SQLite's own draw from a generator that all threads of the process share.
unsafe extern "C" fn on_connect(db: *mut sql::sqlite3, _error: *mut *mut c_char, _api: *const sql::sqlite3_api_routines) -> c_int {
    let mut vfs: *mut sql::sqlite3_vfs = ptr::null_mut();
    // SAFETY: SQLite passes an open connection; this control fills in a pointer to its VFS, and
    // every VFS has a name. Each function gets an `Arc` that SQLite gives back to `x_release`.
    unsafe {
        let op = sql::SQLITE_FCNTL_VFS_POINTER;
        let rc = sql::sqlite3_file_control(db, ptr::null(), op, (&raw mut vfs).cast());
        if rc != sql::SQLITE_OK || vfs.is_null() {
            return sql::SQLITE_OK;
        }
        let name = CStr::from_ptr((*vfs).zName).to_bytes();
        if !name.starts_with(NAME_PREFIX.as_bytes()) {
            return sql::SQLITE_OK;
        }
        let app_data = (*vfs).pAppData;
        let define = |name: &CStr, args, f| {
            Arc::increment_strong_count(app_data.cast::<Shared>());
            sql::sqlite3_create_function_v2(db, name.as_ptr(), args, sql::SQLITE_UTF8 | sql::SQLITE_INNOCUOUS, app_data, Some(f), None, None, Some(x_release))
        };
        type Function = unsafe extern "C" fn(*mut sql::sqlite3_context, c_int, *mut *mut sql::sqlite3_value);
        match define(c"random", 0, sql_random as Function) {
            sql::SQLITE_OK => define(c"randomblob", 1, sql_randomblob as Function),
            error => error,
        }
    }
}

unsafe extern "C" fn x_release(app_data: *mut c_void) {
    // SAFETY: the count that `on_connect` raised.
    unsafe { Arc::decrement_strong_count(app_data.cast::<Shared>()) };
}

unsafe extern "C" fn sql_random(context: *mut sql::sqlite3_context, _: c_int, _: *mut *mut sql::sqlite3_value) {
    // SAFETY: the user data is the `Shared` given to `on_connect`.
    unsafe {
        let shared = &*sql::sqlite3_user_data(context).cast::<Shared>();
        let number = shared.state().rng.next().cast_signed();
        // As SQLite's: abs(random()) must not overflow.
        sql::sqlite3_result_int64(context, number.max(-i64::MAX));
    }
}

unsafe extern "C" fn sql_randomblob(context: *mut sql::sqlite3_context, _: c_int, args: *mut *mut sql::sqlite3_value) {
    // SAFETY: the user data is the `Shared` given to `on_connect`; there is one argument; the
    // blob is copied before it is freed.
    unsafe {
        let shared = &*sql::sqlite3_user_data(context).cast::<Shared>();
        let len = sql::sqlite3_value_int64(*args).max(1);
        let db = sql::sqlite3_context_db_handle(context);
        if len > i64::from(sql::sqlite3_limit(db, sql::SQLITE_LIMIT_LENGTH, -1)) {
            sql::sqlite3_result_error_toobig(context);
            return;
        }
        let mut blob = vec![0; len as usize];
        shared.state().rng.fill(&mut blob);
        let transient = sql::SQLITE_TRANSIENT();
        sql::sqlite3_result_blob64(context, blob.as_ptr().cast(), len as u64, transient);
    }
}
