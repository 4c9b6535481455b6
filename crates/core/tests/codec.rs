//! Codecs: what is written is read again; no bytes make a decoder panic or reserve beyond the limits; the formats do not drift.

use proptest::prelude::*;
use syncline_core::ids::hex;
use syncline_core::varint::Reader;
use syncline_core::*;

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_filter("NaN is NULL", |x| !x.is_nan()).prop_map(Value::Real),
        Just(Value::Real(f64::INFINITY)),
        ".{0,12}".prop_map(Value::text),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::Blob),
    ]
}

fn writer(n: u64) -> WriterId {
    WriterId([n as u8 + 1; 16])
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), 0u64..4).prop_map(|(hlc, w)| Stamp { hlc: Hlc(hlc), writer: writer(w) })
}

fn state() -> impl Strategy<Value = RowState> {
    let dot = (stamp(), proptest::collection::btree_set(stamp(), 1..3));
    let cell = proptest::option::of((stamp(), value()));
    let vv = || proptest::collection::vec(stamp(), 0..4).prop_map(|s| s.into_iter().map(|s| (s.writer, s.hlc)).collect::<Vv>());
    (proptest::collection::vec(dot, 0..3), stamp(), vv(), vv(), any::<bool>(), proptest::collection::vec(cell, 0..8)).prop_map(
        |(live, seen, mut ctx, ground, gravestone, cells)| {
            ctx.see(seen);
            let mut live: Vec<Dot> = live.into_iter().map(|(stamp, births)| Dot { stamp, births: births.into_iter().collect() }).collect();
            live.sort();
            live.dedup_by_key(|d| d.stamp);
            let cells = cells.into_iter().map(|c| c.map(|(stamp, value)| Cell { stamp, value })).collect();
            RowState { live, ctx, ground, gravestone, cells, extras: vec![] }
        },
    )
}

fn encode(state: &RowState, mask: &ColSet) -> Vec<u8> {
    state_codec::encode::<()>(state, mask, |w| Ok(u64::from(w.0[0]) - 1)).unwrap()
}

fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    state_codec::decode(bytes, |n| (n < 8).then(|| writer(n)))
}

fn push(state: &RowState) -> SyncRequest {
    let all = ColSet::all(state.cells.len());
    let columns = (0..state.cells.len()).map(|c| format!("c{c}")).collect();
    let values = state.cells.iter().flatten().map(|c| c.value.clone()).collect();
    let row = DeltaRow { table: 0, key: Key::encode(&[Value::text("n1")]), seq: Seq(7), created: Seq(0), state: encode(state, &all), values };
    let rows = Rows { tables: vec![TableRef { name: "note".into(), columns }], writers: (0..4).map(writer).collect(), rows: vec![row] };
    let push = Push { id: BundleId(1), nonce: Nonce(2), attempt: 3, rows, journal: vec![], parts: vec![] };
    let scope = ScopeRequest {
        scope: ScopeId("anna".into()),
        source: SourceId([5; 16]),
        cursor: Some(Cursor { history: HistoryId([6; 16]), seq: Seq(9), chain: Chain([7; 16]) }),
        push: Some(push),
        page_bytes: 4096,
        ..ScopeRequest::default()
    };
    SyncRequest {
        version: VERSION,
        device_time_ms: 1_700_000_000_000,
        fingerprint: Fingerprint([8; 16]),
        queued: 1,
        schema_wanted: true,
        scopes: vec![scope],
        members: 3,
        heads: Heads(vec![1, u32::MAX]),
        schema_version: 1,
    }
}

fn answer(state: &RowState) -> SyncResponse {
    let rows = push(state).scopes.remove(0).push.unwrap().rows;
    let acked = Acked { source: SourceId([5; 16]), id: BundleId(1), nonce: Nonce(2), seq: Seq(10) };
    let delta = Delta { scope: ScopeId("anna".into()), from: Seq(9), to: Seq(10), chain: Chain([9; 16]), digest: u64::MAX, rows, ..Delta::default() };
    let scope = ScopeAnswer {
        scope: ScopeId("anna".into()),
        watermark: Some(acked),
        outcome: Some(Outcome::Committed(acked)),
        delta: Some(delta),
        ..ScopeAnswer::default()
    };
    SyncResponse {
        version: VERSION,
        server_time_ms: 1_700_000_000_001,
        history: HistoryId([6; 16]),
        fingerprint: Fingerprint([8; 16]),
        schema: None,
        scopes: vec![scope],
        members: Some(Memberships { now: vec![ScopeInfo { scope_id: ScopeId("list".into()), role: MemberRole::Writer }], gone: vec![ScopeId("old".into())] }),
        moved: vec![Head { scope: ScopeId("list".into()), seq: Seq(4), check: 5 }],
    }
}

