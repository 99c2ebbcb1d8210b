//! What a frontend promises to the one who mounts.
//!
//! Each case has a [`Rig`](crate::rig::Rig), and may start a process that uses a mount. The serving process itself
//! may use it too, except for what could deadlock with its own threads: mappings, programs.

pub(crate) mod caching;
pub(crate) mod messages;
pub(crate) mod options;
pub(crate) mod unmounting;
pub(crate) mod unprivileged;
pub(crate) mod waiting;
