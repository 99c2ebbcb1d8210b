//! The engine: base, view, inodes and handles behind the Vfs contract.
