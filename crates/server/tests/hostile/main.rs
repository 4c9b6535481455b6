//! Requests that no honest device sends, over a real socket, to the real engine. Each gets its documented code and changes
//! nothing; after each the server answers an honest sync.

mod bed;
mod memory;

use bed::*;
use syncline::identity::Identity;
use syncline_core::schema::{ColumnDef, ForeignKey, Generated, IndexDef, IndexPart, TableDef};
use syncline_core::*;

#[test]
fn bytes_that_are_no_request_are_refused() {
    let (server, mut anna, _) = Server::start();
    let good = frame::encode(&anna.asking()).unwrap();
    let wrong_types = frame::encode(&("one", 2, [0u8; 3])).unwrap();
    let nested = [&b"\x00"[..], &[0x91; 100_000]].concat();
    for bad in
        [&b""[..], b"\x00", b"\x00\xc0", b"\x00\xc1", b"\x00\xdd\xff\xff\xff\xff", b"\x09abc", b"\x01abc", &good[..good.len() - 1], &wrong_types, &nested]
    {
        server.hostile(&mut anna, |anna| server.post(anna, MSGPACK, bad)).refused(400, "bad_request");
    }
    for bad in ["", "null", "{", "[]", "{\"version\":1}", "{\"version\":-1}", "\u{0}", "{\"version\":1,\"version\":1}"] {
        server.hostile(&mut anna, |anna| server.post(anna, JSON, bad.as_bytes())).refused(400, "bad_request");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    server.hostile(&mut anna, |anna| server.post(anna, JSON, deep.as_bytes())).refused(413, "too_large");
    let tagged = format!("{}1", "{\"blob\":".repeat(60));
    server.hostile(&mut anna, |anna| server.post(anna, JSON, tagged.as_bytes())).refused(400, "bad_request");
}

#[test]
fn json_of_the_wrong_shape_is_refused_wherever_it_is_wrong() {
    let (server, mut anna, _) = Server::start();
    let good = serde_json::to_value(anna.pushing(note("n", now_ms()))).unwrap();
    let nils = serde_json::json!([null, [null, [null]]]);
    for path in ["/scopes", "/scopes/0/source", "/scopes/0/push/rows", "/scopes/0/push/rows/rows", "/scopes/0/push/rows/rows/0/state"] {
        for wrong in [nils.clone(), (-1).into(), "zz".into()] {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = wrong;
            server.hostile(&mut anna, |anna| server.post(anna, JSON, &serde_json::to_vec(&bad).unwrap())).refused(400, "bad_request");
        }
    }
}

#[test]
fn bearers_that_are_missing_forged_or_of_another_history_are_unauthorized() {
    let (server, mut anna, bert) = Server::start();
    let body = frame::encode(&anna.pushing(note("n", now_ms()))).unwrap();
    let good = anna.bearer();
    let parts: Vec<&str> = good.split('.').collect();
    let forged = [
        String::new(),
        "v1".into(),
        good.replace("v1.", "v2."),
        format!("{good}.x"),
        // Bert's signature under anna's id, a later end, a signature of nothing, a device that is not there.
        format!("v1.{}.{}.{}", parts[1], parts[2], bert.bearer().split('.').nth(3).unwrap()),
        format!("v1.{}.{}.{}", parts[1], parts[2].parse::<i64>().unwrap() + 1, parts[3]),
        format!("v1.{}.{}.{}", parts[1], parts[2], "A".repeat(86)),
        format!("v1.{}.{}.{}", "00".repeat(16), parts[2], parts[3]),
        format!("v1.{}.{}.{}", parts[1], i64::MAX, parts[3]),
        anna.identity.bearer(HistoryId([1; 16]), now_ms() / 1000),
        anna.identity.bearer(anna.history, now_ms() / 1000 - 86_400),
        anna.identity.bearer(anna.history, now_ms() / 1000 + 86_400),
    ];
    for bearer in forged {
        let header = format!("Bearer {bearer}");
        server
            .hostile(&mut anna, |_| server.send("POST", "/v1/sync", &[("authorization", &header), ("content-type", MSGPACK)], &body))
            .refused(401, "unauthorized");
    }
    server.hostile(&mut anna, |_| server.send("POST", "/v1/sync", &[("content-type", MSGPACK)], &body)).refused(401, "unauthorized");
}

#[test]
fn a_revoked_device_is_told_so_and_commits_nothing() {
    let (mut server, mut anna, _) = Server::start();
    let mut lost = server.enrolled("anna", None);
    server.survives(&mut lost);
    let path = format!("/v1/devices/{}", lost.identity.device_id());
    let bearer = format!("Bearer {}", anna.bearer());
    assert_eq!(server.send("DELETE", &path, &[("authorization", &bearer)], b"").status, 200);
    server.hostile(&mut anna, |_| server.sync(&lost, &lost.pushing(note("n", now_ms())))).refused(403, "device_revoked");
}

#[test]
fn a_foreign_scope_answers_byte_for_byte_like_one_that_does_not_exist() {
    let (server, mut anna, bert) = Server::start();
    let ask = |scope: &str, push: bool| {
        let mut request = if push { bert.pushing(note("n", now_ms())) } else { bert.asking() };
        request.scopes[0].scope = ScopeId(scope.into());
        request
    };
    for push in [false, true] {
        let foreign = server.hostile(&mut anna, |_| server.sync(&bert, &ask("anna", push)));
        let absent = server.hostile(&mut anna, |_| server.sync(&bert, &ask("nobody", push)));
        foreign.refused(403, "forbidden");
        // All but the date.
        let undated = |head: &str| head.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!((&foreign.body, undated(&foreign.head)), (&absent.body, undated(&absent.head)));
    }
    let bearer = format!("Bearer {}", bert.bearer());
    let get = |path: &str| server.send("GET", path, &[("authorization", &bearer)], b"");
    let (foreign, absent) = (get("/v1/scopes/anna/changes"), get("/v1/scopes/nobody/changes"));
    foreign.refused(403, "forbidden");
    assert_eq!(foreign.body, absent.body);
    // Bert does not revoke anna's device either, nor learn that there is one.
    let delete = |id: DeviceId| server.send("DELETE", &format!("/v1/devices/{id}"), &[("authorization", &bearer)], b"");
    let (foreign, absent) = (delete(anna.identity.device_id()), delete(DeviceId([0; 16])));
    foreign.refused(403, "forbidden");
    assert_eq!(foreign.body, absent.body);
    server.survives(&mut anna);
}

#[test]
fn a_scope_or_a_row_twice_is_refused() {
    let (server, mut anna, _) = Server::start();
    let twice = |request: SyncRequest| SyncRequest { scopes: [request.scopes.clone(), request.scopes].concat(), ..request };
    server.hostile(&mut anna, |anna| server.sync(anna, &twice(anna.pushing(note("n", now_ms()))))).refused(400, "bad_request");
    let row = written(Key::encode(&[Value::text("n")]));
    server.push(&mut anna, rows("note", vec![row.clone(), row.clone()])).refused(400, "bad_request");
    // The same table under two numbers is still the same table.
    let mut both = rows("note", vec![row.clone(), DeltaRow { table: 1, ..row }]);
    both.tables.push(TableRef { name: "NOTE".into(), columns: vec!["body".into()] });
    server.push(&mut anna, both).refused(400, "bad_request");
}

#[test]
fn keys_that_are_none_of_the_table_are_refused() {
    let (server, mut anna, _) = Server::start();
    let (one, nil) = (Value::Int(1), Value::Null);
    for key in [vec![], vec![one.clone()], vec![one.clone(); 3], vec![one.clone(); 5_000], vec![one.clone(), nil.clone()], vec![nil.clone(), one]] {
        server.push(&mut anna, rows("pair", vec![written(Key::encode(&key))])).refused(400, "bad_request");
    }
    server.push(&mut anna, rows("note", vec![written(Key::encode(&[nil]))])).refused(400, "bad_request");
    // Not the one encoding: an integer with a leading zero, a length that takes two bytes, a UUID as text, half a key, no key.
    let long = b"\x30\x81\x00a".to_vec();
    let uuid = [&b"\x30\x24"[..], b"123e4567-e89b-12d3-a456-426614174000"].concat();
    for bytes in [vec![0x12, 0, 1], long, uuid, vec![0x30, 9, b'a'], vec![0x18], vec![0x31, 1], vec![0xff; 40]] {
        server.push(&mut anna, rows("note", vec![written(Key(bytes))])).refused(400, "bad_request");
    }
}

#[test]
fn a_key_that_is_not_a_number_is_refused_since_it_would_be_null() {
    let (server, mut anna, _) = Server::start();
    for nan in [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001)] {
        let key = Key([&[0x20], &nan.to_bits().to_be_bytes()[..]].concat());
        server.push(&mut anna, rows("measure", vec![written(key)])).refused(400, "bad_request");
    }
}

