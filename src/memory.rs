//! How the C library's allocator deals with the buffers that content passes through (mallopt(3)).

/// From this size on, in bytes, memory is taken from the system for each allocation, and given back with it. That costs a page fault for
/// each page, so it is more than the kernel reads at once (1 MiB).
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 1200 << 10;

/// How much freed memory below that size is kept at the end of each of the allocator's heaps, in bytes: with its usual 128 KiB, every other
/// buffer of a read would be given back, and faulted in again.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 4 << 20;

/// Gives the memory of large buffers back to the system as soon as they are not used. Left to itself, glibc begins to keep all up to 32 MiB
/// once it has seen such sizes (mallopt(3), `M_MMAP_THRESHOLD`), separately for each thread: a daemon that has fetched one large file
/// would hold on to several times what it ever needs at once.
#[allow(unsafe_code)]
pub(crate) fn give_back_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets numbers of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_ARENA_MAX, heaps());
    }
}

/// How many heaps the threads share: left to itself, glibc has up to eight for each core, and buffers pass from one thread to
/// another, so that each of them grows to the size that all need together.
#[cfg(target_env = "gnu")]
fn heaps() -> libc::c_int {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    libc::c_int::try_from(cores.div_ceil(2)).unwrap_or(libc::c_int::MAX)
}
