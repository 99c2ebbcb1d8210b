//! The kernel's overlayfs is the judge of mode OL: the same random changes on a mount of ours and on one of the kernel, of the
//! same lower tree, must give the same errors and the same tree. Then each mounts the upper directory that the other wrote, and
//! it goes on.
//!
//! As root (`trusted.*`), and without privileges in a user namespace (`userxattr`). Everything runs in a process of its own,
//! in namespaces of its own, with a deadline: whatever hangs ends with them, mounts included. A failure names the seed and
//! lists the steps. `AYSFS_JUDGE_ROUNDS` and `AYSFS_JUDGE_STEPS` make it longer, `AYSFS_JUDGE_SEED` repeats one.
//!
//! # What the comparison leaves out
//!
//! - Hard links in the lower tree: the kernel breaks them when it copies up (`index=off`); ours do not break. Those that are
//!   made in the upper are compared.
//! - `st_ino`, the size and the link count of directories: the kernel's change, or are always 1.
//! - Without privileges, which names are of one file: the kernel then cannot follow its own marks to where a copy came
//!   from, and shows two inode numbers for one file. The number of names is compared.
//! - Blocks: space that is reserved and not used differs.
//! - Access times: reading changes some, and not of the same files.
//! - The time of the last inode change: it is that of the upper directory's, and copies are made at different moments.
//! - The time of the last change of a file whose content the kernel copies up after its attributes: it shows that moment,
//!   though nothing was written. (It gets ours, and then must keep it.)
//! - The time of a directory in which a rename was refused: the kernel's may show that moment, though nothing was changed.
//! - Times of "now": both have just been changed, whatever the nanosecond. Files of the lower tree are old.
//! - Handles that were opened for reading before a copy-up: the kernel's show the old content for ever; ours follow.
//! - Errors that leave the same behind (see `same_refusal`).

mod snapshot;
mod steps;

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};

use self::snapshot::{Snapshot, differences, restore_times};
use self::steps::{Step, random_step};
use crate::support::{Daemon, Lab, is_mounted, run_ok};

/// Only ends what hangs.
const DEADLINE: Duration = Duration::from_secs(600);

const ROUNDS: u64 = 6;
const STEPS: u64 = 120;

/// Says what a process that this test started is to do.
const FORM: &str = "AYSFS_JUDGE_FORM";

#[test]
fn the_kernel_agrees_with_what_root_changes() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting an overlay with trusted.* attributes needs root");
        return;
    }
    judge("root", &["--mount"]);
}

#[test]
fn the_kernel_agrees_with_what_is_changed_without_privileges() {
    let namespaces = ["--user", "--map-root-user", "--mount"];
    let allowed = Command::new("unshare").args(namespaces).args(["--fork", "true"]).output();
    match allowed {
        Ok(output) if output.status.success() => judge("user", &namespaces),
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!("skipped: this machine allows no user namespaces: {reason}");
        }
        Err(error) => eprintln!("skipped: no unshare: {error}"),
    }
}

