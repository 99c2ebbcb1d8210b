//! Running the command, and cleaning up behind it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use aysfs_store::fault::{FaultServer, Gate, ServerTrouble};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The values of `lib=`: what is promised holds for all of them.
pub(crate) const LIBS: [&str; 3] = ["fuser", "fuse3", "polyfuse"];

/// Only ends a test that hangs; nothing is measured with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A directory for one test; whatever is mounted below it is unmounted at the end.
pub(crate) struct Lab(TempDir);

impl Lab {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("aysfs-e2e-").tempdir().expect("a directory for the test"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        match fs::create_dir(&path) {
            // Also when a dead mount lies on it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.expect("a directory"),
        }
        path
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file");
        path
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for point in mounts_below(self.0.path()).into_iter().rev() {
            rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
}

/// The mount points at and below `dir`, outer ones first.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = fs::read("/proc/self/mountinfo").expect("the kernel lists its mounts");
    String::from_utf8_lossy(&mounts)
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect()
}

pub(crate) fn is_mounted(point: &Path) -> bool {
    mounts_below(point).iter().any(|mounted| mounted == point)
}

/// Waits until `done` says so.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The command, to be given arguments.
pub(crate) fn aysfs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_aysfs"))
}

/// Tests with several users need root; said, not passed over.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can be another user as well");
    }
    root
}

/// Runs the command to its end.
pub(crate) fn run<I, S>(args: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    aysfs().args(args).stdin(Stdio::null()).output().expect("the command runs")
}

/// Runs the command to its end, which must be a good one; returns its standard output.
#[track_caller]
pub(crate) fn run_ok<I, S>(args: I) -> String
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A command that runs in the background; its log can be read, and it is ended when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grew: Condvar,
}

impl Daemon {
    pub(crate) fn start<I, S>(args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self::start_in(Path::new("."), args)
    }

    /// The same in another directory.
    pub(crate) fn start_in<I, S>(dir: &Path, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut child = aysfs()
            .current_dir(dir)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let log = Arc::<Log>::default();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let writer = log.clone();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                writer.lines.lock().expect("not poisoned").push(line);
                writer.grew.notify_all();
            }
        });
        Self { child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a child has a pid");
        rustix::process::kill_process(pid, signal).expect("the process can be signalled");
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the process to end", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        status.expect("it ended")
    }

    /// Ends it as a service manager would, and expects it to end well.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().expect("not poisoned").join("\n")
    }

    /// Waits for a line that holds `text`, and returns it.
    #[track_caller]
    pub(crate) fn wait_for_log(&mut self, text: &str) -> String {
        let start = Instant::now();
        let mut lines = self.log.lines.lock().expect("not poisoned");
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let ended = self.child.try_wait().expect("a child can be waited for").is_some();
            assert!(!ended && start.elapsed() < PATIENCE, "no line with {text:?} in:\n{}", lines.join("\n"));
            lines = self.log.grew.wait_timeout(lines, Duration::from_millis(50)).expect("not poisoned").0;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        // What a process leaves that had no time to clean up; the next one would remove it.
        fs::remove_file(format!("/run/aysfs/{}.sock", self.child.id())).ok();
    }
}

/// A running `aysfs stor`.
pub(crate) struct Stor {
    pub(crate) daemon: Daemon,
    pub(crate) address: SocketAddr,
}

impl Stor {
    /// Serves `root` on a free port of the loopback interface.
    pub(crate) fn start(root: &Path) -> Self {
        Self::start_with(root, &[])
    }

