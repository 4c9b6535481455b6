//! What merging costs under each policy, and what each adds to the file.

use super::Amount;
use super::bed::{cpu, file_bytes, temp_dir};
use super::row::{Clock, Row};
use std::hint::black_box;
use syncline::{Database, Options, SyncOptions};
use syncline_core::{ColSet, Hlc, Policies, Policy, RowState, Stamp, Value, WriterId};
use syncline_replica::config::Config;

/// The column's declaration, its first value, and what one device and the other write. (`_` in the second is the row's number.)
fn story(policy: Policy) -> (&'static str, Value, Value, Value) {
    match policy {
        Policy::Counter => ("INTEGER", Value::Int(5), Value::Int(8), Value::Int(9)),
        Policy::Max | Policy::Min => ("INTEGER", Value::Int(5), Value::Int(8), Value::Int(2)),
        Policy::Set | Policy::GSet => ("TEXT", Value::text(r#"["new","vip"]"#), Value::text(r#"["new","vip","hot"]"#), Value::text(r#"["vip"]"#)),
        _ => ("TEXT", Value::text("Call Bob on Monday."), Value::text("Call Bob on Tuesday."), Value::text("Call Bob and Eve on Monday.")),
    }
}

/// Rows of one text column each, edited on two devices: their states are merged, one pair after another.
pub fn measure(amount: Amount) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut plain = f64::NAN;
    for (word, policy) in Policy::ALL {
        let policies = Policies::new(vec![policy], vec![], false);
        let (_, first, one, other) = story(policy);
        let born = Stamp { hlc: Hlc::from_ms(1_000), writer: WriterId([1; 16]) };
        let row = RowState::inserted(born, vec![first.clone()]);
        let edited = |writer: u8, value: &Value| {
            let mut state = row.clone();
            let stamp = Stamp { hlc: Hlc::from_ms(2_000 + i64::from(writer)), writer: WriterId([writer; 16]) };
            state.write_as(&policies, 0, stamp, value.clone(), Some(&first), None);
            state.edit(stamp);
            state
        };
        let (a, b) = (edited(2, &one), edited(3, &other));
        let mask = ColSet::all(1);
        // A text is put together anew with each merge; the others are compared.
        let n = if policy == Policy::Text { amount.rows / 20 } else { amount.rows };
        let mut least = f64::INFINITY;
        for _ in 0..amount.runs {
            let (seconds, ()) = cpu(|| {
                for _ in 0..n {
                    let mut state = black_box(&a).clone();
                    black_box(state.merge(black_box(&b), &mask, &policies));
                }
                anyhow::Ok(())
            })?;
            least = least.min(seconds);
        }
        let speed = n as f64 / least;
        if policy == Policy::Lww {
            plain = speed;
        }
        rows.push(Row::new(format!("merging two concurrent edits of a row, `{word}`"), Clock::Cpu, speed, "rows/s").against(plain, "lww"));
    }
    rows.extend(sizes(amount)?);
    Ok(rows)
}

/// The file after every row was edited once.
fn sizes(amount: Amount) -> anyhow::Result<Vec<Row>> {
    let dir = temp_dir()?;
    let n = amount.rows / 10;
    let mut rows = Vec::new();
    let mut plain = f64::NAN;
    for (word, policy) in Policy::ALL {
        let path = dir.path().join(format!("{word}.db"));
        let (declared, first, one, _) = story(policy);
        let conn = rusqlite::Connection::open(&path)?;
        conn.execute_batch(&format!("CREATE TABLE t(id INTEGER PRIMARY KEY, v {declared})"))?;
        let config = Config::parse(&format!("[table.t]\ncolumns = {{ v = '{word}' }}"))?;
        Database::init(&path, &SyncOptions { config, integer_keys: Some(syncline_core::schema::IntegerKeys::App), ..SyncOptions::default() })?;
        let db = Database::open(&path, Options::default())?;
        let value = |v: &Value| if let Value::Int(n) = v { n.to_string() } else { format!("'{}'", v.as_str().unwrap_or_default()) };
        conn.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n}) INSERT INTO t SELECT i, {} FROM n",
            value(&first)
        ))?;
        db.absorb()?;
        conn.execute_batch(&format!("UPDATE t SET v = {}", value(&one)))?;
        db.absorb()?;
        conn.execute_batch("VACUUM")?;
        drop(conn);
        let bytes = file_bytes(&path)? / n as f64;
        if policy == Policy::Lww {
            plain = bytes;
        }
        rows.push(Row::new(format!("file per row after one edit of each of {n}, `{word}`"), Clock::Count, bytes, "bytes").against(plain, "lww"));
    }
    Ok(rows)
}
