//! Fuzz targets of certificates and keys, as text and as bytes. In: any bytes. Out: nothing, or a panic.

use super::{ANCHORS_MAX, TrustBundle, leaf_identity, pem, shown, verify_svid};
use remora_model::{SpiffeId, TrustDomain};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The anchor that signed `leaf.der` of the corpus.
const ANCHOR: &[u8] = include_bytes!("../../../../fuzz/corpus/peer_certificates/anchor.der");
/// Whose it is.
const LEAF: &str = "spiffe://cluster.local/ns/shop/sa/web";
/// In January 2027, while both hold.
const NOW: Duration = Duration::from_secs(1_800_000_000);

/// All certificates of a text are found, as rustls finds them; twice the text has them twice, and a second key is a mistake.
pub fn pem_texts(data: &[u8]) {
    let twice = [data, b"\n", data].concat();
    if let Ok(found) = pem::certificates(data) {
        assert!(!found.is_empty());
        let begins = data.windows(11).filter(|window| window == b"-----BEGIN ").count();
        assert!(found.len() <= begins, "{} of {begins}", found.len());
        assert!(found.windows(2).all(|two| two[0].line < two[1].line), "in their order");
        let ders = || found.iter().map(|one| one.der.clone());
        let theirs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(data).collect();
        if let Ok(theirs) = theirs.map_err(drop) {
            assert!(theirs.iter().all(|their| ders().any(|our| our == *their)), "rustls finds more");
        }
        // A byte order mark between two texts is none.
        if !data.starts_with("\u{feff}".as_bytes()) {
            let again = pem::certificates(&twice).expect("twice what is good is good");
            assert!(again.iter().map(|one| one.der.clone()).eq(ders().chain(ders())));
        }
        let crlf = String::from_utf8_lossy(data).replace('\n', "\r\n");
        let again = pem::certificates(crlf.as_bytes()).expect("other line ends change nothing");
        assert!(again.iter().map(|one| one.der.clone()).eq(ders()));
    }
    if pem::private_key(data).is_ok() {
        assert!(data.starts_with("\u{feff}".as_bytes()) || pem::private_key(&twice).is_err(), "which one is meant?");
    }
    let domain = TrustDomain::new("cluster.local").expect("a trust domain");
    if let Ok(bundle) = TrustBundle::from_pem(domain, data) {
        assert!((1..=ANCHORS_MAX).contains(&bundle.anchors().len()));
        let union = bundle.union(&bundle).expect("no more than there are");
        assert_eq!(union.version(), bundle.version(), "with itself it is itself");
    }
}

/// A certificate that says who it is says so in one well-formed way, and none but the leaf's own bytes is the leaf's.
pub fn peer_certificates(data: &[u8]) {
    let leaf = CertificateDer::from(data);
    if let Ok(id) = leaf_identity(&leaf) {
        assert_eq!(SpiffeId::parse(id.as_str()), Ok(id.clone()));
        assert_eq!(shown(&leaf).map(|shown| shown.identity), Ok(id.clone()), "who may be revoked is who is let in");
        assert!(
            !id.path().is_empty() && data.windows(id.as_str().len()).any(|window| window == id.as_str().as_bytes())
        );
    }
    let domain = TrustDomain::new("cluster.local").expect("a trust domain");
    let bundle = TrustBundle::new(domain, [ANCHOR]).expect("a bundle");
    let verdict = |now: SystemTime| verify_svid(std::slice::from_ref(&leaf), &bundle, now);
    if let Ok(id) = verdict(UNIX_EPOCH + NOW) {
        assert_eq!(id.as_str(), LEAF);
        assert!(verdict(UNIX_EPOCH).is_err(), "it did not hold in 1970");
    }
}
