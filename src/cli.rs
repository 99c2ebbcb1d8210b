//! The command line: what may be typed, and what it means.

mod tending;

use std::ffi::OsString;
use std::path::PathBuf;

use aysfs_config::{ByteSize, Lib, MinFree, Prefetch};
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

pub(crate) use self::tending::{FsckArgs, GcArgs, RepackArgs};
use crate::monitor::Address;

/// Mounts applications from flists: content is fetched when it is first read, verified, and cached.
///
/// Without a subcommand, mounts everything that the config file names and stays in the foreground until SIGINT or
/// SIGTERM unmounts it.
///
/// Exit codes: 0 done; 1 it could not be done; 2 the command line or the config is wrong.
#[derive(Debug, Parser)]
#[command(name = "aysfs", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Config file to mount everything from (`-config FILE` works as well).
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Serve profiles (/debug/pprof/), metrics (/metrics) and a status page on HOST:PORT [default: localhost:6060].
    // Without a config file there is nothing to look at.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = Address::DEFAULT, requires = "config")]
    pub(crate) pprof: Option<Address>,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// How much is written to the log, which goes to standard error.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LogArgs {
    /// One level more than the default; twice: everything.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,

    /// Log level: 0 nothing, 1 errors, 2 warnings, 3 what happens, 4 details, 5 everything.
    #[arg(short, long, value_name = "0..5", value_parser = clap::value_parser!(u8).range(0..=5), global = true)]
    pub(crate) log_level: Option<u8>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mounts one flist and stays in the foreground.
    Mount(MountArgs),
    /// Unmounts a mount of aysfs.
    Umount(UmountArgs),
    /// Shows what is mounted, from what, and how it is doing.
    ///
    /// All mounts that this user may ask about: his own; all, for root.
    Status(StatusArgs),
    /// Tells where what a path shows comes from.
    ///
    /// From the flist, from local changes, or from both; what its content is, whether the cache has it, and which stor would
    /// give it. Nothing is fetched.
    Why(WhyArgs),
    /// Shows what local changes come to, compared with the flist.
    ///
    /// One line a path: A added, M modified (and in what), D deleted, R renamed. A directory that is gone is one line. Nothing is
    /// fetched for it. Differences are no failure: the exit code is 0.
    Diff(DiffArgs),
    /// Writes the tree of a mount, local changes included, as a new flist.
    ///
    /// Only new content is sent to the stor of the mount; what did not change is not even fetched. The mount and its local
    /// changes stay as they are.
    Commit(CommitArgs),
    /// Sends what is new in a mount of mode RW to its stor now, and publishes the tree if its config says so.
    Push(PushArgs),
    /// Looks for a newer flist, and shows it.
    ///
    /// All or nothing: a flist that cannot be fetched, or is wrong, leaves what is mounted as it is. What is open stays what it is, local
    /// changes stay on top.
    Reload(ReloadArgs),
    /// Brings content into the cache of a mount before anybody reads it.
    ///
    /// All of the flist, or what is at and below some paths. What is cached already is passed over, so a run that was cut short can be
    /// repeated. Exit code 1 if something could not be fetched.
    Warm(WarmArgs),
    /// Finds out what an application reads when it starts.
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Packs a directory: content goes to a stor, and a flist describes the tree.
    Pack(PackArgs),
    /// Writes the tree that a flist describes into a new directory.
    Unpack(UnpackArgs),
    /// Compares a flist with a stor: whether all that it names is there, and right.
    ///
    /// Without --full or --sample, content is not fetched: every object has to be there, packs have to be as long as they should be, and
    /// chunk tables are read. One line for each problem; the exit code is 1 if there is one.
    Fsck(FsckArgs),
    /// Deletes from a stor what no flist names.
    ///
    /// Two runs, and a grace time between them: the first notes what no flist names, in the named file NAMESPACE.gc of the stor; a later one
    /// deletes what was noted for the grace time, and is not needed after all. If anything is not certain, such as a flist that cannot be
    /// read, nothing is deleted. Needs the rights to read, write and delete.
    Gc(GcArgs),
    /// Copies what a flist needs of packs that are mostly garbage, and writes a flist that names the new packs.
    ///
    /// The old flist stays valid; when it is not in use any more, `aysfs gc` deletes the old packs.
    Repack(RepackArgs),
    /// Examines flists.
    #[command(subcommand)]
    Flist(FlistCommand),
    /// Makes a key pair for encryption.
    ///
    /// Writes the private key to FILE, readable by its owner only, and the public one to FILE.pub. Replaces nothing.
    Keygen(KeygenArgs),
    /// Looks after the cached content of a mount or a backend.
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Serves a directory as an AYDO stor over HTTP.
    Stor(StorArgs),
    /// Measures how fast each FUSE library is on this machine, to choose a lib=.
    ///
    /// Mounts the same data with each library and in each mode, and compares it with the directory that it was packed
    /// from. Everything is made in one temporary directory, which is removed at the end.
    Bench(BenchArgs),
    /// Serves one mount of `bench`.
    #[command(hide = true)]
    BenchServe(BenchServeArgs),
    /// Examines config files.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// A stor, and how to be let in.