#[test]
fn a_row_above_the_limit_is_parked_whether_value_or_key_is_large() {
    let (server, mut anna, _) = Server::start();
    let large = RowState::inserted(stamp(now_ms()), vec![Value::Text(vec![b'a'; MIB])]);
    let refused = server.push(&mut anna, rows("note", vec![inserted(Key::encode(&[Value::text("n")]), &large)])).rejected();
    assert_eq!((refused.len(), refused[0].reason), (1, Reason::TooLarge));
    let refused = server.push(&mut anna, rows("blobs", vec![written(Key::encode(&[Value::Blob(vec![1; MIB])]))])).rejected();
    assert_eq!((refused.len(), refused[0].reason), (1, Reason::TooLarge));
}

#[test]
fn refusals_bring_no_more_of_the_server_s_rows_than_a_page() {
    let (server, mut anna, _) = Server::start();
    let large = |n: i64| RowState::inserted(stamp(now_ms()), vec![Value::Text(vec![b'a'; MIB - 100 + n as usize])]);
    let row = |n: i64| inserted(Key::encode(&[Value::text(format!("large {n}"))]), &large(n));
    anna.sent += 1;
    let mut request = anna.pushing(rows("note", (0..12).map(row).collect()));
    request.scopes[0].push.as_mut().unwrap().id = BundleId(anna.sent);
    assert!(matches!(server.sync(&anna, &request).scope().outcome, Some(Outcome::Committed(_))));
    let small = |n: i64| written(Key::encode(&[Value::text(format!("large {n}"))]));
    let mut pushed = rows("note", (0..12).map(small).collect());
    pushed.tables[0].columns[0] = "absent".into();
    let Some(Outcome::Rejected { rows, total }) = server.push(&mut anna, pushed).scope().outcome else { panic!("not rejected") };
    let bytes: usize = rows.iter().flat_map(|r| r.server_row.iter().flat_map(|row| row.values())).map(Value::size).sum();
    assert_eq!(total, 12);
    assert!(!rows.is_empty() && bytes > MIB && bytes <= 5 * MIB, "{bytes} bytes in {} rows", rows.len());
}

