//! Addresses. Both families are one type, so that everything above the IP header is written once.

use bytemuck::Zeroable;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Zeroable)]
#[repr(u8)]
pub enum Family {
    #[default]
    V4 = 0,
    V6 = 1,
}

/// An IP address in its IPv6 form: IPv4 is `::ffff:a.b.c.d`. All zero is IPv6's unspecified address, `::`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Zeroable)]
#[repr(transparent)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    pub const ANY_V6: Addr = Addr([0; 16]);
    pub const ANY_V4: Addr = Addr::v4([0, 0, 0, 0]);
    /// The address of a guard on `::` with IPV6_V6ONLY, which swallows nothing of IPv4's. It names no socket: nobody can bind it.
    pub const ANY_V6_ALONE: Addr = Addr([0xff; 16]);

    pub const fn v4(o: [u8; 4]) -> Addr {
        Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3]])
    }

    pub const fn v6(o: [u8; 16]) -> Addr {
        Addr(o)
    }

    pub fn any(family: Family) -> Addr {
        match family {
            Family::V4 => Addr::ANY_V4,
            Family::V6 => Addr::ANY_V6,
        }
    }

    pub fn family(self) -> Family {
        if self.0[..12] == Addr::ANY_V4.0[..12] { Family::V4 } else { Family::V6 }
    }

    pub fn is_v4(self) -> bool {
        self.family() == Family::V4
    }

    /// The four octets of an IPv4 address; of any other, its last four.
    pub fn octets_v4(self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    pub fn is_unspecified(self) -> bool {
        self == Addr::ANY_V4 || self == Addr::ANY_V6
    }

    /// 127/8 or ::1.
    pub fn is_loopback(self) -> bool {
        match self.family() {
            Family::V4 => self.0[12] == 127,
            Family::V6 => Ipv6Addr::from(self.0).is_loopback(),
        }
    }

    /// 224/4 or ff00::/8.
    pub fn is_multicast(self) -> bool {
        match self.family() {
            Family::V4 => self.0[12] & 0xf0 == 0xe0,
            Family::V6 => self.0[0] == 0xff,
        }
    }

    /// 255.255.255.255.
    pub fn is_limited_broadcast(self) -> bool {
        self == Addr::v4([255; 4])
    }

    /// fe80::/10, whose meaning depends on the interface.
    pub fn is_link_local_v6(self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }
}

impl From<Addr> for IpAddr {
    fn from(a: Addr) -> IpAddr {
        match a.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(a.octets_v4())),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(a.0)),
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Addr {
        match a {
            IpAddr::V4(a) => Addr::v4(a.octets()),
            IpAddr::V6(a) => Addr::v6(a.octets()),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address, a port and, for link-local addresses, the interface index that gives them a meaning (else 0).
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    pub addr: Addr,
    pub scope: u32,
    /// In host byte order. 0: none chosen.
    pub port: u16,
    _pad: u16,
}

impl Endpoint {
    pub const fn new(addr: Addr, port: u16) -> Endpoint {
        Endpoint { addr, scope: 0, port, _pad: 0 }
    }

    pub const fn with_scope(addr: Addr, port: u16, scope: u32) -> Endpoint {
        Endpoint { addr, scope, port, _pad: 0 }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr.family() {
            Family::V4 => write!(f, "{}:{}", self.addr, self.port),
            Family::V6 => write!(f, "[{}]:{}", self.addr, self.port),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What names a connection.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Zeroable, Debug)]
#[repr(C)]
pub struct FourTuple {
    pub local: Endpoint,
    pub remote: Endpoint,
}