fn plain() -> RowState {
    RowState::inserted(Stamp { hlc: Hlc(0x0102_0304_0506_0708), writer: writer(2) }, vec![Value::text("t"), Value::Int(-1)])
}

fn complex() -> RowState {
    let s = |hlc, w| Stamp { hlc: Hlc(hlc), writer: writer(w) };
    let mut state = RowState::inserted(s(0x10_0000, 0), vec![Value::text("t"), Value::Int(-1), Value::Null]);
    state.delete(s(0x20_0000, 1), &Policies::default());
    state.insert(s(0x30_0000, 1), 3);
    (0..3).for_each(|c| state.write(c, s(0x30_0000, 1), Value::Null));
    state.edit(s(0x40_0000, 0));
    state.write(1, s(0x40_0000, 0), Value::Real(-0.0));
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn row_states_round_trip(state in state(), left_out in proptest::collection::vec(0usize..8, 0..3)) {
        let mut mask = ColSet::all(state.cells.len());
        left_out.iter().for_each(|c| mask.remove(*c));
        let decoded = decode(&encode(&state, &mask)).unwrap();
        prop_assert_eq!(&decoded.state.live, &state.live);
        prop_assert_eq!((&decoded.state.ctx, &decoded.state.ground), (&state.ctx, &state.ground));
        prop_assert_eq!(decoded.state.gravestone, state.gravestone);
        for c in 0..8 {
            let sent = state.cell(c).filter(|_| mask.contains(c));
            prop_assert_eq!(decoded.state.cell(c).map(|x| x.stamp), sent.map(|x| x.stamp));
            prop_assert_eq!(decoded.present.contains(c), sent.is_some());
        }
        let hidden = (0..8).any(|c| state.cell(c).is_some() && !mask.contains(c));
        prop_assert_eq!(decoded.partial, hidden);
    }

    #[test]
    fn column_sets_round_trip(columns in proptest::collection::btree_set(0usize..2_000, 0..40), live: bool) {
        let mut set = if live { ColSet::liveness() } else { ColSet::none() };
        columns.iter().for_each(|c| set.insert(*c));
        prop_assert_eq!(set.columns().collect::<Vec<_>>(), columns.into_iter().collect::<Vec<_>>());
        let mut bytes = vec![];
        set.encode(&mut bytes);
        prop_assert_eq!(ColSet::decode(&mut Reader::new(&bytes)).unwrap(), set);
    }

    #[test]
    fn requests_and_answers_round_trip_in_both_formats(state in state()) {
        let (request, response) = (push(&state), answer(&state));
        let limits = Limits::default();
        prop_assert_eq!(&frame::decode::<SyncRequest>(&frame::encode(&request).unwrap(), &limits).unwrap(), &request);
        prop_assert_eq!(&frame::decode_json::<SyncRequest>(&serde_json::to_vec(&request).unwrap(), &limits).unwrap(), &request);
        prop_assert_eq!(&frame::decode::<SyncResponse>(&frame::encode(&response).unwrap(), &limits).unwrap(), &response);
        prop_assert_eq!(&frame::decode_json::<SyncResponse>(&serde_json::to_vec(&response).unwrap(), &limits).unwrap(), &response);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = decode(&bytes);
        let _ = ColSet::decode(&mut Reader::new(&bytes));
        let _ = Value::decode(&mut Reader::new(&bytes));
        let _ = Key(bytes.clone()).decode();
        let _ = frame::decode::<SyncRequest>(&bytes, &Limits::default());
        let _ = frame::decode_json::<SyncResponse>(&bytes, &Limits::default());
    }

    #[test]
    fn no_changed_bytes_make_a_decoder_panic(at in any::<prop::sample::Index>(), to: u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = encode(&complex(), &ColSet::all(3));
        let i = at.index(bytes.len());
        bytes[i] = to;
        // What decodes is sane enough to be encoded and merged.
        if let Ok(decoded) = decode(&bytes) {
            let again = encode(&decoded.state, &ColSet::all(decoded.state.cells.len()));
            prop_assert_eq!(decode(&again).unwrap().state.ctx, decoded.state.ctx.clone());
            complex().merge(&decoded.state, &decoded.present, &Policies::default());
        }
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode(&bytes);
        let mut body = vec![0];
        body.extend(rmp_serde::to_vec(&push(&complex())).unwrap());
        let i = at.index(body.len());
        body[i] = to;
        if let Ok(request) = frame::decode::<SyncRequest>(&body, &Limits::default()) {
            for push in request.scopes.iter().filter_map(|s| s.push.as_ref()) {
                push.rows.rows.iter().for_each(|row| drop(push.rows.open(row)));
            }
        }
    }
}

