//! Copy-up of anything but directories: from the base to the upper, before it is changed.
//!
//! The copy is complete in the work directory before it gets its names, and it gets all of them: the names of a hard-linked
//! file of the base lead to one inode before and after. One copy-up of a file runs at a time.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use aysfs_flist::{Kind, Node};
use aysfs_store::FetchError;
use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Error, ErrorKind, Ino, Result, SetTime, Time};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
use tokio::sync::OwnedMutexGuard;

use super::at::At;
use super::change::{keeping_times, redirect};
use super::marks::Mark;
use super::stage::{Content, Staged, copy_content};
use super::tree::{Data, Found, Place, Tree};
use super::{Inner, World};
use crate::base::{Base, damaged};

/// What is about to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Owner, permissions, times, extended attributes, names.
    Attributes,
    /// The content.
    Content,
    /// The content, all of which is about to be thrown away.
    NoContent,
}

/// Why a file could not be copied up.
#[derive(Debug, thiserror::Error)]
#[error("cannot copy {path} to the local changes")]
struct CopyUpError {
    path: String,
    #[source]
    source: FetchError,
}

/// What has to be done.
enum Step {
    Nothing,
    /// Make a copy of what is in the base.
    Install(Node, Need),
    /// Add the content to a copy that has only the attributes; `None`: there is none any more, nor will be.
    Fill(Option<Node>, Need),
}

/// Files that are being copied up.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Ino, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn wait(&self, ino: Ino) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(ino).or_default().clone()
        };
        turn.lock_owned().await
    }
}

impl Inner {
    /// Makes sure that what is about to be changed is in the upper.
    pub(super) async fn raise(self: &Arc<Self>, ino: Ino, need: Need) -> Result<()> {
        if let Step::Nothing = self.step(&self.tree(), ino, need)? {
            return Ok(());
        }
        let _turn = self.turns.wait(ino).await;
        let step = self.step(&self.tree(), ino, need)?;
        let fetched = match step {
            Step::Nothing => return Ok(()),
            Step::Install(node, Need::Content) | Step::Fill(Some(node), Need::Content) => {
                Some(self.fetch(node).await?)
            }
            Step::Install(..) | Step::Fill(..) => None,
        };
        let copies = fetched.is_some();
        let inner = self.clone();
        let job = move || match (step, fetched) {
            (Step::Nothing, _) => Ok(()),
            (Step::Install(node, Need::Attributes), _) => {
                let path = redirect(&inner.w, node)?;
                inner.install(ino, node, &Content::Below { path: &path })
            }
            (Step::Install(node, _), None) => inner.install(ino, node, &Content::Empty),
            (Step::Install(node, _), Some(file)) => inner.install(ino, node, &Content::Copy(&file)),
            (Step::Fill(from, _), file) => inner.fill(ino, from.zip(file.as_deref())),
        };
        if copies {
            tokio::task::spawn_blocking(job).await.map_err(|error| Error::new(ErrorKind::Io, error))?
        } else {
            job()
        }
    }

    fn step(&self, tree: &Tree, ino: Ino, need: Need) -> Result<Step> {
        if let Some(leaf) = tree.leaf(ino) {
            return match (leaf.data, need) {
                (Data::Here, _) | (Data::Below(_) | Data::Missing, Need::Attributes) => Ok(Step::Nothing),
                (Data::Below(node), _) => Ok(Step::Fill(Some(node), self.kind_of_need(node, need)?)),
                (Data::Missing, Need::NoContent) => Ok(Step::Fill(None, need)),
                (Data::Missing, Need::Content) => Err(missing()),
            };
        }
        let of = self.w.lower.find(ino)?;
        match of.kind() {
            Kind::Directory => Err(ErrorKind::IsADirectory.into()),
            _ => Ok(Step::Install(of.number(), self.kind_of_need(of.number(), need)?)),
        }
    }

    /// What is not to be fetched need not be copied, and what is empty has nothing to fetch.
    fn kind_of_need(&self, node: Node, need: Need) -> Result<Need> {
        let of = self.w.base().index().node(node).map_err(damaged)?;
        let has_content = of.kind() == Kind::Regular && of.size() > 0;
        Ok(match need {
            _ if !has_content => Need::NoContent,
            Need::Attributes if !self.w.upper.form.has_redirects() => Need::Content,
            need => need,
        })
    }

    async fn fetch(&self, node: Node) -> Result<Arc<File>> {
        let cached = {
            let of = self.w.base().index().node(node).map_err(damaged)?;
            self.w.lower.cached(&of)?.ok_or(ErrorKind::Io)?
        };
        cached.fetch_all().await.map_err(|source| {
            Error::new(ErrorKind::Io, CopyUpError { path: self.w.base().path(node), source })
        })
    }