#[derive(Clone, Debug, Args)]
pub(crate) struct StorAccess {
    /// The stor: http(s)://host:port/ (with login:passwd@ before the host, if need be) or file:///directory.
    #[arg(long, value_name = "URL")]
    pub(crate) stor: String,

    /// Namespace of the objects in the stor.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) namespace: String,

    /// Login of the account at the stor.
    #[arg(long, value_name = "NAME", requires = "passwd_file")]
    pub(crate) login: Option<String>,

    /// File that holds the password of the account.
    #[arg(long, value_name = "FILE", requires = "login")]
    pub(crate) passwd_file: Option<PathBuf>,

    /// PEM file of a certificate authority to trust besides the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// The longest wait for a byte from the stor, such as 30s or 2m.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub(crate) deadline: String,
}

/// What it takes to read an encrypted flist.
#[derive(Debug, Args)]
pub(crate) struct ReaderKey {
    /// PEM file of the private RSA key of a recipient, if the flist is encrypted.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// Flist: a local path or an http(s) URL.
    // Text, since clap repeats a value that it cannot parse, and this one may hold a password.
    pub(crate) flist: String,

    /// Directory to mount on.
    pub(crate) mountpoint: PathBuf,

    #[command(flatten)]
    pub(crate) stor: StorAccess,

    #[command(flatten)]
    pub(crate) reader: ReaderKey,

    /// RO: read-only; OL: with local changes, which are kept in the directory of the backend.
    #[arg(long, default_value = "RO", ignore_case = true, value_enum)]
    pub(crate) mode: Mode,

    /// FUSE library: fuser, fuse3 or polyfuse.
    #[arg(long, default_value = "fuser")]
    pub(crate) lib: Lib,

    /// Directory of the backend: cached content and compiled flists [default: one under the user's cache directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,

    /// How large the cache may be, such as 10GiB [default: as large as the disk allows].
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_size: Option<ByteSize>,

    /// How much of the disk the cache leaves free: a percentage or a size.
    #[arg(long, value_name = "FREE", default_value = "5%")]
    pub(crate) cache_min_free: MinFree,

    /// What is fetched before it is read: none, start (what the flist says is read first) or all.
    #[arg(long, value_name = "WHAT", default_value = "start")]
    pub(crate) prefetch: Prefetch,

    /// Strip this directory from the front of every path of the flist.
    #[arg(long, value_name = "PATH", conflicts_with = "trim_base")]
    pub(crate) trim: Option<PathBuf>,

    /// Strip the mount point from the front of every path of the flist.
    #[arg(long)]
    pub(crate) trim_base: bool,

    /// Let other users use the mount too (the default for root).
    #[arg(long)]
    pub(crate) allow_other: bool,

    /// Serve profiles (/debug/pprof/), metrics (/metrics) and a status page on HOST:PORT [default: localhost:6060].
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = Address::DEFAULT)]
    pub(crate) pprof: Option<Address>,
}

/// What may be done with a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Read-only.
    #[value(name = "RO")]
    ReadOnly,
    /// Overlay.
    #[value(name = "OL")]
    Overlay,
}

impl Mode {
    /// All modes.
    pub(crate) const ALL: [Self; 2] = [Self::ReadOnly, Self::Overlay];

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "RO",
            Self::Overlay => "OL",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// Mount point.
    pub(crate) mountpoint: PathBuf,

