//! Which frames the kernel copies into a ring: classic BPF, attached to the packet socket.
//!
//! A superset of what the stack owns: TCP to this host, to a port of the set, and ICMP errors. Fragments and packets with
//! IPv6 extension headers hide the port: they pass, and the engine decides (and counts).

use super::ring::{SMALL_FRAME_BYTES, Shape};
use crate::sys;
use crate::values::{Family, PortSet};
use crate::wire::ip::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP};
use std::os::fd::RawFd;

const LD_W_LEN: u16 = 0x80;
const LD_B_ABS: u16 = 0x30;
const LD_H_ABS: u16 = 0x28;
const LD_H_IND: u16 = 0x48;
const LD_B_IND: u16 = 0x50;
const LDX_B_MSH: u16 = 0xb1;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const RET: u16 = 0x06;

/// Offsets from the network header, and the packet type (linux/filter.h).
const NET: u32 = -0x10_0000_i32 as u32;
const PKTTYPE: u32 = (-0x1000_i32 + 4) as u32;

const ALL: u32 = u32::MAX;
const NOTHING: u32 = 0;

/// Attaches the filter for `ports`. It can fail for want of memory only; then the old one, or none, stays: too much is let
/// through, which the engine sorts out.
pub fn attach(fd: RawFd, family: Family, shape: Shape, ports: &PortSet) {
    let program = program(family, shape, ports);
    let fprog = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let _ = sys::setsockopt_value(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &fprog);
}

