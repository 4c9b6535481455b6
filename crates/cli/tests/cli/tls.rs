//! The server over TLS, with a certificate of an own CA.

use crate::support::{World, open, rows};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;

/// Writes `NAME.pem`, an own CA, and `server.pem` and `server.key`, which it vouches for.
fn certificates(dir: &Path, name: &str) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    std::fs::write(dir.join("server.pem"), server.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap().pem()).unwrap();
    std::fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
}

fn world() -> World {
    World::serving("https", &["--tls-cert", "server.pem", "--tls-key", "server.key"], |dir| {
        certificates(dir, "stranger");
        certificates(dir, "ca");
    })
}

#[test]
fn two_devices_sync_over_tls_with_a_certificate_of_an_own_ca() {
    let world = world();
    let (a, b) = (world.room("a"), world.room("b"));
    open(&a.file()).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text); INSERT INTO note VALUES('n', 'secret')").unwrap();
    a.run(&["init", "app.db"]).ends(0);
    let token = world.admin("token", &["--account", "ada", "--uses", "2"]).ends(0).out;
    let attach = ["attach", "app.db", "--server", &world.url(), "--token", token.trim()];

    // A certificate that nobody vouches for, or somebody else, is no reason to send a token there.
    let refused = a.run(&attach).ends(3);
    assert!(refused.err.contains("certificate") && refused.err.contains("--ca-file"), "{refused:?}");
    a.run(&[&attach[..], &["--ca-file", "../stranger.pem"]].concat()).ends(3);
    // Nor does anything go there in the clear.
    let plain = world.url().replace("https", "http");
    a.run(&["attach", "app.db", "--server", &plain, "--token", token.trim()]).ends(3);

    a.run(&[&attach[..], &["--ca-file", "../ca.pem"]].concat()).ends(0);
    a.run(&["sync", "app.db"]).ends(3);
    assert_eq!(a.run(&["sync", "app.db", "--ca-file", "../ca.pem", "--json"]).ends(0).json()["rows_up"], 1);
    b.run(&[&attach[..], &["--ca-file", "../ca.pem"]].concat()).ends(0);
    b.run(&["sync", "app.db", "--ca-file", "../ca.pem"]).ends(0);
    assert_eq!(rows(&open(&b.file())), rows(&open(&a.file())));

    // The stream of wakes, too.
    let watching = b.stream(&["sync", "app.db", "--watch", "--json", "--ca-file", "../ca.pem"]);
    a.sql("UPDATE note SET text = 'known'");
    a.run(&["sync", "app.db", "--ca-file", "../ca.pem"]).ends(0);
    watching.until(|report| report["rows_down"] == 1);
    assert_eq!(b.one("SELECT text FROM note"), "known");
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), "ca");
    let serve = |cert, key| {
        let args = ["serve", "--data", "authority", "--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key];
        let refused = crate::support::syncline(dir.path(), &args).ends(2);
        assert!(refused.err.contains("--tls-key"), "{refused:?}");
    };
    serve("nowhere.pem", "server.key");
    serve("server.pem", "nowhere.key");
    serve("server.key", "server.key");
    // Of another certificate.
    serve("ca.pem", "server.key");
    assert!(!dir.path().join("authority").exists());
}
