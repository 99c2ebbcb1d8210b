//! What the processes of a trial do.

use std::fs;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use aysfs_vfs::Frontend;
use aysfs_vfs::memfs::MemFs;
use rustix::fs::Mode;
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tracing_subscriber::filter::LevelFilter;

use crate::Suite;
use crate::case::{Case, Check};
use crate::mounted::{Mounted, all_users};
use crate::process::{Job, Role, Through, this_program};
use crate::rig::Rig;
use crate::target::{Files, Target};
use crate::user::Server;

/// Does the job of this process.
pub(crate) fn work(job: &Job, suite: Option<&Suite>, case: &Case, target: &Target) -> ExitCode {
    // Whoever waits for the end of this process is gone: nothing is to be left behind.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).expect("a valid signal");
    rustix::process::umask(Mode::from_raw_mode(0o022));
    match job.role {
        Role::Serve => serve(job, suite, case, target),
        Role::Use => {
            match case.check {
                Check::Write(check) => check(&job.at),
                Check::Mount { using, .. } => {
                    let using = using.expect("only a case with a using process starts one");
                    using(&job.at, &mut Server::of_this_process(frontend(suite, job.through), job));
                }
            }
            ExitCode::SUCCESS
        }
    }
}

fn serve(job: &Job, suite: Option<&Suite>, case: &Case, target: &Target) -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    if let Check::Mount { serve, .. } = case.check {
        serve(&Rig::new(frontend(suite, job.through), job, &job.dir));
        return ExitCode::SUCCESS;
    }
    let runtime = Runtime::new().expect("a runtime");
    let mounted = mount(job, suite, target, &runtime);
    let mut command = Command::new(this_program());
    Job { role: Role::Use, ..job.clone() }.give_to(&mut command);
    let status = command.status().expect("this program runs");
    if let Some(mounted) = mounted {
        mounted.unmount();
    }
    if status.success() {
        ExitCode::SUCCESS
    } else {
        eprintln!("the case: {status}");
        ExitCode::FAILURE
    }
}

/// Prepares the target; what is mounted for that.
fn mount(job: &Job, suite: Option<&Suite>, target: &Target, runtime: &Runtime) -> Option<Mounted> {
    let frontend = || frontend(suite, job.through);
    match target.files {
        Files::Directory => {
            fs::create_dir(&job.at).expect("a directory");
            None
        }
        Files::None => None,
        Files::MemFs => {
            let fs = Arc::new(MemFs::default());
            let mounted = Mounted::new(frontend(), fs, &job.at, &job.dir, &all_users(), runtime.handle());
            Some(mounted.unwrap_or_else(|error| panic!("cannot mount: {}", chain(&error))))
        }
    }
}

fn frontend(suite: Option<&Suite>, through: Through) -> &'static dyn Frontend {
    let suite = suite.expect("only a suite with a frontend runs on targets that need one");
    match through {
        Through::Frontend => suite.frontend,
        Through::Reference => suite.reference.expect("only a suite with a reference asks for it"),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
