//! What is taken for an issuer, what is not and what is said then; and which anchor of several counts.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer as Signer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
};
use remora_model::{SpiffeId, TrustDomain};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn trust_domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn params(name: &str, (from, until): (i32, i32)) -> CertificateParams {
    let day = |days: i32| {
        let (now, apart) = (SystemTime::now(), DAY * days.unsigned_abs());
        if days < 0 { now - apart } else { now + apart }
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (day(from).into(), day(until).into());
    params
}

/// A root, and an intermediate of it with its key.
struct Pki {
    root_key: KeyPair,
    root: String,
    key: KeyPair,
    issuer: String,
}

impl Pki {
    fn new() -> Self {
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = params("root", (-1, 3650)).self_signed(&root_key).unwrap().pem();
        let mut pki = Self { root_key, root, key, issuer: String::new() };
        let issuer = pki.signed(&params("issuer", (-1, 365)), &pki.key);
        pki.issuer = issuer;
        pki
    }

    fn signed(&self, params: &CertificateParams, key: &KeyPair) -> String {
        let root = self::params("root", (-1, 3650));
        let signer = Signer::from_params(&root, &self.root_key);
        params.signed_by(key, &signer).unwrap().pem()
    }

    fn renewed_root(&self, until: i32) -> String {
        params("root", (-20, until)).self_signed(&self.root_key).unwrap().pem()
    }

    fn load(&self, crt: &str, key: &str, ca: &str) -> Result<Issuer, String> {
        let files = Files::new(crt.into(), key.into(), ca.into());
        Issuer::load(&files, &trust_domain(), SystemTime::now()).map_err(|error| error.to_string())
    }

    fn says(&self, crt: &str, key: &str, ca: &str, words: &[&str]) {
        let said = self.load(crt, key, ca).unwrap_err();
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} in: {said}");
        for debug in ["InvalidCert", "UsedAsCa", "Unsupported", "malformedframing", "[67", "{ "] {
            assert!(!said.contains(debug), "a library's word, {debug}, in: {said}");
        }
    }
}

#[test]
fn of_several_anchors_of_one_key_the_one_that_lives_longest_counts() {
    let pki = Pki::new();
    let id = SpiffeId::workload(&trust_domain(), "shop", "web").unwrap();
    // The order in the file, and the order by DER (which serial numbers decide), are chance: many of each.
    for n in 0..12 {
        for until in [-1, 0, 30] {
            let old = pki.renewed_root(until);
            let ca = if n % 2 == 0 { format!("{old}{}", pki.root) } else { format!("{}{old}", pki.root) };
            let issuer = pki.load(&pki.issuer, &pki.key.serialize_pem(), &ca).unwrap();
            let now = SystemTime::now();
            let leaf = issuer.sign(&id, &KeyPair::generate().unwrap(), now, (DAY, Duration::ZERO)).unwrap();
            assert!(leaf.not_after + Duration::from_secs(2) > now + DAY, "an old root that ends in {until} days");
            assert!(issuer.not_after() > now + 300 * DAY);
        }
    }
    let ended = pki.renewed_root(-1);
    pki.says(&pki.issuer, &pki.key.serialize_pem(), &ended, &["the anchor in ca.crt", "expired at 20"]);
}

#[test]
fn keys_are_read_in_every_form_that_people_have() {
    let pki = Pki::new();
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let key = pki.key.serialize_pem();
    for text in [key.clone(), format!("{parameters}{key}"), format!("{}{key}", pki.issuer), key.replace('\n', "\r\n")] {
        assert!(pki.load(&pki.issuer, &text, &pki.root).is_ok(), "{text}");
    }
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_ECDSA_P256_SHA256] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issuer = pki.signed(&params("issuer", (-1, 365)), &key);
        assert!(pki.load(&issuer, &key.serialize_pem(), &pki.root).is_ok());
    }
    // An issuer and its chain, and a root that signs itself.
    assert!(pki.load(&format!("{}{}", pki.issuer, pki.root), &key, &pki.root).is_ok());
    assert!(pki.load(&pki.root, &pki.root_key.serialize_pem(), &pki.root).is_ok());
}

