//! The programs that write a database: random statements in plain SQL, with no Syncline code in them.

use crate::fault::{Fault, Faults};
use crate::rng::Rng;
use crate::schema::{Kind, Table, Variant};
use crate::tables::{At, Tables, Written};
use rusqlite::{Connection, ToSql};
use syncline_core::schema::quote;
use syncline_core::{Key, Value, elements};
use syncline_replica::bind::Bind;

/// Who writes, and what it may do.
pub struct Author<'a> {
    /// The tables.
    pub variant: &'static Variant,
    /// What it may do.
    pub faults: Faults,
    /// Where its integer keys begin.
    pub range: i64,
    /// Whether it writes the authority's tables, whose keys lead with the scope.
    pub at_server: bool,
    /// Draws.
    pub rng: &'a mut Rng,
    /// Counts what must be unique.
    pub counter: &'a mut i64,
}

/// What became of a transaction.
pub enum Fate {
    /// COMMIT returned.
    Acknowledged,
    /// Rolled back, on purpose or by a constraint at COMMIT.
    Undone,
    /// COMMIT failed because the power went: it may be there or not.
    InDoubt(Box<Written>),
    /// The power went before COMMIT: it must not be there.
    Cut,
}

/// A statement, and what it says that it writes.
struct Statement {
    sql: String,
    values: Vec<Value>,
    named: Option<(At, Vec<usize>)>,
}

