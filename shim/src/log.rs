//! Log records: RUST_LOG chooses them, standard error gets them, and without it there are none.

use std::sync::Once;

/// Turns logging on if RUST_LOG asks for it. Called when the first TCP socket is made, never when the library is loaded.
pub fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("RUST_LOG").is_some() {
            let _ = env_logger::Builder::from_default_env().try_init();
        }
    });
}

/// One line for the user, on standard error, log or no log.
pub fn tell(line: &str) {
    let mut text = Vec::with_capacity(line.len() + 16);
    text.extend_from_slice(b"tcpreload: ");
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
    // A closed standard error is the program's choice.
    let _ = engine::sys::write(2, &text);
}
