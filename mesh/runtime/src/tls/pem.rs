//! PEM (RFC 7468), read so that nothing is lost in silence: every line that looks like a marker belongs to a whole section, or is
//! a mistake with its line.
//!
//! In: the bytes of a file that a person, `cat`, cert-manager or OpenSSL wrote. Out: sections in their order with their lines, or the
//! first mistake. Text between sections is allowed (RFC 7468 §2: explanatory text), and so are CRLF and blanks at the end of a
//! line. Half of a file is never taken: of two anchors the one that was lost would cut its holders off, one by one.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::borrow::Cow;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
/// Labels of a certificate; the second is OpenSSL's of long ago, for the same bytes.
const CERTIFICATE: [&str; 2] = ["CERTIFICATE", "X509 CERTIFICATE"];
/// Labels of a private key: PKCS#8, PKCS#1, SEC1.
const KEY: [&str; 3] = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
/// What may stand beside certificates or a key and says nothing to us. `openssl ecparam -genkey` writes the first before a key.
const BESIDE: [&str; 5] = ["EC PARAMETERS", "DSA PARAMETERS", "DH PARAMETERS", "X509 CRL", "PUBLIC KEY"];
/// How the labels begin that people have in such files.
const LABELS: [&str; 8] = ["CERT", "X509", "TRUSTED", "PRIVATE", "RSA", "EC", "DSA", "ENCRYPTED"];
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// What is wrong, and in which line (from 1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {mistake}")]
pub struct PemError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub mistake: Mistake,
}

/// Mistakes of a PEM text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// DER, UTF-16 or something else.
    #[error("it is not text: PEM in UTF-8 is wanted, not {0}")]
    NotText(&'static str),
    /// A marker that is not alone on its line.
    #[error("{0:?} is not alone on its line; is a line break missing between two sections?")]
    Joined(String),
    /// A line that looks like a marker and is none.
    #[error(
        "{0:?} looks like the begin or end of a section and is neither; five dashes, a label, five dashes are wanted"
    )]
    Marker(String),
    /// A section without an end.
    #[error("the section {0} that begins here has no line -----END {0}-----; is the file cut off?")]
    CutOff(String),
    /// A section that is ended by another's end.
    #[error("the section {begun} is ended by END {ended}")]
    OtherEnd {
        /// As it began.
        begun: String,
        /// As it ended.
        ended: String,
    },
    /// An end without a begin.
    #[error("END {0} ends no section; is its BEGIN line lost?")]
    Unbegun(String),
    /// A section without content.
    #[error("the section {0} is empty")]
    Hollow(String),
    /// A line of a section that is not base64.
    #[error("this line of the section {0} is not base64")]
    Base64(String),
    /// A section of a kind that has no meaning here.
    #[error("the section {0} is not read here: {1}")]
    Label(String, &'static str),
    /// A key that needs a password.
    #[error("the private key is encrypted; decrypt it, as by openssl pkey")]
    Encrypted,
    /// A certificate where a key is wanted.
    #[error("it holds a certificate and no private key")]
    NoKeyButCertificate,
    /// No key.
    #[error("it holds no private key")]
    NoKey,
    /// Several keys.
    #[error("it holds a second private key; which one is meant?")]
    SecondKey,
    /// No certificate.
    #[error("it holds no certificate")]
    NoCertificate,
}

/// A section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    label: String,
    /// Of its BEGIN.
    line: usize,
    der: Vec<u8>,
}

/// A certificate of a PEM text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemCertificate {
    /// The line that it begins in, from 1.
    pub line: usize,
    /// The certificate, which was not looked into.
    pub der: CertificateDer<'static>,
}

/// The certificates of a text, in their order: at least one. Keys and parameters beside them are skipped; a section of any other
/// kind is an error.
pub fn certificates(text: &[u8]) -> Result<Vec<PemCertificate>, PemError> {
    let mut found = Vec::new();
    for Section { label, line, der } in sections(text)? {
        if CERTIFICATE.contains(&label.as_str()) {
            found.push(PemCertificate { line, der: CertificateDer::from(der) });
        } else if label == "TRUSTED CERTIFICATE" {
            let hint = "it is OpenSSL's own; convert it, as by openssl x509";
            return Err(PemError { line, mistake: Mistake::Label(label, hint) });
        } else if !KEY.contains(&label.as_str()) && label != ENCRYPTED && !BESIDE.contains(&label.as_str()) {
            return Err(PemError { line, mistake: Mistake::Label(label, "a CERTIFICATE is wanted") });
        }
    }
    if found.is_empty() { Err(PemError { line: 1, mistake: Mistake::NoCertificate }) } else { Ok(found) }
}

