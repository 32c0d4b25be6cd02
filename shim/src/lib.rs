//! The preload library of tcpreload: libc's socket calls, answered by the engine.
//!
//! | file | what |
//! | --- | --- |
//! | `hooks/` | one file per door: the overridden symbols, each a line that asks whose descriptor it is |
//! | `calls/` | what a call on one of our sockets does: C in, one or two engine calls, C out |
//! | `fdtable` | whose descriptor is it? |
//! | `runtime` | this process's arena, and the way in and out of its lock |
//! | `wait`, `block` | sleeping: whoever waits, drives |
//! | `round` | answers that leave together |
//! | `epoll`, `poll` | readiness of our sockets and of others in one set |
//! | `portguard` | kernel sockets that keep the kernel silent on our ports |
//! | `process`, `environment` | fork, exec, exit; what a program that is started finds in its environment |
//! | `relay`, `program` | connections that are handed to programs which cannot be preloaded; which those are |
//! | `companion` | the process that stands in for the program where a library cannot |
//! | `signals`, `cancel` | calls that a signal interrupts, threads that are cancelled |
//! | `passing` | our sockets in messages between processes |
//! | `streams` | C's streams on our sockets |
//! | `abi`, `errno` | user memory, C structs, errno |
//! | `config`, `log` | environment, sysctls, log records |
//!
//! Rules inside of this library: no libc function that it overrides is called (system calls go through `engine::sys`, the
//! real functions through redhook's `real!`), no lock is held while a thread sleeps, and nothing happens when it is
//! loaded (but for a program that inherits sockets): most processes that load it never open a TCP socket.

// Without the hooks, which would override the test program's own calls, much of this has no caller.
#![cfg_attr(test, allow(dead_code))]

mod abi;
mod block;
mod calls;
mod cancel;
mod companion;
mod config;
mod confined;
mod environment;
mod epoll;
mod errno;
mod fdtable;
#[cfg(not(test))]
mod hooks;
mod log;
mod owners;
mod passing;
mod poll;
mod portguard;
mod process;
mod program;
mod relay;
mod round;
mod runtime;
mod signals;
mod streams;
mod wait;
