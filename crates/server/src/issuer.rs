//! Enrolment by a token of the operator's own issuer: a JWT, checked with the issuer's published keys (JWKS).
//!
//! What a key is for is fixed by the key, never by the token: an Ed25519 key checks EdDSA, a P-256 key ES256, an RSA key RS256, and a
//! token that names another algorithm is not looked at further. Until the signature is found genuine, every refusal is the one of an
//! unknown enrolment token, in the same words; after that the token is the issuer's, and what is wrong with it is said.
//!
//! A token enrols one device: what was signed is remembered until it expires. Checked by `ring`, which is here for TLS.

use crate::accounts::{bad_token, check_account_name};
use crate::api_error::ApiError;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, UnparsedPublicKey};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A token of more bytes is none.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// A set of keys of more bytes is none.
const KEYS_BYTES_MAX: u64 = 256 * 1024;
/// How far the issuer's clock may be off, in seconds.
const SKEW_S: i64 = 60;
/// Keys from a URL are fetched again when they are this old, or when a token names one that is not among them;
const KEYS_AGE: Duration = Duration::from_secs(3600);
/// but not more often than this.
const KEYS_REST: Duration = Duration::from_secs(30);
/// How long the issuer may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// `[issuer]` of syncline.toml.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// What tokens must have in `iss`.
    pub issuer: String,
    /// What they must have in `aud`, alone or among others.
    pub audience: String,
    /// Where the keys are: a file, or an https address.
    pub jwks: String,
}

/// Why an issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The keys are not there.
    #[error("reading the issuer's keys from {0}: {1}; check `jwks` in syncline.toml")]
    Unreadable(String, String),
    /// They are no keys.
    #[error("the issuer's keys in {0} cannot be used: {1}")]
    Keys(String, String),
    /// The settings are none.
    #[error("[issuer] in syncline.toml: {0}")]
    Config(String),
}

/// An issuer whose tokens enrol devices.
#[derive(Debug)]
pub struct Issuer {
    config: IssuerConfig,
    place: Place,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Url(String),
}

#[derive(Debug)]
struct Keys {
    keys: Vec<Key>,
    read: Instant,
    tried: Instant,
}

/// What a genuine token vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The account.
    pub account: String,
    /// Until when, in ms since 1970.
    pub expires_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    EdDsa,
    Es256,
    Rs256,
}

impl Algorithm {
    fn parse(word: &str) -> Option<Algorithm> {
        match word {
            "EdDSA" | "Ed25519" => Some(Algorithm::EdDsa),
            "ES256" => Some(Algorithm::Es256),
            "RS256" => Some(Algorithm::Rs256),
            _ => None,
        }
    }
}

/// Whether an address without its scheme names this machine: the whole host does, not the beginning of another's name.
fn is_this_machine(address: &str) -> bool {
    let place = address.split(['/', '?', '#']).next().unwrap_or_default();
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| place.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')))
        && !place.contains('@')
}

/// A key, and the one algorithm that it is for.
#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    /// Ed25519: the key; P-256: the point; RSA: the modulus.
    public: Vec<u8>,
    exponent: Vec<u8>,
}

impl Issuer {
    /// Reads the issuer's keys. A file must be there and hold keys; an address may be out of reach now, and is asked again.
    pub fn open(config: IssuerConfig) -> Result<Issuer, IssuerError> {
        for (name, value) in [("issuer", &config.issuer), ("audience", &config.audience), ("jwks", &config.jwks)] {
            if value.trim().is_empty() {
                return Err(IssuerError::Config(format!("`{name}` is empty")));
            }
        }
        let place = match config.jwks.split_once("://") {
            None => Place::File(config.jwks.clone().into()),
            Some(("https", _)) => Place::Url(config.jwks.clone()),
            Some(("http", rest)) if is_this_machine(rest) => Place::Url(config.jwks.clone()),
            Some(_) => return Err(IssuerError::Config("`jwks` is a file or an https address: over plain http anybody could put keys in".into())),
        };
        let now = Instant::now();
        let keys = match (read(&place), &place) {
            (Ok(keys), _) => keys,
            (Err(e @ IssuerError::Unreadable(..)), Place::Url(_)) => {
                tracing::warn!("{e}; it is asked again when a token comes");
                vec![]
            }
            (Err(e), _) => return Err(e),
        };
        let long_ago = now.checked_sub(KEYS_REST).unwrap_or(now);
        Ok(Issuer { config, place, keys: Mutex::new(Keys { keys, read: now, tried: long_ago }) })
    }

