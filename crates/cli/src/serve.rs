//! `syncline serve`: the authority, over a directory of its own or a PostgreSQL database.

use crate::exit::{Exit, failure};
use crate::output::{Output, say};
use anyhow::Context;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use syncline_replica::config::Config;
use syncline_server::http::{Beside, PushConfig, Webhook, serve_with, shutdown_signal};
use syncline_server::issuer::{Issuer, IssuerConfig};
use syncline_server::postgres::Settings;
use syncline_server::{Engine, Postgres, Store, Tls};

/// Runs the authority until SIGTERM or ctrl-c
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline serve --data ./authority --listen 127.0.0.1:4840
  syncline admin token --data ./authority --account ada     # in another terminal; works while it runs
  syncline serve --database postgres://syncline:secret@db.example.org/app     # any number of these on one database")]
#[command(group(clap::ArgGroup::new("store").required(true)))]
pub struct Args {
    /// Where the authority keeps its database, server.db; made if new
    #[arg(long, value_name = "DIR", group = "store")]
    data: Option<PathBuf>,
    /// The PostgreSQL database to keep it in instead
    #[arg(long, value_name = "URL", group = "store", env = "SYNCLINE_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// With --database: the unprivileged role that transactions of scopes run as, behind row-level security (docs/postgres.md)
    #[arg(long, value_name = "ROLE", requires = "database")]
    scoped_role: Option<String>,
    /// Where to listen; port 0 takes a free one. Beyond this machine, use --tls-cert and --tls-key or a proxy that speaks TLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4840")]
    listen: SocketAddr,
    /// The certificate chain, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// syncline.toml: [issuer], [push], `demanded_schema_version` are the server's; with --database its [adopt] names tables that are there already. How
    /// other tables sync comes with the devices' schema (`init --config`)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Opens the authority, tells its address and serves.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = args.config.as_deref().map(read_config).transpose()?.unwrap_or_default();
    if config.adopt.is_some() && args.database.is_none() {
        return Err(failure(Exit::Usage, "[adopt] names tables of a PostgreSQL database; serve that one with --database"));
    }
    let beside = beside(&config, args.config.as_deref())?;
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(Tls::from_files(cert, key).map_err(|e| failure(Exit::Usage, e.to_string()))?),
        _ => None,
    };
    let store = match (&args.database, &args.data) {
        (Some(url), _) => Store::Postgres(Postgres::open_with(url, &Settings { config: config.clone(), scoped_role: args.scoped_role.clone() })?),
        (None, Some(dir)) => Store::Sqlite(Box::new(Engine::open(dir).with_context(|| format!("opening the authority in {}", dir.display()))?)),
        (None, None) => return Err(failure(Exit::Usage, "name a directory with --data, or a PostgreSQL database with --database")),
    };
    if let Some(version) = config.demanded_schema_version {
        store.demand_schema_version(version)?;
        say(format!("devices need schema version {version} or later"));
    }
    // The only place of this program that is asynchronous.
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(Arc::new(store), beside, args, tls, out))
}

async fn serve(store: Arc<Store>, beside: Beside, args: Args, tls: Option<Tls>, out: Output) -> anyhow::Result<Exit> {
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .map_err(|e| failure(Exit::Usage, format!("listening on {}: {e}; choose another address with --listen", args.listen)))?;
    let address = listener.local_addr()?;
    let url = format!("{}://{address}", if tls.is_some() { "https" } else { "http" });
    if tls.is_none() && !address.ip().is_loopback() {
        say(
            "this address is open to the network without TLS; devices refuse it unless told otherwise. Give --tls-cert and --tls-key, or put a proxy with TLS before it",
        );
    }
    // Whoever reads the line may tell this server to end at once.
    let told_to_end = shutdown_signal();
    match out.json {
        true => out.document(&serde_json::json!({ "listening": url }))?,
        false => out.line(format!("listening on {url}"))?,
    }
    serve_with(store, beside, listener, tls, told_to_end).await?;
    say("stopped; every answered request is on the disk");
    Ok(Exit::Done)
}

/// Reads syncline.toml. Of tables that devices bring nothing in it is the authority's to decide; all of it is read, so that
/// a mistake in it, or a setting that does not work yet, is heard of here.
fn read_config(path: &std::path::Path) -> anyhow::Result<Config> {
    let text =
        std::fs::read_to_string(path).map_err(|e| failure(Exit::Usage, format!("reading {}: {e}; check the path given with --config", path.display())))?;
    let config = Config::parse(&text).map_err(|e| failure(Exit::Usage, format!("{}: {e}", path.display())))?;
    match &config.adopt {
        Some(adopt) => say(format!("{} adopts {}", path.display(), adopt.tables.join(", "))),
        None => say(format!("{} is well formed; how tables sync comes with the devices' schema, from `syncline init --config`", path.display())),
    }
    Ok(config)
}

/// Makes what syncline.toml says of an issuer and of a push gateway.
fn beside(config: &Config, path: Option<&std::path::Path>) -> anyhow::Result<Beside> {
    let wrong = |why: String| failure(Exit::Usage, format!("{}: {why}", path.map_or_else(String::new, |p| p.display().to_string())));
    let issuer = match &config.issuer {
        Some(table) => {
            let config: IssuerConfig = serde_json::from_value(serde_json::json!(table)).map_err(|e| wrong(format!("[issuer] {e}")))?;
            Some(Issuer::open(config).map_err(|e| wrong(e.to_string()))?)
        }
        None => None,
    };
    let webhook = match &config.push {
        Some(table) => {
            let config: PushConfig = serde_json::from_value(serde_json::json!(table)).map_err(|e| wrong(format!("[push] {e}")))?;
            Some(Webhook::new(&config).map_err(wrong)?)
        }
        None => None,
    };
    Ok(Beside { issuer, webhook })
}
