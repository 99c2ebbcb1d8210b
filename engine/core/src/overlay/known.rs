//! Which content a commit or a push needs not send: it is in the stor, as part of what is shown or of what was there before.

use std::collections::HashMap;

use aysfs_flist::Entry;
use aysfs_store::crypt::{Sealing, Secret};

use super::entries::LocalFile;
use super::missing::Missing;
use crate::base::Base;
use crate::listed::{Packs, listed};
use crate::pack::Known;

/// What is known of these entries, and of these files before they were changed, for whoever encrypts with `secret`; what is
/// `missing` is of no use.
pub(super) fn known(
    entries: &[Entry],
    files: &HashMap<usize, LocalFile>,
    packs: &Packs,
    base: &Base,
    secret: Option<&Secret>,
    missing: &Missing,
) -> Known {
    let mut known = Known::default();
    known.add_packs(packs.all().filter(|pack| !missing.is_lacking(&pack.key)));
    for older in files.values().filter_map(|file| file.older.as_ref()) {
        if let Some(content) = listed(older.content()).filter(|content| !missing.lacks_of(content)) {
            known.add(content, older.content().size);
        }
    }
    // What is there in clear is no place for what is to be encrypted.
    if base.sealing().map(Sealing::secret) == secret {
        for entry in entries {
            if let Some(content) = entry.content.filter(|content| !missing.lacks_of(content)) {
                known.add(content, entry.size);
            }
        }
    }
    known
}
