//! The configuration of aysfs: TOML in, a checked Config out.
