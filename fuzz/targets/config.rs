//! No text makes the configuration panic, and what it accepts can be routed by.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pointsman::config::parse_str;
use pointsman::route::Router;

fuzz_target!(|text: &str| {
    match parse_str(Path::new("fuzz.toml"), text) {
        Ok(loaded) => {
            for listener in 0..loaded.config.listeners.len() {
                let _ = Router::new(&loaded.config, listener).find(None, std::iter::empty(), None);
            }
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