/// The one private key of a text. Certificates and parameters beside it are skipped.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let (mut found, mut certificate) = (None, None);
    for Section { label, line, der } in sections(text)? {
        let mistake = match label.as_str() {
            ENCRYPTED => Some(Mistake::Encrypted),
            _ if KEY.contains(&label.as_str()) && found.is_some() => Some(Mistake::SecondKey),
            "PRIVATE KEY" => keep(&mut found, PrivateKeyDer::Pkcs8(der.into())),
            "RSA PRIVATE KEY" => keep(&mut found, PrivateKeyDer::Pkcs1(der.into())),
            "EC PRIVATE KEY" => keep(&mut found, PrivateKeyDer::Sec1(der.into())),
            _ if CERTIFICATE.contains(&label.as_str()) => {
                certificate.get_or_insert(line);
                None
            }
            _ if BESIDE.contains(&label.as_str()) => None,
            _ => Some(Mistake::Label(label.clone(), "a PRIVATE KEY is wanted")),
        };
        if let Some(mistake) = mistake {
            return Err(PemError { line, mistake });
        }
    }
    found.ok_or(match certificate {
        Some(line) => PemError { line, mistake: Mistake::NoKeyButCertificate },
        None => PemError { line: 1, mistake: Mistake::NoKey },
    })
}

fn keep<T>(found: &mut Option<T>, key: T) -> Option<Mistake> {
    *found = Some(key);
    None
}

/// All sections of a text, or its first error.
pub(super) fn sections(text: &[u8]) -> Result<Vec<Section>, PemError> {
    let text = as_text(text)?;
    let mut sections = Vec::new();
    let mut open: Option<Open> = None;
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim_end(), index + 1);
        let fail = |mistake| Err(PemError { line: number, mistake });
        match (marker(line), &mut open) {
            (Marked::Begin(label), None) => {
                open = Some(Open { label: label.to_owned(), line: number, body: String::new() })
            }
            (Marked::Begin(_), Some(Open { label, line, .. })) => {
                return Err(PemError { line: *line, mistake: Mistake::CutOff(label.clone()) });
            }
            (Marked::End(label), None) => return fail(Mistake::Unbegun(label.to_owned())),
            (Marked::End(ended), Some(Open { label: begun, .. })) if ended != begun => {
                return fail(Mistake::OtherEnd { begun: begun.clone(), ended: ended.to_owned() });
            }
            (Marked::End(_), Some(_)) => sections.extend(open.take().map(Open::close).transpose()?),
            (Marked::Joined, _) => return fail(Mistake::Joined(shortened(line))),
            (Marked::Broken, _) => return fail(Mistake::Marker(shortened(line))),
            (Marked::No, None) => {}
            (Marked::No, Some(open)) => open.push(line, number)?,
        }
    }
    match open {
        Some(Open { label, line, .. }) => Err(PemError { line, mistake: Mistake::CutOff(label) }),
        None => Ok(sections),
    }
}

fn as_text(bytes: &[u8]) -> Result<Cow<'_, str>, PemError> {
    let fail = |mistake| Err(PemError { line: 1, mistake });
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return fail(Mistake::Empty);
    }
    // A SEQUENCE of more than 127 bytes, which is what certificates and keys are.
    if matches!(bytes, [0x30, 0x81..=0x84, ..]) {
        return fail(Mistake::NotText("DER"));
    }
    if bytes.contains(&0) {
        return fail(Mistake::NotText("UTF-16 or bytes"));
    }
    // Comments may be of any encoding: bytes that are not UTF-8 in a section are not base64 either, and reported there.
    Ok(String::from_utf8_lossy(bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)))
}

/// A section that has begun.
struct Open {
    label: String,
    line: usize,
    body: String,
}

impl Open {
    fn push(&mut self, line: &str, number: usize) -> Result<(), PemError> {
        let line = line.trim_start();
        // RFC 1421 §4.6: what OpenSSL writes into a key that it encrypts the old way.
        if line.starts_with("Proc-Type:") && line.contains("ENCRYPTED") {
            return Err(PemError { line: self.line, mistake: Mistake::Encrypted });
        }
        let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        if !line.bytes().all(base64) {
            return Err(PemError { line: number, mistake: Mistake::Base64(self.label.clone()) });
        }
        self.body.push_str(line);
        Ok(())
    }