fn op(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// Goes on with the next instruction if the comparison holds, else returns `otherwise` at once.
fn require(program: &mut Vec<libc::sock_filter>, code: u16, k: u32, holds: bool, otherwise: u32) {
    let (jt, jf) = if holds { (1, 0) } else { (0, 1) };
    program.push(libc::sock_filter { code, jt, jf, k });
    program.push(op(RET, otherwise));
}

/// For packets of protocol `proto`, which is loaded, `block` decides, and `otherwise` at its end; others go on behind it.
fn decide(program: &mut Vec<libc::sock_filter>, proto: u8, block: Vec<libc::sock_filter>, otherwise: u32) {
    program.push(libc::sock_filter { code: JEQ, jt: 0, jf: block.len() as u8 + 1, k: proto.into() });
    program.extend(block);
    program.push(op(RET, otherwise));
}

fn program(family: Family, shape: Shape, ports: &PortSet) -> Vec<libc::sock_filter> {
    let mut p = Vec::with_capacity(3 * PortSet::MAX + 24);
    if ports.as_slice().is_empty() {
        p.push(op(RET, NOTHING));
        return p;
    }
    p.push(op(LD_W_LEN, 0));
    require(&mut p, JGT, SMALL_FRAME_BYTES, shape == Shape::Large, NOTHING);
    p.push(op(LD_B_ABS, PKTTYPE));
    require(&mut p, JEQ, 0, true, NOTHING);
    match family {
        Family::V4 => {
            p.push(op(LDX_B_MSH, NET));
            p.push(op(LD_B_ABS, NET.wrapping_add(9)));
            // Unreachable, time exceeded, parameter problem. Whose, the engine sees.
            let mut icmp = vec![op(LD_B_IND, NET)];
            for error in [3, 11, 12] {
                require(&mut icmp, JEQ, error, false, ALL);
            }
            decide(&mut p, PROTO_ICMP, icmp, NOTHING);
            require(&mut p, JEQ, PROTO_TCP.into(), true, NOTHING);
            p.push(op(LD_H_ABS, NET.wrapping_add(6)));
            require(&mut p, JSET, 0x3fff, false, ALL);
            p.push(op(LD_H_IND, NET.wrapping_add(2)));
        }
        Family::V6 => {
            p.push(op(LD_B_ABS, NET.wrapping_add(6)));
            for extension in [0, 43, 44, 60] {
                require(&mut p, JEQ, extension, false, ALL);
            }
            // Errors are the lower half of the types (RFC 4443 2.1).
            let mut icmp = vec![op(LD_B_ABS, NET.wrapping_add(40))];
            require(&mut icmp, JGT, 127, false, NOTHING);
            decide(&mut p, PROTO_ICMPV6, icmp, ALL);
            require(&mut p, JEQ, PROTO_TCP.into(), true, NOTHING);
            p.push(op(LD_H_ABS, NET.wrapping_add(42)));
        }
    }
    for &(first, last) in ports.as_slice() {
        // Below the range, or above it: on to the next one.
        p.push(libc::sock_filter { code: JGE, jt: 0, jf: 2, k: first.into() });
        p.push(libc::sock_filter { code: JGT, jt: 1, jf: 0, k: last.into() });
        p.push(op(RET, ALL));
    }
    p.push(op(RET, NOTHING));
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a whole program over a packet, as the kernel does.
    fn verdict(program: &[libc::sock_filter], packet: &[u8]) -> u32 {
        let (mut at, mut a, mut x) = (0, 0u32, 0u32);
        loop {
            let i = program[at];
            let byte = |k: u32| u32::from(packet[k.wrapping_sub(NET) as usize]);
            at += 1;
            match i.code {
                LD_W_LEN => a = packet.len() as u32,
                LD_B_ABS if i.k == PKTTYPE => a = 0,
                LD_B_ABS => a = byte(i.k),
                LD_B_IND => a = byte(i.k.wrapping_add(x)),
                LD_H_ABS => a = byte(i.k) << 8 | byte(i.k + 1),
                LD_H_IND => a = byte(i.k.wrapping_add(x)) << 8 | byte(i.k.wrapping_add(x) + 1),
                LDX_B_MSH => x = (byte(i.k) & 15) * 4,
                RET => return i.k,
                _ => {
                    let jump = match i.code {
                        JEQ => a == i.k,
                        JGT => a > i.k,
                        JGE => a >= i.k,
                        JSET => a & i.k != 0,
                        other => panic!("instruction {other:#x}"),
                    };
                    at += usize::from(if jump { i.jt } else { i.jf });
                }
            }
        }
    }

    /// A packet without options: the first byte behind the IP header, and the destination port of TCP.
    fn packet(family: Family, proto: u8, first: u8, port: u16) -> Vec<u8> {
        let (mut p, header) = (vec![0u8; 80], if family == Family::V4 { 20 } else { 40 });
        (p[0], p[if family == Family::V4 { 9 } else { 6 }]) =
            (if family == Family::V4 { 0x45 } else { 0x60 }, proto);
        p[header] = first;
        p[header + 2..header + 4].copy_from_slice(&port.to_be_bytes());
        p
    }

    fn passes(program: &[libc::sock_filter], family: Family, port: u16) -> bool {
        verdict(program, &packet(family, PROTO_TCP, 0, port)) == ALL
    }

    #[test]
    fn lets_through_the_set_and_nothing_else() {
        let mut ports = PortSet::new();
        ports.insert(80, 80);
        ports.insert(32_768, 60_999);
        let program = program(Family::V4, Shape::Small, &ports);
        for (port, pass) in
            [(79, false), (80, true), (81, false), (32_768, true), (60_999, true), (61_000, false)]
        {
            assert_eq!(passes(&program, Family::V4, port), pass, "{port}");
        }
    }

    #[test]
    fn errors_pass_and_other_icmp_does_not() {
        let mut ports = PortSet::new();
        ports.insert(80, 80);
        let cases = [
            (Family::V4, PROTO_ICMP, &[3, 11, 12][..], &[0, 8][..]),
            (Family::V6, PROTO_ICMPV6, &[1, 2, 3, 4, 100], &[128, 135]),
        ];
        for (family, icmp, errors, others) in cases {
            let program = program(family, Shape::Small, &ports);
            let passes = |proto, kind| verdict(&program, &packet(family, proto, kind, 80)) == ALL;
            errors.iter().for_each(|&kind| assert!(passes(icmp, kind), "type {kind}"));
            others.iter().for_each(|&kind| assert!(!passes(icmp, kind), "type {kind}"));
            assert!(passes(PROTO_TCP, 0) && !passes(17, 0));
        }
    }

    #[test]
    fn a_full_set_fits_a_program() {
        let mut ports = PortSet::new();
        (0..200).for_each(|n| ports.insert(n * 100, n * 100));
        for family in [Family::V4, Family::V6] {
            let program = program(family, Shape::Small, &ports);
            assert!(program.len() < 4096);
            assert!((0..200).all(|n| passes(&program, family, n * 100)));
        }
    }
}
