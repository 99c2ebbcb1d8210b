//! Whether what a list is about to name is in the stors.

use std::collections::HashSet;

use aysfs_flist::ObjectKey;
use aysfs_store::{Key, Presence, StoreError};

use super::send::To;
use crate::listed::key;

/// How many objects a stor is asked about at once.
const ASKED: usize = 1000;

/// Objects that are not where they should be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lacking {
    /// A stor that answered does not have them.
    pub(crate) somewhere: HashSet<ObjectKey>,
    /// Those of them that no stor has.
    pub(crate) everywhere: HashSet<ObjectKey>,
}

/// Asks for objects that a list is about to name, also for those that nobody has sent now, so that no collection of garbage takes them for
/// garbage (see [`aysfs_store::garbage`]); returns those that are lacking.
pub(crate) async fn rely_on(
    to: To<'_>,
    objects: impl IntoIterator<Item = ObjectKey>,
) -> Result<Lacking, StoreError> {
    let (mut met, mut lacking) = (HashSet::new(), Lacking::default());
    let objects: Vec<ObjectKey> = objects.into_iter().filter(|object| met.insert(*object)).collect();
    for some in objects.chunks(ASKED) {
        let keys: Vec<Key> = some.iter().copied().map(key).collect();
        for (object, presence) in some.iter().zip(to.presence(&keys).await?) {
            if presence == Presence::Nowhere {
                lacking.everywhere.insert(*object);
            }
            if presence != Presence::Everywhere {
                lacking.somewhere.insert(*object);
            }
        }
    }
    Ok(lacking)
}
