//! `tcpreload nstat`: the TCP counters of running programs, under Linux's names.

use crate::family;
use clap::Parser;
use engine::values::Counters;
use std::process::ExitCode;

/// TCP counters of programs that run under tcpreload, added up over their stacks.
#[derive(Parser, Debug)]
#[command(name = "tcpreload nstat", version)]
pub struct Options {
    /// Absolute values (always so: no history is kept between calls)
    #[arg(short = 'a', long)]
    absolute: bool,

    /// Print counters that are zero as well
    #[arg(short = 'z', long)]
    zeros: bool,

    /// One JSON object, name to value, with all counters
    #[arg(short = 'j', long)]
    json: bool,

    /// Only the stack of this process
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
}

pub fn run(options: Options) -> ExitCode {
    let found = family::find(options.pid);
    found.complain();
    if options.pid.is_some() && found.families.is_empty() {
        return found.no_stack(options.pid);
    }
    let mut sum = Counters::default();
    for family in &found.families {
        family.inspector.look(|stack| {
            for (counter, value) in stack.counters().iter() {
                sum.add(counter, value);
            }
        });
    }
    let text = if options.json { json(&sum) } else { table(&sum, options.zeros) };
    crate::print(&text)
}

fn json(counters: &Counters) -> String {
    let object: serde_json::Map<String, serde_json::Value> =
        counters.iter().map(|(counter, value)| (counter.name().to_string(), value.into())).collect();
    format!("{}\n", serde_json::Value::Object(object))
}

/// As nstat(8) prints it: name, value, and the rate that it only fills as a daemon.
fn table(counters: &Counters, zeros: bool) -> String {
    let mut text = String::from("#tcpreload\n");
    for (counter, value) in counters.iter().filter(|&(_, value)| zeros || value != 0) {
        text += &format!("{:<32}{value:<16} 0.0\n", counter.name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::values::Counter;

    #[test]
    fn zeros_are_left_out_of_the_table_only() {
        let mut counters = Counters::default();
        counters.add(Counter::PassiveOpens, 7);
        assert_eq!(table(&counters, false).lines().count(), 2);
        assert!(table(&counters, false).contains("TcpPassiveOpens"));
        assert_eq!(table(&counters, true).lines().count(), 1 + Counter::COUNT);
        let parsed: serde_json::Value = serde_json::from_str(&json(&counters)).unwrap();
        assert_eq!(parsed["TcpPassiveOpens"], 7);
        assert_eq!(parsed["TcpActiveOpens"], 0);
    }
}
