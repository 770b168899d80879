//! `vsr`: the binary. Parses, runs one command, and ends with its exit status.

mod cli;
mod commands;
#[path = "../sim/mod.rs"]
mod sim;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match cli::Raw::parse().valid() {
        Ok(command) => command,
        Err(reason) => return fail(&reason, 2),
    };
    if let cli::Command::Sim(arguments) = &command {
        return sim::main(arguments);
    }
    match commands::run(command) {
        Ok(exit) => ExitCode::from(exit.status()),
        Err(failure) if failure.is_silent() => ExitCode::from(failure.status()),
        Err(failure) => fail(&failure.to_string(), failure.status()),
    }
}

fn fail(reason: &str, status: u8) -> ExitCode {
    commands::tell(&format!("error: {reason}"));
    ExitCode::from(status)
}