    /// Makes a copy, and gives it the names that the file has.
    fn install(&self, ino: Ino, node: Node, content: &Content<'_>) -> Result<()> {
        let w = &self.w;
        let of = w.base().index().node(node).map_err(damaged)?;
        let staged = w.stage_leaf(&of, content)?;
        let data = if let Content::Below { .. } = content { Data::Below(node) } else { Data::Here };
        let stat = staged.at().stat()?;

        let mut tree = self.tree();
        let mut names: Vec<(Place, Arc<OwnedFd>)> = Vec::new();
        for (parent, name) in w.base().names(&of).map_err(damaged)? {
            let place = Place { parent: Base::ino(parent), name: raw::name(&name)? };
            let directory = match tree.raised(w, place.parent) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                directory => directory?,
            };
            if tree.find(w, place.parent, &place.name)?
                == Some(Found::Base(node, FileType::from_raw_mode(stat.st_mode)))
            {
                names.push((place, directory));
            }
        }
        let nameless = if names.is_empty() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Some(Arc::new(openat(&w.upper.work, staged.name(), flags, Mode::empty())?))
        } else {
            give_names(w, &staged, &names)?;
            None
        };
        let places = names.into_iter().map(|(place, _)| place).collect();
        tree.add_leaf(w, places, Some(ino), &stat, data, nameless)?;
        self.now_in_upper(&mut tree, ino)
    }

    /// Adds the content to a copy that has only the attributes, or makes it an empty one.
    fn fill(&self, ino: Ino, from: Option<(Node, &File)>) -> Result<()> {
        let w = &self.w;
        let at = self.tree().at(w, ino)?;
        let before = at.stat()?;
        let file = at.open(OFlags::RDWR)?;
        match from {
            Some((node, from)) => {
                copy_content(&w.base().index().node(node).map_err(damaged)?, from, &file)?;
                let nanos = |nanos: u64| u32::try_from(nanos).unwrap_or_default();
                let time = |secs, nanos| Some(SetTime::At(Time { secs, nanos }));
                at.set_times(
                    time(before.st_atime, nanos(before.st_atime_nsec)),
                    time(before.st_mtime, nanos(before.st_mtime_nsec)),
                )?;
                file.sync_data()?;
            }
            None => file.set_len(0)?,
        }
        let mut tree = self.tree();
        // Its name may have changed meanwhile, or be gone; it may have others in directories that nobody has looked at.
        let at = tree.at(w, ino)?;
        w.upper.clear_mark(&at, Mark::Metacopy)?;
        if let Some(leaf) = tree.leaf_mut(ino) {
            leaf.data = Data::Here;
        }
        self.now_in_upper(&mut tree, ino)
    }

    /// Lets those who have it open see what is written from now on.
    fn now_in_upper(&self, tree: &mut Tree, ino: Ino) -> Result<()> {
        let is_file =
            tree.leaf(ino).is_some_and(|leaf| leaf.kind == FileType::RegularFile && leaf.data == Data::Here);
        if is_file && self.open.is_open(ino) {
            self.open.switch(ino, Arc::new(open_upper(&tree.at(&self.w, ino)?)?));
        }
        Ok(())
    }
}

/// Gives a copy all its names, or none; afterwards it has lost that of the work directory.
fn give_names(w: &World, staged: &Staged<'_>, names: &[(Place, Arc<OwnedFd>)]) -> Result<()> {
    for (made, (place, directory)) in names.iter().enumerate() {
        let name = place.name.as_bytes();
        let given = keeping_times(directory, || match made + 1 == names.len() {
            true => {
                let work = &w.upper.work;
                Ok(renameat_with(work, staged.name(), directory, name, RenameFlags::NOREPLACE)?)
            }
            false => staged.at().link(directory, name),
        });
        if let Err(error) = given {
            for (place, directory) in &names[..made] {
                let taken_back = keeping_times(directory, || {
                    Ok(unlinkat(directory, place.name.as_bytes(), AtFlags::empty())?)
                });
                if let Err(error) = taken_back {
                    tracing::warn!("cannot take back the copy of {}: {error}", place.name);
                }
            }
            return Err(error);
        }
    }
    Ok(())
}

/// The content was in a base that this one has replaced.
pub(super) fn missing() -> Error {
    Error::new(ErrorKind::Io, "its content was in a base that was replaced, and only its attributes are kept")
}

/// Opens a file of the upper for everything that its permissions allow.
pub(super) fn open_upper(at: &At) -> Result<File> {
    match at.open(OFlags::RDWR) {
        Err(error) if error.kind() == ErrorKind::AccessDenied => at.open(OFlags::RDONLY),
        opened => opened,
    }
}
