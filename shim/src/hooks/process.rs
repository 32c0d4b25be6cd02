//! fork exec exit.

use crate::confined;
use crate::environment::{self, Kept};
use crate::errno;
use crate::hooks::variadic::{VaList, variadic};
use crate::process::{self, GoesOn};
use crate::relay::{self, Door};
use core::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};
use libc::pid_t;
use redhook::{hook, real};

hook! {
    unsafe fn fork() -> pid_t => tcpreload_fork {
        process::fork(|| unsafe { real!(fork)() })
    }
}

hook! {
    unsafe fn __fork() -> pid_t => tcpreload_reserved_fork {
        process::fork(|| unsafe { real!(__fork)() })
    }
}

hook! {
    unsafe fn _Fork() -> pid_t => tcpreload_raw_fork {
        process::fork(|| unsafe { real!(_Fork)() })
    }
}

/// The real vfork leaves its caller's frame to the child: nothing of ours may be between it and the program. So this symbol
/// jumps, to libc's own or, where a child must not share our tables, to [`vfork_by_fork`].
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfork() -> pid_t {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        "sub rsp, 8",
        "call {choose}",
        "add rsp, 8",
        "jmp rax",
        choose = sym choose_vfork,
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "bl {choose}",
        "ldp x29, x30, [sp], #16",
        "br x0",
        choose = sym choose_vfork,
    );
}

extern "C" fn choose_vfork() -> usize {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    if crate::runtime::attached().is_some() {
        return vfork_by_fork as *const () as usize;
    }
    let mut real = REAL.load(Ordering::Relaxed);
    if real == 0 {
        // SAFETY: dlsym with a string; it is not overridden.
        real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"vfork".as_ptr()) } as usize;
        REAL.store(real, Ordering::Relaxed);
    }
    if real == 0 { vfork_by_fork as *const () as usize } else { real }
}

unsafe extern "C" fn vfork_by_fork() -> pid_t {
    process::vfork(|| unsafe { real!(fork)() })
}

// The arguments are variadic in C; on the supported machines they are passed like any others.
hook! {
    unsafe fn prctl(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int => tcpreload_prctl {
        let call = || unsafe { real!(prctl)(option, a, b, c, d) };
        if confined::by_prctl(option, a) { confined::enter(call) } else { call() }
    }
}

hook! {
    unsafe fn daemon(nochdir: c_int, noclose: c_int) -> c_int => tcpreload_daemon {
        if crate::runtime::attached().is_none() {
            return unsafe { real!(daemon)(nochdir, noclose) };
        }
        errno::int(|| process::daemon(nochdir != 0, noclose != 0, || unsafe { real!(fork)() }))
    }
}

type Strings = *const *const c_char;

unsafe extern "C" {
    static environ: Strings;
}

/// A program's path or name; a null is the kernel's to refuse.
unsafe fn named<'a>(path: *const c_char, door: impl FnOnce(&'a CStr) -> Door<'a>) -> Option<Door<'a>> {
    // SAFETY: the program's string.
    (!path.is_null()).then(|| door(unsafe { CStr::from_ptr(path) }))
}

/// An exec by `real`, which gets the environment to pass on.
unsafe fn exec(
    door: Option<Door>,
    argv: Strings,
    envp: Strings,
    real: impl FnOnce(Strings) -> c_int,
) -> c_int {
    let departure = process::before_exec();
    let family = departure.as_ref().and_then(|d| d.family.as_deref());
    if let (Some(departure), Some(family), Some(door)) = (&departure, family, door) {
        match departure.goes_on {
            GoesOn::Concerns => unsafe { by_relay(door, argv, envp, family) },
            GoesOn::Others => relay::tell_of_others(door),
            GoesOn::Nothing => {}
        }
    }
    let kept = unsafe { environment::kept(envp, family) };
    let result = real(kept.as_ref().map_or(envp, Kept::as_ptr));
    let failure = errno::get();
    if let Some(departure) = departure {
        departure.undo();
    }
    errno::set(failure);
    result
}