    /// Checks a token. Blocks while keys are fetched, at most once in half a minute.
    pub fn verify(&self, token: &str, now_ms: i64) -> Result<Vouched, ApiError> {
        let parsed = Token::parse(token).ok_or_else(bad_token)?;
        let genuine = self.candidates(&parsed.header).iter().any(|key| key.checks(&parsed));
        if !genuine {
            return Err(bad_token());
        }
        self.judge(&parsed.payload, now_ms.div_euclid(1000))
    }

    /// Returns the keys that a token may be signed with: the one that it names, or the only one.
    fn candidates(&self, header: &Header) -> Vec<Key> {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |keys: &[Key]| match &header.kid {
            Some(kid) => keys.iter().filter(|k| k.id.as_ref() == Some(kid)).cloned().collect::<Vec<_>>(),
            None if keys.len() == 1 => keys.to_vec(),
            None => vec![],
        };
        let found = find(&known.keys);
        let stale = found.is_empty() || (matches!(self.place, Place::Url(_)) && known.read.elapsed() > KEYS_AGE);
        if !stale || known.tried.elapsed() < KEYS_REST {
            return found;
        }
        known.tried = Instant::now();
        match read(&self.place) {
            Ok(keys) => {
                known.keys = keys;
                known.read = Instant::now();
            }
            // Those that are known go on: an issuer that is out of reach for a while is no reason to refuse everybody.
            Err(e) => tracing::warn!("{e}"),
        }
        find(&known.keys)
    }

    /// Looks at what a genuine token says.
    fn judge(&self, payload: &[u8], now_s: i64) -> Result<Vouched, ApiError> {
        let refused = |why: &str| Err(ApiError::Unauthorized(format!("the issuer's token cannot be used: {why}")));
        let claims: Claims = match serde_json::from_slice(payload) {
            Ok(claims) => claims,
            Err(e) => return refused(&format!("iss, aud, sub and exp are wanted, each once and of its type ({})", plain(&e.to_string()))),
        };
        if claims.iss != self.config.issuer {
            return refused("`iss` is another issuer's");
        }
        if !claims.aud.has(&self.config.audience) {
            return refused("`aud` does not name this authority");
        }
        if claims.exp.saturating_add(SKEW_S) <= now_s {
            return refused("it has expired; get a new one");
        }
        if claims.nbf.is_some_and(|nbf| nbf.saturating_sub(SKEW_S) > now_s) || claims.iat.is_some_and(|iat| iat.saturating_sub(SKEW_S) > now_s) {
            return refused("it is not good yet; compare the issuer's clock with this authority's");
        }
        if check_account_name(&claims.sub).is_err() {
            return refused("`sub` is no account's id: 1 to 200 bytes without control characters");
        }
        Ok(Vouched { account: claims.sub, expires_ms: claims.exp.saturating_add(SKEW_S).saturating_mul(1000) })
    }
}

/// Whether a token is of this kind rather than one of `admin token`.
pub fn is_issued(token: &str) -> bool {
    !token.starts_with("syt_") && token.matches('.').count() == 2
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

/// A token taken apart, not yet believed.
struct Token<'a> {
    header: Header,
    payload: Vec<u8>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    /// Extensions that must be understood: none is.
    #[serde(default)]
    crit: Option<serde_json::Value>,
    /// An unencoded payload is another format.
    #[serde(default)]
    b64: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    iat: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn has(&self, wanted: &str) -> bool {
        match self {
            Audience::One(one) => one == wanted,
            Audience::Several(several) => several.iter().any(|one| one == wanted),
        }
    }
}

impl Token<'_> {
    fn parse(token: &str) -> Option<Token<'_>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let header: Header = serde_json::from_slice(&part(header)?).ok()?;
        let typ_fits = header.typ.as_deref().is_none_or(|typ| ["JWT", "at+jwt"].iter().any(|known| typ.eq_ignore_ascii_case(known)));
        if !typ_fits || header.crit.is_some() || header.b64.is_some() {
            return None;
        }
        Some(Token { header, payload: part(payload)?, signed: signed.as_bytes(), signature: part(signature)? })
    }
}

