//! Who may open packet sockets after exec.
//!
//! capabilities(7), "Transformation of capabilities during execve": a program without set-user-ID bit and file
//! capabilities gets, for root, the bounding set, and for anybody else the ambient set.

use caps::{CapSet, Capability};

pub const HOW_TO_GRANT: &str = "grant it by 'setcap cap_net_raw+ep' on tcpreload, or start it by 'setpriv \
                                --inh-caps=+net_raw --ambient-caps=+net_raw', or, in a container, with '--cap-add NET_RAW'";

/// Whether the program will be able to open packet sockets.
pub enum Grant {
    Given,
    /// It will not, and why.
    Missing(String),
}

/// Hands CAP_NET_RAW on to the program where this process has it, and says whether the program will have it.
pub fn grant_net_raw() -> Grant {
    if !inherited_by_root() && !hand_on() {
        return Grant::Missing("no CAP_NET_RAW".to_string());
    }
    match try_packet_socket() {
        Ok(()) => Grant::Given,
        // A capability of a user namespace that does not own the network namespace, or a seccomp filter.
        Err(error) => {
            Grant::Missing(format!("CAP_NET_RAW is there, but packet sockets are refused ({error})"))
        }
    }
}

fn has(set: CapSet) -> bool {
    caps::has_cap(None, set, Capability::CAP_NET_RAW).unwrap_or(false)
}

fn inherited_by_root() -> bool {
    // SAFETY: reads a number, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    root && (has(CapSet::Bounding) || has(CapSet::Inheritable)) && has(CapSet::Permitted)
}

/// Puts the capability into the ambient set, if it is permitted: a launcher with a file capability passes it on so.
fn hand_on() -> bool {
    has(CapSet::Ambient)
        || has(CapSet::Permitted)
            && caps::raise(None, CapSet::Inheritable, Capability::CAP_NET_RAW).is_ok()
            && caps::raise(None, CapSet::Ambient, Capability::CAP_NET_RAW).is_ok()
}

/// Opens a packet socket that receives nothing and closes it again.
fn try_packet_socket() -> Result<(), std::io::Error> {
    if !has(CapSet::Effective) {
        // Permitted but not effective: the program gets it as effective, this process would have to raise it first.
        let _ = caps::raise(None, CapSet::Effective, Capability::CAP_NET_RAW);
    }
    // SAFETY: no pointers; the descriptor is closed at once.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        libc::close(fd);
    }
    Ok(())
}
