//! Signals of sockets, as fcntl(2) has them: to whom, and what they say.

use bytemuck::Zeroable;

/// What F_SETOWN names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(u8)]
pub enum OwnerKind {
    #[default]
    Nobody = 0,
    Thread = 1,
    Process = 2,
    Group = 3,
}

/// What has happened; POLL_IN and its kin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(u8)]
pub enum Event {
    #[default]
    Readable = 0,
    Writable = 1,
    Error = 2,
    HangUp = 3,
    /// Urgent data: SIGURG, and what O_ASYNC adds to it.
    Urgent = 4,
}

impl Event {
    /// si_code.
    pub const fn code(self) -> i32 {
        match self {
            Event::Readable => 1,
            Event::Writable => 2,
            Event::Error => 4,
            Event::Urgent => 5,
            Event::HangUp => 6,
        }
    }

    /// si_band: the kernel's band_table.
    pub const fn band(self) -> i64 {
        match self {
            Event::Readable => 0x041,
            Event::Writable => 0x304,
            Event::Error => 0x008,
            Event::Urgent => 0x082,
            Event::HangUp => 0x018,
        }
    }
}

/// Whom a socket's events are told, and how: F_SETOWN_EX, F_SETSIG, O_ASYNC. It belongs to the open file description, and so to
/// the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(C)]
pub struct Owner {
    pub kind: OwnerKind,
    /// O_ASYNC.
    pub is_async: bool,
    /// F_SETSIG; 0: SIGIO, without a word.
    pub number: u8,
    pub id: i32,
    /// The descriptor that O_ASYNC was set by.
    pub fd: i32,
    /// When the process was started, as /proc/PID/stat has it: its number may be another's later. 0: not known.
    pub started: u64,
}

/// One signal to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Zeroable)]
#[repr(C)]
pub struct Signal {
    pub to: Owner,
    pub event: Event,
}

impl Signal {
    pub fn new(to: Owner, event: Event) -> Signal {
        Signal { to, event }
    }
}