    pub(crate) fn start_with(root: &Path, more: &[&str]) -> Self {
        let args = ["stor", "--listen", "127.0.0.1:0", "--root"].map(OsStr::new);
        let args = args.into_iter().chain([root.as_os_str()]).chain(more.iter().map(OsStr::new));
        let mut daemon = Daemon::start(args);
        let line = daemon.wait_for_log("serving ");
        let (_, address) = line.split_once("://").expect("the line names the URL");
        let address = address.trim_end_matches('/').parse().expect("an address and a port");
        Self { daemon, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

/// A password that nothing may ever show.
pub(crate) const SECRET: &str = "geheim-4711";

/// A stor with an account, behind a server that makes trouble for those who read.
pub(crate) struct Faulty {
    /// Dropped before what it runs on.
    server: FaultServer,
    runtime: Runtime,
    pub(crate) stor: Stor,
}

impl Faulty {
    /// Serves `root`, without trouble yet.
    pub(crate) fn start(root: &Path) -> Self {
        let stor = Stor::start_with(root, &["--account", &format!("tester:{SECRET}:rwd")]);
        let runtime = Runtime::new().expect("a runtime");
        let upstream = stor.url().parse().expect("a URL");
        let server = runtime.block_on(FaultServer::start(upstream)).expect("a server");
        Self { server, runtime, stor }
    }

    /// Where there may be trouble, with the account.
    pub(crate) fn url(&self) -> String {
        with_account(&self.shown())
    }

    /// The same as messages show it.
    pub(crate) fn shown(&self) -> String {
        self.server.url().to_string()
    }

    /// Where there never is trouble, with the account.
    pub(crate) fn direct(&self) -> String {
        with_account(&self.stor.url())
    }

    pub(crate) fn set(&self, trouble: ServerTrouble) {
        self.runtime.block_on(self.server.set(trouble)).expect("the trouble can be made");
    }

    /// This share of all requests fails from now on.
    pub(crate) fn fail_sometimes(&self, seed: u64, share: f64) {
        let troubles = [
            ServerTrouble::Status(500),
            ServerTrouble::Status(503),
            ServerTrouble::Lost,
            ServerTrouble::Cut(7),
        ];
        self.server.sometimes(seed, share, troubles);
    }

    /// How often an object was asked for.
    pub(crate) fn gets(&self, object: &Object) -> usize {
        self.server.requests("GET", &format!("/store/test/{}", object.key))
    }

    /// How often something was asked for at a path.
    pub(crate) fn requests(&self, path: &str) -> usize {
        self.server.requests("GET", path)
    }

    /// Holds all requests from now on; see [`Faulty::held`].
    pub(crate) fn hold(&self) -> Gate {
        let gate = Gate::default();
        self.set(ServerTrouble::Wait(gate.clone()));
        gate
    }

    /// Waits until so many requests are held, or have been.
    pub(crate) fn held(&self, gate: &Gate, requests: usize) {
        let reached = async { tokio::time::timeout(PATIENCE, gate.reached_by(requests)).await };
        self.runtime.block_on(reached).unwrap_or_else(|_| panic!("waited in vain for {requests} requests"));
    }
}

fn with_account(url: &str) -> String {
    url.replace("http://", &format!("http://tester:{SECRET}@"))
}

/// A regular file of a flist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// The content id, by which the cache knows it.
    pub(crate) id: String,
    /// The key, by which the stor knows it, or the pack that it (or its chunk table) is in.
    pub(crate) key: String,
}

/// The regular files of a flist whose names need no escapes, by path.
pub(crate) fn objects(flist: &Path) -> BTreeMap<PathBuf, Object> {
    let text = fs::read(flist).expect("a flist");
    let text = String::from_utf8_lossy(&text);
    let packs: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# pack ")?.split_once(' '))
        .map(|(number, rest)| (number, rest.split(' ').next().expect("a key")))
        .collect();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let files = lines.filter_map(|line| {
        let fields: Vec<_> = line.split('|').collect();
        let (path, id) = (fields[0].trim_start_matches('/'), fields[1]);
        let column = |name: &str| fields.iter().find_map(|field| field.strip_prefix(name));
        let place = column("at=").or_else(|| column("chunks="));
        let pack = place.and_then(|place| packs.get(place.split(':').next()?)).copied();
        let key = pack.or_else(|| column("obj=")).unwrap_or(id);
        (!id.is_empty()).then(|| (path.into(), Object { id: id.to_owned(), key: key.to_owned() }))
    });
    files.collect()
}

/// Packs `tree` into a stor; returns the flist.
pub(crate) fn pack(lab: &Lab, tree: &Path, stor: &str, format: &str) -> PathBuf {
    let flist = lab.path(&format!("{format}.flist"));
    let args = ["pack", "--stor", stor, "--namespace", "test", "--format", format].map(OsStr::new);
    run_ok(args.into_iter().chain([tree.as_os_str(), OsStr::new("-o"), flist.as_os_str()]));
    flist
}

/// A mount made by `aysfs mount`.
pub(crate) struct Mounted {
    pub(crate) daemon: Daemon,
    pub(crate) point: PathBuf,
}

impl Mounted {
    /// Mounts `flist` on `lab/mnt`, with `lab/cache` as the backend.
    pub(crate) fn new(lab: &Lab, flist: &Path, stor: &str) -> Self {
        Self::with(lab, flist, stor, &[])
    }

    pub(crate) fn with(lab: &Lab, flist: &Path, stor: &str, more: &[&str]) -> Self {
        let point = lab.dir("mnt");
        let cache = lab.path("cache");
        let mut daemon = Daemon::start(
            [
                OsStr::new("mount"),
                flist.as_os_str(),
                point.as_os_str(),
                OsStr::new("--cache"),
                cache.as_os_str(),
            ]
            .into_iter()
            .chain(["--namespace", "test", "--stor", stor].map(OsStr::new))
            // What is cached is not to depend on how full the disk of the tests is.
            .chain(["--cache-min-free", "0"].map(OsStr::new))
            .chain(more.iter().map(OsStr::new)),
        );
        daemon.wait_for_log("all mounts are up");
        assert!(is_mounted(&point));
        Self { daemon, point }
    }

    pub(crate) fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        fs::read(self.point.join(path))
    }

    /// Stops the daemon as a service manager would.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.daemon.stop();
        assert!(!is_mounted(&self.point), "still mounted");
    }
}
