//! What a test does: steps that make sense in any state, since the numbers in them choose among what there is.

use aysfs_vfs::{FallocateMode, RenameMode, SetXattrMode};
use proptest::prelude::*;

/// A directory: the way from the root, as far as it leads through directories; or one that is held, removed or not.
#[derive(Clone, Debug)]
pub(crate) enum Dir {
    Path(Vec<u8>),
    Held(u8),
}

/// A name in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) dir: Dir,
    pub(crate) name: u8,
}

/// An inode: what a name leads to, or one that is held, with or without a name.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    At(Place),
    Held(u8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Make {
    Directory,
    File,
    Fifo,
    Socket,
    Device,
    Symlink(u8),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) truncate: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Look(Object),
    Make { at: Place, what: Make, perm: u16, as_user: bool },
    Create { at: Place, access: Access, exclusive: bool, perm: u16, as_user: bool },
    Link { object: Object, at: Place },
    Unlink(Place),
    Rmdir(Place),
    Rename { from: Place, to: Place, mode: RenameMode },
    Open { object: Object, access: Access },
    Close(u8),
    Write { handle: u8, offset: u64, length: usize, byte: u8, through: bool },
    Read { handle: u8, offset: u64, length: u32 },
    Truncate { object: Object, size: u64 },
    SetPerm { object: Object, perm: u16 },
    SetOwner { object: Object, uid: Option<u32>, gid: Option<u32> },
    SetTimes { object: Object, mtime: Option<i64> },
    SetXattr { object: Object, name: u8, value: u8, mode: SetXattrMode },
    RemoveXattr { object: Object, name: u8 },
    Fallocate { handle: u8, offset: u64, length: u64, mode: FallocateMode },
    Copy { from: u8, to: u8, from_offset: u64, to_offset: u64, length: u64 },
    Sync(u8),
    OpenDir(Object),
    List { handle: u8, count: u8, with_attributes: bool },
    CloseDir(u8),
    Forget(u8),
    Check,
    Remount,
}

fn dir() -> impl Strategy<Value = Dir> {
    prop_oneof![
        5 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Dir::Path),
        1 => any::<u8>().prop_map(Dir::Held),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    (dir(), any::<u8>()).prop_map(|(dir, name)| Place { dir, name })
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![4 => place().prop_map(Object::At), 1 => any::<u8>().prop_map(Object::Held)]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        3 => Just(Access { read: true, write: false, truncate: false }),
        2 => Just(Access { read: true, write: true, truncate: false }),
        1 => Just(Access { read: false, write: true, truncate: false }),
        1 => Just(Access { read: false, write: true, truncate: true }),
        1 => Just(Access { read: true, write: false, truncate: true }),
    ]
}

fn perm() -> impl Strategy<Value = u16> {
    prop_oneof![
        Just(0o755),
        Just(0o644),
        Just(0o2775),
        Just(0o4755),
        Just(0o000),
        Just(0o444),
        Just(0o1777),
        0_u16..0o10000
    ]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 2 => 0_u64..10_000, 1 => Just(4096), 1 => 0_u64..100_000]
}

fn pages() -> impl Strategy<Value = u64> {
    (0_u64..6).prop_map(|page| page * 4096)
}

fn fallocate() -> impl Strategy<Value = (u64, u64, FallocateMode)> {
    let anywhere = prop_oneof![
        any::<bool>().prop_map(|keep_size| FallocateMode::Allocate { keep_size }),
        Just(FallocateMode::PunchHole),
        any::<bool>().prop_map(|keep_size| FallocateMode::ZeroRange { keep_size }),
    ];
    let aligned = prop_oneof![Just(FallocateMode::CollapseRange), Just(FallocateMode::InsertRange)];
    prop_oneof![
        (offset(), 1_u64..20_000, anywhere),
        (pages(), pages().prop_map(|length| length.max(4096)), aligned),
    ]
}

pub(crate) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..count)
}

fn step() -> impl Strategy<Value = Step> {
    let make = prop_oneof![
        4 => Just(Make::Directory),
        2 => Just(Make::File),
        1 => Just(Make::Fifo),
        1 => Just(Make::Socket),
        1 => Just(Make::Device),
        1 => any::<u8>().prop_map(Make::Symlink),
    ];
    let rename_mode = prop_oneof![
        4 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange),
    ];
    let xattr_mode = prop_oneof![3 => Just(SetXattrMode::Set), 1 => Just(SetXattrMode::Create), 1 => Just(SetXattrMode::Replace)];
    let id = || prop::option::of(prop_oneof![Just(0_u32), Just(1), Just(1000), Just(65_534)]);
    let handle = any::<u8>;
    prop_oneof![
        4 => object().prop_map(Step::Look),
        8 => (place(), make, perm(), any::<bool>())
            .prop_map(|(at, what, perm, as_user)| Step::Make { at, what, perm, as_user }),
        6 => (place(), access(), any::<bool>(), perm(), any::<bool>()).prop_map(
            |(at, access, exclusive, perm, as_user)| Step::Create { at, access, exclusive, perm, as_user }
        ),
        5 => (object(), place()).prop_map(|(object, at)| Step::Link { object, at }),
        8 => place().prop_map(Step::Unlink),
        7 => place().prop_map(Step::Rmdir),
        14 => (place(), place(), rename_mode).prop_map(|(from, to, mode)| Step::Rename { from, to, mode }),
        6 => (object(), access()).prop_map(|(object, access)| Step::Open { object, access }),
        3 => handle().prop_map(Step::Close),
        6 => (handle(), offset(), 1_usize..10_000, any::<u8>(), any::<bool>()).prop_map(
            |(handle, offset, length, byte, through)| Step::Write { handle, offset, length, byte, through }
        ),
        4 => (handle(), offset(), 1_u32..20_000)
            .prop_map(|(handle, offset, length)| Step::Read { handle, offset, length }),
        4 => (object(), offset()).prop_map(|(object, size)| Step::Truncate { object, size }),
        4 => (object(), perm()).prop_map(|(object, perm)| Step::SetPerm { object, perm }),
        3 => (object(), id(), id()).prop_map(|(object, uid, gid)| Step::SetOwner { object, uid, gid }),
        3 => (object(), prop::option::of(-1_000_000_i64..1_000_000_000))
            .prop_map(|(object, mtime)| Step::SetTimes { object, mtime }),
        4 => (object(), any::<u8>(), any::<u8>(), xattr_mode)
            .prop_map(|(object, name, value, mode)| Step::SetXattr { object, name, value, mode }),
        2 => (object(), any::<u8>()).prop_map(|(object, name)| Step::RemoveXattr { object, name }),
        2 => (handle(), fallocate()).prop_map(|(handle, (offset, length, mode))| Step::Fallocate {
            handle,
            offset,
            length,
            mode
        }),
        2 => (handle(), handle(), offset(), offset(), 1_u64..20_000).prop_map(
            |(from, to, from_offset, to_offset, length)| Step::Copy { from, to, from_offset, to_offset, length }
        ),
        1 => handle().prop_map(Step::Sync),
        3 => object().prop_map(Step::OpenDir),
        6 => (handle(), 0_u8..6, any::<bool>())
            .prop_map(|(handle, count, with_attributes)| Step::List { handle, count, with_attributes }),
        2 => handle().prop_map(Step::CloseDir),
        4 => handle().prop_map(Step::Forget),
        2 => Just(Step::Check),
        3 => Just(Step::Remount),
    ]
}
