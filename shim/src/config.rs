//! The environment and the sysctls of the program's namespace.

use engine::sys;
use engine::values::Sysctls;
use std::ffi::CString;

/// What the environment says. Read once, when the arena is made.
#[derive(Clone, Debug)]
pub struct Config {
    pub sysctls: Sysctls,
    /// TCPRELOAD_SPIN_US: how long a waiting thread looks at the rings before it sleeps.
    pub spin_us: u64,
    /// TCPRELOAD_STATS: the counters go there, as a line of JSON, when the last process ends.
    pub stats: Option<CString>,
}

/// TCPRELOAD_STRICT=1: no TCP socket may run on the kernel's stack.
pub fn is_strict() -> bool {
    std::env::var_os("TCPRELOAD_STRICT").is_some_and(|v| v == "1")
}

impl Config {
    /// # Errors
    /// A sentence that says which variable is wrong, and how.
    pub fn read() -> Result<Config, String> {
        let mut sysctls = Sysctls::default();
        for name in Sysctls::NAMES {
            if let Some(text) = read_proc(name) {
                // A kernel that has another shape of a value than we know: ours stays.
                let _ = sysctls.set(name, &text);
            }
        }
        if let Some(list) = std::env::var_os("TCPRELOAD_SYSCTL") {
            let list = list.to_str().ok_or("TCPRELOAD_SYSCTL is not text")?;
            apply(&mut sysctls, list).map_err(|e| format!("TCPRELOAD_SYSCTL: {e}"))?;
        }
        let spin_us =
            match std::env::var("TCPRELOAD_SPIN_US") {
                Ok(text) => text.parse::<u64>().ok().filter(|&us| us <= 10_000).ok_or(format!(
                    "TCPRELOAD_SPIN_US: '{text}' is not a number of microseconds up to 10000"
                ))?,
                Err(_) => 0,
            };
        let stats = std::env::var("TCPRELOAD_STATS").ok().and_then(|p| CString::new(p).ok());
        Ok(Config { sysctls, spin_us, stats })
    }
}

/// `name=value,name=value`; a value of several numbers has blanks or colons between them. What follows a comma and is no
/// name=value belongs to the value before: two keys are written so.
fn apply(sysctls: &mut Sysctls, list: &str) -> Result<(), String> {
    let mut settings: Vec<(&str, String)> = Vec::new();
    for item in list.split(',').map(str::trim).filter(|i| !i.is_empty()) {
        match (item.split_once('='), settings.last_mut()) {
            (Some((name, value)), _) => settings.push((name.trim(), value.to_string())),
            (None, Some((_, value))) => *value += &format!(",{item}"),
            (None, None) => return Err(format!("'{item}' is not name=value")),
        }
    }
    settings.iter().try_for_each(|(name, value)| sysctls.set(name, value))
}

fn read_proc(name: &str) -> Option<String> {
    let path = CString::new(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    let fd = sys::open(&path, libc::O_RDONLY | libc::O_CLOEXEC).ok()?;
    let mut buf = [0; 128];
    let n = sys::read(fd, &mut buf);
    let _ = sys::close(fd);
    String::from_utf8(buf[..n.ok()?].to_vec()).ok().map(|s| s.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_are_checked() {
        let mut s = Sysctls::default();
        apply(&mut s, "net.core.somaxconn=128, net.ipv4.tcp_rmem=4096:1000:2000").unwrap();
        assert_eq!((s.somaxconn, s.tcp_rmem), ([128], [4096, 1000, 2000]));
        apply(&mut s, "net.ipv4.tcp_fastopen_key=1-2-3-4,5-6-7-8,net.core.somaxconn=5").unwrap();
        assert_eq!((s.somaxconn, s.tcp_fastopen_key), ([5], [1, 2, 3, 4, 5, 6, 7, 8]));
        assert!(apply(&mut s, "net.core.somaxconn").is_err());
        assert!(apply(&mut s, "net.core.somaxconn=128,129").is_err());
        assert!(apply(&mut s, "net.core.nonsense=1").is_err());
    }
}