    fn close(self) -> Result<Section, PemError> {
        let Self { label, line, body } = self;
        if body.is_empty() {
            return Err(PemError { line, mistake: Mistake::Hollow(label) });
        }
        // RFC 4648 §3.2: padded; else a character was lost.
        if !body.len().is_multiple_of(4) {
            return Err(PemError { line, mistake: Mistake::Base64(label) });
        }
        let whole = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        match CertificateDer::from_pem_slice(whole.as_bytes()) {
            Ok(der) => Ok(Section { label, line, der: der.to_vec() }),
            Err(_) => Err(PemError { line, mistake: Mistake::Base64(label) }),
        }
    }
}

/// What a line is.
enum Marked<'a> {
    No,
    Begin(&'a str),
    End(&'a str),
    /// A marker, and something beside it.
    Joined,
    /// Nearly a marker.
    Broken,
}

fn marker(line: &str) -> Marked<'_> {
    let label = |after: &'static str| {
        let label = line.strip_prefix(after)?.strip_suffix(DASHES)?;
        (!label.is_empty() && !label.contains("--") && label.trim() == label).then_some(label)
    };
    if let Some(label) = label(BEGIN) {
        Marked::Begin(label)
    } else if let Some(label) = label(END) {
        Marked::End(label)
    } else if line.contains(BEGIN) || line.contains(END) {
        Marked::Joined
    } else if is_nearly_a_marker(line) {
        Marked::Broken
    } else {
        Marked::No
    }
}

/// Whether a line holds BEGIN or END between at least two dashes of any kind and a label: a marker that lost something on its way.
fn is_nearly_a_marker(line: &str) -> bool {
    let dash = |character: char| matches!(character, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ad}');
    let upper = line.to_ascii_uppercase();
    ["BEGIN", "END"].into_iter().flat_map(|word| upper.match_indices(word)).any(|(at, word)| {
        let before = upper.get(..at).unwrap_or_default().trim_end();
        let after = upper.get(at + word.len()..).unwrap_or_default().trim_start();
        before.chars().rev().take_while(|character| dash(*character)).count() >= 2
            && LABELS.iter().any(|label| after.starts_with(label))
    })
}

