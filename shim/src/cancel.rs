//! pthread_cancel(3). The calls that sleep are cancellation points, but they sleep by system calls of their own, which libc does
//! not know to be any. So a cancelled thread is noted and woken, its call leaves the engine with nothing held, and the hook's
//! last step is pthread_testcancel, called from where the program called us.
//!
//! Inside of the library the way out is an error, ECANCELED, which no call on a socket gives otherwise.

use crate::errno::Errno;
use crate::runtime;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use engine::sys;

/// Threads that were cancelled and have not acted on it in a call of ours, by thread id. A full table makes the next one wait
/// for its call's own end.
const THREADS: usize = 64;
static CANCELLED: [AtomicI32; THREADS] = [const { AtomicI32::new(0) }; THREADS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// What a call that was cancelled ends with.
pub const CANCELED: Errno = Errno(libc::ECANCELED);

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
    fn pthread_testcancel();
}

/// PTHREAD_CANCEL_ENABLE and PTHREAD_CANCEL_DISABLE.
const ENABLE: c_int = 0;
const DISABLE: c_int = 1;

/// `thread` was cancelled: if it sleeps in a call of ours, it is woken.
pub fn note(thread: libc::pthread_t) {
    let (Some(rt), Some(tid)) = (runtime::attached(), thread_id(thread)) else { return };
    // Those that ended elsewhere make room.
    for slot in &CANCELLED {
        let old = slot.load(Ordering::Acquire);
        if old == tid {
            return;
        }
        if old != 0 && sys::tgkill(sys::getpid(), old, 0).is_err() {
            take_back(slot, old);
        }
    }
    let free = |slot: &&AtomicI32| slot.compare_exchange(0, tid, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if CANCELLED.iter().find(free).is_none() {
        return;
    }
    COUNT.fetch_add(1, Ordering::AcqRel);
    if let Ok(mut locked) = rt.lock() {
        locked.stack().wake_process(sys::getpid() as u32);
    }
}

/// The kernel's name of a thread, which is not given to another soon; libc's is at once. It is in the name of the thread's CPU
/// clock (clock_getcpuclockid(3), MAKE_THREAD_CPUCLOCK).
fn thread_id(thread: libc::pthread_t) -> Option<i32> {
    let mut clock = 0;
    // SAFETY: a thread that was just cancelled, and a place for the answer.
    let found = unsafe { libc::pthread_getcpuclockid(thread, &mut clock) } == 0;
    found.then_some(!(clock >> 3)).filter(|&tid| tid > 0)
}

fn take_back(slot: &AtomicI32, tid: i32) {
    if slot.compare_exchange(tid, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        COUNT.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether the calling thread was cancelled and may act on it.
#[inline]
pub fn is_due() -> bool {
    COUNT.load(Ordering::Acquire) != 0 && is_noted() && is_enabled()
}

fn is_noted() -> bool {
    let me = sys::gettid();
    CANCELLED.iter().any(|slot| slot.load(Ordering::Acquire) == me)
}

fn is_enabled() -> bool {
    let mut old = DISABLE;
    // SAFETY: a valid state and a place for the old one, which is set again at once.
    unsafe {
        pthread_setcancelstate(DISABLE, &mut old);
        pthread_setcancelstate(old, core::ptr::null_mut());
    }
    old == ENABLE
}

/// Ends the thread. To be called when nothing is held and nothing on the stack has to be dropped.
///
/// Unwinding must not meet frames of Rust, which would take it for a panic. So the thread goes back to the program's frame
/// first, as if the program had called [`leave`] in the place of the function that it did call.
pub fn act() -> ! {
    let me = sys::gettid();
    CANCELLED.iter().for_each(|slot| take_back(slot, me));
    let mut frame =
        Frame { own: image_of(act as *const () as usize), registers: [0; SAVED], stack: 0, ip: 0 };
    // SAFETY: the callback gets the address of `frame`, which outlives the call.
    unsafe {
        _Unwind_Backtrace(callers_frame, core::ptr::from_mut(&mut frame).cast());
        resume(&frame)
    }
}

/// What the program calls in the end.
extern "C" fn leave() -> isize {
    // SAFETY: nothing is held.
    unsafe { pthread_testcancel() };
    crate::errno::set(libc::EINTR);
    -1
}

/// DWARF numbers of the registers that a function has to leave as they were.
#[cfg(target_arch = "x86_64")]
const REGISTERS: [c_int; SAVED] = [3, 6, 12, 13, 14, 15];
#[cfg(target_arch = "x86_64")]
const SAVED: usize = 6;
#[cfg(target_arch = "aarch64")]
const REGISTERS: [c_int; SAVED] =
    [19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 72, 73, 74, 75, 76, 77, 78, 79];
#[cfg(target_arch = "aarch64")]
const SAVED: usize = 19;

/// The first frame that is not of this library, as it is when the function that it has called returns.
#[repr(C)]
struct Frame {
    registers: [usize; SAVED],
    stack: usize,
    ip: usize,
    own: usize,
}

unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetCFA(context: *mut c_void) -> usize;
    fn _Unwind_GetGR(context: *mut c_void, register: c_int) -> usize;
}

extern "C" fn callers_frame(context: *mut c_void, frame: *mut c_void) -> c_int {
    const NO_REASON: c_int = 0;
    const END_OF_STACK: c_int = 5;
    // SAFETY: the context is the unwinder's, the frame that of `act`.
    unsafe {
        let ip = _Unwind_GetIP(context);
        let frame = &mut *frame.cast::<Frame>();
        if image_of(ip) == frame.own {
            return NO_REASON;
        }
        frame.ip = ip;
        frame.stack = _Unwind_GetCFA(context);
        frame.registers = REGISTERS.map(|r| _Unwind_GetGR(context, r));
    }
    END_OF_STACK
}

/// Where the library or program that has `address` was loaded.
fn image_of(address: usize) -> usize {
    // SAFETY: all zero is a value of it.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: any address will do; the answer has its place.
    unsafe { libc::dladdr(address as *const c_void, &mut info) };
    info.dli_fbase as usize
}

/// Goes on in the frame, in a call of [`leave`]: the return address of the call that it has made is used again.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn resume(frame: &Frame) -> ! {
    core::arch::naked_asm!(
        "mov rbx, [rdi]",
        "mov rbp, [rdi + 8]",
        "mov r12, [rdi + 16]",
        "mov r13, [rdi + 24]",
        "mov r14, [rdi + 32]",
        "mov r15, [rdi + 40]",
        "mov rax, [rdi + 56]",
        "mov rsp, [rdi + 48]",
        "push rax",
        "jmp {leave}",
        leave = sym leave,
    )
}

#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn resume(frame: &Frame) -> ! {
    core::arch::naked_asm!(
        "ldp x19, x20, [x0]",
        "ldp x21, x22, [x0, #16]",
        "ldp x23, x24, [x0, #32]",
        "ldp x25, x26, [x0, #48]",
        "ldp x27, x28, [x0, #64]",
        "ldr x29, [x0, #80]",
        "ldp d8, d9, [x0, #88]",
        "ldp d10, d11, [x0, #104]",
        "ldp d12, d13, [x0, #120]",
        "ldp d14, d15, [x0, #136]",
        "ldr x1, [x0, #152]",
        "ldr x30, [x0, #160]",
        "mov sp, x1",
        "b {leave}",
        leave = sym leave,
    )
}
