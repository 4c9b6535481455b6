use super::*;
use crate::accounts::{create_account, create_tables};

const NOW_MS: i64 = 1_800_000_000_000;
const HOUR_MS: i64 = 3_600_000;

fn world() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("CREATE TABLE _syncline_scope(n INTEGER PRIMARY KEY, scope_id TEXT NOT NULL UNIQUE)").unwrap();
    create_tables(&conn).unwrap();
    for account in ["anna", "bertram", "cleo"] {
        create_account(&conn, account, NOW_MS).unwrap();
    }
    conn
}

fn asked(role: MemberRole, uses: u32) -> Invite {
    Invite { role, ttl_ms: HOUR_MS, uses }
}

/// Anna's scope `trip`, with Bertram in it.
fn shared(role: MemberRole) -> (Connection, ScopeId) {
    let conn = world();
    let trip = ScopeId("trip".into());
    create_scope(&conn, "anna", Some(&trip), [1; 32], NOW_MS).unwrap();
    let code = invite(&conn, "anna", &trip, &asked(role, 1), [2; 32], NOW_MS).unwrap().code;
    assert_eq!(accept(&conn, "bertram", &code, NOW_MS).unwrap(), ScopeInfo { scope_id: trip.clone(), role });
    (conn, trip)
}

#[test]
fn an_accounts_own_scope_is_its_alone_and_comes_first() {
    let (conn, trip) = shared(MemberRole::Reader);
    let own = ScopeId("bertram".into());
    assert_eq!(scopes_of(&conn, "bertram").unwrap(), [(own.clone(), MemberRole::Admin), (trip, MemberRole::Reader)]);
    assert_eq!(role_of(&conn, "anna", &own).unwrap(), None);
    assert!(matches!(invite(&conn, "bertram", &own, &asked(MemberRole::Reader, 1), [3; 32], NOW_MS), Err(ApiError::BadRequest(_))));
    assert!(remove(&conn, "bertram", &own, "bertram").is_err());
    assert!(create_scope(&conn, "bertram", Some(&own), [3; 32], NOW_MS).is_err());
    assert_eq!(members(&conn, "bertram", &own).unwrap().len(), 1);
}

#[test]
fn a_scope_of_others_answers_like_one_that_does_not_exist() {
    let (conn, trip) = shared(MemberRole::Writer);
    for scope in [&trip, &ScopeId("anna".into()), &ScopeId("nowhere".into()), &ScopeId(String::new())] {
        let role = MemberRole::Admin;
        let refused = Err(ApiError::no_such_scope());
        assert_eq!(members(&conn, "cleo", scope).map(drop), refused);
        assert_eq!(invite(&conn, "cleo", scope, &asked(role, 0), [4; 32], NOW_MS).map(drop), refused);
        assert_eq!(withdraw_invites(&conn, "cleo", scope).map(drop), refused);
        assert_eq!(set_role(&conn, "cleo", scope, "anna", role), refused);
        assert_eq!(remove(&conn, "cleo", scope, "anna"), refused);
        assert_eq!(remove(&conn, "cleo", scope, "cleo"), refused);
    }
}

#[test]
fn a_code_serves_as_often_and_as_long_as_it_says_and_a_repeated_acceptance_uses_nothing_up() {
    let (conn, trip) = shared(MemberRole::Writer);
    let once = invite(&conn, "anna", &trip, &asked(MemberRole::Writer, 1), [5; 32], NOW_MS).unwrap();
    assert!(once.code.starts_with("syi_") && once.code.len() == 47);
    // Bertram is in already: nothing is used up.
    assert!(accept(&conn, "bertram", &once.code, NOW_MS).is_ok());
    assert_eq!(accept(&conn, "cleo", &once.code, NOW_MS + HOUR_MS), Err(bad_code()));
    assert!(accept(&conn, "cleo", &format!(" {}\n", once.code), NOW_MS + HOUR_MS - 1).is_ok());
    assert!(accept(&conn, "cleo", &once.code, NOW_MS).is_ok());
    remove(&conn, "anna", &trip, "cleo").unwrap();
    assert_eq!((role_of(&conn, "cleo", &trip).unwrap(), former_scopes_of(&conn, "cleo").unwrap()), (None, vec![trip.clone()]));
    assert_eq!(former_scopes_of(&conn, "bertram").unwrap(), []);
    assert_eq!(accept(&conn, "cleo", &once.code, NOW_MS), Err(bad_code()), "used up");
    let again = invite(&conn, "anna", &trip, &asked(MemberRole::Reader, 1), [10; 32], NOW_MS).unwrap();
    accept(&conn, "cleo", &again.code, NOW_MS).unwrap();
    assert_eq!(former_scopes_of(&conn, "cleo").unwrap(), []);
    remove(&conn, "cleo", &trip, "cleo").unwrap();
    let withdrawn = invite(&conn, "anna", &trip, &asked(MemberRole::Writer, 9), [6; 32], NOW_MS).unwrap();
    assert_eq!(withdraw_invites(&conn, "anna", &trip), Ok(4));
    assert_eq!(accept(&conn, "cleo", &withdrawn.code, NOW_MS), Err(bad_code()));
    assert_eq!(accept(&conn, "cleo", "syi_guess", NOW_MS), Err(bad_code()));
}