/// As much of a line as a message shows. A line of a key is never shown: only markers are.
fn shortened(line: &str) -> String {
    line.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
    const KEY_TEXT: &str = "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----\n";

    fn lines(text: &str) -> Result<Vec<usize>, (usize, Mistake)> {
        certificates(text.as_bytes())
            .map(|found| found.iter().map(|certificate| certificate.line).collect())
            .map_err(|error| (error.line, error.mistake))
    }

    #[test]
    fn text_crlf_and_blanks_around_sections_are_no_obstacle() {
        let crlf = A.replace('\n', "\r\n");
        assert_eq!(lines(&format!("# ours\nsubject=CN = a\n{A}\n\n---- end of ours ----\n{crlf}  \n")), Ok(vec![3, 9]));
        assert_eq!(lines(A.trim_end()), Ok(vec![1]), "no line break at the end");
        assert_eq!(lines(&A.replace("AQID", "AQ \nID\t")), Ok(vec![1]));
        assert_eq!(lines(&format!("\u{feff}{A}")), Ok(vec![1]), "a byte order mark");
        assert_eq!(lines(&A.replace("CERT", "X509 CERT")), Ok(vec![1]));
        assert_eq!(lines(&format!("{KEY_TEXT}{A}")), Ok(vec![4]), "a key beside it");
    }

    #[test]
    fn every_begin_that_yields_nothing_is_a_mistake_with_its_line() {
        let joined = format!("{}{A}", A.trim_end());
        assert_eq!(
            lines(&joined),
            Err((3, Mistake::Joined("-----END CERTIFICATE----------BEGIN CERTIFICATE-----".into())))
        );
        let cut_off = |text: &str| Err((text.lines().count(), Mistake::CutOff("CERTIFICATE".into())));
        assert_eq!(lines("-----BEGIN CERTIFICATE-----"), cut_off("x"));
        assert_eq!(lines(&format!("{A}-----BEGIN CERTIFICATE-----\nAQID\n")), cut_off("1\n2\n3\n4"));
        let no_end = format!("-----BEGIN CERTIFICATE-----\nAQID\n{A}");
        assert_eq!(lines(&no_end), cut_off("x"));
        // One way each to damage a marker.
        for broken in [
            "----BEGIN CERTIFICATE-----",
            "-----BEGIN CERTIFICATE----",
            " -----BEGIN CERTIFICATE-----",
            "> -----BEGIN CERTIFICATE-----",
            "-----BEGINCERTIFICATE-----",
            "-----Begin Certificate-----",
            "----- BEGIN CERTIFICATE -----",
            "\u{2014}\u{2014}BEGIN CERTIFICATE\u{2014}\u{2014}",
            "-----BEGIN -----",
            "-----BEGIN CERTIFICATE----- AQID",
        ] {
            let text = A.replace("-----BEGIN CERTIFICATE-----", broken);
            let (line, _) = lines(&format!("{A}{text}{A}")).unwrap_err();
            assert_eq!(line, 4, "{broken}");
            let text = A.replace("-----END CERTIFICATE-----", &broken.replace("BEGIN", "END").replace("Begin", "End"));
            assert!(lines(&format!("{A}{text}{A}")).is_err(), "end: {broken}");
        }
    }

    #[test]
    fn what_is_in_a_section_is_base64_or_a_mistake() {
        let with = |body: &str| lines(&A.replace("AQID", body)).unwrap_err();
        assert_eq!(with("AQID\n!"), (3, Mistake::Base64("CERTIFICATE".into())));
        assert_eq!(with("AQI"), (1, Mistake::Base64("CERTIFICATE".into())));
        assert_eq!(with(""), (1, Mistake::Hollow("CERTIFICATE".into())));
        let other = A.replace("END CERTIFICATE", "END PRIVATE KEY");
        assert!(matches!(lines(&other), Err((3, Mistake::OtherEnd { .. }))));
        assert!(matches!(lines(&format!("-----END CERTIFICATE-----\n{A}")), Err((1, Mistake::Unbegun(_)))));
        for label in ["CERTIFCATE", "TRUSTED CERTIFICATE", "CERTIFICATE REQUEST", "PKCS7", "certificate"] {
            let text = A.replace("CERTIFICATE", label);
            assert!(matches!(lines(&format!("{A}{text}")), Err((4, Mistake::Label(..)))), "{label}");
        }
    }

    #[test]
    fn what_is_no_text_is_called_by_its_name() {
        assert_eq!(lines(""), Err((1, Mistake::Empty)));
        assert_eq!(lines(" \r\n"), Err((1, Mistake::Empty)));
        assert_eq!(lines("nothing"), Err((1, Mistake::NoCertificate)));
        let mistake = |bytes: &[u8]| certificates(bytes).unwrap_err().mistake;
        assert_eq!(mistake(b"\x30\x82\x01\x00rest"), Mistake::NotText("DER"));
        let wide: Vec<u8> = A.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(mistake(&wide), Mistake::NotText("UTF-16 or bytes"));
        let latin = [b"# f\xfcr uns\n".as_slice(), A.as_bytes()].concat();
        assert_eq!(certificates(&latin).map(|found| found.len()), Ok(1), "a comment of another encoding");
    }

    #[test]
    fn a_key_is_found_beside_parameters_and_each_other_thing_has_its_words() {
        let key = |text: &str| private_key(text.as_bytes()).map(drop).map_err(|error| (error.line, error.mistake));
        let parameters = A.replace("CERTIFICATE", "EC PARAMETERS");
        for label in KEY {
            assert_eq!(key(&format!("{parameters}{}", A.replace("CERTIFICATE", label))), Ok(()), "{label}");
        }
        assert_eq!(key(&format!("{A}{KEY_TEXT}")), Ok(()));
        assert_eq!(key(A), Err((1, Mistake::NoKeyButCertificate)));
        assert_eq!(key(&parameters), Err((1, Mistake::NoKey)));
        assert_eq!(key(""), Err((1, Mistake::Empty)));
        assert_eq!(key(&format!("{KEY_TEXT}{KEY_TEXT}")), Err((4, Mistake::SecondKey)));
        assert_eq!(key(&A.replace("CERTIFICATE", ENCRYPTED)), Err((1, Mistake::Encrypted)));
        let old = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAQID";
        let old = A.replace("CERTIFICATE", "RSA PRIVATE KEY").replace("AQID", old);
        assert_eq!(key(&old), Err((1, Mistake::Encrypted)));
        assert!(matches!(key(&A.replace("CERTIFICATE", "OPENSSH PRIVATE KEY")), Err((1, Mistake::Label(..)))));
    }
}
