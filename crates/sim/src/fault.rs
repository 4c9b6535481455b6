//! What can go wrong in a history, by name. Each seed switches a random subset on.

use crate::rng::Rng;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Something that goes wrong, or something unusual that people do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        /// All of them, with their names.
        pub const ALL: &[(Fault, &str)] = &[$((Fault::$variant, $name),)*];
    };
}

faults! {
    /// Requests get lost.
    LostRequest = "lost-request",
    /// Answers get lost.
    LostAnswer = "lost-answer",
    /// Requests arrive twice.
    Doubled = "doubled",
    /// Messages overtake each other, and arrive after their sender gave up.
    Delayed = "delayed",
    /// Pages of a few hundred bytes.
    Pages = "pages",
    /// Bundles of a few rows.
    Bundles = "bundles",
    /// Devices lose power at any write.
    CrashDevice = "crash-device",
    /// The authority loses power at any write.
    CrashServer = "crash-server",
    /// Clocks that are seconds to decades off.
    Clocks = "clocks",
    /// A device joins late, with rows of its own.
    Late = "late",
    /// A device never writes.
    Passive = "passive",
    /// Programs write the authority's tables in plain SQL.
    ServerSql = "server-sql",
    /// The operator's trigger refuses some rows.
    Rule = "rule",
    /// Rows of several devices want the same unique value.
    Unique = "unique",
    /// Foreign keys break: parents go, children point at nothing.
    ForeignKey = "foreign-key",
    /// Edits that are right alone break a CHECK together.
    Check = "check",
    /// Devices read everything anew.
    Resync = "resync",
    /// Two processes sync one database.
    TwoProcesses = "two-processes",
    /// Rows are deleted, and inserted again.
    Delete = "delete",
    /// INSERT OR REPLACE and UPDATE OR REPLACE.
    Replace = "replace",
    /// Keys change.
    Rekey = "rekey",
    /// Devices give different rows the same integer key.
    KeyCollision = "key-collision",
    /// The app rebuilds a table, which drops its triggers.
    Rebuild = "rebuild",
    /// A device's database is put back from a backup.
    Backup = "backup",
    /// A device's database is copied to a second device.
    Copy = "copy",
    /// The authority's database is put back from a backup, and nobody says so.
    ServerBackup = "server-backup",
    /// The authority collects tombstones.
    Collect = "collect",
}

/// A set of faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults(u32);

impl Faults {
    /// Returns the set of the named faults; fails with the unknown name.
    pub fn parse(names: &str) -> Result<Faults, String> {
        let mut set = Faults::default();
        for name in names.split(',').filter(|n| !n.is_empty() && *n != "none") {
            match ALL.iter().find(|f| f.1 == name) {
                Some((fault, _)) => set.insert(*fault),
                None => return Err(format!("there is no fault `{name}`; there are {}", names_of(&Faults::all()))),
            }
        }
        Ok(set)
    }
    /// Returns all of them.
    pub fn all() -> Faults {
        let mut set = Faults::default();
        ALL.iter().for_each(|f| set.insert(f.0));
        set
    }
    /// Picks a random subset: sometimes few, so that each fault is also met nearly alone, sometimes many.
    pub fn swarm(self, rng: &mut Rng) -> Faults {
        let percent = *rng.pick(&[15, 30, 50, 70]);
        let mut set = Faults::default();
        for (fault, _) in ALL {
            if rng.chance(percent) && self.has(*fault) {
                set.insert(*fault);
            }
        }
        set
    }
    /// Whether a fault is in.
    pub fn has(self, fault: Fault) -> bool {
        self.0 >> fault as u32 & 1 == 1
    }
    /// Whether any of several is in.
    pub fn any(self, faults: &[Fault]) -> bool {
        faults.iter().any(|f| self.has(*f))
    }
    /// Returns the set without some.
    pub fn without(self, faults: &[Fault]) -> Faults {
        Faults(faults.iter().fold(self.0, |set, f| set & !(1 << *f as u32)))
    }
    fn insert(&mut self, fault: Fault) {
        self.0 |= 1 << fault as u32;
    }
}

/// Names the faults of a set.
pub fn names_of(set: &Faults) -> String {
    let names: Vec<&str> = ALL.iter().filter(|f| set.has(f.0)).map(|f| f.1).collect();
    if names.is_empty() { "none".into() } else { names.join(",") }
}
