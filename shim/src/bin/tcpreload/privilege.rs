//! Who may open packet sockets after exec, and which programs the loader runs in secure mode.
//!
//! capabilities(7), "Transformation of capabilities during execve": a program without set-user-ID bit and file
//! capabilities gets, for root, the bounding set, and for anybody else the ambient set.

use caps::{CapSet, Capability};
use std::ffi::CString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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

/// Why the loader would run this file in secure mode and ignore LD_PRELOAD (ld.so(8), "Secure-execution mode"); `None`
/// when it would not. A set-user-ID file that changes nothing, as root's own run by root, is not run so.
pub fn secure_mode(path: &Path, file: &Metadata) -> Option<String> {
    if no_new_privileges() || on_nosuid_mount(path) {
        return None;
    }
    // SAFETY: these read numbers and cannot fail.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    // Without the group's execute bit, set-group-ID once meant mandatory locking and changes nothing here.
    let sets_group = file.mode() & libc::S_ISGID != 0 && file.mode() & libc::S_IXGRP != 0;
    if file.mode() & libc::S_ISUID != 0 && file.uid() != uid {
        return Some(format!(
            "it is set-user-ID (to {}), and the loader ignores LD_PRELOAD for such programs",
            file.uid()
        ));
    }
    if sets_group && file.gid() != gid {
        return Some(format!(
            "it is set-group-ID (to {}), and the loader ignores LD_PRELOAD for such programs",
            file.gid()
        ));
    }
    (uid != 0 && has_file_capabilities(path))
        .then(|| "it has file capabilities, and the loader ignores LD_PRELOAD for such programs".to_string())
}

fn no_new_privileges() -> bool {
    // SAFETY: takes and returns numbers.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 }
}

fn on_nosuid_mount(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut answer = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: a terminated string and room for the answer, which is read only after success.
    unsafe {
        libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) == 0
            && answer.assume_init().f_flag & libc::ST_NOSUID != 0
    }
}

fn has_file_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: two terminated strings; a size of zero asks for the length only.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}