    /// Detach now, and end when the last open file is closed.
    #[arg(long)]
    pub(crate) lazy: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Mount point [default: all].
    pub(crate) mountpoint: Option<PathBuf>,

    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// A path in a mount; one that is gone will do.
    pub(crate) path: PathBuf,

    /// Print the answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Mount point.
    pub(crate) mountpoint: PathBuf,

    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// Mount point.
    pub(crate) mountpoint: PathBuf,

    /// Flist to write; an existing file is replaced when all is done.
    #[arg(short, long, value_name = "FLIST")]
    pub(crate) output: PathBuf,

    /// Name for the header of the flist [default: that of the flist which is mounted].
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Version number for the header of the flist [default: one more than that of the flist which is mounted, if it has one].
    #[arg(long)]
    pub(crate) version: Option<u64>,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Mount point.
    pub(crate) mountpoint: PathBuf,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// Mount point [default: all mounts of this user].
    pub(crate) mountpoint: Option<PathBuf>,

    /// Print the result as JSON, one line a mount.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WarmArgs {
    /// Mount point.
    pub(crate) mountpoint: PathBuf,

    /// Files and directories in the mount: absolute, or relative to the mount point [default: everything].
    pub(crate) paths: Vec<PathBuf>,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Records which content is read from a mount, and in which order, for `aysfs pack --profile`.
    ///
    /// While COMMAND runs, and with its exit code; without one, until SIGINT or SIGTERM, or for so many seconds. What the kernel has in
    /// memory of the mount is dropped at the beginning, so that everything is seen that is read meanwhile.
    Record(ProfileRecordArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ProfileRecordArgs {
    /// Mount point.
    pub(crate) mountpoint: PathBuf,

    /// Profile to write; an existing file is replaced when all is done.
    #[arg(short, long, value_name = "PROFILE")]
    pub(crate) output: PathBuf,

    /// Record for so long.
    #[arg(long, value_name = "N", conflicts_with = "command")]
    pub(crate) seconds: Option<u64>,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,

    /// Command to run, and its arguments, behind `--`.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// Directory to pack.
    pub(crate) dir: PathBuf,

    /// Flist to write; an existing file is replaced when all is done.
    #[arg(short, long, value_name = "FLIST")]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) stor: StorAccess,

    /// Dialect of the flist: v1 (paths, hashes and sizes only), v1-long, or v2 (everything).
    #[arg(long, default_value = "v2", value_enum)]
    pub(crate) format: Format,

    /// Leave out what matches this pattern, written as in a .gitignore (repeatable): site-packages, *.pyc, /cache/.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,

    /// Encrypt flist and content, for the owner of this RSA key (repeatable): a PEM file of the public or the private one.
    #[arg(long, value_name = "FILE")]
    pub(crate) encrypt_for: Vec<PathBuf>,

    /// Encrypt as this flist is, for its recipients: what has not changed since is not stored again. Needs --key.
    #[arg(long, value_name = "FLIST", requires = "key")]
    pub(crate) secret_of: Option<PathBuf>,

    /// PEM file of a private RSA key that opens the flists of --secret-of and --base.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// A v2 flist that was packed into the same stor: what it has is not stored again. If it is encrypted, --secret-of is needed,
    /// too.
    #[arg(long, value_name = "FLIST")]
    pub(crate) base: Option<PathBuf>,

    /// A profile of what is read first (see aysfs profile record): that is packed first, and a mount fetches it at once.
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,

    /// Name of what is packed, for the header of a v2 flist.
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Version number, for the header of a v2 flist; mounts with trusted keys refuse an older one.
    #[arg(long)]
    pub(crate) version: Option<u64>,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    V1,
    V1Long,
    V2,
}

#[derive(Debug, Args)]
pub(crate) struct UnpackArgs {
    /// Flist: a local path or an http(s) URL.
    // Text, since clap repeats a value that it cannot parse, and this one may hold a password.
    pub(crate) flist: String,

    /// Directory to make; it must not exist, or be empty.
    pub(crate) dir: PathBuf,

    #[command(flatten)]
    pub(crate) stor: StorAccess,

    #[command(flatten)]
    pub(crate) reader: ReaderKey,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FlistCommand {
    /// Reads a flist whole and reports what is wrong with it.
    Check(CheckArgs),
    /// Lists the entries of a flist, as `ls -l` would.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Flist: a local path.
    pub(crate) flist: PathBuf,

    #[command(flatten)]
    pub(crate) reader: ReaderKey,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Flist: a local path.
    pub(crate) flist: PathBuf,

    /// Show only what is at and below this path.
    pub(crate) path: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) reader: ReaderKey,

    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Says how much is cached, and which limits there are.
    Stat(CacheStatArgs),
    /// Evicts cached content by age, for a size, or for free space of the disk: what was read longest ago first.
    ///
    /// For a mount, the limits that are not given here are those of its backend. What is in use stays.
    Clean(CacheCleanArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CacheStatArgs {
    /// Mount point, or directory of a backend.
    pub(crate) dir: PathBuf,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheCleanArgs {
    /// Mount point, or directory of a backend.
    pub(crate) dir: PathBuf,

    /// Evict what was not read for so long, such as 36h or 7d.
    #[arg(long, value_name = "DURATION")]
    pub(crate) older_than: Option<String>,

    /// Evict until the cache is no larger.
    #[arg(long)]
    pub(crate) size: Option<ByteSize>,

    /// Evict until so much of the disk is free: a percentage or a size.
    #[arg(long, value_name = "FREE")]
    pub(crate) min_free: Option<MinFree>,

    /// Say what would be evicted, and leave it.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// File to write the private key to; the public one goes beside it.
    pub(crate) file: PathBuf,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StorArgs {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: std::net::SocketAddr,

    /// Directory that holds the objects.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: PathBuf,

    /// Account: NAME:PASSWORD:RIGHTS, with rights of r (read), w (write), d (delete). Without any account
    /// everyone may read and write.
    #[arg(long, value_name = "NAME:PASSWORD:rwd")]
    pub(crate) account: Vec<String>,

    /// PEM file of the certificate chain; serves https.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// PEM file of the certificate's private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Largest object, in bytes, with an optional unit such as 16GiB.
    #[arg(long, value_name = "SIZE", default_value = "64GiB")]
    pub(crate) max_object: String,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Directory to make the temporary data in, on the disk to compare with.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) dir: PathBuf,

    /// FUSE library to measure (repeatable): fuser, fuse3 or polyfuse [default: all].
    #[arg(long)]
    pub(crate) lib: Vec<Lib>,

    /// Mode to measure (repeatable) [default: all].
    #[arg(long, ignore_case = true, value_enum)]
    pub(crate) mode: Vec<Mode>,

    /// How many small files there are.
    #[arg(long, value_name = "N", default_value = "2000", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) files: u32,

    /// Size of the large file, such as 64MiB.
    #[arg(long, default_value = "64MiB")]
    pub(crate) size: ByteSize,

    /// How often everything is measured; medians are shown.
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchServeArgs {
    /// FUSE library.
    pub(crate) lib: Lib,

    /// Mode to mount in.
    #[arg(ignore_case = true, value_enum)]
    pub(crate) mode: Mode,

    /// Directory of the data.
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Reads a config file whole and reports every problem, with its place.
    Check {
        /// Config file.
        file: PathBuf,
    },
}

/// What was typed; ends the process if it makes no sense.
pub(crate) fn parse() -> Cli {
    let cli = Cli::parse_from(modern(std::env::args_os()));
    let message = match (&cli.command, &cli.config) {
        (Some(_), Some(_)) => "a subcommand cannot be used with '--config <FILE>'",
        (None, None) => "either a subcommand or '--config <FILE>' is needed",
        (Some(_), None) | (None, Some(_)) => return cli,
    };
    Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
}

/// Makes the single-dash long options of the old command (`-config FILE`, `-pprof`) the ones that clap knows.
fn modern(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const OLD: [&str; 2] = ["-config", "-pprof"];
    let is_old = |arg: &str| {
        OLD.iter()
            .any(|old| arg.strip_prefix(old).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
    };
    args.into_iter()
        .map(|arg| match arg.to_str() {
            Some(old) if is_old(old) => format!("-{old}").into(),
            _ => arg,
        })
        .collect()
}
