//! What processes say to the companion of a family, over its socket: an abstract Unix socket of sequenced packets, which every
//! process of the network namespace can reach. Descriptors go along (SCM_RIGHTS).
//!
//! Guards that are sent stay open in the socket's queue until the companion takes them, also when the sender is killed: nobody
//! has to wait for it, or to wake it.

use crate::stack::Holder;
use crate::sys;
use crate::values::{Addr, Endpoint};
use std::os::fd::RawFd;

/// What every name of a companion's socket begins with, behind the zero that makes it abstract; a number follows, in 16
/// hexadecimal digits.
pub const NAME: &str = "tcpreload/";

/// Descriptors in one message at most.
pub const MAX_FDS: usize = 64;

/// What a message is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Subject {
    /// The guard of port `id`, which goes along.
    Guard = 1,
    /// Process `holder` is about to exec; the end of the pipe that goes along says that it has.
    Exec = 2,
    /// It has not.
    ExecFailed = 3,
    /// Asks for all that a process of the family has to have; the answer has the descriptors.
    Attach = 4,
    /// A family asks for the guard on `local`; the answer has it. As long as the connection stands, this one goes on with
    /// connections of the port. Guards that nothing needs any more are dropped before the answer; for its own family that is all.
    Give = 5,
    /// Process `holder` has taken the guard of port `id` from another family, whose connection goes along.
    Guest = 6,
    /// The answer to [`Subject::Attach`] and [`Subject::Claim`]: `id` is the number of rings, `flag` whether there is IPv6.
    Attached = 7,
    /// The answer to [`Subject::Give`]: `local` is what the guard is bound to.
    Given = 8,
    /// The answer: no.
    Refused = 9,
    /// Asks for the same as [`Subject::Attach`], by a process that has got a socket of the family's from one of it, in a message: its
    /// descriptor goes along. For processes of the same user, and root's.
    Claim = 10,
}

impl Subject {
    fn of(number: u32) -> Option<Subject> {
        use Subject::*;
        [Guard, Exec, ExecFailed, Attach, Give, Guest, Attached, Given, Refused, Claim]
            .into_iter()
            .find(|s| *s as u32 == number)
    }
}

/// A message, without its descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    pub subject: Subject,
    pub holder: Holder,
    pub secret: [u64; 2],
    pub id: u64,
    /// [`Subject::Give`]: the socket has SO_REUSEADDR.
    pub flag: bool,
    pub local: Endpoint,
}

const BYTES: usize = 4 + 4 + 16 + 8 + 4 + 4 + 16 + 4;

impl Message {
    pub fn new(subject: Subject) -> Message {
        Message { subject, holder: 0, secret: [0; 2], id: 0, flag: false, local: Endpoint::default() }
    }

    fn to_bytes(self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[..4].copy_from_slice(&(self.subject as u32).to_ne_bytes());
        out[4..8].copy_from_slice(&self.holder.to_ne_bytes());
        out[8..16].copy_from_slice(&self.secret[0].to_ne_bytes());
        out[16..24].copy_from_slice(&self.secret[1].to_ne_bytes());
        out[24..32].copy_from_slice(&self.id.to_ne_bytes());
        out[32..36].copy_from_slice(&u32::from(self.flag).to_ne_bytes());
        out[36..40].copy_from_slice(&u32::from(self.local.port).to_ne_bytes());
        out[40..56].copy_from_slice(&self.local.addr.0);
        out[56..60].copy_from_slice(&self.local.scope.to_ne_bytes());
        out
    }

    fn from_bytes(bytes: &[u8; BYTES]) -> Option<Message> {
        let word = |at: usize| u32::from_ne_bytes(core::array::from_fn(|i| bytes[at + i]));
        let long = |at: usize| u64::from_ne_bytes(core::array::from_fn(|i| bytes[at + i]));
        let addr = Addr(core::array::from_fn(|i| bytes[40 + i]));
        Some(Message {
            subject: Subject::of(word(0))?,
            holder: word(4),
            secret: [long(8), long(16)],
            id: long(24),
            flag: word(32) != 0,
            local: Endpoint::with_scope(addr, word(36) as u16, word(56)),
        })
    }

