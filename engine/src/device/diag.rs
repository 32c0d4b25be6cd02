//! Whether the kernel has a connection of its own under the names of a segment that nobody here claims.
//!
//! A port that we guard may have connections of the kernel's as well: those of a server that was there before, and whose
//! listener is closed (SO_REUSEADDR). Their segments come to our tap too, and a RST would end them. Asked by sock_diag(7)
//! for the exact names, which needs no privilege.

use crate::sys;
use crate::values::{Addr, FourTuple};

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
/// struct nlmsghdr and struct inet_diag_req_v2.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
/// TCP_LISTEN: the kernel falls back to the listener where it has no connection. That is our guard.
const LISTEN: u8 = 10;

/// True also when it cannot be found out: silence harms nobody.
pub fn kernel_serves(tuple: &FourTuple) -> bool {
    ask(tuple).is_none_or(|state| state.is_some_and(|s| s != LISTEN))
}

/// The state of the kernel's socket of these names, if there is one; `None` when the kernel does not say.
fn ask(tuple: &FourTuple) -> Option<Option<u8>> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    let fd = sys::socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG).ok()?;
    let mut answer = [0u8; 512];
    let got = sys::send(fd, &request(tuple), 0).and_then(|_| sys::recv(fd, &mut answer, libc::MSG_DONTWAIT));
    let _ = sys::close(fd);
    let answer = answer.get(..got.ok()?)?;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind == SOCK_DIAG_BY_FAMILY {
        // struct inet_diag_msg: family, state.
        return Some(Some(*answer.get(HEADER_BYTES + 1)?));
    }
    let errno = -i32::from_ne_bytes(answer.get(HEADER_BYTES..HEADER_BYTES + 4)?.try_into().ok()?);
    (errno == libc::ENOENT).then_some(None)
}

fn request(tuple: &FourTuple) -> [u8; REQUEST_BYTES] {
    let mut out = [0; REQUEST_BYTES];
    out[..4].copy_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    out[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    let body = &mut out[HEADER_BYTES..];
    let v4 = tuple.local.addr.is_v4();
    body[0] = if v4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
    body[1] = libc::IPPROTO_TCP as u8;
    // Every state.
    body[4..8].fill(0xff);
    body[8..10].copy_from_slice(&tuple.local.port.to_be_bytes());
    body[10..12].copy_from_slice(&tuple.remote.port.to_be_bytes());
    put_addr(&mut body[12..28], tuple.local.addr);
    put_addr(&mut body[28..44], tuple.remote.addr);
    body[44..48].copy_from_slice(&tuple.remote.scope.to_ne_bytes());
    // INET_DIAG_NOCOOKIE.
    body[48..56].fill(0xff);
    out
}

fn put_addr(out: &mut [u8], addr: Addr) {
    if addr.is_v4() {
        out[..4].copy_from_slice(&addr.octets_v4());
    } else {
        out.copy_from_slice(&addr.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Endpoint;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    fn endpoint(addr: SocketAddr) -> Endpoint {
        match addr {
            SocketAddr::V4(a) => Endpoint::new(Addr::v4(a.ip().octets()), a.port()),
            SocketAddr::V6(a) => Endpoint::new(Addr::v6(a.ip().octets()), a.port()),
        }
    }

    #[test]
    fn connections_are_found_and_listeners_do_not_count() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_server, _) = listener.accept().unwrap();
            let local = endpoint(listener.local_addr().unwrap());
            let remote = endpoint(client.local_addr().unwrap());
            assert!(kernel_serves(&FourTuple { local, remote }));
            let nobody = Endpoint::new(remote.addr, remote.port ^ 1);
            assert!(!kernel_serves(&FourTuple { local, remote: nobody }), "only the listener");
            drop(listener);
            assert!(kernel_serves(&FourTuple { local: remote, remote: local }));
            assert!(!kernel_serves(&FourTuple { local: nobody, remote: local }), "nothing at all");
        }
    }
}
