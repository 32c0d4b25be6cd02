//! The preload library of tcpreload: libc's socket calls, answered by the engine.
