#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    vidense_fuzz::chat(bytes);
});
