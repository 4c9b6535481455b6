use super::*;
use ed25519_dalek::{Signer, SigningKey};

const NOW_MS: i64 = 1_800_000_000_000;
const HISTORY: HistoryId = HistoryId([7; 16]);

struct World {
    conn: Connection,
    tokens: u8,
}

impl World {
    fn new() -> World {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE _syncline_scope(n INTEGER PRIMARY KEY, scope_id TEXT NOT NULL UNIQUE)").unwrap();
        create_tables(&conn).unwrap();
        World { conn, tokens: 0 }
    }
    fn token(&mut self, uses: u32) -> String {
        self.tokens += 1;
        create_token(&self.conn, "anna", [self.tokens; 32], 900_000, uses, NOW_MS).unwrap()
    }
    fn device(&mut self, n: u8) -> (DeviceId, SigningKey) {
        let token = self.token(1);
        enrol(&self.conn, &request(n, &token), NOW_MS).unwrap();
        (DeviceId([n; 16]), key_of(n))
    }
}

fn key_of(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn request(n: u8, token: &str) -> EnrolRequest {
    let public_key = syncline_core::ids::hex(key_of(n).verifying_key().as_bytes());
    EnrolRequest { version: 1, token: token.into(), device_id: DeviceId([n; 16]), public_key, name: "phone".into(), ..Default::default() }
}

fn bearer(device: DeviceId, key: &SigningKey, history: HistoryId, expires_s: i64) -> String {
    let signature = key.sign(format!("syncline bearer 1\n{history}\n{device}\n{expires_s}").as_bytes());
    format!("v1.{device}.{expires_s}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

fn is_out_of_date(answer: Result<Caller, ApiError>) -> bool {
    answer == Err(ApiError::BearerOutOfDate { server_time_ms: NOW_MS, history: HISTORY })
}

#[test]
fn a_token_serves_as_often_and_as_long_as_it_says() {
    let mut w = World::new();
    let token = w.token(2);
    assert!(token.starts_with("syt_") && token.len() == 47);
    assert_eq!(enrol(&w.conn, &request(1, &token), NOW_MS), Ok(Enrolled { account: "anna".into(), key_block: 1 }));
    assert_eq!(enrol(&w.conn, &request(2, &token), NOW_MS).map(|e| e.key_block), Ok(2));
    assert_eq!(enrol(&w.conn, &request(3, &token), NOW_MS), Err(bad_token()));
    let late = w.token(1);
    assert_eq!(enrol(&w.conn, &request(3, &late), NOW_MS + 900_000), Err(bad_token()));
    assert_eq!(enrol(&w.conn, &request(3, "syt_guess"), NOW_MS), Err(bad_token()));
    assert!(bad_token().to_string().contains("syncline admin token"));
    assert_eq!(enrol(&w.conn, &request(3, &late), NOW_MS + 899_999).map(|e| e.key_block), Ok(3));
}

#[test]
fn the_text_of_a_token_is_stored_nowhere() {
    let mut w = World::new();
    let token = w.token(1);
    let stored: Vec<u8> = w.conn.query_row("SELECT hash FROM _syncline_token", [], |row| row.get(0)).unwrap();
    assert_eq!(stored, blake3::hash(token.as_bytes()).as_bytes());
}

#[test]
fn a_device_whose_answer_was_lost_enrols_again_with_its_used_token() {
    let mut w = World::new();
    let token = w.token(1);
    let first = enrol(&w.conn, &request(1, &token), NOW_MS);
    assert_eq!(enrol(&w.conn, &request(1, &token), NOW_MS), first);
    assert_eq!(devices(&w.conn, None).unwrap().len(), 1);
    // Nor is a use lost where the token has some left.
    let many = w.token(2);
    assert_eq!(enrol(&w.conn, &request(1, &many), NOW_MS), first);
    assert!(enrol(&w.conn, &request(2, &many), NOW_MS).is_ok());
    assert!(enrol(&w.conn, &request(3, &many), NOW_MS).is_ok());
}

#[test]
fn a_device_id_is_not_taken_over() {
    let mut w = World::new();
    w.device(1);
    let token = w.token(5);
    let thief = EnrolRequest { device_id: DeviceId([1; 16]), ..request(2, &token) };
    assert!(matches!(enrol(&w.conn, &thief, NOW_MS), Err(ApiError::BadRequest(_))));
    let other = create_token(&w.conn, "bert", [99; 32], 900_000, 1, NOW_MS).unwrap();
    assert!(matches!(enrol(&w.conn, &request(1, &other), NOW_MS), Err(ApiError::BadRequest(_))));
}

#[test]
fn a_weak_or_broken_key_does_not_enrol() {
    let mut w = World::new();
    let token = w.token(5);
    for public_key in ["", "zz", &"00".repeat(32), &format!("01{}", "00".repeat(31))] {
        let bad = EnrolRequest { public_key: public_key.into(), ..request(1, &token) };
        assert!(matches!(enrol(&w.conn, &bad, NOW_MS), Err(ApiError::BadRequest(_))), "{public_key}");
    }
}

#[test]
fn a_bearer_lives_ten_minutes_and_five_of_skew() {
    let mut w = World::new();
    let (device, key) = w.device(1);
    let now_s = NOW_MS / 1000;
    let ask = |expires_s| authenticate(&w.conn, &Seen::default(), &bearer(device, &key, HISTORY, expires_s), HISTORY, NOW_MS);
    for expires_s in [now_s - 300, now_s, now_s + 600, now_s + 900] {
        assert_eq!(ask(expires_s), Ok(Caller { device_id: device, account: "anna".into() }));
    }
    for expires_s in [now_s - 301, now_s + 901, 0, i64::MIN, i64::MAX] {
        assert!(is_out_of_date(ask(expires_s)), "{expires_s}");
    }
}

#[test]
fn forged_and_foreign_bearers_are_answered_like_those_of_nobody() {
    let mut w = World::new();
    let (device, key) = w.device(1);
    w.device(2);
    let now_s = NOW_MS / 1000;
    let stranger = DeviceId([9; 16]);
    let good = bearer(device, &key, HISTORY, now_s);
    let moved = good.replacen(&now_s.to_string(), &(now_s + 1).to_string(), 1);
    let bearers = [
        bearer(device, &key_of(2), HISTORY, now_s),
        bearer(device, &key, HistoryId([8; 16]), now_s),
        bearer(DeviceId([2; 16]), &key, HISTORY, now_s),
        bearer(stranger, &key, HISTORY, now_s),
        moved,
    ];
    for bearer in bearers {
        assert!(is_out_of_date(authenticate(&w.conn, &Seen::default(), &bearer, HISTORY, NOW_MS)), "{bearer}");
    }
    for garbage in ["", "v1", "v1...", "v2.a.b.c", &format!("{good}."), &format!("{good}AA"), &good[1..]] {
        assert_eq!(authenticate(&w.conn, &Seen::default(), garbage, HISTORY, NOW_MS), Err(bad_bearer()), "{garbage}");
    }
}

#[test]
fn a_revoked_device_is_told_so_and_stays_out() {
    let mut w = World::new();
    let (device, key) = w.device(1);
    let token = w.token(1);
    let good = bearer(device, &key, HISTORY, NOW_MS / 1000);
    assert!(revoke(&w.conn, Some("bert"), device, [8; 32], NOW_MS).is_err());
    assert!(authenticate(&w.conn, &Seen::default(), &good, HISTORY, NOW_MS).is_ok());
    assert_eq!(seal_key(&w.conn, Some("anna"), device), Err(not_revoked()));
    revoke(&w.conn, Some("anna"), device, [9; 32], NOW_MS).unwrap();
    revoke(&w.conn, None, device, [8; 32], NOW_MS + 5).unwrap();
    assert_eq!(seal_key(&w.conn, Some("anna"), device), Ok(([9; 32], key.verifying_key().to_bytes())));
    assert_eq!(seal_key(&w.conn, Some("bert"), device), Err(no_such_device()));
    assert_eq!(devices(&w.conn, Some("anna")).unwrap()[0].revoked_ms, Some(NOW_MS));
    assert_eq!(authenticate(&w.conn, &Seen::default(), &good, HISTORY, NOW_MS), Err(ApiError::DeviceRevoked(SealKey(Some([9; 32])))));
    // Only the key's owner learns it.
    let forged = bearer(device, &key_of(2), HISTORY, NOW_MS / 1000);
    assert!(is_out_of_date(authenticate(&w.conn, &Seen::default(), &forged, HISTORY, NOW_MS)));
    assert_eq!(enrol(&w.conn, &request(1, &token), NOW_MS), Err(ApiError::DeviceRevoked(SealKey(Some([9; 32])))));
    // Its block is not given to another.
    w.device(2);
    assert_eq!(devices(&w.conn, None).unwrap()[1].key_block, 2);
}

/// The same bytes as in the client's `identity`: the two ends build them apart.
#[test]
fn the_bearer_has_these_bytes() {
    let text = bearer(DeviceId([1; 16]), &key_of(3), HISTORY, 1_800_000_300);
    assert_eq!(text, GOLDEN_BEARER);
}

const GOLDEN_BEARER: &str =
    "v1.01010101010101010101010101010101.1800000300.PGLBiwpByoQ3vJm16Yz2v9h032jIcYjcFVUFQqVXbe15vWMjmiw7P5JR_vUR4rDVcmncFxsS7VGQ-JTULVyOBw";

#[test]
fn acknowledgements_follow_the_device_also_backwards() {
    let mut w = World::new();
    let (device, _) = w.device(1);
    let scope = ScopeId("anna".into());
    for (seq, at_ms) in [(5, 1), (5, 2), (3, 3)] {
        ack(&w.conn, device, &scope, Seq(seq), at_ms).unwrap();
        touch(&w.conn, device, Some("2.1"), NOW_MS + at_ms * 30_000).unwrap();
    }
    assert_eq!(cursors(&w.conn).unwrap(), [CursorInfo { device_id: device, scope, seq: Seq(3), at_ms: 3 }]);
    let info = &devices(&w.conn, Some("anna")).unwrap()[0];
    assert_eq!((info.app_version.as_str(), info.last_seen_ms), ("2.1", NOW_MS + 90_000));
    assert_eq!(accounts(&w.conn).unwrap(), [AccountInfo { account: "anna".into(), created_ms: NOW_MS, devices: 1 }]);
}

#[test]
fn an_account_needs_a_printable_name() {
    let w = World::new();
    for name in ["", "  ", "a\nb", &"x".repeat(201)] {
        assert!(create_account(&w.conn, name, NOW_MS).is_err(), "{name:?}");
    }
    create_account(&w.conn, "anna", NOW_MS).unwrap();
    create_account(&w.conn, "anna", NOW_MS + 1).unwrap();
    assert_eq!(accounts(&w.conn).unwrap()[0].created_ms, NOW_MS);
}
