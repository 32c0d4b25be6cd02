//! The sysctls that the stack obeys, under Linux's names. Values come from /proc/sys/net of the program's namespace and
//! from `TCPRELOAD_SYSCTL`; this file only knows names, shapes and ranges.

use bytemuck::Zeroable;

macro_rules! sysctls {
    ($($field:ident : $n:literal = $default:expr, $name:literal, $min:literal ..= $max:literal, $doc:literal;)*) => {
        /// Values in force. `Default` is a fresh Linux 6.x; all-zero is "not read yet".
        #[derive(Clone, Copy, Debug, Zeroable)]
        #[repr(C)]
        pub struct Sysctls { $(#[doc = $doc] pub $field: [i64; $n],)* }

        impl Default for Sysctls {
            fn default() -> Self { Sysctls { $($field: $default,)* } }
        }

        impl Sysctls {
            /// Every name, in the dotted form of sysctl(8).
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            /// Sets `name` from text as in /proc: numbers separated by blanks.
            ///
            /// # Errors
            /// A sentence that says what is wrong: unknown name, wrong count of numbers, out of range.
            pub fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
                match name {
                    $($name => parse(name, text, &mut self.$field, $min, $max),)*
                    _ => Err(format!("unknown sysctl {name}")),
                }
            }

            /// The value as /proc shows it.
            pub fn show(&self, name: &str) -> Option<String> {
                match name {
                    $($name => Some(show(name, &self.$field)),)*
                    _ => None,
                }
            }
        }
    };
}

/// The one that is no row of numbers: one key or two, each of four words in hexadecimal digits.
const KEY: &str = "net.ipv4.tcp_fastopen_key";

fn show(name: &str, field: &[i64]) -> String {
    if name == KEY {
        let used = if field[4..].iter().all(|&w| w == 0) { &field[..4] } else { field };
        let keys = used.chunks(4).map(|k| k.iter().map(|w| format!("{w:08x}")).collect::<Vec<_>>().join("-"));
        return keys.collect::<Vec<_>>().join(",");
    }
    field.iter().map(i64::to_string).collect::<Vec<_>>().join("\t")
}

fn parse_key(text: &str, field: &mut [i64]) -> Result<(), String> {
    let wrong =
        || format!("{KEY}: '{text}' is not one or two keys such as 00000000-00000000-00000000-00000000");
    let keys: Vec<&str> =
        text.split([' ', '\t', ':', ',']).map(str::trim).filter(|k| !k.is_empty()).collect();
    let mut words = [0; 8];
    if !(1..=2).contains(&keys.len()) || keys.iter().any(|k| k.split('-').count() != 4) {
        return Err(wrong());
    }
    for (word, digits) in words.iter_mut().zip(keys.iter().flat_map(|k| k.split('-'))) {
        *word = u32::from_str_radix(digits, 16).map_err(|_| wrong())?.into();
    }
    field.copy_from_slice(&words);
    Ok(())
}

fn parse(name: &str, text: &str, field: &mut [i64], min: i64, max: i64) -> Result<(), String> {
    if name == KEY {
        return parse_key(text, field);
    }
    let mut values = Vec::new();
    for word in text.split([' ', '\t', ':']).filter(|w| !w.is_empty()) {
        let v: i64 = word.trim().parse().map_err(|_| format!("{name}: '{word}' is not a number"))?;
        if v < min || v > max {
            return Err(format!("{name}: {v} is not in {min}..={max}"));
        }
        values.push(v);
    }
    if values.len() != field.len() {
        return Err(format!("{name}: takes {} number(s), {} given", field.len(), values.len()));
    }
    field.copy_from_slice(&values);
    Ok(())
}

sysctls! {
    somaxconn: 1 = [4096], "net.core.somaxconn", 0 ..= 2147483647, "Upper bound of listen's backlog.";
    rmem_max: 1 = [212_992], "net.core.rmem_max", 1 ..= 2147483647, "Upper bound of SO_RCVBUF, bytes.";
    wmem_max: 1 = [212_992], "net.core.wmem_max", 1 ..= 2147483647, "Upper bound of SO_SNDBUF, bytes.";
    optmem_max: 1 = [131_072], "net.core.optmem_max", 0 ..= 2147483647, "Bytes of notifications that a socket may have unread.";
    tcp_rmem: 3 = [4096, 131_072, 6_291_456], "net.ipv4.tcp_rmem", 1 ..= 2147483647, "Receive buffer: min, default, max, bytes.";
    tcp_wmem: 3 = [4096, 16_384, 4_194_304], "net.ipv4.tcp_wmem", 1 ..= 2147483647, "Send buffer: min, default, max, bytes.";
    tcp_max_syn_backlog: 1 = [4096], "net.ipv4.tcp_max_syn_backlog", 0 ..= 2147483647, "SYN queue bound without cookies.";
    tcp_syncookies: 1 = [1], "net.ipv4.tcp_syncookies", 0 ..= 2, "0 never, 1 when the SYN queue is full, 2 always.";
    tcp_abort_on_overflow: 1 = [0], "net.ipv4.tcp_abort_on_overflow", 0 ..= 1, "RST when the accept queue is full.";
    tcp_syn_retries: 1 = [6], "net.ipv4.tcp_syn_retries", 1 ..= 127, "Times a SYN is sent again.";
    tcp_synack_retries: 1 = [5], "net.ipv4.tcp_synack_retries", 0 ..= 255, "Times a SYN-ACK is sent again.";
    tcp_retries2: 1 = [15], "net.ipv4.tcp_retries2", 0 ..= 255, "R2 of RFC 9293 3.8.3.";
    tcp_orphan_retries: 1 = [0], "net.ipv4.tcp_orphan_retries", 0 ..= 255, "R2 of orphans; 0 means 8.";
    tcp_fin_timeout: 1 = [60], "net.ipv4.tcp_fin_timeout", 0 ..= 120, "Seconds an orphan stays in FIN-WAIT-2.";
    tcp_keepalive_time: 1 = [7200], "net.ipv4.tcp_keepalive_time", 1 ..= 32767, "Idle seconds before the first probe.";
    tcp_keepalive_intvl: 1 = [75], "net.ipv4.tcp_keepalive_intvl", 1 ..= 32767, "Seconds between probes.";
    tcp_keepalive_probes: 1 = [9], "net.ipv4.tcp_keepalive_probes", 1 ..= 127, "Unanswered probes before giving up.";
    tcp_timestamps: 1 = [1], "net.ipv4.tcp_timestamps", 0 ..= 2, "RFC 7323 timestamps.";
    tcp_stdurg: 1 = [0], "net.ipv4.tcp_stdurg", 0 ..= 1, "The urgent pointer points at the last urgent byte, not behind it (RFC 1122 4.2.2.4).";
    tcp_window_scaling: 1 = [1], "net.ipv4.tcp_window_scaling", 0 ..= 1, "RFC 7323 window scaling.";
    tcp_sack: 1 = [1], "net.ipv4.tcp_sack", 0 ..= 1, "RFC 2018.";
    tcp_dsack: 1 = [1], "net.ipv4.tcp_dsack", 0 ..= 1, "RFC 2883.";
    tcp_tw_reuse: 1 = [2], "net.ipv4.tcp_tw_reuse", 0 ..= 2, "Reuse TIME-WAIT for connect: 0 no, 1 yes, 2 on loopback.";
    tcp_max_tw_buckets: 1 = [65_536], "net.ipv4.tcp_max_tw_buckets", 0 ..= 2147483647, "TIME-WAIT entries at most.";
    tcp_rfc1337: 1 = [0], "net.ipv4.tcp_rfc1337", 0 ..= 1, "Ignore RST in TIME-WAIT.";
    tcp_challenge_ack_limit: 1 = [2147483647], "net.ipv4.tcp_challenge_ack_limit", 0 ..= 2147483647, "Challenge ACKs a second.";
    tcp_invalid_ratelimit: 1 = [500], "net.ipv4.tcp_invalid_ratelimit", 0 ..= 2147483647, "Milliseconds between ACKs for invalid segments.";
    tcp_moderate_rcvbuf: 1 = [1], "net.ipv4.tcp_moderate_rcvbuf", 0 ..= 1, "Receive buffer autotuning.";
    tcp_slow_start_after_idle: 1 = [1], "net.ipv4.tcp_slow_start_after_idle", 0 ..= 1, "RFC 2861.";
    tcp_reordering: 1 = [3], "net.ipv4.tcp_reordering", 1 ..= 2147483647, "Initial reordering degree, segments.";
    tcp_recovery: 1 = [1], "net.ipv4.tcp_recovery", 0 ..= 255, "RACK: 2 keeps its window of reordering, 4 finds no loss by distance.";
    tcp_frto: 1 = [2], "net.ipv4.tcp_frto", 0 ..= 255, "An ACK of what was not sent again undoes a time-out.";
    tcp_early_retrans: 1 = [3], "net.ipv4.tcp_early_retrans", 0 ..= 4, "Tail loss probes.";
    tcp_min_snd_mss: 1 = [48], "net.ipv4.tcp_min_snd_mss", 48 ..= 65535, "Smallest MSS accepted from a peer.";
    tcp_notsent_lowat: 1 = [4_294_967_295], "net.ipv4.tcp_notsent_lowat", 0 ..= 4294967295, "Unsent bytes below which a socket is writable.";
    tcp_fastopen: 1 = [1], "net.ipv4.tcp_fastopen", 0 ..= 2147483647, "RFC 7413: 1 client, 2 server, 4 client without cookie, 0x200 server without cookie, 0x400 every listener.";
    tcp_fastopen_blackhole_timeout_sec: 1 = [0], "net.ipv4.tcp_fastopen_blackhole_timeout_sec", 0 ..= 2147483647, "Seconds without Fast Open after it seems to have been swallowed; 0: none.";
    tcp_fastopen_key: 8 = [0; 8], "net.ipv4.tcp_fastopen_key", 0 ..= 4294967295, "What cookies are made with, and what older ones were made with; all zero: a secret of the stack's own.";
    ip_local_port_range: 2 = [32_768, 60_999], "net.ipv4.ip_local_port_range", 1 ..= 65535, "Ports for connect and bind to 0.";
    auto_flowlabels: 1 = [1], "net.ipv6.auto_flowlabels", 0 ..= 3, "IPv6 flow labels: 0 none, 1 unless a socket does not want them, 2 if it does, 3 all.";
    ip_default_ttl: 1 = [64], "net.ipv4.ip_default_ttl", 1 ..= 255, "TTL of what is sent.";
}

#[cfg(test)]
mod tests {
    use super::Sysctls;

    #[test]
    fn wrong_names_and_values_are_refused() {
        let mut s = Sysctls::default();
        assert!(s.set("net.core.somaxconn", "128").is_ok());
        assert_eq!(s.somaxconn, [128]);
        assert!(s.set("net.core.somaxcon", "128").unwrap_err().contains("unknown"));
        assert!(s.set("net.ipv4.tcp_syncookies", "3").unwrap_err().contains("0..=2"));
        assert!(s.set("net.ipv4.tcp_rmem", "1 2").unwrap_err().contains("3 number"));
        assert!(s.set("net.ipv4.tcp_rmem", "4096\t131072\t6291456").is_ok());
        assert_eq!(s.show("net.ipv4.tcp_rmem").unwrap(), "4096\t131072\t6291456");
        let (name, key) = ("net.ipv4.tcp_fastopen_key", "01020304-a0b0c0d0-00000000-ffffffff");
        assert!(s.set(name, key).is_ok());
        assert_eq!(s.show(name).unwrap(), key);
        assert!(s.set(name, &format!("{key},1-2-3-4")).is_ok());
        assert_eq!(s.show(name).unwrap(), format!("{key},00000001-00000002-00000003-00000004"));
        for wrong in ["", "1-2-3", "1-2-3-4-5", "1-2-3-x", "1-2-3-4,1-2-3-4,1-2-3-4"] {
            assert!(s.set(name, wrong).unwrap_err().contains("keys such as"), "{wrong}");
        }
    }
}