#[test]
fn a_state_above_the_limit_is_parked() {
    let (server, mut anna, _) = Server::start();
    let mut state = RowState::inserted(stamp(now_ms()), vec![Value::text("text")]);
    state.live[0].births = (0..150_000).map(|n| Stamp { hlc: Hlc(n), writer: WRITER }).collect();
    let row = inserted(Key::encode(&[Value::text("n")]), &state);
    assert!(row.state.len() > MIB);
    let refused = server.push(&mut anna, rows("note", vec![row])).rejected();
    assert_eq!((refused.len(), refused[0].reason), (1, Reason::TooLarge));
}

const SQL_NAMES: [&str; 6] = ["note\"; DROP TABLE note; --", "note'; DELETE FROM note; --", "_syncline_row", "sqlite_schema", "", "main.note"];

#[test]
fn tables_and_columns_that_are_sql_are_only_unknown_names() {
    let (server, mut anna, _) = Server::start();
    for name in SQL_NAMES.into_iter().chain(["absent"]) {
        server.push(&mut anna, rows(name, vec![written(Key::encode(&[Value::text("n")]))])).refused(409, "schema_behind");
        if name.is_empty() {
            continue;
        }
        let mut pushed = rows("note", vec![written(Key::encode(&[Value::text("n")]))]);
        pushed.tables[0].columns[0] = name.into();
        let refused = server.push(&mut anna, pushed).rejected();
        assert_eq!((refused.len(), refused[0].reason), (1, Reason::Rule));
        assert!(refused[0].message.contains(name));
    }
}

