//! Functions with `...` in their C declaration, for which Rust has no definitions: a few instructions put the arguments into
//! a `va_list`, as the compiler of a C function would, and pass its address in the place of the first variable argument.
//!
//! fcntl, ioctl, open and syscall do without: there the callee takes a fixed number of integers, whichever were passed.

use core::ffi::{c_char, c_void};

/// `va_list`, as far as pointers are read from it. System V AMD64 ABI 3.5.7.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
pub struct VaList {
    gp_offset: u32,
    fp_offset: u32,
    overflow: *mut c_void,
    save_area: *mut c_void,
}

#[cfg(target_arch = "x86_64")]
impl VaList {
    /// The next argument, a pointer.
    ///
    /// # Safety
    /// There is one, and it is a pointer.
    pub unsafe fn next(&mut self) -> *const c_char {
        const GENERAL_REGISTERS: u32 = 6 * 8;
        unsafe {
            if self.gp_offset < GENERAL_REGISTERS {
                let at = self.save_area.byte_add(self.gp_offset as usize);
                self.gp_offset += 8;
                return at.cast::<*const c_char>().read();
            }
            let at = self.overflow;
            self.overflow = at.byte_add(8);
            at.cast::<*const c_char>().read()
        }
    }
}

/// `va_list`, as far as pointers are read from it. Procedure Call Standard for the Arm 64-bit Architecture, appendix B.
#[cfg(target_arch = "aarch64")]
#[repr(C)]
pub struct VaList {
    stack: *mut c_void,
    gr_top: *mut c_void,
    vr_top: *mut c_void,
    gr_offset: i32,
    vr_offset: i32,
}

#[cfg(target_arch = "aarch64")]
impl VaList {
    /// The next argument, a pointer.
    ///
    /// # Safety
    /// There is one, and it is a pointer.
    pub unsafe fn next(&mut self) -> *const c_char {
        unsafe {
            if self.gr_offset < 0 {
                let at = self.gr_top.byte_offset(self.gr_offset as isize);
                self.gr_offset += 8;
                return at.cast::<*const c_char>().read();
            }
            let at = self.stack;
            self.stack = at.byte_add(8);
            at.cast::<*const c_char>().read()
        }
    }
}

/// Defines the symbol `$name`, a function with `$fixed` arguments before the `...`, as a call of `$body` with these and the
/// address of a [`VaList`] (in the register that is named for each machine).
macro_rules! variadic {
    ($name:ident, $fixed:literal, $rest:literal, $rest_arm:literal, $body:path) => {
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            // The register save area is at the stack pointer, the va_list behind it; what was passed in memory begins behind
            // the return address.
            ::core::arch::naked_asm!(
                "sub rsp, 216",
                "mov [rsp], rdi",
                "mov [rsp + 8], rsi",
                "mov [rsp + 16], rdx",
                "mov [rsp + 24], rcx",
                "mov [rsp + 32], r8",
                "mov [rsp + 40], r9",
                "test al, al",
                "je 2f",
                "movaps [rsp + 48], xmm0",
                "movaps [rsp + 64], xmm1",
                "movaps [rsp + 80], xmm2",
                "movaps [rsp + 96], xmm3",
                "movaps [rsp + 112], xmm4",
                "movaps [rsp + 128], xmm5",
                "movaps [rsp + 144], xmm6",
                "movaps [rsp + 160], xmm7",
                "2:",
                "mov dword ptr [rsp + 176], {fixed} * 8",
                "mov dword ptr [rsp + 180], 48",
                "lea rax, [rsp + 224]",
                "mov [rsp + 184], rax",
                "mov [rsp + 192], rsp",
                "lea rax, [rsp + 176]",
                concat!("mov ", $rest, ", rax"),
                "call {body}",
                "add rsp, 216",
                "ret",
                fixed = const $fixed,
                body = sym $body,
            )
        }

        #[cfg(target_arch = "aarch64")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            ::core::arch::naked_asm!(
                "stp x29, x30, [sp, #-240]!",
                "mov x29, sp",
                "stp x0, x1, [sp, #16]",
                "stp x2, x3, [sp, #32]",
                "stp x4, x5, [sp, #48]",
                "stp x6, x7, [sp, #64]",
                "stp q0, q1, [sp, #80]",
                "stp q2, q3, [sp, #112]",
                "stp q4, q5, [sp, #144]",
                "stp q6, q7, [sp, #176]",
                "add x8, sp, #240",
                "str x8, [sp, #208]",
                "add x8, sp, #80",
                "str x8, [sp, #216]",
                "add x8, sp, #208",
                "str x8, [sp, #224]",
                "mov w9, #({fixed} * 8 - 64)",
                "str w9, [sp, #232]",
                "mov w9, #-128",
                "str w9, [sp, #236]",
                concat!("mov ", $rest_arm, ", x8"),
                "bl {body}",
                "ldp x29, x30, [sp], #240",
                "ret",
                fixed = const $fixed,
                body = sym $body,
            )
        }
    };
}
pub(super) use variadic;
