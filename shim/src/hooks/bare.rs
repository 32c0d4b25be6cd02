//! Hooks that do something after the real function, where that one is a cancellation point. A thread that is cancelled in it
//! unwinds the hook's frame, and a frame of Rust that knows what to do when a panic passes takes this for one. So these frames
//! know nothing: they are not redhook's, which catches panics, and all that they call is `extern "C"`, which does not unwind.

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

/// The real function, found at its first use.
pub struct Real {
    name: &'static CStr,
    at: AtomicPtr<c_void>,
}

impl Real {
    pub const fn new(name: &'static CStr) -> Real {
        Real { name, at: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Its address. A libc without it has no program that calls it.
    pub extern "C" fn address(&self) -> *const c_void {
        let known = self.at.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: a string; dlsym is not overridden.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.at.store(found, Ordering::Relaxed);
        found
    }
}

/// Defines the symbol `$name` with a body of calls that do not unwind; `$real` is the real function in it.
macro_rules! bare {
    (unsafe fn $name:ident($($arg:ident : $t:ty),*) -> $r:ty, $real:ident => $body:block) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $t),*) -> $r {
            static REAL: $crate::hooks::bare::Real = {
                const NAME: &str = concat!(stringify!($name), "\0");
                match ::core::ffi::CStr::from_bytes_with_nul(NAME.as_bytes()) {
                    Ok(name) => $crate::hooks::bare::Real::new(name),
                    Err(_) => unreachable!(),
                }
            };
            // SAFETY: the symbol's type in libc.
            let $real: unsafe extern "C" fn($($t),*) -> $r = unsafe { core::mem::transmute(REAL.address()) };
            $body
        }
    };
}
pub(super) use bare;