#[test]
fn a_second_invitation_raises_a_role_and_never_lowers_it() {
    let (conn, trip) = shared(MemberRole::Writer);
    let reader = invite(&conn, "anna", &trip, &asked(MemberRole::Reader, 5), [7; 32], NOW_MS).unwrap();
    assert_eq!(accept(&conn, "bertram", &reader.code, NOW_MS).unwrap().role, MemberRole::Writer);
    let admin = invite(&conn, "anna", &trip, &asked(MemberRole::Admin, 5), [8; 32], NOW_MS).unwrap();
    assert_eq!(accept(&conn, "bertram", &admin.code, NOW_MS).unwrap().role, MemberRole::Admin);
    assert_eq!(role_of(&conn, "bertram", &trip).unwrap(), Some(MemberRole::Admin));
}

#[test]
fn only_admins_rule_and_one_is_always_left() {
    let (conn, trip) = shared(MemberRole::Writer);
    for refused in [
        set_role(&conn, "bertram", &trip, "bertram", MemberRole::Admin),
        remove(&conn, "bertram", &trip, "anna"),
        invite(&conn, "bertram", &trip, &asked(MemberRole::Reader, 1), [9; 32], NOW_MS).map(drop),
        withdraw_invites(&conn, "bertram", &trip).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code(), "forbidden");
    }
    assert_eq!(remove(&conn, "anna", &trip, "anna"), Err(last_admin()));
    assert_eq!(set_role(&conn, "anna", &trip, "anna", MemberRole::Reader), Err(last_admin()));
    assert_eq!(set_role(&conn, "anna", &trip, "cleo", MemberRole::Reader), Err(no_such_member()));
    set_role(&conn, "anna", &trip, "bertram", MemberRole::Admin).unwrap();
    remove(&conn, "anna", &trip, "anna").unwrap();
    assert_eq!(remove(&conn, "bertram", &trip, "bertram"), Err(last_admin()));
    assert_eq!(members(&conn, "bertram", &trip).unwrap().len(), 1);
}

#[test]
fn a_repeated_request_makes_nothing_twice() {
    let (conn, trip) = shared(MemberRole::Writer);
    assert!(create_scope(&conn, "anna", Some(&trip), [1; 32], NOW_MS).is_ok());
    assert_eq!(create_scope(&conn, "bertram", Some(&trip), [1; 32], NOW_MS), Err(id_taken()), "a writer cannot make it anew");
    assert_eq!(create_scope(&conn, "cleo", Some(&trip), [1; 32], NOW_MS), Err(id_taken()));
    let made = create_scope(&conn, "anna", None, [3; 32], NOW_MS).unwrap();
    assert_eq!(create_scope(&conn, "anna", None, [3; 32], NOW_MS), Ok(made.clone()));
    assert_ne!(create_scope(&conn, "anna", None, [4; 32], NOW_MS).unwrap(), made);
    let first = invite(&conn, "anna", &trip, &asked(MemberRole::Writer, 1), [5; 32], NOW_MS).unwrap();
    assert_eq!(invite(&conn, "anna", &trip, &asked(MemberRole::Writer, 1), [5; 32], NOW_MS + 5), Ok(first));
    assert_eq!(invite(&conn, "anna", &trip, &asked(MemberRole::Admin, 1), [5; 32], NOW_MS), Err(other_request()));
    let seed = |account: &str, what: &str, key: &str| seed_of(b"secret", account, what, key);
    assert_eq!(seed("anna", "scope", "k"), seed("anna", "scope", "k"));
    for other in [seed("bertram", "scope", "k"), seed("anna", "invite trip", "k"), seed("anna", "scope", "l"), seed_of(b"other", "anna", "scope", "k")] {
        assert_ne!(seed("anna", "scope", "k"), other);
    }
}

#[test]
fn names_of_accounts_and_of_scopes_do_not_meet() {
    let (conn, _) = shared(MemberRole::Writer);
    assert_eq!(create_account(&conn, "trip", NOW_MS), Err(crate::accounts::name_taken()));
    assert_eq!(create_scope(&conn, "anna", Some(&ScopeId("cleo".into())), [1; 32], NOW_MS), Err(id_taken()));
    for bad in ["", " ", "a\nb", &"x".repeat(201)] {
        assert!(matches!(create_scope(&conn, "anna", Some(&ScopeId(bad.into())), [1; 32], NOW_MS), Err(ApiError::BadRequest(_))), "{bad:?}");
    }
}