#[test]
fn numbers_beyond_their_dictionaries_are_refused() {
    let (server, mut anna, _) = Server::start();
    let row = written(Key::encode(&[Value::text("n")]));
    server.push(&mut anna, rows("note", vec![DeltaRow { table: u32::MAX, ..row.clone() }])).refused(400, "bad_request");
    let unnamed = Rows { tables: vec![TableRef { name: "note".into(), columns: vec![] }], ..rows("note", vec![row.clone()]) };
    server.push(&mut anna, unnamed).refused(400, "bad_request");
    server.push(&mut anna, Rows { writers: vec![], ..rows("note", vec![row.clone()]) }).refused(400, "bad_request");
    for values in [vec![], vec![Value::Null; 2]] {
        server.push(&mut anna, rows("note", vec![DeltaRow { values, ..row.clone() }])).refused(400, "bad_request");
    }
    // A plain state of 2,000 and of 2^60 columns; column 1,999 and 2,047 of a state that is not plain; half a state; none.
    let plain = |count: &[u8]| [&row.state[..10], count].concat();
    let late = |words: u8, last: &[u8]| [&[1, 1], &row.state[1..9], &[0, 1, 0, 1, 0, 1, 0, 0, 1, 0, words, 0], &vec![0; words as usize - 1][..], last].concat();
    let top = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1];
    let states = [
        plain(&[0xd0, 0x0f]),
        plain(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]),
        late(31, &[0x80, 0x80, 1]),
        late(31, &top),
        late(32, &top),
        late(33, &top),
        row.state[..5].to_vec(),
        vec![],
        vec![1],
        vec![0xff; 40],
    ];
    for state in states {
        server.push(&mut anna, rows("note", vec![DeltaRow { state, ..row.clone() }])).refused(400, "bad_request");
    }
}

#[test]
fn states_that_no_device_comes_to_are_refused() {
    let (server, mut anna, _) = Server::start();
    let other = Stamp { writer: WRITER, hlc: Hlc::from_ms(now_ms() + 1_000) };
    server.push(&mut anna, note_with(|s| s.live[0].stamp = other)).refused(400, "bad_request");
    server.push(&mut anna, note_with(|s| s.cells[0].as_mut().unwrap().stamp = other)).refused(400, "bad_request");
    server.push(&mut anna, note_with(|s| s.ctx = Vv::default())).refused(400, "bad_request");
    let gravestone = |s: &mut RowState| {
        s.delete(stamp(now_ms()), &Policies::default());
        s.collect();
    };
    server.push(&mut anna, note_with(gravestone)).refused(400, "bad_request");
    let flagged = |s: &mut RowState| {
        s.delete(stamp(now_ms()), &Policies::default());
        s.gravestone = true;
    };
    server.push(&mut anna, note_with(flagged)).refused(400, "bad_request");
}