impl Author<'_> {
    /// Runs one transaction of a few statements on a connection, and notes what it did once it is acknowledged.
    pub fn transact(&mut self, conn: &Connection, written: &mut Written, trace: &dyn Fn(&dyn Fn() -> String)) -> Fate {
        let count = 1 + self.rng.weighted(&[55, 20, 15, 10]);
        let marks = if count > 1 || self.rng.chance(20) { 2 + self.rng.index(2) } else { 0 };
        let mut draft = written.clone();
        let run = |sql: &str| conn.execute_batch(sql);
        if run("BEGIN IMMEDIATE").is_err() {
            return Fate::Cut;
        }
        for _ in 0..count {
            let Some(s) = self.statement(&draft.now) else { continue };
            let binds: Vec<Bind> = s.values.iter().map(Bind).collect();
            let params: Vec<&dyn ToSql> = binds.iter().map(|b| b as &dyn ToSql).collect();
            let result = conn.prepare_cached(&s.sql).and_then(|mut q| q.execute(&params[..]));
            trace(&|| format!("  {} {:?} -> {}", s.sql, s.values, result.as_ref().map_or_else(ToString::to_string, ToString::to_string)));
            let named = match &result {
                Ok(0) => None,
                Ok(_) => s.named.as_ref().map(|(at, columns)| (at, &columns[..])),
                Err(e) if is_constraint(e) => None,
                Err(_) => return Fate::Cut,
            };
            if let Some((at, _)) = named.filter(|_| s.sql.starts_with("INSERT OR REPLACE")) {
                // There the row that is replaced is deleted first, for triggers.
                match conn.pragma_query_value(None, "recursive_triggers", |r| r.get(0)) {
                    Ok(true) => draft.replaces(at),
                    Ok(false) => {}
                    Err(_) => return Fate::Cut,
                }
            }
            match Tables::read(conn, self.variant) {
                Ok(now) => draft.note(now, named),
                Err(_) => return Fate::Cut,
            }
        }
        if marks > 0 {
            *self.counter += 1;
            let tx = *self.counter;
            for i in 0..marks {
                let sql = "INSERT INTO mark(id, tx, n) VALUES(?1, ?2, ?3)";
                let id = format!("{}-{tx}-{i}", self.range);
                let name = format!("{}-{tx}", self.range);
                if conn.prepare_cached(sql).and_then(|mut q| q.execute((&id, &name, marks as i64))).is_err() {
                    return Fate::Cut;
                }
            }
            match Tables::read(conn, self.variant) {
                Ok(now) => draft.note(now, None),
                Err(_) => return Fate::Cut,
            }
        }
        if self.rng.chance(4) {
            return if run("ROLLBACK").is_ok() { Fate::Undone } else { Fate::Cut };
        }
        match run("COMMIT") {
            Ok(()) => {
                *written = draft;
                Fate::Acknowledged
            }
            Err(e) if is_constraint(&e) => {
                if run("ROLLBACK").is_ok() {
                    Fate::Undone
                } else {
                    Fate::Cut
                }
            }
            Err(_) => Fate::InDoubt(Box::new(draft)),
        }
    }

    fn statement(&mut self, now: &Tables) -> Option<Statement> {
        let t = self.rng.index(self.variant.mark());
        let f = |fault, weight| if self.faults.has(fault) { weight } else { 0 };
        let plain = |weight| if self.at_server { 0 } else { weight };
        let weights = [30, 35, f(Fault::Delete, 12), f(Fault::Replace, 8), plain(8), f(Fault::Rekey, 6), f(Fault::Replace, 4), 1, f(Fault::Delete, 1)];
        match self.rng.weighted(&weights) {
            0 => self.insert(t, now, "INSERT", ""),
            1 => self.update(t, now, "UPDATE"),
            2 => self.delete(t, now),
            3 => self.insert(t, now, "INSERT OR REPLACE", ""),
            4 => self.insert(t, now, "INSERT", " ON CONFLICT DO UPDATE SET "),
            5 => self.rekey(t, now),
            6 => self.update(t, now, "UPDATE OR REPLACE"),
            7 => self.same(t, now),
            _ => self.delete_all(t, now),
        }
    }

    fn table(&self, t: usize) -> &'static Table {
        &self.variant.tables[t]
    }

    fn insert(&mut self, t: usize, now: &Tables, verb: &str, conflict: &str) -> Option<Statement> {
        let table = self.table(t);
        let mut key = Vec::new();
        for (_, kind) in table.key {
            key.push(self.value(*kind, now, true)?);
        }
        if conflict.is_empty() && verb == "INSERT" && now.get((t, &Key::encode(&key))).is_some() && self.rng.chance(80) {
            return None;
        }
        let mut values = key.clone();
        let old = now.get((t, &Key::encode(&key))).cloned();
        for (c, (_, kind)) in table.columns.iter().enumerate() {
            let before = old.as_ref().map(|row| row[c].clone());
            values.push(match self.next(*kind, before.as_ref()) {
                Some(value) => value,
                None => self.value(*kind, now, false)?,
            });
        }
        if let [.., lo, hi] = &mut values[..]
            && table.columns.last().is_some_and(|c| c.1 == Kind::Bound)
            && let (Value::Int(a), Value::Int(b)) = (&*lo, &*hi)
            && a > b
        {
            std::mem::swap(lo, hi);
        }
        let names: Vec<String> = table.key.iter().chain(table.columns).map(|c| quote(c.0)).collect();
        let marks = vec!["?"; names.len()].join(", ");
        let mut sql = format!("{verb} INTO {}({}) VALUES({marks})", quote(table.name), names.join(", "));
        let columns: Vec<usize> = (0..table.columns.len()).collect();
        if !conflict.is_empty() {
            if table.columns.is_empty() {
                sql.push_str(" ON CONFLICT DO NOTHING");
            } else {
                let c = quote(table.columns[self.rng.index(table.columns.len())].0);
                sql.push_str(&format!("{conflict}{c} = excluded.{c}"));
            }
        }
        Some(Statement { sql, values, named: Some(((t, Key::encode(&key)), columns)) })
    }

    fn update(&mut self, t: usize, now: &Tables, verb: &str) -> Option<Statement> {
        let table = self.table(t);
        let key = self.existing(t, now)?;
        let mut columns: Vec<usize> = (0..table.columns.len()).filter(|_| self.rng.chance(35)).collect();
        if columns.is_empty() && !table.columns.is_empty() {
            columns.push(self.rng.index(table.columns.len()));
        }
        if columns.is_empty() {
            return None;
        }
        let mut values = Vec::new();
        let old = now.get((t, &key)).cloned();
        for c in &columns {
            let before = old.as_ref().map(|row| row[*c].clone());
            values.push(match self.next(table.columns[*c].1, before.as_ref()) {
                Some(value) => value,
                None => self.value(table.columns[*c].1, now, false)?,
            });
        }
        let set: Vec<String> = columns.iter().map(|c| format!("{} = ?", quote(table.columns[*c].0))).collect();
        let sql = format!("{verb} {} SET {} WHERE {}", quote(table.name), set.join(", "), place(table));
        values.extend(key.decode().ok()?);
        Some(Statement { sql, values, named: Some(((t, key), columns)) })
    }

    fn delete(&mut self, t: usize, now: &Tables) -> Option<Statement> {
        if !self.may_go(t) {
            return None;
        }
        let key = self.existing(t, now)?;
        let sql = format!("DELETE FROM {} WHERE {}", quote(self.table(t).name), place(self.table(t)));
        Some(Statement { sql, values: key.decode().ok()?, named: None })
    }

    fn delete_all(&mut self, t: usize, now: &Tables) -> Option<Statement> {
        if !self.may_go(t) || now.0[t].is_empty() {
            return None;
        }
        Some(Statement { sql: format!("DELETE FROM {}", quote(self.table(t).name)), values: vec![], named: None })
    }

    fn rekey(&mut self, t: usize, now: &Tables) -> Option<Statement> {
        let table = self.table(t);
        if !self.may_go(t) {
            return None;
        }
        let key = self.existing(t, now)?;
        let i = self.rng.index(table.key.len());
        let new = self.value(table.key[i].1, now, true)?;
        let mut moved = key.decode().ok()?;
        moved[i] = new.clone();
        let sql = format!("UPDATE {} SET {} = ? WHERE {}", quote(table.name), quote(table.key[i].0), place(table));
        let mut values = vec![new];
        values.extend(key.decode().ok()?);
        let columns = (0..table.columns.len()).collect();
        Some(Statement { sql, values, named: Some(((t, Key::encode(&moved)), columns)) })
    }

    /// An UPDATE that changes nothing.
    fn same(&mut self, t: usize, now: &Tables) -> Option<Statement> {
        let table = self.table(t);
        let key = self.existing(t, now)?;
        let c = quote(table.columns.first()?.0);
        let sql = format!("UPDATE {} SET {c} = {c} WHERE {}", quote(table.name), place(table));
        Some(Statement { sql, values: key.decode().ok()?, named: None })
    }

    fn existing(&mut self, t: usize, now: &Tables) -> Option<Key> {
        let rows = &now.0[t];
        (!rows.is_empty()).then(|| rows.keys().nth(self.rng.index(rows.len())).cloned())?
    }

    /// Whether rows of a table may vanish: of one that others point at, only where foreign keys are meant to break, or every program
    /// enforces them.
    fn may_go(&self, t: usize) -> bool {
        let points = |k: &Kind| *k == Kind::Ref(t) || *k == Kind::Must(t);
        self.faults.has(Fault::ForeignKey)
            || self.variant.name == "policies"
            || !self.variant.tables.iter().any(|x| x.key.iter().chain(x.columns).any(|c| points(&c.1)))
    }

    /// What a program makes of the value of a column with a policy; `None` for other columns.
    fn next(&mut self, kind: Kind, before: Option<&Value>) -> Option<Value> {
        let rng = &mut *self.rng;
        Some(match kind {
            Kind::Tally => {
                let now = if let Some(Value::Int(n)) = before { *n } else { 0 };
                Value::Int(now + rng.below(9) as i64 - 3)
            }
            Kind::Tags | Kind::Likes => {
                if before.is_none() && rng.chance(20) {
                    return Some(Value::Null);
                }
                let mut all = before.and_then(elements::parse).unwrap_or_default();
                if !all.is_empty() && rng.chance(40) {
                    let i = rng.index(all.len());
                    all.remove(i);
                }
                for _ in 0..rng.below(3) {
                    let e = format!("{}", rng.below(6));
                    if !all.contains(&e) {
                        all.push(e);
                    }
                }
                let text = elements::print(all.iter().map(String::as_str));
                // Programs write JSON in their own ways.
                if rng.chance(30) { Value::text(text.as_str().unwrap_or_default().replace(',', ", ")) } else { text }
            }
            Kind::Top => match rng.below(3) {
                0 => Value::Null,
                1 => Value::Int(rng.below(20) as i64),
                _ => Value::text(format!("2026-01-01T{:02}:00:00{}", rng.below(24), rng.pick(&["Z", "+05:00", ".5-03:00"]))),
            },
            Kind::Low => Value::Int(rng.below(50) as i64 - 25),
            Kind::Prose => {
                let mut words: Vec<String> =
                    before.and_then(Value::as_str).unwrap_or_default().replace('w', " w").split_whitespace().map(str::to_owned).collect();
                if words.len() > 2 && rng.chance(30) {
                    let i = rng.index(words.len());
                    words.remove(i);
                }
                *self.counter += 1;
                let at = rng.index(words.len() + 1);
                words.insert(at, format!("w{}x{}", self.range, self.counter));
                Value::text(words.join(" "))
            }
            Kind::Asked | Kind::Owned => Value::text(format!("v{}", rng.below(1000))),
            _ => return None,
        })
    }

    fn value(&mut self, kind: Kind, now: &Tables, in_key: bool) -> Option<Value> {
        let rng = &mut *self.rng;
        Some(match kind {
            Kind::Any => match rng.below(10) {
                0 => Value::Null,
                1 => Value::Int(rng.below(3) as i64),
                2 => Value::Real(1.0 + rng.below(3) as f64),
                3 => Value::Real(-0.0),
                4 => Value::Int(i64::MIN + rng.below(2) as i64),
                5 => Value::Text(vec![0xff, b'a' + rng.below(3) as u8]),
                6 => Value::Blob(vec![0, 1, rng.below(3) as u8]),
                _ => Value::text(format!("{}", rng.below(4))),
            },
            Kind::Text if rng.chance(15) => Value::Null,
            Kind::Text | Kind::Word => Value::text(format!("t{}", rng.below(1000))),
            Kind::Real => rng
                .pick(&[Value::Null, Value::Real(1.0), Value::Real(0.1), Value::Real(-0.0), Value::Real(f64::MIN_POSITIVE / 4.0), Value::Real(f64::INFINITY)])
                .clone(),
            Kind::Small => Value::Int(rng.below(103) as i64),
            Kind::Bound if self.faults.has(Fault::Check) => Value::Int(rng.below(6) as i64),
            Kind::Bound => Value::Null,
            Kind::Unique if rng.chance(10) => Value::Null,
            Kind::Unique if self.faults.has(Fault::Unique) => Value::text(*rng.pick(&["u0", "u1", "U1", "u2", "u3"])),
            Kind::Unique => {
                *self.counter += 1;
                Value::text(format!("f{}-{}", self.range, self.counter))
            }
            Kind::Ref(t) | Kind::Must(t) => {
                if self.faults.has(Fault::ForeignKey) && rng.chance(50) {
                    let pool = self.variant.tables[t].key[0].1;
                    return self.value(pool, now, true);
                }
                let rows = &now.0[t];
                if rows.is_empty() || (!in_key && kind == Kind::Ref(t) && rng.chance(20)) {
                    return (kind == Kind::Ref(t)).then_some(Value::Null);
                }
                rows.keys().nth(rng.index(rows.len()))?.decode().ok()?.into_iter().next()?
            }
            Kind::Pool(n) => Value::text(format!("k{}", rng.below(n))),
            Kind::Few(n) => Value::Int(rng.below(n as u64) as i64),
            Kind::Range if self.faults.has(Fault::KeyCollision) => Value::Int(5000 + rng.below(3) as i64),
            Kind::Range => Value::Int(self.range + rng.below(4) as i64),
            Kind::Tally | Kind::Tags | Kind::Likes | Kind::Top | Kind::Low | Kind::Prose | Kind::Asked | Kind::Owned => self.next(kind, None)?,
        })
    }
}

fn place(t: &Table) -> String {
    t.key.iter().map(|k| format!("{} = ?", quote(k.0))).collect::<Vec<_>>().join(" AND ")
}

fn is_constraint(e: &rusqlite::Error) -> bool {
    e.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}