/// Runs [`worker`] in namespaces of its own, and ends it at the deadline.
fn judge(form: &str, namespaces: &[&str]) {
    let mut child = Command::new("unshare")
        .args(namespaces)
        // Whoever is in the namespace of processes ends with the first of them, as do the mounts in their namespace.
        .args(["--propagation", "private", "--pid", "--fork", "--kill-child", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "overlay_judge::worker", "--ignored", "--nocapture"])
        .env(FORM, form)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let readers = [
        thread::spawn(reader(child.stdout.take().expect("piped"))),
        thread::spawn(reader(child.stderr.take().expect("piped"))),
    ];
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break Some(status),
            None if start.elapsed() > DEADLINE => {
                child.kill().expect("a child can be killed");
                child.wait().expect("a child can be waited for");
                break None;
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    let said = readers.map(|reader| reader.join().expect("it reads to the end")).concat();
    match status {
        Some(status) if status.success() => {
            if let Some(skipped) = said.lines().find(|line| line.starts_with("skipped")) {
                eprintln!("{skipped}");
            }
        }
        Some(status) => panic!("{status}\n{said}"),
        None => panic!("it hangs\n{said}"),
    }
}

fn reader(mut from: impl Read + Send) -> impl FnOnce() -> String + Send {
    move || {
        let mut all = Vec::new();
        // What was read before an error is worth showing.
        let _ = from.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }
}

#[test]
#[ignore = "started by the others, in namespaces of its own"]
fn worker() {
    let privileged = match std::env::var(FORM).as_deref() {
        Ok("root") => true,
        Ok("user") => false,
        _ => {
            eprintln!("skipped: started without the test that makes its namespaces");
            return;
        }
    };
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let steps = number("AYSFS_JUDGE_STEPS").unwrap_or(STEPS);
    let seeds = match number("AYSFS_JUDGE_SEED") {
        Some(seed) => vec![seed],
        None => {
            (0..number("AYSFS_JUDGE_ROUNDS").unwrap_or(ROUNDS)).map(|_| fastrand::u64(..1 << 48)).collect()
        }
    };
    for seed in seeds {
        if let Err(unable) = round(seed, steps, privileged) {
            eprintln!("skipped: {unable}");
            return;
        }
    }
}

/// The two mounts of one lower tree.
struct Arena {
    lab: Lab,
    privileged: bool,
    ours: Option<Daemon>,
}

impl Arena {
    fn point(&self, whose: &str) -> PathBuf {
        self.lab.path(&format!("mnt-{whose}"))
    }

    /// The upper directory that is ours: a mount has one for its mount point, below the backend.
    fn our_upper(&self) -> PathBuf {
        let all = fs::read_dir(self.lab.path("backend/upper")).expect("a backend");
        let mut names = all.map(|entry| entry.expect("an entry").path());
        names.find(|path| path.is_dir()).expect("the upper of the mount")
    }

    fn mount_ours(&mut self) {
        let args: [OsString; 11] = [
            "mount".into(),
            self.lab.path("v2.flist").into(),
            self.point("ours").into(),
            "--cache".into(),
            self.lab.path("backend").into(),
            "--namespace".into(),
            "test".into(),
            "--stor".into(),
            self.stor().into(),
            "--mode".into(),
            "OL".into(),
        ];
        let mut daemon = Daemon::start(args);
        daemon.wait_for_log("all mounts are up");
        assert!(is_mounted(&self.point("ours")));
        self.ours = Some(daemon);
    }

    fn unmount_ours(&mut self) {
        self.ours.take().expect("mounted").stop();
    }

    fn mount_kernel(&self, upper: &Path) -> std::io::Result<()> {
        let work = self.lab.path("kernel-work");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        fs::create_dir(&work)?;
        let marks =
            if self.privileged { "redirect_dir=on,metacopy=on,index=off" } else { "userxattr,index=off" };
        let options = format!(
            "lowerdir={},upperdir={},workdir={},{marks}",
            self.lab.path("lower").display(),
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options).expect("no NUL");
        let mounted = rustix::mount::mount(
            "overlay",
            self.point("kernel"),
            "overlay",
            MountFlags::empty(),
            Some(options.as_c_str()),
        );
        mounted.map_err(Into::into)
    }

    fn unmount_kernel(&self) {
        rustix::mount::unmount(self.point("kernel"), UnmountFlags::empty()).expect("not busy");
    }

    fn stor(&self) -> String {
        format!("file://{}", self.lab.path("stor").display())
    }
}

/// One lower tree, and changes of it. An error says why the kernel cannot judge here.
fn round(seed: u64, count: u64, privileged: bool) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let lab = Lab::new();
    for name in ["lower", "kernel-upper", "mnt-ours", "mnt-kernel", "stor", "backend"] {
        lab.dir(name);
    }
    steps::lower_tree(&lab.path("lower"), &mut random, privileged);
    let mut arena = Arena { lab, privileged, ours: None };
    let flist = arena.lab.path("v2.flist");
    let args = ["pack", "--stor", &arena.stor(), "--namespace", "test"].map(OsString::from);
    run_ok(args.into_iter().chain([arena.lab.path("lower").into(), "-o".into(), flist.into()]));

    // The kernel shows the attributes that the upper directory has as those of the root.
    let kernel_upper = arena.lab.path("kernel-upper");
    snapshot::copy_attributes(&arena.lab.path("lower"), &kernel_upper);
    arena
        .mount_kernel(&kernel_upper)
        .map_err(|error| format!("the kernel mounts no overlay here: {error}"))?;
    arena.mount_ours();

    let mut log = Vec::new();
    compare(&arena, seed, &log, "before anything was changed");
    run_steps(&arena, seed, count, &mut random, &mut log);

    // Everyone opens what the other wrote.
    let our_upper = arena.our_upper();
    let swap = |arena: &mut Arena| {
        arena.unmount_kernel();
        arena.unmount_ours();
        let aside = arena.lab.path("backend/aside");
        fs::rename(&our_upper, &aside).expect("swapped");
        fs::rename(&kernel_upper, &our_upper).expect("swapped");
        fs::rename(&aside, &kernel_upper).expect("swapped");
        arena.mount_kernel(&kernel_upper).expect("the kernel takes what we wrote");
        arena.mount_ours();
    };
    swap(&mut arena);
    log.push("each mounts the upper of the other".into());
    compare(&arena, seed, &log, "when each has the upper of the other");
    run_steps(&arena, seed, count, &mut random, &mut log);
    swap(&mut arena);
    log.push("each mounts its own upper again".into());
    compare(&arena, seed, &log, "when each has its own upper again");
    run_steps(&arena, seed, count / 4, &mut random, &mut log);
    arena.unmount_ours();
    arena.unmount_kernel();
    Ok(())
}