/// Becomes the relay of a program that cannot be preloaded; comes back if it can be, or if there is no relay to be had.
unsafe fn by_relay(door: Door, argv: Strings, envp: Strings, family: &str) {
    let Some(detour) = (unsafe { relay::detour(door, argv, envp) }) else { return };
    let kept = unsafe { environment::for_relay(envp, family) };
    let envp = kept.as_ref().map_or(envp, Kept::as_ptr);
    let started = detour.start(|path, argv| {
        unsafe { real!(execve)(path.as_ptr(), argv, envp) };
        errno::get()
    });
    if let Err(errno) = started {
        relay::tell_of_failure(errno);
    }
}

hook! {
    unsafe fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int => tcpreload_execve {
        unsafe { exec(named(path, Door::Path), argv, envp, |envp| real!(execve)(path, argv, envp)) }
    }
}

hook! {
    unsafe fn execv(path: *const c_char, argv: Strings) -> c_int => tcpreload_execv {
        unsafe { exec(named(path, Door::Path), argv, environ, |envp| real!(execve)(path, argv, envp)) }
    }
}

hook! {
    unsafe fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int => tcpreload_execvpe {
        unsafe { exec(named(file, Door::File), argv, envp, |envp| real!(execvpe)(file, argv, envp)) }
    }
}

hook! {
    unsafe fn execvp(file: *const c_char, argv: Strings) -> c_int => tcpreload_execvp {
        unsafe { exec(named(file, Door::File), argv, environ, |envp| real!(execvpe)(file, argv, envp)) }
    }
}

hook! {
    unsafe fn fexecve(fd: c_int, argv: Strings, envp: Strings) -> c_int => tcpreload_fexecve {
        unsafe { exec(Some(Door::Open(fd)), argv, envp, |envp| real!(fexecve)(fd, argv, envp)) }
    }
}

hook! {
    unsafe fn execveat(dir: c_int, path: *const c_char, argv: Strings, envp: Strings, flags: c_int) -> c_int => tcpreload_execveat {
        unsafe {
            let open = flags & libc::AT_EMPTY_PATH != 0 && !path.is_null() && *path == 0;
            let door = if open { Some(Door::Open(dir)) } else { named(path, |path| Door::Under(dir, path)) };
            exec(door, argv, envp, |envp| real!(execveat)(dir, path, argv, envp, flags))
        }
    }
}

/// The arguments of execl and its relatives, the terminating null included.
unsafe fn arguments(list: *mut VaList) -> Vec<*const c_char> {
    let mut argv = Vec::new();
    loop {
        // SAFETY: the caller ends its arguments with a null pointer.
        let arg = unsafe { (*list).next() };
        argv.push(arg);
        if arg.is_null() {
            return argv;
        }
    }
}

unsafe extern "C" fn execl_list(path: *const c_char, list: *mut VaList) -> c_int {
    unsafe { tcpreload_execv(path, arguments(list).as_ptr()) }
}

unsafe extern "C" fn execlp_list(file: *const c_char, list: *mut VaList) -> c_int {
    unsafe { tcpreload_execvp(file, arguments(list).as_ptr()) }
}

unsafe extern "C" fn execle_list(path: *const c_char, list: *mut VaList) -> c_int {
    unsafe {
        let argv = arguments(list);
        // The environment comes behind the null.
        let envp = (*list).next().cast();
        tcpreload_execve(path, argv.as_ptr(), envp)
    }
}

variadic!(execl, 1, "rsi", "x1", execl_list);
variadic!(execlp, 1, "rsi", "x1", execlp_list);
variadic!(execle, 1, "rsi", "x1", execle_list);

