//! Looking into the arena of a running family from outside, for `tcpreload ss` and `tcpreload nstat`.

use super::arena::{Arena, ArenaError};
use crate::stack::Stack;
use crate::sys;
use core::time::Duration;
use std::ffi::CStr;

/// How long an inspector waits for the lock before it reads without.
const PATIENCE: Duration = Duration::from_millis(200);

/// A view of somebody else's arena.
pub struct Inspector {
    arena: Arena,
}

impl Inspector {
    /// Opens an arena by path: `/proc/PID/fd/N` of a process of the family.
    ///
    /// # Errors
    /// As [`Arena::open`]; EACCES when the process is another user's.
    pub fn open(path: &CStr) -> Result<Inspector, ArenaError> {
        let fd = sys::open(path, libc::O_RDWR | libc::O_CLOEXEC).map_err(ArenaError::Os)?;
        match Arena::open(fd, false) {
            Ok(arena) => Ok(Inspector { arena }),
            Err(error) => {
                let _ = sys::close(fd);
                Err(error)
            }
        }
    }

    /// Runs `look` over the stack: under the lock if it can be had soon, else (the holder is stopped in a debugger, say)
    /// without it, over a picture that may be torn.
    pub fn look<T>(&self, look: impl FnOnce(&Stack) -> T) -> T {
        match self.arena.lock_within(PATIENCE) {
            Some(guard) => look(guard.stack),
            None => look(self.arena.peek()),
        }
    }
}
