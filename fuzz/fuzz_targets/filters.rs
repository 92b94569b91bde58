#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| remora_proxy::fuzzing::filters(data));
