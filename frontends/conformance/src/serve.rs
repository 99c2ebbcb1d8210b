//! What the processes of a trial do.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{self, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;

use aysfs_vfs::memfs::MemFs;
use aysfs_vfs::{Frontend, MountOptions, Vfs};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tracing_subscriber::filter::LevelFilter;

use crate::Suite;
use crate::case::{Case, Check};
use crate::mounted::{Mounted, abort_connections, all_users};
use crate::process::{Job, Role, Through, this_program};
use crate::rig::Rig;
use crate::sample::Sample;
use crate::target::{Changes, Files, Target, Tree};
use crate::user::Server;

/// Does the job of this process.
pub(crate) fn work(job: &Job, suite: Option<&Suite>, case: &Case, target: &Target) -> ExitCode {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    match job.role {
        Role::Serve => {
            end_with_the_runner(job.dir.clone());
            serve(job, suite, case, target)
        }
        Role::Use => {
            // Nothing is to be left when whoever waits for this process is gone.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).expect("a valid signal");
            match case.check {
                Check::Write(check) => check(&job.at),
                Check::Read(check) | Check::Change(check) | Check::Refuse(check) => {
                    check(&job.at, &Sample(&job.sample).tree())
                }
                Check::Mount { using, .. } => {
                    let using = using.expect("only a case with a using process starts one");
                    using(&job.at, &mut Server::of_this_process(frontend(suite, job.through), job));
                }
            }
            ExitCode::SUCCESS
        }
    }
}

/// Ends this process when the runner is gone, which holds the other end of its standard input.
///
/// Not by a signal: this process may be waiting for an answer of its own, and then it has to be freed first.
fn end_with_the_runner(dir: PathBuf) {
    thread::spawn(move || {
        // The runner writes nothing: whatever this returns, it is the end.
        let _ = io::stdin().read(&mut [0]);
        abort_connections(&dir);
        process::exit(1);
    });
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
    command.stdin(Stdio::null());
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

/// Prepares the target; what is mounted by a frontend for that.
fn mount(job: &Job, suite: Option<&Suite>, target: &Target, runtime: &Runtime) -> Option<Mounted> {
    let sample = Sample(&job.sample);
    let (vfs, options): (Arc<dyn Vfs>, _) = match target.files {
        Files::Local(Tree::Sample) if target.changes == Changes::Allowed => {
            let copied = Command::new("cp").arg("-a").arg(sample.tree()).arg(&job.at).status();
            assert!(copied.expect("coreutils").success(), "the sample tree can be copied");
            return None;
        }
        Files::Local(tree) => {
            fs::create_dir(&job.at).expect("a directory");
            if tree == Tree::Sample {
                let read_only = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
                mount_bind(sample.tree(), &job.at).expect("mounted");
                mount_remount(&job.at, MountFlags::BIND | read_only, "").expect("mounted read-only");
            }
            return None;
        }
        Files::Nowhere => return None,
        Files::MemFs => (Arc::new(MemFs::default()), all_users()),
        Files::Overlay(tree, passthrough) => {
            let options = match tree {
                Tree::Nothing => MountOptions { passthrough, ..all_users() },
                Tree::Sample => MountOptions { allow_other: true, passthrough, ..MountOptions::default() },
            };
            (Arc::new(sample.changeable(&job.dir, tree, runtime)), options)
        }
        Files::AysFs => {
            let options = MountOptions { allow_other: true, read_only: true, ..MountOptions::default() };
            (Arc::new(sample.mountable(&job.dir, runtime)), options)
        }
    };
    let frontend = frontend(suite, job.through);
    let mounted = Mounted::new(frontend, vfs, &job.at, &job.dir, &options, runtime.handle());
    Some(mounted.unwrap_or_else(|error| panic!("cannot mount: {}", chain(&error))))
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
