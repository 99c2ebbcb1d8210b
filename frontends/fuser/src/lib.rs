//! Adapter from the fuser library to the Vfs contract.
