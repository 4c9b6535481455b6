//! Tokens that are genuine, and some seventy that are not.

use super::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

const NOW_S: i64 = 1_800_000_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

struct World {
    issuer: Issuer,
    ed: Ed25519KeyPair,
    other: Ed25519KeyPair,
    ec: EcdsaKeyPair,
    random: SystemRandom,
    _dir: tempfile::TempDir,
}

fn ed_jwk(key: &Ed25519KeyPair, kid: &str) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "use": "sig", "x": b64(key.public_key()) })
}

impl World {
    fn new() -> World {
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let other = Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let point = ec.public_key().as_ref();
        let keys = json!({ "keys": [
            ed_jwk(&ed, "ed"),
            { "kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(&point[1..33]), "y": b64(&point[33..]) },
            { "kty": "oct", "kid": "secret", "k": b64("not for this") },
            { "kty": "OKP", "crv": "X25519", "kid": "exchange", "x": b64([9; 32]) },
            { "kty": "OKP", "crv": "Ed25519", "kid": "enc", "use": "enc", "x": b64(other.public_key()) },
        ]});
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        std::fs::write(&path, keys.to_string()).unwrap();
        let config = IssuerConfig { issuer: "https://id.example.org".into(), audience: "syncline".into(), jwks: path.display().to_string() };
        World { issuer: Issuer::open(config).unwrap(), ed, other, ec, random, _dir: dir }
    }
    fn raw(&self, header: &str, payload: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let signed = format!("{}.{}", b64(header), b64(payload));
        let signature = sign(signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }
    fn ed(&self, header: Value, payload: Value) -> String {
        self.raw(&header.to_string(), &payload.to_string(), |m| self.ed.sign(m).as_ref().to_vec())
    }
    fn says(&self, token: &str) -> Result<Vouched, ApiError> {
        self.issuer.verify(token, NOW_S * 1000)
    }
}

fn header() -> Value {
    json!({ "alg": "EdDSA", "kid": "ed", "typ": "JWT" })
}

fn claims() -> Value {
    json!({ "iss": "https://id.example.org", "aud": "syncline", "sub": "anna", "exp": NOW_S + 300, "nbf": NOW_S - 5, "iat": NOW_S - 5 })
}

fn with(mut base: Value, name: &str, value: Value) -> Value {
    base[name] = value;
    base
}

fn without(mut base: Value, name: &str) -> Value {
    base.as_object_mut().unwrap().remove(name);
    base
}

#[test]
fn a_genuine_token_vouches_for_its_subject() {
    let w = World::new();
    let vouched = Ok(Vouched { account: "anna".into(), expires_ms: (NOW_S + 360) * 1000 });
    assert_eq!(w.says(&w.ed(header(), claims())), vouched);
    assert_eq!(w.says(&w.ed(header(), with(claims(), "aud", json!(["a", "syncline"])))), vouched);
    assert_eq!(w.says(&w.ed(without(header(), "typ"), without(without(claims(), "nbf"), "iat"))), vouched);
    assert_eq!(w.says(&w.ed(header(), with(claims(), "groups", json!({ "more": [1, 2] })))), vouched);
    let ec = w.raw(&json!({ "alg": "ES256", "kid": "ec" }).to_string(), &claims().to_string(), |m| w.ec.sign(&w.random, m).unwrap().as_ref().to_vec());
    assert_eq!(w.says(&ec), vouched);
    assert!(is_issued(&ec) && !is_issued("syt_abc") && !is_issued("syt_a.b.c"));
}

#[test]
fn what_is_not_the_issuers_is_refused_in_one_way_whatever_it_is() {
    let w = World::new();
    let good = w.ed(header(), claims());
    let (head, body, signature) = {
        let mut parts = good.split('.');
        (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
    };
    let public = b64(w.ed.public_key());
    let sign_other = |m: &[u8]| w.other.sign(m).as_ref().to_vec();
    let hmac = |m: &[u8], key: &[u8]| ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), m).as_ref().to_vec();
    let text = claims().to_string();
    let mut hostile: Vec<String> = vec![
        // No signature, or a wish for none.
        format!("{head}.{body}."),
        format!("{}.{body}.", b64(json!({ "alg": "none" }).to_string())),
        format!("{}.{body}.", b64(json!({ "alg": "None", "kid": "ed" }).to_string())),
        format!("{}.{body}.{signature}", b64(json!({ "alg": "none", "kid": "ed" }).to_string())),
        format!("{}.{body}.{signature}", b64(json!({ "alg": "", "kid": "ed" }).to_string())),
        format!("{}.{body}.{signature}", b64(json!({ "kid": "ed" }).to_string())),
        // The public key as a secret.
        w.raw(&json!({ "alg": "HS256", "kid": "ed" }).to_string(), &text, |m| hmac(m, w.ed.public_key().as_ref())),
        w.raw(&json!({ "alg": "HS256", "kid": "ed" }).to_string(), &text, |m| hmac(m, public.as_bytes())),
        w.raw(&json!({ "alg": "EdDSA", "kid": "ed" }).to_string(), &text, |m| hmac(m, w.ed.public_key().as_ref())),
        w.raw(&json!({ "alg": "HS256", "kid": "secret" }).to_string(), &text, |m| hmac(m, b"not for this")),
        w.raw(&json!({ "alg": "HS256" }).to_string(), &text, |m| hmac(m, b"")),
        // A key for another algorithm, another use, of nobody.
        w.raw(&json!({ "alg": "ES256", "kid": "ed" }).to_string(), &text, |m| w.ed.sign(m).as_ref().to_vec()),
        w.raw(&json!({ "alg": "RS256", "kid": "ed" }).to_string(), &text, |m| w.ed.sign(m).as_ref().to_vec()),
        w.raw(&json!({ "alg": "EdDSA", "kid": "ec" }).to_string(), &text, |m| w.ed.sign(m).as_ref().to_vec()),
        w.raw(&json!({ "alg": "ES256", "kid": "ed" }).to_string(), &text, |m| w.ec.sign(&w.random, m).unwrap().as_ref().to_vec()),
        w.raw(&json!({ "alg": "ES384", "kid": "ec" }).to_string(), &text, |m| w.ec.sign(&w.random, m).unwrap().as_ref().to_vec()),
        w.raw(&json!({ "alg": "EdDSA", "kid": "enc" }).to_string(), &text, sign_other),
        w.raw(&header().to_string(), &text, sign_other),
        w.raw(&json!({ "alg": "EdDSA", "kid": "nobody" }).to_string(), &text, sign_other),
        w.raw(&json!({ "alg": "EdDSA" }).to_string(), &text, |m| w.ed.sign(m).as_ref().to_vec()),
        w.raw(&json!({ "alg": "EdDSA", "kid": ["ed"] }).to_string(), &text, |m| w.ed.sign(m).as_ref().to_vec()),
        w.raw(&json!({ "alg": "EdDSA", "kid": "../../../dev/null" }).to_string(), &text, sign_other),
        w.raw(&json!({ "alg": "EdDSA", "kid": "' OR 1 = 1 --" }).to_string(), &text, sign_other),
        // A key that the token brings along.
        w.raw(&json!({ "alg": "EdDSA", "kid": "x", "jwk": ed_jwk(&w.other, "x") }).to_string(), &text, sign_other),
        w.raw(&json!({ "alg": "EdDSA", "jku": "http://127.0.0.1:1/jwks", "kid": "x" }).to_string(), &text, sign_other),
        w.raw(&json!({ "alg": "EdDSA", "x5c": ["AAAA"], "kid": "x" }).to_string(), &text, sign_other),
        // Headers that mean something else, or twice.
        w.ed(with(header(), "crit", json!(["exp"])), claims()),
        w.ed(with(header(), "b64", json!(false)), claims()),
        w.ed(with(header(), "typ", json!("dpop+jwt")), claims()),
        w.ed(with(header(), "typ", json!(7)), claims()),
        w.ed(with(header(), "alg", json!("eddsa")), claims()),
        w.ed(with(header(), "alg", json!(null)), claims()),
        w.ed(with(header(), "alg", json!(["EdDSA"])), claims()),
        w.raw("{\"alg\":\"EdDSA\",\"kid\":\"ed\",\"alg\":\"none\"}", &text, |m| w.ed.sign(m).as_ref().to_vec()),
        w.raw("[]", &text, |m| w.ed.sign(m).as_ref().to_vec()),
        w.raw("", &text, |m| w.ed.sign(m).as_ref().to_vec()),
        w.raw(&"[".repeat(4_000), &text, |m| w.ed.sign(m).as_ref().to_vec()),
        w.raw("\u{feff}{}", &text, |m| w.ed.sign(m).as_ref().to_vec()),
        // Forms.
        format!("{head}.{body}"),
        format!("{head}.{body}.{signature}."),
        format!("{head}.{body}.{signature}.{signature}"),
        format!("{head}..{signature}"),
        format!(".{body}.{signature}"),
        "..".into(),
        ". . .".into(),
        format!("{head}={}.{signature}", format_args!(".{body}")),
        format!("{head}.{body}==.{signature}"),
        format!("{head}.{body}.{signature}="),
        format!(" {good}"),
        format!("{good}\n"),
        format!("Bearer {good}"),
        format!("{head}.{body}.{}", &signature[..signature.len() - 2]),
        format!("{head}.{body}.{signature}AA"),
        format!("{head}.{body}.{}", b64([0; 64])),
        format!("{head}.{body}.{}", b64([255; 64])),
        format!("{body}.{head}.{signature}"),
        format!("{head}.{}.{signature}", b64(with(claims(), "sub", json!("bertram")).to_string())),
        format!("{}.{body}.{signature}", b64(with(header(), "x", json!(1)).to_string())),
        format!("{head}.{body}.{}", signature.replace(|c: char| c.is_ascii_lowercase(), "é")),
        format!("{}.{}.{}", "A".repeat(3_000), "A".repeat(3_000), "A".repeat(3_000)),
        format!("{head}.{}.{signature}", b64(vec![b' '; 8_000])),
        format!("{}.{}.{}", "A".repeat(1 << 20), body, signature),
        w.raw(&header().to_string(), &format!("{text} "), |m| w.ed.sign(&m[..m.len() - 1]).as_ref().to_vec()),
        // A token in a token: the outer one is nobody's.
        w.raw(&json!({ "alg": "EdDSA", "kid": "nobody", "cty": "JWT" }).to_string(), &good, sign_other),
        "syt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into(),
        "\0.\0.\0".into(),
    ];
    // An ES256 signature of zeros once verified as anything: CVE-2022-21449.
    hostile.push(format!("{}.{body}.{}", b64(json!({ "alg": "ES256", "kid": "ec" }).to_string()), b64([0; 64])));
    // Malleable: s and n - s check alike in ECDSA, but what is remembered of a used token is what was signed.
    assert!(hostile.len() >= 60, "{}", hostile.len());
    for token in &hostile {
        assert_eq!(w.says(token), Err(bad_token()), "{}", token.chars().take(120).collect::<String>());
    }
    assert!(w.says(&good).is_ok());
}

#[test]
fn a_genuine_token_that_does_not_fit_is_told_what_is_wrong() {
    let w = World::new();
    let cases = [
        (with(claims(), "iss", json!("https://evil.example.org")), "iss"),
        (with(claims(), "iss", json!("https://id.example.org/")), "iss"),
        (with(claims(), "aud", json!("another")), "aud"),
        (with(claims(), "aud", json!([])), "aud"),
        (with(claims(), "aud", json!({ "syncline": true })), "aud"),
        (with(claims(), "aud", json!(["sync", "line"])), "aud"),
        (with(claims(), "exp", json!(NOW_S - 60)), "expired"),
        (with(claims(), "exp", json!(0)), "expired"),
        (with(claims(), "exp", json!(i64::MIN)), "expired"),
        (with(claims(), "exp", json!("never")), "exp"),
        (with(claims(), "exp", json!((NOW_S + 300).to_string())), "exp"),
        (with(claims(), "exp", json!(1e300)), "exp"),
        (with(claims(), "exp", json!(null)), "exp"),
        (with(claims(), "nbf", json!(NOW_S + 61)), "not good yet"),
        (with(claims(), "nbf", json!("now")), "exp"),
        (with(claims(), "iat", json!(NOW_S + 3_600)), "not good yet"),
        (with(claims(), "sub", json!("")), "sub"),
        (with(claims(), "sub", json!("  ")), "sub"),
        (with(claims(), "sub", json!(7)), "sub"),
        (with(claims(), "sub", json!("a\nb")), "sub"),
        (with(claims(), "sub", json!("x".repeat(201))), "sub"),
        (without(claims(), "iss"), "iss"),
        (without(claims(), "aud"), "aud"),
        (without(claims(), "sub"), "sub"),
        (without(claims(), "exp"), "exp"),
        (json!([]), "exp"),
        (json!("anna"), "exp"),
    ];
    for (payload, what) in cases {
        let refused = w.says(&w.ed(header(), payload.clone())).unwrap_err();
        assert!(refused.code() == "unauthorized" && refused.to_string().contains(what), "{payload}: {refused}");
    }
    let twice = "{\"iss\":\"https://id.example.org\",\"aud\":\"syncline\",\"sub\":\"anna\",\"sub\":\"bertram\",\"exp\":1800000300}";
    assert!(w.says(&w.raw(&header().to_string(), twice, |m| w.ed.sign(m).as_ref().to_vec())).unwrap_err().to_string().contains("sub"));
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    for (text, what) in [
        ("", "JWKS"),
        ("{}", "JWKS"),
        ("{\"keys\": []}", "no key"),
        ("{\"keys\": [{\"kty\": \"oct\", \"k\": \"AA\"}]}", "no key"),
        ("{\"keys\": [{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"kid\": \"a\", \"x\": \"AA\"}]}", "key a"),
        ("{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-256\", \"kid\": \"b\", \"x\": \"AA\"}]}", "key b"),
        ("{\"keys\": [{\"kty\": \"RSA\", \"n\": \"AQAB\", \"e\": \"AQAB\"}]}", "2,048"),
    ] {
        assert!(parse_keys(text).unwrap_err().contains(what), "{text}");
    }
    let key = ed_jwk(&Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap(), "a");
    assert!(parse_keys(&json!({ "keys": [key, key] }).to_string()).unwrap_err().contains("twice"));
    let config = |jwks: &str| IssuerConfig { issuer: "i".into(), audience: "a".into(), jwks: jwks.into() };
    for open_to_all in
        ["http://id.example.org/jwks", "http://localhost.example.org/jwks", "http://127.0.0.1.example.org", "http://localhost:x@example.org/jwks"]
    {
        assert!(matches!(Issuer::open(config(open_to_all)), Err(IssuerError::Config(_))), "{open_to_all}");
    }
    assert!(matches!(Issuer::open(config("/nowhere/jwks.json")), Err(IssuerError::Unreadable(..))));
}
