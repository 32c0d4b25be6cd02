//! What a call of the program can fail with. Segments from the network never make an `Error`: they are counted drops.

use core::fmt;

macro_rules! errors {
    ($($name:ident = $errno:ident, $text:literal;)*) => {
        /// An error of a socket call, named after the errno that the C edge turns it into.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Error { $($name,)* }

        impl Error {
            /// The errno of the host.
            pub const fn errno(self) -> i32 {
                match self { $(Error::$name => libc::$errno,)* }
            }

            /// The error behind an errno that the engine stored itself (SO_ERROR); `None` for any other number.
            pub const fn from_errno(errno: i32) -> Option<Error> {
                $(if errno == libc::$errno { return Some(Error::$name); })*
                None
            }
        }

        impl fmt::Display for Error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Error::$name => $text,)* })
            }
        }
    };
}

errors! {
    WouldBlock = EAGAIN, "the call would block";
    Fault = EFAULT, "bad address";
    BadDescriptor = EBADF, "bad file descriptor";
    Interrupted = EINTR, "interrupted by a signal";
    Invalid = EINVAL, "invalid argument";
    NotSupported = EOPNOTSUPP, "operation not supported";
    NoProtocolOption = ENOPROTOOPT, "protocol option not available";
    FamilyNotSupported = EAFNOSUPPORT, "address family not supported";
    DestinationRequired = EDESTADDRREQ, "destination address required";
    MessageTooLong = EMSGSIZE, "message too long";
    AddressInUse = EADDRINUSE, "address in use";
    AddressNotAvailable = EADDRNOTAVAIL, "address not available";
    NetworkUnreachable = ENETUNREACH, "network unreachable";
    HostUnreachable = EHOSTUNREACH, "no route to host";
    HostDown = EHOSTDOWN, "host is down";
    NoNetwork = ENONET, "machine is not on the network";
    ConnectionRefused = ECONNREFUSED, "connection refused";
    ConnectionReset = ECONNRESET, "connection reset by peer";
    ConnectionAborted = ECONNABORTED, "connection aborted";
    TimedOut = ETIMEDOUT, "connection timed out";
    BrokenPipe = EPIPE, "broken pipe";
    NotConnected = ENOTCONN, "not connected";
    IsConnected = EISCONN, "already connected";
    InProgress = EINPROGRESS, "connection in progress";
    Already = EALREADY, "connection already in progress";
    NoBuffers = ENOBUFS, "no buffer space";
    NoMemory = ENOMEM, "out of memory";
    TooManyFiles = EMFILE, "too many open files";
    Permission = EPERM, "operation not permitted";
    Access = EACCES, "permission denied";
    NoEntry = ENOENT, "no such registration";
    Exists = EEXIST, "registered already";
    Protocol = EPROTO, "protocol error";
}

impl std::error::Error for Error {}

pub type Result<T> = core::result::Result<T, Error>;