    /// Sends it, without waiting.
    ///
    /// # Errors
    /// EAGAIN: the queue is full; ETOOMANYREFS: too many descriptors of this user are in queues; EPIPE, ECONNRESET: the
    /// companion is gone.
    pub fn send(self, socket: RawFd, fds: &[RawFd]) -> Result<(), i32> {
        sys::send_with_fds(socket, &self.to_bytes(), fds)
    }
}

/// The next message in the queue of a connection, and the descriptors that came with it. `None`: its other end is closed.
///
/// # Errors
/// EAGAIN: there is none; EBADMSG: it makes no sense (its descriptors are closed).
pub fn receive(socket: RawFd) -> Result<Option<(Message, Vec<RawFd>)>, i32> {
    let mut bytes = [0; BYTES];
    let (n, fds) = sys::recv_with_fds(socket, &mut bytes, MAX_FDS)?;
    if n == 0 {
        return Ok(None);
    }
    match Message::from_bytes(&bytes).filter(|_| n == BYTES) {
        Some(message) => Ok(Some((message, fds))),
        None => {
            fds.into_iter().for_each(|fd| sys::close(fd).unwrap_or(()));
            Err(libc::EBADMSG)
        }
    }
}

/// The socket address of the companion that is called `name`.
fn address(name: u64) -> Vec<u8> {
    let mut out = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    out.push(0);
    out.extend_from_slice(format!("{NAME}{name:016x}").as_bytes());
    out
}

const KIND: i32 = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// Connections that wait to be accepted, each with its messages: more than processes will ever start at once.
const BACKLOG: i32 = 512;

/// A companion's socket.
///
/// # Errors
/// The errno.
pub fn listen(name: u64) -> Result<RawFd, i32> {
    let fd = sys::socket(libc::AF_UNIX, KIND, 0)?;
    let listening = sys::bind(fd, &address(name)).and_then(|()| sys::listen(fd, BACKLOG));
    listening.map(|()| fd).inspect_err(|_| sys::close(fd).unwrap_or(()))
}

/// A connection to a companion.
///
/// # Errors
/// ECONNREFUSED: there is none of that name in this network namespace. EAGAIN: too many connect at once.
pub fn connect(name: u64) -> Result<RawFd, i32> {
    let fd = sys::socket(libc::AF_UNIX, KIND, 0)?;
    sys::connect(fd, &address(name)).map(|()| fd).inspect_err(|_| sys::close(fd).unwrap_or(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_descriptors() {
        let name = sys::random_seed()[0];
        let listening = listen(name).unwrap();
        let here = connect(name).unwrap();
        assert_eq!(connect(name + 1), Err(libc::ECONNREFUSED));
        let event = sys::eventfd(7, 0).unwrap();
        let message = Message {
            holder: 3,
            id: 1 << 40,
            flag: true,
            local: Endpoint::new(Addr::v4([127, 0, 0, 1]), 80),
            ..Message::new(Subject::Give)
        };
        message.send(here, &[event, event]).unwrap();
        sys::close(event).unwrap();
        let there = sys::accept(listening).unwrap();
        let (received, fds) = receive(there).unwrap().unwrap();
        assert_eq!(received, message);
        let mut value = [0; 8];
        assert_eq!((fds.len(), sys::read(fds[1], &mut value)), (2, Ok(8)));
        assert_eq!(value, 7u64.to_ne_bytes());
        assert_eq!(receive(there), Err(libc::EAGAIN));
        fds.into_iter().chain([here]).for_each(|fd| sys::close(fd).unwrap());
        assert_eq!(receive(there), Ok(None));
        [there, listening].into_iter().for_each(|fd| sys::close(fd).unwrap());
    }
}