#[test]
fn stamps_from_the_future_are_refused_wherever_they_hide() {
    let (server, mut anna, _) = Server::start();
    let late = [Hlc::from_ms(now_ms() + 10 * 60_000), Hlc(u64::MAX)].map(|hlc| Stamp { hlc, writer: WRITER });
    for late in late {
        server.push(&mut anna, note("n", late.hlc.ms())).refused(409, "clock_ahead");
        server.push(&mut anna, note_with(|s| s.ctx.see(late))).refused(409, "clock_ahead");
        // A ground from the future would keep the key dead for ever.
        server.push(&mut anna, note_with(|s| s.ground.see(late))).refused(409, "clock_ahead");
        server.push(&mut anna, note_with(|s| s.live[0].births.push(late))).refused(409, "clock_ahead");
    }
}

#[test]
fn bundles_out_of_order_are_told_so_and_commit_nothing() {
    let (server, mut anna, _) = Server::start();
    let named = |anna: &Device, id: u64, nonce: u64, attempt: u64| {
        let mut request = anna.pushing(note("n", now_ms()));
        let push = request.scopes[0].push.as_mut().unwrap();
        (push.id, push.nonce, push.attempt) = (BundleId(id), Nonce(nonce), attempt);
        request
    };
    server.hostile(&mut anna, |anna| server.sync(anna, &named(anna, 0, 1, 1))).refused(400, "bad_request");
    for beyond in [2, 1_000, i64::MAX as u64, u64::MAX - 10] {
        let answer = server.hostile(&mut anna, |anna| server.sync(anna, &named(anna, anna.sent.saturating_add(beyond), 1, 1)));
        assert_eq!(answer.scope().outcome, Some(Outcome::Gap));
    }
    // Again under another nonce: what was committed then, and nothing now.
    let sent = anna.sent;
    let recorded = server.sync(&anna, &anna.asking()).scope().watermark.unwrap();
    let answer = server.hostile(&mut anna, |anna| server.sync(anna, &named(anna, sent, 4_711, 9)));
    assert_eq!(answer.scope().outcome, Some(Outcome::Committed(recorded)));
    // A later attempt that is refused row by row is seen all the same; an earlier one is then late.
    let mut refused = named(&anna, anna.sent + 1, 5, u64::MAX);
    refused.scopes[0].push.as_mut().unwrap().rows.tables[0].columns[0] = "absent".into();
    assert_eq!(server.sync(&anna, &refused).rejected().len(), 1);
    for attempt in [0, 1 << 63, u64::MAX - 1] {
        assert_eq!(server.sync(&anna, &named(&anna, anna.sent + 1, 5, attempt)).scope().outcome, Some(Outcome::StaleAttempt));
    }
    let empty = Push { id: BundleId(1), rows: rows("note", vec![]), ..Default::default() };
    let mut request = anna.asking();
    request.scopes[0].source = SourceId([9; 16]);
    request.scopes[0].push = Some(empty);
    server.sync(&anna, &request).refused(400, "bad_request");
}

#[test]
fn absurd_pages_are_answered_and_those_of_another_past_are_void() {
    let (server, mut anna, _) = Server::start();
    let delta = server.sync(&anna, &anna.asking()).scope().delta.unwrap();
    let page = |from: u64, seq: u64, table: u64, key: Vec<u8>, head: Seq, chain: Chain| PageRequest {
        from: Seq(from),
        after: Position { seq: Seq(seq), table, key: Key(key) },
        head,
        chain,
        began: head,
    };
    let ask = |anna: &Device, page: PageRequest, hydrate: bool| {
        let mut request = anna.asking();
        (request.scopes[0].page, request.scopes[0].page_bytes, request.scopes[0].hydrate) = (Some(page), u64::MAX, hydrate);
        server.sync(anna, &request)
    };
    for number in [0, 1, i64::MAX as u64, 1 << 63, u64::MAX] {
        for key in [vec![], vec![0xff; 6 * MIB]] {
            for (from, seq, table) in [(number, 0, 0), (0, number, 0), (0, 0, number), (number, number, number)] {
                let answer = ask(&anna, page(from, seq, table, key.clone(), delta.to, delta.chain), from == 0).scope();
                assert!(!answer.stage_void && answer.delta.is_some_and(|d| d.to >= delta.to));
            }
        }
        let answer = server.hostile(&mut anna, |anna| ask(anna, page(0, number, number, vec![], Seq(number), Chain([1; 16])), true)).scope();
        assert!(answer.stage_void && answer.delta.is_none());
    }
    let answer = ask(&anna, page(0, 0, 0, vec![], Seq(delta.to.0 + 100), delta.chain), false).scope();
    assert!(answer.stage_void && answer.delta.is_none());
}