#[test]
fn each_cause_has_its_own_words_with_file_and_line() {
    let pki = Pki::new();
    let key = pki.key.serialize_pem();
    let crt = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = params("issuer", (-1, 365));
        change(&mut params);
        pki.signed(&params, &pki.key)
    };
    let ended = pki.signed(&params("issuer", (-9, -1)), &pki.key);
    pki.says(&ended, &key, &pki.root, &["tls.crt: certificate 1 (line 1) expired at 20", "renew it"]);
    let second = format!("# ours\n{}{ended}", pki.issuer);
    let line = second.lines().position(|line| line.contains("END")).unwrap() + 2;
    pki.says(&second, &key, &pki.root, &[&format!("certificate 2 (line {line}) expired")]);
    let early = pki.signed(&params("issuer", (1, 9)), &pki.key);
    pki.says(&early, &key, &pki.root, &["is not valid before 20"]);
    let leaf = crt(&|params| params.is_ca = IsCa::NoCa);
    pki.says(&leaf, &key, &pki.root, &["certificate 1 (line 1) is no CA", "isCA: true"]);
    let usage = crt(&|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    pki.says(&usage, &key, &pki.root, &["keyUsage lacks keyCertSign"]);

    let other = KeyPair::generate().unwrap().serialize_pem();
    pki.says(&pki.issuer, &other, &pki.root, &["tls.key: it is not the key of certificate 1 (line 1)", "P-256"]);
    let other: &'static SignatureAlgorithm = &PKCS_ED25519;
    let other = KeyPair::generate_for(other).unwrap().serialize_pem();
    pki.says(&pki.issuer, &other, &pki.root, &["is tls.key its key?"]);
    pki.says(&pki.issuer, &pki.issuer, &pki.root, &["tls.key: line 1: it holds a certificate and no private key"]);
    pki.says(&pki.issuer, "", &pki.root, &["tls.key: line 1: it is empty"]);
    pki.says(&pki.issuer, &key.replace("PRIVATE", "ENCRYPTED PRIVATE"), &pki.root, &["tls.key", "encrypted", "line 1"]);
    pki.says(&pki.issuer, &key.replace('M', "A"), &pki.root, &["tls.key"]);

    let stranger = params("stranger", (-1, 9)).self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    pki.says(&pki.issuer, &key, &stranger, &["chains to no anchor of ca.crt", "CN=root", "CN=stranger"]);
    pki.says(&pki.issuer, &key, &pki.root[..300], &["ca.crt: line 1", "is the file cut off?"]);
    let junk = "-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----\n";
    let lines = pki.root.lines().count();
    pki.says(
        &pki.issuer,
        &key,
        &format!("{}{junk}", pki.root),
        &[&format!("ca.crt: certificate 2, at line {},", lines + 1)],
    );
    pki.says(&pki.issuer, &key, &format!("{junk}{}", pki.root), &["ca.crt: certificate 1, at line 1,"]);
    let joined = format!("{}{}", pki.root.trim_end(), stranger);
    pki.says(&pki.issuer, &key, &joined, &[&format!("ca.crt: line {lines}"), "a line break"]);
}

#[test]
fn an_issuer_that_has_ended_signs_nothing_and_says_so() {
    let pki = Pki::new();
    let issuer = pki.load(&pki.issuer, &pki.key.serialize_pem(), &pki.root).unwrap();
    let id = SpiffeId::workload(&trust_domain(), "shop", "web").unwrap();
    let later = SystemTime::now() + 400 * DAY;
    let said = issuer.sign(&id, &KeyPair::generate().unwrap(), later, (DAY, DAY)).unwrap_err().to_string();
    assert!(said.starts_with("the issuer expired at 20"), "{said}");
}

#[test]
fn the_key_on_disk_is_readable_by_its_owner_alone_whatever_lies_in_its_way() {
    let dir = TempDir::new().unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    let made = Files::make(&trust_domain(), SystemTime::now()).unwrap();
    // What an earlier process left, open to all; and a link to elsewhere.
    let (left, elsewhere) = (dir.path().join(".tls.key.tmp"), dir.path().join("elsewhere"));
    fs::write(&left, "").unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o666)).unwrap();
    made.write(dir.path()).unwrap();
    assert_eq!(mode("tls.key"), 0o600);
    symlink(&elsewhere, &left).unwrap();
    made.write(dir.path()).unwrap();
    assert_eq!(mode("tls.key"), 0o600);
    assert!(!elsewhere.exists() && Files::read(dir.path()).unwrap().is_some());
    fs::remove_file(dir.path().join("ca.crt")).unwrap();
    assert!(matches!(Files::read(dir.path()), Err(IssuerError::Incomplete(_))));
}
