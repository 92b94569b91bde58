#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| remora_model::fuzzing::targets(data));
