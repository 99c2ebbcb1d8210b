//! Mounts an empty filesystem in memory: `memfs DIRECTORY` serves it until it is unmounted. `make posix` runs on it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    aysfs_conformance::serve_memfs(&aysfs_frontend_fuse3::Fuse3)
}
