//! What the kernel knows of interfaces, addresses and routes.

use crate::stack::Route;
use crate::sys;
use crate::values::iface::{Interface, InterfaceTable, LocalAddr};
use crate::values::{Addr, Family};
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use std::os::fd::RawFd;

const SO_BINDTOIFINDEX: i32 = 62;
const IPV6_ADDR_PREFERENCES: i32 = 72;

/// Fills `table` anew; leaves it as it is when the kernel does not answer.
///
/// getifaddrs(3) talks to the kernel through libc's internal calls, not through those that a preload library overrides.
pub fn read(table: &mut InterfaceTable) {
    let mut list: *mut libc::ifaddrs = null_mut();
    // SAFETY: getifaddrs fills the pointer with a list that freeifaddrs gives back.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return;
    }
    table.clear();
    let Ok(fd) = sys::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) else { return };
    let mut at = list;
    while !at.is_null() {
        // SAFETY: an entry of the list; its strings and addresses live as long as the list.
        let entry = unsafe { &*at };
        at = entry.ifa_next;
        if !entry.ifa_addr.is_null() {
            // SAFETY: as above; the address is as long as its family says.
            unsafe { take(table, fd, entry) };
        }
    }
    let _ = sys::close(fd);
    // SAFETY: the list from above, not used any more.
    unsafe { libc::freeifaddrs(list) };
}

/// # Safety
/// `entry` is an entry of a live list of getifaddrs with an address.
unsafe fn take(table: &mut InterfaceTable, fd: i32, entry: &libc::ifaddrs) {
    // SAFETY: the contract: `ifa_addr` leads to a sockaddr of its family, the name ends with NUL.
    unsafe {
        let family = i32::from((*entry.ifa_addr).sa_family);
        let loopback = entry.ifa_flags & libc::IFF_LOOPBACK as u32 != 0;
        if family == libc::AF_PACKET {
            let ll = &*entry.ifa_addr.cast::<libc::sockaddr_ll>();
            let mtu = mtu_of(fd, entry.ifa_name);
            table.add_interface(Interface::new(ll.sll_ifindex as u32, mtu, loopback));
            return;
        }
        let Some(addr) = addr_of(entry.ifa_addr) else { return };
        let broadcast = if entry.ifa_flags & libc::IFF_BROADCAST as u32 != 0 && !entry.ifa_ifu.is_null() {
            // Without a broadcast address libc puts the address itself here.
            addr_of(entry.ifa_ifu).filter(|b| *b != addr).unwrap_or(Addr::ANY_V6)
        } else {
            Addr::ANY_V6
        };
        let ifindex = match addr.family() {
            Family::V4 => 0,
            // The kernel sets it for link-local addresses.
            Family::V6 => (*entry.ifa_addr.cast::<libc::sockaddr_in6>()).sin6_scope_id,
        };
        table.add_addr(LocalAddr { addr, broadcast, ifindex, prefix_len: 0 });
    }
}

/// # Safety
/// `at` leads to a sockaddr as long as its family says.
unsafe fn addr_of(at: *const libc::sockaddr) -> Option<Addr> {
    // SAFETY: the contract.
    unsafe {
        match i32::from((*at).sa_family) {
            libc::AF_INET => Some(Addr::v4((*at.cast::<libc::sockaddr_in>()).sin_addr.s_addr.to_ne_bytes())),
            libc::AF_INET6 => Some(Addr::v6((*at.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr)),
            _ => None,
        }
    }
}

/// # Safety
/// `name` ends with NUL.
unsafe fn mtu_of(fd: i32, name: *const libc::c_char) -> u32 {
    let mut request = MaybeUninit::<libc::ifreq>::zeroed();
    // SAFETY: at most the size of the field is copied, the rest is zero; the kernel fills in the MTU.
    unsafe {
        let r = request.assume_init_mut();
        let len = libc::strlen(name).min(r.ifr_name.len() - 1);
        core::ptr::copy_nonoverlapping(name, r.ifr_name.as_mut_ptr(), len);
        match sys::ioctl(fd, libc::SIOCGIFMTU as u64, request.as_mut_ptr().cast()) {
            Ok(_) => request.assume_init().ifr_ifru.ifru_mtu as u32,
            Err(_) => 1500,
        }
    }
}

/// Asks the kernel's routing through a UDP socket, which sends nothing. With options that routing looks at as the kernel socket
/// `like` has them.
pub fn route(dst: Addr, scope: u32, like: Option<RawFd>) -> Result<Route, i32> {
    let (domain, level, option) = match dst.family() {
        Family::V4 => (libc::AF_INET, libc::IPPROTO_IP, libc::IP_MTU),
        Family::V6 => (libc::AF_INET6, libc::IPPROTO_IPV6, 24),
    };
    let fd = sys::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)?;
    let route = (|| {
        if let Some(like) = like {
            take_after(fd, like, dst.family())?;
        }
        let mut name = [0u8; 28];
        let len = sockaddr(dst, 9, scope, &mut name);
        sys::connect(fd, &name[..len])?;
        let mut own = [0u8; 28];
        sys::getsockname(fd, &mut own)?;
        let source = match dst.family() {
            Family::V4 => Addr::v4([own[4], own[5], own[6], own[7]]),
            Family::V6 => Addr::v6(core::array::from_fn(|i| own[8 + i])),
        };
        let mtu = sys::getsockopt_int(fd, level, option)?;
        Ok(Route { source, mtu: mtu as u32 })
    })();
    let _ = sys::close(fd);
    route
}

/// The options of `like` that decide which way packets go and from which address.
fn take_after(fd: RawFd, like: RawFd, family: Family) -> Result<(), i32> {
    let device = sys::getsockopt_int(like, libc::SOL_SOCKET, SO_BINDTOIFINDEX)?;
    if device != 0 {
        sys::setsockopt_value(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &device)?;
    }
    let mark = sys::getsockopt_int(like, libc::SOL_SOCKET, libc::SO_MARK)?;
    if mark != 0 {
        sys::setsockopt_value(fd, libc::SOL_SOCKET, libc::SO_MARK, &mark)?;
    }
    if family == Family::V6 {
        let preferences = sys::getsockopt_int(like, libc::IPPROTO_IPV6, IPV6_ADDR_PREFERENCES)?;
        sys::setsockopt_value(fd, libc::IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, &preferences)?;
    }
    Ok(())
}

/// The interface that a socket is bound to, by SO_BINDTODEVICE or by the scope of its address; 0: none.
pub fn device_of(fd: RawFd) -> Result<u32, i32> {
    sys::getsockopt_int(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX).map(|index| index as u32)
}

/// Writes a sockaddr_in or sockaddr_in6 and returns its length.
pub fn sockaddr(addr: Addr, port: u16, scope: u32, out: &mut [u8; 28]) -> usize {
    out.fill(0);
    out[2..4].copy_from_slice(&port.to_be_bytes());
    match addr.family() {
        Family::V4 => {
            out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            out[4..8].copy_from_slice(&addr.octets_v4());
            16
        }
        Family::V6 => {
            out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            out[8..24].copy_from_slice(&addr.0);
            out[24..28].copy_from_slice(&scope.to_ne_bytes());
            28
        }
    }
}
