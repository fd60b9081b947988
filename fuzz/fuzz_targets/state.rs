#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tenantd_fuzz::check("state", data);
});
