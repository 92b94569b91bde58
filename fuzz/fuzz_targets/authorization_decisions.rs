#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| remora_policy::fuzzing::authorization_decisions(data));
