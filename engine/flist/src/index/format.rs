//! The bytes of an index file. Changing anything here means a new [`FORMAT`].
//!
//! ```text
//! FileHeader, with its own checksum
//! sections, each an array of rows (or of bytes), in the order of `Section`, padded to 8 bytes
//! ```
//!
//! All numbers are little-endian. Every type is free of padding and of alignment, so any bytes can be looked at
//! as rows; whether they make sense is for the accessors to find out.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::entry::ObjectKey;

/// The first bytes of every index.
pub(crate) const MAGIC: [u8; 8] = *b"aysfsidx";
/// The version of this layout, and of what compiling makes of a list.
pub(crate) const FORMAT: u32 = 4;

/// Declares the rows of the file.
macro_rules! rows {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: $type,)*
        }
    )*};
}

rows! {
    /// The start of the file.
    struct FileHeader {
        magic: [u8; 8],
        format: U32,
        /// A [`Dialect`](crate::Dialect): 0 short, 1 long, 2 v2.
        dialect: u8,
        /// A [`TimeOrder`](crate::TimeOrder): 0 spec, 1 swapped.
        times: u8,
        /// Which of name, created and version are there (bits 0, 1, 2).
        present: u8,
        zero: u8,
        /// What the file is the index of; also its file name.
        key: [u8; 32],
        /// Of the whole file.
        length: U64,
        /// Bytes of all regular files, each counted once.
        total_size: U64,
        version: U64,
        name: Slice,
        created: Slice,
        /// The header lines about what the list was made from.
        ancestors: Slice,
        sections: [Extent; Section::COUNT],
        /// xxh3 of everything behind this header.
        body_check: U64,
        /// xxh3 of this header up to here.
        header_check: U64,
    }

    /// A section: where it is, and how many rows it has.
    struct Extent {
        offset: U64,
        rows: U64,
    }

    /// Bytes in [`Section::Blobs`].
    struct Slice {
        offset: U32,
        length: U32,
    }

    /// A run of rows of another section.
    struct Run {
        first: U32,
        count: U32,
    }

    /// An inode. One cache line.
    struct Record {
        size: U64,
        mtime: I64,
        ctime: I64,
        mtime_nanos: U32,
        ctime_nanos: U32,
        /// Row of [`Section::Users`].
        user: U32,
        /// Row of [`Section::Groups`].
        group: U32,
        nlink: U32,
        perm: U16,
        /// The type's number in a flist.
        kind: u8,
        /// Which section `a` is a row of: a [`ContentTag`].
        content: u8,
        /// Directory: first row of its names. Regular: row of its content. Symlink: its target in the blobs.
        /// Device: major.
        a: U32,
        /// Directory: how many names. Regular: 1 + row of [`Section::SegmentRuns`], or 0. Symlink: length of the
        /// target. Device: minor.
        b: U32,
        /// The directory that holds its first name; the root itself for the root.
        c: U32,
        /// 1 + row of [`Section::XattrRuns`], or 0.
        xattrs: U32,
    }

    /// A name in a directory.
    struct Dentry {
        /// Where it is in [`Section::Names`]: one byte of length, then the bytes.
        name: U32,
        /// Row of [`Section::Nodes`].
        node: U32,
    }

    /// A user or a group.
    struct OwnerRow {
        /// Empty: none.
        name: Slice,
        id: U32,
        /// 1 if there is a number.
        has_id: U32,
    }

    /// Content of v1.
    struct Md5Row {
        md5: [u8; 16],
        /// What opens it, wrapped for the user and for the stor; empty: nothing.
        user_key: Slice,
        store_key: Slice,
    }

    /// Content that is an object.
    struct ObjectRow {
        sha256: [u8; 32],
        /// An MD5 key is followed by zeros.
        key: [u8; 32],
    }

    /// A chunk of a pack.
    struct PlaceRow {
        sha256: [u8; 32],
        offset: U64,
        stored: U64,
        /// Row of [`Section::Packs`].
        pack: U32,
        zero: U32,
    }

    /// Content that is several chunks.
    struct TableRow {
        sha256: [u8; 32],
        /// The table of its chunks.
        table: PlaceRow,
        /// Plain length of the table.
        length: U64,
    }

    /// An extended attribute.
    struct XattrRow {
        name: Slice,
        value: Slice,
    }

    /// Data of a sparse file.
    struct SegmentRow {
        start: U64,
        end: U64,
    }

    /// A pack of the header.
    struct PackRow {
        /// An MD5 key is followed by zeros.
        key: [u8; 32],
        bytes: U64,
        /// Its position in the header.
        number: U32,
        /// 1 + its position among those that are fetched at once, or 0.
        start: U32,
        /// 1 if the key is an MD5.
        is_md5: U32,
        zero: U32,
    }
}

/// The arrays of the file, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// [`Record`]s; row 0 is the root.
    Nodes,
    /// [`Dentry`]s; those of one directory lie together, sorted by name.
    Dentries,
    /// Bytes of names, in the order of the dentries.
    Names,
    /// Bytes of targets, attributes, owners, wrapped keys, header values.
    Blobs,
    /// [`OwnerRow`]s.
    Users,
    /// [`OwnerRow`]s.
    Groups,
    /// [`Md5Row`]s.
    Md5,
    /// [`ObjectRow`]s.
    Objects,
    /// [`PlaceRow`]s.
    Places,
    /// [`TableRow`]s.
    Tables,
    /// [`Run`]s of [`XattrRow`]s; equal sets are kept once.
    XattrRuns,
    /// [`XattrRow`]s.
    Xattrs,
    /// [`Run`]s of [`SegmentRow`]s.
    SegmentRuns,
    /// [`SegmentRow`]s.
    Segments,
    /// [`PackRow`]s: those that places are in, then the others.
    Packs,
}

impl Section {
    pub(crate) const COUNT: usize = Self::Packs as usize + 1;
}

/// What [`Record::content`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentTag {
    None = 0,
    V1 = 1,
    ObjectMd5 = 2,
    ObjectSha256 = 3,
    Pack = 4,
    Chunks = 5,
}

impl ContentTag {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::None, Self::V1, Self::ObjectMd5, Self::ObjectSha256, Self::Pack, Self::Chunks]
            .into_iter()
            .find(|tag| *tag as u8 == byte)
    }
}

impl PackRow {
    /// What names it.
    pub(crate) fn key(&self) -> ObjectKey {
        match self.key.split_first_chunk() {
            Some((md5, _)) if self.is_md5.get() != 0 => ObjectKey::Md5(*md5),
            _ => ObjectKey::Sha256(self.key),
        }
    }
}

impl FileHeader {
    /// The bytes in front of the body.
    pub(crate) const LENGTH: usize = size_of::<Self>();

    /// The checksum of all fields but itself.
    pub(crate) fn own_check(&self) -> u64 {
        let bytes = self.as_bytes();
        xxhash_rust::xxh3::xxh3_64(&bytes[..bytes.len() - size_of::<U64>()])
    }
}

const _: () = assert!(size_of::<Record>() == 64);
