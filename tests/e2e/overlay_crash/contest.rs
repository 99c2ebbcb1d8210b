//! Names that several processes fight about: whole files are moved onto them and removed again.
//!
//! Whatever the order was, a name leads to one whole file that could have been the last, or to nothing if a removal could
//! have been.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::journal::{Dead, End, Journal, Moment, Record, is_dead};
use super::model::{View, What};
use crate::tree;

/// How many names there are.
pub(super) const REGISTERS: usize = 4;

/// A change of one of the names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Change {
    Publish { register: usize, seed: u64, length: usize },
    Withdraw { register: usize },
}

impl Change {
    fn register(&self) -> usize {
        let (Self::Publish { register, .. } | Self::Withdraw { register }) = self;
        *register
    }
}

pub(super) fn name_of(register: usize) -> String {
    format!("r{register}")
}

/// Fights until the mount is dead.
pub(super) fn fight(own: &Path, shared: &Path, rng: &mut Rng, journal: &mut Journal) {
    loop {
        if let Err(Dead) = step(own, shared, rng, journal) {
            return;
        }
    }
}

fn step(own: &Path, shared: &Path, rng: &mut Rng, journal: &mut Journal) -> Result<(), Dead> {
    let register = rng.usize(..REGISTERS);
    let name = shared.join(name_of(register));
    if rng.u8(..4) == 0 {
        let withdraw = Change::Withdraw { register };
        // It may not be there.
        let _ = journal.record(&withdraw, || fs::remove_file(&name).map(|()| 0))?;
        return Ok(());
    }
    let (seed, length) = (rng.u64(..), rng.usize(..100_000));
    let bytes = tree::noise(seed, length);
    let draft = own.join("draft");
    match write(&draft, &bytes, rng) {
        Err(error) if is_dead(&error) => return Err(Dead),
        // The disk may be full.
        Err(_) => return Ok(()),
        Ok(()) => {}
    }
    let publish = Change::Publish { register, seed, length };
    let _ = journal.record(&publish, || fs::rename(&draft, &name).map(|()| 0))?;
    Ok(())
}

fn write(draft: &Path, bytes: &[u8], rng: &mut Rng) -> io::Result<()> {
    let mut file = File::create(draft)?;
    for piece in bytes.chunks(rng.usize(1..bytes.len().max(2))) {
        file.write_all(piece)?;
    }
    if rng.u8(..4) == 0 {
        file.sync_all()?;
    }
    Ok(())
}

/// What is wrong with the names, after `before` and all these changes.
pub(super) fn check(before: &View, changes: &[Record<Change>], after: &View) -> Vec<String> {
    let found = contents(after);
    let mut wrong: Vec<_> = found
        .keys()
        .filter(|path| (0..REGISTERS).all(|register| **path != Path::new(&name_of(register))))
        .map(|path| format!("{path:?} should not be there"))
        .collect();
    for register in 0..REGISTERS {
        let path = PathBuf::from(name_of(register));
        let of_it: Vec<_> = changes.iter().filter(|record| record.op.register() == register).collect();
        let (initial, now) = (contents(before).remove(&path), found.get(&path));
        // When whatever could have led to what is there had happened; the beginning is long ago.
        let initial = (initial.as_ref() == now).then_some(Moment::MIN);
        let made = of_it.iter().filter_map(|record| {
            let leads_here = match (&record.op, now) {
                (Change::Publish { seed, length, .. }, Some(now)) => **now == tree::noise(*seed, *length),
                (Change::Withdraw { .. }, None) => true,
                _ => false,
            };
            match record.end {
                End::Done(at, _) if leads_here => Some(at),
                End::Unknown if leads_here => Some(Moment::MAX),
                _ => None,
            }
        });
        let Some(latest) = initial.into_iter().chain(made).max() else {
            let now = now.map(|bytes| bytes.len());
            wrong.push(format!("{path:?} is nothing that anybody made: {now:?} bytes"));
            continue;
        };
        let later = of_it.iter().find(|record| {
            matches!(record.end, End::Done(..))
                && record.begin > latest
                && !matches!((&record.op, now), (Change::Withdraw { .. }, None))
        });
        if let Some(later) = later {
            wrong.push(format!("{path:?} shows a state from before {:?}", later.op));
        }
    }
    wrong
}

fn contents(view: &View) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = view.iter().filter_map(|(path, seen)| match &seen.what {
        What::File(bytes) => Some((path.clone(), bytes.to_vec())),
        What::Directory | What::Symlink(_) | What::Other => None,
    });
    files.collect()
}
