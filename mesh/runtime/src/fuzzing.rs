//! Fuzz targets of what files, settings and peers say to every component: one function per parser, which runs it and asserts
//! what its module promises. In: any bytes. Out: nothing, or a panic. Built for tests, which replay `fuzz/corpus` and changes of
//! it, and for `cargo fuzz` (which sets `cfg(fuzzing)`) alone.

pub use crate::{
    admin::fuzzing::admin_origins,
    tls::fuzzing::{peer_certificates, pem_texts},
};

use crate::settings::duration;

#[cfg(test)]
remora_replay::replays! {
    of_a_pem_file_nothing_is_lost: pem_texts, 20_000;
    no_change_of_a_certificate_makes_it_anothers: peer_certificates, 20_000;
    no_foreign_name_reaches_the_admin_port: admin_origins, 20_000;
    a_duration_is_read_as_it_is_written: durations, 20_000;
}

/// A setting's time is written so that it is read as the same.
pub fn durations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match duration(&text) {
        Ok(time) => assert_eq!(duration(&format!("{}ms", time.as_millis())), Ok(time), "{text:?}"),
        Err(mistake) => assert!(mistake.contains("30s"), "it says what is wanted: {mistake}"),
    }
}
