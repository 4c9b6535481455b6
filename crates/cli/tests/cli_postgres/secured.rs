//! The way to the database: TLS by the URL's words, and a pooler in between.

use crate::cluster::Cluster;
use crate::postgres::psql;
use crate::support::syncline;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;

/// Gives a cluster a certificate for this name, which `ca.pem` vouches for, beside a `stranger.pem` who does not.
fn certify(cluster: &Cluster, name: &str) {
    let (ca_key, key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let server = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();
    std::fs::write(cluster.dir.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    std::fs::write(cluster.dir.join("stranger.pem"), ca.self_signed(&other).unwrap().pem()).unwrap();
    // Written by the cluster itself: a key must be its user's own.
    for (file, text) in [("server.crt", server.pem()), ("server.key", key.serialize_pem())] {
        let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
        let write = format!(r#"umask 077; perl -ne "chomp; print pack(q(H*), \$_)" > {file}"#);
        psql(&cluster.url, &format!("COPY (SELECT '{hex}') TO PROGRAM '{write}'"));
    }
    psql(&cluster.url, "ALTER SYSTEM SET ssl = on");
    psql(&cluster.url, "SELECT pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(300));
}

#[test]
fn the_way_to_the_database_is_secured_as_its_url_says() {
    let cluster = Cluster::start();
    certify(&cluster, "127.0.0.1");
    let token = |more: &str| syncline(&cluster.dir, &["admin", "token", "--database", &format!("{}?{more}", cluster.url), "--account", "ada"]);
    for good in ["sslmode=require", "sslmode=verify-full&sslrootcert=ca.pem", "sslmode=verify-ca&sslrootcert=ca.pem", "sslmode=prefer", "sslmode=disable"] {
        token(good).ends(0);
    }
    for (bad, says) in [
        ("sslmode=verify-full&sslrootcert=stranger.pem", "certificate"),
        ("sslmode=require&sslrootcert=stranger.pem", "certificate"),
        ("sslmode=verify-full", "sslrootcert=FILE"),
        ("sslmode=verify-full&sslrootcert=absent.pem", "absent.pem"),
    ] {
        let refused = token(bad);
        assert!(refused.code != 0 && refused.err.contains(says), "{bad}: {refused:?}");
    }
    // What it says holds: with TLS alone allowed, only those that use it come in.
    let hba = Path::new(&psql(&cluster.url, "SHOW hba_file")[0][0]).to_owned();
    std::fs::write(&hba, "hostssl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    psql(&cluster.url, "SELECT pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(300));
    token("sslmode=verify-full&sslrootcert=ca.pem").ends(0);
    assert_ne!(token("sslmode=disable").code, 0);
    // A certificate of another host.
    certify(&cluster, "db.example.org");
    token("sslmode=verify-ca&sslrootcert=ca.pem").ends(0);
    let refused = token("sslmode=verify-full&sslrootcert=ca.pem");
    assert!(refused.code != 0 && refused.err.contains("not valid for name"), "{refused:?}");
}