#[test]
fn a_past_that_never_was_changes_the_answer_and_nothing_else() {
    let (server, mut anna, _) = Server::start();
    let delta = server.sync(&anna, &anna.asking()).scope().delta.unwrap();
    let recorded = server.sync(&anna, &anna.asking()).scope().watermark.unwrap();
    let cursor = Cursor { history: anna.history, seq: delta.to, chain: delta.chain };
    let with = |anna: &Device, make: &dyn Fn(&mut ScopeRequest)| {
        let mut request = anna.pushing(note("n", now_ms()));
        make(&mut request.scopes[0]);
        server.sync(anna, &request)
    };
    #[allow(clippy::type_complexity)]
    let lies: Vec<Box<dyn Fn(&mut ScopeRequest)>> = vec![
        Box::new(|s| s.acked = vec![Acked { id: BundleId(u64::MAX), ..recorded }]),
        Box::new(|s| s.acked = vec![recorded, Acked { nonce: Nonce(recorded.nonce.0 + 1), ..recorded }]),
        Box::new(|s| s.acked = vec![Acked { seq: Seq(u64::MAX), ..recorded }]),
        Box::new(|s| s.acked = vec![Acked { source: SourceId([1; 16]), ..recorded }]),
        Box::new(|s| s.cursor = Some(Cursor { seq: Seq(u64::MAX), ..cursor })),
        Box::new(|s| s.cursor = Some(Cursor { chain: Chain([1; 16]), ..cursor })),
        Box::new(|s| s.cursor = Some(Cursor { history: HistoryId([1; 16]), ..cursor })),
        Box::new(|s| {
            s.cursor = Some(Cursor { seq: Seq(0), ..cursor });
            s.checkpoints = vec![(Seq(u64::MAX), cursor.chain); 100_000];
        }),
    ];
    for lie in lies {
        let answer = server.hostile(&mut anna, |anna| with(anna, &lie)).scope();
        assert_eq!((answer.history_changed, answer.outcome, answer.delta), (Some(Seq(0)), None, None));
    }
    // With a checkpoint that is true, that point is named.
    let answer = server.hostile(&mut anna, |anna| {
        with(anna, &|s| {
            s.acked = vec![Acked { id: BundleId(u64::MAX), ..recorded }];
            s.checkpoints = vec![(Seq(u64::MAX), cursor.chain), (cursor.seq, cursor.chain)];
        })
    });
    assert_eq!(answer.scope().history_changed, Some(cursor.seq));
}

