//! What the benchmarks share: synthetic trees, flists and mounts.
