#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| remora_model::fuzzing::spiffe_ids(data));
