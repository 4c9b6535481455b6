//! A PostgreSQL cluster of a test's own, for what would disturb others: crashes, certificates, poolers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// A cluster, stopped and removed with it.
pub struct Cluster {
    /// A directory that the cluster's user may enter.
    pub dir: PathBuf,
    /// Its superuser's URL.
    pub url: String,
}

impl Cluster {
    /// Starts one.
    pub fn start() -> Cluster {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("syncline-cluster.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let done = Command::new(script()).arg("start").env("TMPDIR", &dir).stderr(Stdio::inherit()).output().unwrap();
        assert!(done.status.success());
        Cluster { dir, url: String::from_utf8(done.stdout).unwrap().trim().to_owned() }
    }
}

/// PgBouncer in transaction mode before a cluster: a connection is handed on after each transaction.
pub struct Pooler {
    child: std::process::Child,
    /// The way to the database through it.
    pub url: String,
}

impl Pooler {
    /// Starts one with few connections to the database.
    pub fn start(cluster: &Cluster) -> Pooler {
        let (user, rest) = cluster.url.strip_prefix("postgres://").unwrap().split_once(':').unwrap();
        let (password, rest) = rest.split_once('@').unwrap();
        let (address, name) = rest.split_once('/').unwrap();
        let port = address.split_once(':').unwrap().1;
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = cluster.dir.display();
        std::fs::write(cluster.dir.join("users"), format!("\"{user}\" \"{password}\"\n")).unwrap();
        std::fs::write(
            cluster.dir.join("pooler.ini"),
            format!(
                "[databases]\n* = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\nunix_socket_dir =\nauth_type = scram-sha-256\n\
                 auth_file = {dir}/users\npool_mode = transaction\ndefault_pool_size = 8\nmax_client_conn = 500\nlog_connections = 0\nlog_disconnections = 0\n"
            ),
        )
        .unwrap();
        // Like PostgreSQL, it does not run as root.
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
        let mut command = if is_root { Command::new("runuser") } else { Command::new("pgbouncer") };
        if is_root {
            command.args(["-u", "postgres", "--", "pgbouncer"]);
        }
        command.arg("-q").arg(cluster.dir.join("pooler.ini")).current_dir("/").stderr(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().expect("pgbouncer is needed for this test (Debian: apt-get install pgbouncer)");
        let pooler = Pooler { child, url: format!("postgres://{user}:{password}@127.0.0.1:{own}/{name}") };
        for _ in 0..100 {
            if crate::postgres::try_psql(&pooler.url, "SELECT 1").is_ok() {
                return pooler;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("pgbouncer does not answer");
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // What `runuser` started ends with it only when it is asked to.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new(script()).arg("stop").env("TMPDIR", &self.dir).status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres")
}