impl Key {
    fn checks(&self, token: &Token) -> bool {
        if Algorithm::parse(&token.header.alg) != Some(self.algorithm) {
            return false;
        }
        let (message, signature) = (token.signed, &token.signature);
        let check = |how: &'static dyn signature::VerificationAlgorithm| UnparsedPublicKey::new(how, &self.public).verify(message, signature).is_ok();
        match self.algorithm {
            Algorithm::EdDsa => check(&signature::ED25519),
            Algorithm::Es256 => check(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::Rs256 => {
                let key = signature::RsaPublicKeyComponents { n: &self.public, e: &self.exponent };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
        }
    }
}

// ---- keys

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
}

fn read(place: &Place) -> Result<Vec<Key>, IssuerError> {
    let (shown, text) = match place {
        Place::File(path) => {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|e| IssuerError::Unreadable(shown.clone(), e.to_string()))?;
            (shown, text)
        }
        Place::Url(url) => (url.clone(), fetch(url).map_err(|e| IssuerError::Unreadable(url.clone(), e.to_string()))?),
    };
    parse_keys(&text).map_err(|why| IssuerError::Keys(shown, why))
}

fn fetch(url: &str) -> Result<String, ureq::Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).max_redirects(0).build().into();
    agent.get(url).call()?.body_mut().with_config().limit(KEYS_BYTES_MAX).read_to_string()
}

/// Reads a set of keys. Those of kinds that are not known here, or for another use, are left out; a key that is of a known kind and
/// broken is an error, for a token signed with it would be refused without a word.
fn parse_keys(text: &str) -> Result<Vec<Key>, String> {
    let set: Jwks = serde_json::from_str(text).map_err(|e| format!("it is no JWKS ({})", plain(&e.to_string())))?;
    let mut keys: Vec<Key> = Vec::new();
    for (i, jwk) in set.keys.into_iter().enumerate() {
        let name = jwk.kid.clone().unwrap_or_else(|| format!("number {}", i + 1));
        if jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            continue;
        }
        if let Some(key) = jwk.key().map_err(|why| format!("key {}: {why}", plain(&name)))? {
            if key.id.is_some() && keys.iter().any(|k| k.id == key.id) {
                return Err(format!("key {} is there twice", plain(&name)));
            }
            keys.push(key);
        }
    }
    if keys.is_empty() { Err("there is no key for EdDSA, ES256 or RS256 in it".into()) } else { Ok(keys) }
}

impl Jwk {
    fn key(self) -> Result<Option<Key>, String> {
        let bytes = |name: &str, text: &Option<String>, len: Option<usize>| -> Result<Vec<u8>, String> {
            let bytes = text.as_deref().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or_else(|| format!("`{name}` is missing or no base64url"))?;
            match len {
                Some(len) if bytes.len() != len => Err(format!("`{name}` has {} bytes, {len} are wanted", bytes.len())),
                _ => Ok(bytes),
            }
        };
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => Key { id: self.kid.clone(), algorithm: Algorithm::EdDsa, public: bytes("x", &self.x, Some(32))?, exponent: vec![] },
            ("EC", Some("P-256")) => {
                let point = [vec![4], bytes("x", &self.x, Some(32))?, bytes("y", &self.y, Some(32))?].concat();
                Key { id: self.kid.clone(), algorithm: Algorithm::Es256, public: point, exponent: vec![] }
            }
            ("RSA", _) => {
                let strip = |bytes: Vec<u8>| bytes.iter().position(|b| *b != 0).map_or(vec![], |at| bytes[at..].to_vec());
                let (n, e) = (strip(bytes("n", &self.n, None)?), strip(bytes("e", &self.e, None)?));
                if n.len() < 256 {
                    return Err("an RSA key has at least 2,048 bits".into());
                }
                Key { id: self.kid.clone(), algorithm: Algorithm::Rs256, public: n, exponent: e }
            }
            _ => return Ok(None),
        };
        // A key that says that it is for something else is for nothing here.
        match self.alg.as_deref().map(Algorithm::parse) {
            Some(alg) if alg != Some(key.algorithm) => Ok(None),
            _ => Ok(Some(key)),
        }
    }
}

#[cfg(test)]
mod tests;