#[test]
fn a_decompression_bomb_is_refused_by_its_ratio_and_by_its_size() {
    let bomb = |n: usize| [vec![1], zstd::bulk::compress(&vec![0u8; n], 1).unwrap()].concat();
    for n in [17 << 20, 80 << 20] {
        let error = frame::decode::<SyncRequest>(&bomb(n), &Limits::default()).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge(_)), "{n}: {error}");
    }
    let long = vec![0; Limits::default().wire_bytes + 1];
    assert!(matches!(frame::decode::<SyncRequest>(&long, &Limits::default()), Err(DecodeError::TooLarge(_))));
}

#[test]
fn a_long_repetitive_text_is_no_bomb() {
    let state = RowState::inserted(Stamp { hlc: Hlc(1), writer: writer(0) }, vec![Value::text("x".repeat(1_000_000)); 8]);
    let bytes = frame::encode(&push(&state)).unwrap();
    assert!(bytes.len() * Limits::default().ratio < 8_000_000, "packs beyond the ratio");
    assert_eq!(frame::decode::<SyncRequest>(&bytes, &Limits::default()).unwrap(), push(&state));
}

#[test]
fn deep_json_is_refused_before_it_is_parsed() {
    let deep = format!("{{\"scopes\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(frame::decode_json::<SyncRequest>(deep.as_bytes(), &Limits::default()), Err(DecodeError::TooLarge("nesting of the JSON")));
    let deep = [vec![0], vec![0x91; 100_000]].concat();
    assert!(frame::decode::<SyncRequest>(&deep, &Limits::default()).is_err());
}

#[test]
fn counts_that_lie_reserve_nothing() {
    // An array and a binary of 4 billion, in five bytes each; a state that announces as many stamps.
    for lie in [&[0, 0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0, 0x95, 1, 0, 0xc6, 0xff, 0xff, 0xff, 0xff]] {
        assert!(frame::decode::<SyncRequest>(lie, &Limits::default()).is_err());
    }
    assert_eq!(decode(&[1, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err(DecodeError::Truncated));
    assert_eq!(decode(&[0x11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0x03]), Err(DecodeError::TooLarge("columns of a row")));
}

#[test]
fn the_formats_do_not_drift() {
    let key = |v: Value| hex(&Key::encode(&[v]).0);
    let hash = |bytes: &[u8]| format!("{} bytes {}", bytes.len(), &blake3::hash(bytes).to_hex()[..16]);
    let golden = [
        ("plain state", hex(&encode(&plain(), &ColSet::all(2))), "1101020304050607080202"),
        (
            "complex state",
            hex(&encode(&complex(), &ColSet::all(3))),
            "0104000000000010000000000000000020000001000000000030000001000000000040000000010301020203020200010202000a030004",
        ),
        ("null key", key(Value::Null), "00"),
        ("zero", key(Value::Int(0)), "10"),
        ("minus one", key(Value::Int(-1)), "0fff"),
        ("integer", key(Value::Int(0x1234)), "121234"),
        ("least integer", key(Value::Int(i64::MIN)), "088000000000000000"),
        ("real", key(Value::Real(-0.0)), "208000000000000000"),
        ("text", key(Value::text("n1")), "30026e31"),
        ("uuid", key(Value::text("123e4567-e89b-12d3-a456-426614174000")), "31123e4567e89b12d3a456426614174000"),
        ("blob", key(Value::Blob(vec![0, 255])), "400200ff"),
        ("push", hash(&rmp_serde::to_vec(&push(&complex())).unwrap()), "292 bytes da1568e4640d296f"),
        ("answer", hash(&rmp_serde::to_vec(&answer(&complex())).unwrap()), "352 bytes 64171c6c10892d6a"),
        ("raw frame", hex(&frame::encode(&vec![1u8]).unwrap()), "009101"),
        ("frame header", hex(&frame::encode(&vec![7u8; 400]).unwrap()[..5]), "0128b52ffd"),
    ];
    let drifted: Vec<String> = golden.iter().filter(|g| g.1 != g.2).map(|(name, is, was)| format!("{name}: {is}, was {was}")).collect();
    assert!(drifted.is_empty(), "{drifted:#?}");
}