/// posix_spawn: the child acts inside of libc, on nothing of ours; its environment is looked after, and what it may inherit is
/// held for it.
macro_rules! spawn_door {
    ($name:ident, $hook:ident, $door:expr) => {
        hook! {
            unsafe fn $name(pid: *mut pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void, argv: Strings, envp: Strings) -> c_int => $hook {
                let spawning = process::before_spawn(actions as usize);
                let mut child: pid_t = 0;
                let relayed = match &spawning {
                    Some(spawning) => unsafe {
                        spawn_relay(spawning, named(path, $door), argv, envp, |path, argv, envp| {
                            real!($name)(&raw mut child, path, actions, attributes, argv, envp)
                        })
                    },
                    None => false,
                };
                let result = if relayed {
                    0
                } else {
                    let family = spawning.as_ref().map(|s| s.family.as_str());
                    unsafe {
                        let kept = environment::kept(envp, family);
                        let envp = kept.as_ref().map_or(envp, Kept::as_ptr);
                        real!($name)(&raw mut child, path, actions, attributes, argv, envp)
                    }
                };
                if let Some(spawning) = spawning {
                    spawning.done((result == 0).then_some(child));
                }
                if result == 0 && !pid.is_null() {
                    unsafe { pid.write(child) };
                }
                result
            }
        }
    };
}

/// Starts the relay of a program that cannot be preloaded; false: it can be, or there is no relay to be had.
unsafe fn spawn_relay(
    spawning: &process::Spawning,
    door: Option<Door>,
    argv: Strings,
    envp: Strings,
    mut real: impl FnMut(*const c_char, Strings, Strings) -> c_int,
) -> bool {
    let Some(door) = door else { return false };
    if spawning.goes_on != GoesOn::Concerns {
        if spawning.goes_on == GoesOn::Others {
            relay::tell_of_others(door);
        }
        return false;
    }
    let Some(detour) = (unsafe { relay::detour(door, argv, envp) }) else { return false };
    let kept = unsafe { environment::for_relay(envp, &spawning.family) };
    let envp = kept.as_ref().map_or(envp, Kept::as_ptr);
    let started = detour.start(|path, argv| real(path.as_ptr(), argv, envp));
    if let Err(errno) = started {
        relay::tell_of_failure(errno);
    }
    started.is_ok()
}

spawn_door!(posix_spawn, tcpreload_posix_spawn, Door::Path);
spawn_door!(posix_spawnp, tcpreload_posix_spawnp, Door::File);

// The list of actions is libc's secret: what it will duplicate is noted as it is put down.
hook! {
    unsafe fn posix_spawn_file_actions_adddup2(actions: *mut c_void, fd: c_int, new: c_int) -> c_int => tcpreload_spawn_dup2 {
        let result = unsafe { real!(posix_spawn_file_actions_adddup2)(actions, fd, new) };
        if result == 0 {
            process::spawn_will_duplicate(actions as usize, fd, new);
        }
        result
    }
}

hook! {
    unsafe fn posix_spawn_file_actions_destroy(actions: *mut c_void) -> c_int => tcpreload_spawn_destroy {
        process::spawn_forgets(actions as usize);
        unsafe { real!(posix_spawn_file_actions_destroy)(actions) }
    }
}

hook! {
    unsafe fn forkpty(master: *mut c_int, name: *mut c_char, term: *const c_void, size: *const c_void) -> pid_t => tcpreload_forkpty {
        process::fork(|| unsafe { real!(forkpty)(master, name, term, size) })
    }
}

macro_rules! exit_door {
    ($name:ident, $hook:ident) => {
        hook! {
            unsafe fn $name(status: c_int) => $hook {
                let _ = errno::run(|| { process::goodbye(); Ok(()) });
                unsafe { real!($name)(status) }
            }
        }
    };
}

exit_door!(_exit, tcpreload_exit_now);
exit_door!(_Exit, tcpreload_exit_c99);
exit_door!(quick_exit, tcpreload_quick_exit);