fn run_steps(arena: &Arena, seed: u64, count: u64, random: &mut fastrand::Rng, log: &mut Vec<String>) {
    let (ours, kernel) = (arena.point("ours"), arena.point("kernel"));
    let mut known = compare(arena, seed, log, "before the next");
    for number in 1..=count {
        let step = random_step(random, &known, arena.privileged);
        let (a, b) = (step.run(&ours), step.run(&kernel));
        log.push(format!("{step:?}: {}", a.as_ref().err().map_or("done".into(), |errno| errno.to_string())));
        if a != b && !same_refusal(&step, &a, &b) {
            panic!("seed {seed}: ours {a:?}, the kernel {b:?} of the last of\n  {}", log.join("\n  "));
        }
        if let (Step::Rename { from, to, .. }, true) = (&step, a.is_err()) {
            for directory in [from, to].iter().filter_map(|path| path.parent()) {
                snapshot::restore_time(&ours.join(directory), &kernel.join(directory));
            }
        }
        if number % 10 == 0 || number == count {
            known = compare(arena, seed, log, "after the last");
        }
    }
}

/// Whether two results that differ leave the same behind.
fn same_refusal(
    step: &Step,
    ours: &Result<(), rustix::io::Errno>,
    kernel: &Result<(), rustix::io::Errno>,
) -> bool {
    use rustix::io::Errno;
    let is_rename = matches!(step, Step::Rename { .. });
    match (ours, kernel) {
        // A directory of the lower tree that cannot be moved without redirects, onto one that is not empty.
        (Err(Errno::NOTEMPTY), Err(Errno::XDEV)) => is_rename,
        // Two names of one file, of which the kernel without privileges does not know that they are: nothing is to happen.
        (Ok(()), Err(Errno::STALE)) => is_rename,
        _ => false,
    }
}

/// Panics if the trees differ; returns what is there.
fn compare(arena: &Arena, seed: u64, log: &[String], when: &str) -> Vec<PathBuf> {
    let of = |whose| Snapshot::of(&arena.point(whose), arena.privileged);
    let (ours, mut kernel) = (of("ours"), of("kernel"));
    if arena.privileged && restore_times(&ours, &kernel, &arena.point("kernel")) {
        kernel = of("kernel");
    }
    let found = differences(&ours, &kernel);
    assert!(
        found.is_empty(),
        "seed {seed}: differences {when} (ours, then the kernel's)\n  {}\nsteps\n  {}",
        found.join("\n  "),
        log.join("\n  ")
    );
    ours.paths()
}
