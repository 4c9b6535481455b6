//! The account's devices: listed, named, revoked. What was last heard of them is kept for the view `syncline_devices`.

use crate::database::{Database, now_ms};
use crate::error::{Doing, Error};
use crate::link::{Method, path_part};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A device of the account, as the server knows it. Times are in ms since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// Its id.
    pub device_id: String,
    /// What people call it.
    pub name: String,
    /// Its operating system.
    pub platform: String,
    /// The version of the app.
    pub app_version: String,
    /// When it was last heard of, to the minute.
    #[serde(rename(deserialize = "last_seen_ms"))]
    pub last_seen: i64,
    /// When it was revoked, if it was.
    #[serde(rename(deserialize = "revoked_ms"))]
    pub revoked: Option<i64>,
}

#[derive(Serialize)]
struct Change<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_version: Option<&'a str>,
}

#[derive(Deserialize)]
struct Done {}

/// How old the list in `syncline_devices` may be before a sync fetches it anew.
const LIST_AGE_MS: i64 = 10 * 60 * 1000;

/// Patience for what nobody waits for.
const BRIEF: Duration = Duration::from_secs(2);

impl Database {
    /// Asks the server for the account's devices, in order of enrolment, and keeps the list.
    pub fn devices(&self) -> Result<Vec<DeviceEntry>, Error> {
        let devices: Vec<DeviceEntry> = self.ask(Method::Get, "/v1/devices", None::<&()>)?;
        self.keep_devices(&devices)?;
        Ok(devices)
    }

    /// Returns the devices as they were last heard of.
    pub fn devices_known(&self) -> Result<Vec<DeviceEntry>, Error> {
        self.inner.read(|conn| {
            let sql = "SELECT device_id, name, platform, app_version, last_seen, revoked FROM _syncline_device ORDER BY n";
            let mut q = conn.prepare_cached(sql).doing("reading the list of devices")?;
            let rows = q.query_map([], |r| {
                Ok(DeviceEntry { device_id: r.get(0)?, name: r.get(1)?, platform: r.get(2)?, app_version: r.get(3)?, last_seen: r.get(4)?, revoked: r.get(5)? })
            });
            rows.and_then(Iterator::collect).doing("reading the list of devices")
        })
    }

    /// Gives a device of the account another name. An id may be shortened to what tells it from the others.
    pub fn rename_device(&self, id: &str, name: &str) -> Result<DeviceEntry, Error> {
        let device = self.find_device(id)?;
        let Done {} = self.ask(Method::Put, &format!("/v1/devices/{}", path_part(&device.device_id)), Some(&Change { name: Some(name), app_version: None }))?;
        self.devices()?;
        Ok(DeviceEntry { name: name.into(), ..device })
    }

    /// Revokes a device of the account, this one too: its streams end within five seconds, its requests are refused, and it seals
    /// what it could not send into a file for the account. It cannot be taken back; the device attaches anew.
    pub fn revoke_device(&self, id: &str) -> Result<DeviceEntry, Error> {
        let device = self.find_device(id)?;
        let Done {} = self.ask(Method::Delete, &format!("/v1/devices/{}", path_part(&device.device_id)), None::<&()>)?;
        // This one may not ask any more.
        if self.status()?.device_id.as_deref() != Some(&device.device_id) {
            self.devices()?;
        }
        Ok(device)
    }

    fn find_device(&self, id: &str) -> Result<DeviceEntry, Error> {
        let found: Vec<DeviceEntry> = self.devices()?.into_iter().filter(|d| d.device_id.starts_with(&id.to_ascii_lowercase())).collect();
        let refused = |why: &str| Error::Refused(format!("{why}; `syncline devices` lists them"));
        match <[DeviceEntry; 1]>::try_from(found) {
            Ok([device]) if id.len() >= 4 => Ok(device),
            Ok(_) => Err(refused("at least four digits of a device's id are wanted")),
            Err(none) if none.is_empty() => Err(refused("there is no such device in this account")),
            Err(_) => Err(refused("several devices' ids begin like this")),
        }
    }

    /// Fetches the list of devices if it is old, and tells the server this app's version if that is new. Never in the way of a sync:
    /// what fails is tried with a later one.
    pub(crate) fn refresh_devices(&self) {
        let known = self.inner.read(|conn| {
            let told: Option<String> = crate::anchor::meta(conn, "app_version_told")?;
            let at: Option<i64> = crate::anchor::meta(conn, "devices_at")?;
            let strangers: Option<i64> = crate::anchor::meta(conn, "devices_unnamed")?;
            Ok((told, at.unwrap_or(0), unnamed(conn).doing("reading the journal")? > strangers.unwrap_or(0)))
        });
        let Ok((told, at, is_unnamed)) = known else { return };
        let (version, now) = (&self.inner.options.app_version, now_ms());
        if told.as_deref() != Some(version) && !version.is_empty() {
            let change = Change { name: None, app_version: Some(version) };
            if self.ask_within::<Done>(Some(BRIEF), Method::Put, "/v1/devices/self", Some(&change)).is_ok() {
                let _ = self.inner.note(&[("app_version_told", version)]);
            }
        }
        if (is_unnamed || !(at..at + LIST_AGE_MS).contains(&now))
            && let Ok(devices) = self.ask_within::<Vec<DeviceEntry>>(Some(BRIEF), Method::Get, "/v1/devices", None::<&()>)
        {
            let _ = self.keep_devices(&devices);
        }
    }

    fn keep_devices(&self, devices: &[DeviceEntry]) -> Result<(), Error> {
        self.inner.with_notes(|conn| {
            let tx = conn.transaction()?;
            tx.execute("DELETE FROM _syncline_device", [])?;
            for (n, d) in devices.iter().enumerate() {
                tx.execute(
                    "INSERT INTO _syncline_device(n, device_id, name, platform, app_version, last_seen, revoked) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    rusqlite::params![n as i64, d.device_id, d.name, d.platform, d.app_version, d.last_seen, d.revoked],
                )?;
            }
            for (name, value) in [("devices_at", now_ms()), ("devices_unnamed", unnamed(&tx)?)] {
                tx.execute("INSERT INTO _syncline_meta(name, value) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = excluded.value", (name, value))?;
            }
            tx.commit()
        })
    }
}

/// Counts the writers in the journal that are of no device in the list: of one that enrolled since, or of another account.
fn unnamed(conn: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT count(DISTINCT substr(lost_writer, 1, 4)) FROM _syncline_journal
               WHERE lower(substr(hex(lost_writer), 1, 8)) NOT IN (SELECT substr(device_id, -8) FROM _syncline_device)";
    conn.query_row(sql, [], |r| r.get(0))
}
