#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| remora_injector::fuzzing::admission_reviews(data));
