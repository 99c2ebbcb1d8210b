//! The `aysfs` command: the only code that knows every crate.

mod about;
mod access;
mod backlog;
mod cleaning;
mod cli;
mod commands;
mod control;
mod flists;
mod frontends;
mod jobs;
mod keys;
mod log;
mod memory;
mod monitor;
mod mount_points;
mod mounts;
mod names;
mod output;
mod prefetch;
mod progress;
mod push;
mod reload;
mod signals;

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::{CacheCommand, Cli, Command, ConfigCommand, FlistCommand, ProfileCommand};

/// What was asked for cannot be meant: the command line, the config or a flist is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// A command that was run for the user has failed with this code, and has said why.
#[derive(Debug, thiserror::Error)]
#[error("the command ended with exit code {0}")]
struct CommandFailed(u8);

fn main() -> ExitCode {
    let cli = cli::parse();
    log::start(cli.log);
    memory::give_back_large_buffers();
    raise_limit_of_open_files();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref() {
            Some(CommandFailed(code)) => ExitCode::from(*code),
            None => {
                eprintln!("aysfs: {error:#}");
                ExitCode::from(if error.is::<Refused>() { 2 } else { 1 })
            }
        },
    }
}

/// As far as it goes without privileges: cached files and directories of local changes are kept open.
fn raise_limit_of_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // What is refused is no more than what there was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match (cli.command, cli.config) {
            (Some(Command::Mount(args)), _) => commands::mount::run(args).await,
            (Some(Command::Umount(args)), _) => commands::umount::run(args).await,
            (Some(Command::Status(args)), _) => commands::status::run(args).await,
            (Some(Command::Why(args)), _) => commands::why::run(args).await,
            (Some(Command::Diff(args)), _) => commands::diff::run(args).await,
            (Some(Command::Commit(args)), _) => commands::commit::run(args).await,
            (Some(Command::Push(args)), _) => commands::push::run(args).await,
            (Some(Command::Reload(args)), _) => commands::reload::run(args).await,
            (Some(Command::Warm(args)), _) => commands::warm::run(args).await,
            (Some(Command::Profile(ProfileCommand::Record(args))), _) => {
                commands::profile::record(args).await
            }
            (Some(Command::Pack(args)), _) => commands::pack::run(args).await,
            (Some(Command::Unpack(args)), _) => commands::unpack::run(args).await,
            (Some(Command::Fsck(args)), _) => commands::fsck::run(args).await,
            (Some(Command::Gc(args)), _) => commands::gc::run(args).await,
            (Some(Command::Repack(args)), _) => commands::repack::run(args).await,
            (Some(Command::Flist(FlistCommand::Check(args))), _) => commands::flist::check(&args),
            (Some(Command::Flist(FlistCommand::Show(args))), _) => commands::flist::show(&args),
            (Some(Command::Keygen(args)), _) => commands::keygen::run(&args),
            (Some(Command::Cache(CacheCommand::Stat(args))), _) => commands::cache::stat(args).await,
            (Some(Command::Cache(CacheCommand::Clean(args))), _) => commands::cache::clean(args).await,
            (Some(Command::Stor(args)), _) => commands::stor::run(args).await,
            (Some(Command::Bench(args)), _) => commands::bench::run(args).await,
            (Some(Command::BenchServe(args)), _) => commands::bench::serve(args).await,
            (Some(Command::Config(ConfigCommand::Check { file })), _) => commands::config::check(&file),
            (None, Some(file)) => commands::serve::run(&file, cli.pprof).await,
            (None, None) => unreachable!("one of them was asked for"),
        }
    });
    // Fetches that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    result
}
