//! Log records: RUST_LOG chooses them, standard error gets them, and without it there are none.

use std::sync::Once;

/// Turns logging on if RUST_LOG asks for it. Called when the first TCP socket is made, never when the library is loaded.
pub fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("RUST_LOG").is_some() {
            let stderr = env_logger::Target::Pipe(Box::new(Stderr));
            let _ = env_logger::Builder::from_default_env().target(stderr).try_init();
            log::info!("tcpreload {} in process {}", env!("CARGO_PKG_VERSION"), engine::sys::getpid());
        }
    });
}

/// Standard error by system call: `std::io::stderr` would come back through our own write(2).
struct Stderr;

impl std::io::Write for Stderr {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        engine::sys::write(2, text).map_err(std::io::Error::from_raw_os_error)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
