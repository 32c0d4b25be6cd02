//! `tcpreload PROGRAM ARGS`: starts a program with its TCP served by the engine; `ss` and `nstat` look into running ones.

fn main() {}
