//! To which pod a leaf was issued: an extension of our own, so that a pod can be revoked by its name. It says nothing about whether the leaf is
//! trusted, and whoever does not know it reads on (it is not critical).
//!
//! A SPIFFE ID names a service account, which many pods share; a serial number changes with each renewal; an address is another pod's
//! tomorrow, and no part of a certificate. The subject would do, but name constraints of issuers may forbid it.

use super::VerifyError;
use remora_model::{PodName, Serial, Shown};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, oid_registry::Oid, prelude::FromDer as _};

/// Below 2.25, where everybody may take a number by chance.
pub const POD_EXTENSION: [u64; 3] = [2, 25, 2_947_530_406_611_674_110];
/// In DER.
const UTF8_STRING: u8 = 0x0c;

/// The value of the extension: `NAMESPACE/NAME/UID`, as a UTF8String.
#[must_use]
pub fn pod_extension(pod: &PodName) -> Vec<u8> {
    let text = format!("{}/{}/{}", pod.namespace, pod.name, pod.uid);
    // Its parts are bounded, so it is shorter than 64 KiB.
    let [high, low] = u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head: &[u8] = match text.len() {
        0..0x80 => &[UTF8_STRING, low],
        0x80..0x100 => &[UTF8_STRING, 0x81, low],
        _ => &[UTF8_STRING, 0x82, high, low],
    };
    [head, text.as_bytes()].concat()
}

fn read(value: &[u8]) -> Option<PodName> {
    let (length, text) = match *value {
        [UTF8_STRING, length @ 0..=0x7f, ref text @ ..] => (usize::from(length), text),
        [UTF8_STRING, 0x81, length, ref text @ ..] => (usize::from(length), text),
        [UTF8_STRING, 0x82, high, low, ref text @ ..] => (usize::from(u16::from_be_bytes([high, low])), text),
        _ => return None,
    };
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == length)?;
    let mut parts = text.split('/');
    let pod = PodName::new(parts.next()?, parts.next()?, parts.next()?);
    pod.filter(|_| parts.next().is_none())
}

/// What a leaf shows of its owner.
///
/// # Errors
/// It is no SVID's leaf.
pub fn shown(leaf: &CertificateDer<'_>) -> Result<Shown, VerifyError> {
    let identity = super::leaf_identity(leaf)?;
    let (_, cert) = X509Certificate::from_der(leaf).map_err(|e| VerifyError::Malformed(e.to_string()))?;
    let oid = Oid::from(&POD_EXTENSION).map_err(|_| VerifyError::Malformed("no object identifier".to_owned()))?;
    let pod = cert.get_extension_unique(&oid).ok().flatten().and_then(|extension| read(extension.value));
    Ok(Shown { identity, serial: Serial::new(cert.raw_serial()).ok(), pod })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_says_which_pod_and_what_is_no_such_text_says_none() {
        let long = "p".repeat(253);
        let middle = "m".repeat(100);
        for (namespace, name, uid) in [
            ("shop", "web-1", "7e0e2c1c-6f0e-4a5e-9d0a-0a3c5a7f1b11"),
            ("a", "b", ""),
            ("n", &middle, &middle[..64]),
            (&long, &long, "u"),
        ] {
            let pod = PodName::new(namespace, name, uid).unwrap();
            let value = pod_extension(&pod);
            assert_eq!(read(&value), Some(pod));
            assert_eq!(read(&value[..value.len() - 1]), None, "cut off");
            assert_eq!(read(&[&value[..], b"x"].concat()), None, "longer than it says");
        }
        let of = |text: &str| [&[UTF8_STRING, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        for wrong in ["", "a", "a/b", "/b/c", "a//c", "a/b/c/d", "a/b c/d"] {
            assert_eq!(read(&of(wrong)), None, "{wrong}");
        }
        assert_eq!((read(&[]), read(&[0x13, 3, b'a', b'/', b'b'])), (None, None));
    }
}