#[test]
fn an_enrolment_with_a_hostile_schema_makes_nothing() {
    let (mut server, mut anna, _) = Server::start();
    let t = || table("extra", &["id"], &[("id", "TEXT"), ("body", "TEXT")]);
    let typed = |text: &str| table("extra", &["id"], &[("id", "TEXT"), ("body", text)]);
    let mut schemas: Vec<(String, TableDef)> = Vec::new();
    for name in ["_syncline_row", "sqlite_schema", "", "syncline_x", "nul\0", &"n".repeat(2_000)] {
        schemas.push((format!("table {name:?}"), TableDef { name: name.into(), ..t() }));
    }
    for text in ["TEXT); DROP TABLE note; --", "TEXT DEFAULT (1)", "TEXT, other TEXT", "TEXT REFERENCES note", "INT(1", "T\"X", "TEXT/**/"] {
        schemas.push((format!("type {text}"), typed(text)));
    }
    let deep = [format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000)), format!("{}1", "- ".repeat(100_000)), format!("1{}", " + 1".repeat(100_000))];
    let nots = format!("{}1", "NOT ".repeat(100_000));
    let cases = format!("{}1{}", "CASE WHEN 1 THEN ".repeat(50_000), " END".repeat(50_000));
    let texts = [
        "1); DROP TABLE note; --",
        "(SELECT count(*) FROM note)",
        "EXISTS (SELECT 1 FROM _syncline_token)",
        "?1",
        "id IN note",
        "1 -- a comment",
        "absent = 1",
        "main.note.body = 1",
        "RAISE(ABORT, 'x')",
        "load_extension('x')",
        "",
        "1, 2",
    ];
    for text in texts.into_iter().chain(deep.iter().map(String::as_str)).chain([&*nots, &*cases]) {
        let shown: String = text.chars().take(40).collect();
        schemas.push((format!("check {shown}"), TableDef { checks: vec![text.into()], ..t() }));
        let mut with = t();
        with.columns[1].default = Some(text.into());
        schemas.push((format!("default {shown}"), with));
        let mut with = t();
        with.columns.push(ColumnDef { generated: Some(Generated { expr: text.into(), stored: false }), ..column("made", "TEXT") });
        schemas.push((format!("generated {shown}"), with));
        let parts = vec![IndexPart { column: Some("body".into()), ..Default::default() }];
        let index = IndexDef { name: "extra_i".into(), unique: false, parts, filter: Some(text.into()) };
        schemas.push((format!("filter {shown}"), TableDef { indexes: vec![index], ..t() }));
    }
    let mut collated = t();
    collated.columns[1].collate = Some("NOCASE); DROP TABLE note; --".into());
    schemas.push(("collation".into(), collated));
    schemas.push(("no key".into(), TableDef { primary_key: vec![], ..t() }));
    let wide: Vec<(String, &str)> = (0..5_000).map(|i| (format!("c{i}"), "TEXT")).collect();
    let wide: Vec<(&str, &str)> = wide.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
    schemas.push(("columns".into(), table("extra", &["c0"], &wide)));
    let far = ForeignKey { columns: vec!["body".into()], table: "_syncline_token".into(), ..Default::default() };
    schemas.push(("foreign key".into(), TableDef { foreign_keys: vec![far], ..t() }));

    let identity = Identity::create(&server.dir.path().join("home")).unwrap();
    let token = server.token("anna");
    for (what, def) in schemas {
        let request = enrolment(&token, &identity, Some(Schema { version: 2, tables: vec![def] }));
        let before = server.dump();
        let answer = server.enrol(&request);
        assert_eq!(answer.status, 400, "{what}: {}", String::from_utf8_lossy(&answer.body));
        answer.refused(400, "bad_request");
        assert!(server.dump() == before, "{what}");
    }
    server.survives(&mut anna);
    // A name is a name: quoted, this one is a table like any other, and the token is still good for it.
    let def = TableDef { name: SQL_NAMES[0].into(), ..t() };
    assert_eq!(server.enrol(&enrolment(&token, &identity, Some(Schema { version: 2, tables: vec![def] }))).status, 200);
    server.survives(&mut anna);
    let row = written(Key::encode(&[Value::text("n")]));
    assert!(matches!(server.sync(&anna, &anna.pushing(rows(SQL_NAMES[0], vec![row]))).scope().outcome, Some(Outcome::Committed(_))));
    anna.sent += 1;
    server.survives(&mut anna);
}
