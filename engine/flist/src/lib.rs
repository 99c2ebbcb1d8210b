//! Flists: parsing, writing, and the compiled index that is mapped at mount.
