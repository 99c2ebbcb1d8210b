//! Copy-up of anything but directories: from the base to the upper, before it is changed.
//!
//! The copy is complete in the work directory before it gets its names, and it gets all of them: the names of a hard-linked
//! file of the base lead to one inode before and after. One copy-up of a file runs at a time.

use std::collections::HashMap;
use std::fs::File;
use std::iter;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use aysfs_flist::Kind;
use aysfs_store::{FetchError, VerifiedFile};
use aysfs_vfs::{Error, ErrorKind, Ino, Result};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use tokio::sync::OwnedMutexGuard;

use super::at::At;
use super::change::redirect;
use super::lend::Taking;
use super::marks::Mark;
use super::open::UpperFile;
use super::stage::{Content, Staged, copy_content, segments};
use super::times::Times;
use super::tree::{Data, Found, Origin, Place, Tree};
use super::{Inner, blocking, origin};
use crate::edition::Item;

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
#[derive(Clone, Debug)]
enum Step {
    Nothing,
    /// Make a copy of what is in the base.
    Install(Need),
    /// Make the file of the cache, which its handles read, the one of the upper.
    Take(Taking),
    /// Add the content to a copy that has only the attributes.
    Fill(Origin, Need),
}

impl Step {
    /// The content that it takes, if any.
    fn needs_content(&self, ino: Ino) -> Option<Origin> {
        match self {
            Self::Install(Need::Content) => Some(Origin::Base(ino)),
            Self::Fill(origin, Need::Content) => Some(origin.clone()),
            Self::Nothing | Self::Install(..) | Self::Take(..) | Self::Fill(..) => None,
        }
    }
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    Whole,
    /// What it was a copy of was changed meanwhile: the cache has the content elsewhere by now.
    Torn,
}

impl Copied {
    /// How it fared with what was read from a file until now.
    fn from(file: &VerifiedFile) -> Self {
        if file.is_intact() { Self::Whole } else { Self::Torn }
    }
}

/// Files that are being copied up.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Ino, Arc<tokio::sync::Mutex<()>>>>);

/// While it is held, nothing of the file is copied up.
#[must_use]
pub(super) enum Turn {
    Held {
        _until_dropped: OwnedMutexGuard<()>,
    },
    /// It is copied up completely, or has nothing to copy.
    NotNeeded,
}

impl Turns {
    async fn wait(&self, ino: Ino) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(ino).or_default().clone()
        };
        turn.lock_owned().await
    }

    /// Whether a file is being copied up, or about to be.
    pub(super) fn is_taken(&self, ino: Ino) -> bool {
        let turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.get(&ino).is_some_and(|turn| Arc::strong_count(turn) > 1)
    }
}

impl Inner {
    /// Makes sure that what is about to be changed is in the upper.
    pub(super) async fn raise(self: &Arc<Self>, ino: Ino, need: Need) -> Result<Turn> {
        let step = self.step(ino, need)?;
        if let Step::Nothing = step {
            return Ok(match self.may_be_filled(ino) {
                true => Turn::Held { _until_dropped: self.turns.wait(ino).await },
                false => Turn::NotNeeded,
            });
        }
        // Whoever changes only attributes must not wait for a stor.
        let mut fetched = match step.needs_content(ino) {
            Some(origin) => Some(self.fetch(ino, &origin).await?),
            None => None,
        };
        let mut turn = Turn::Held { _until_dropped: self.turns.wait(ino).await };
        // Somebody else may have done some of it; the content is the same.
        let step = self.step(ino, need)?;
        if let Some(origin) = step.needs_content(ino) {
            loop {
                let file = match fetched.take() {
                    Some(file) => file,
                    None => self.fetch(ino, &origin).await?,
                };
                let (inner, step) = (self.clone(), step.clone());
                // Whoever asked for it may be interrupted; the copy goes on then, and its turn lasts as long as it does.
                let copied = blocking(move || Ok((inner.copy(ino, &step, &file)?, turn)));
                match copied.await? {
                    (Copied::Whole, turn) => return Ok(turn),
                    (Copied::Torn, again) => turn = again,
                }
            }
        }
        let inner = self.clone();
        match step {
            Step::Nothing => {}
            Step::Take(taking) => {
                return blocking(move || inner.take(ino, &taking).map(|()| turn)).await;
            }
            Step::Install(Need::Attributes) => {
                let content = self.w.lower.find(ino)?.content()?;
                let mark = content.as_ref().and_then(origin::to_mark);
                let path = redirect(&self.w, ino)?;
                self.install(ino, &Content::Below { path: &path, mark })?;
            }
            Step::Install(_) => self.install(ino, &Content::Empty)?,
            Step::Fill(..) => self.empty(ino)?,
        }
        Ok(turn)
    }

    /// Does a step that takes content.
    fn copy(&self, ino: Ino, step: &Step, from: &VerifiedFile) -> Result<Copied> {
        match step {
            Step::Install(_) => {
                let item = self.w.lower.find(ino)?;
                let staged = self.w.stage_leaf(&item, &Content::Copy(from.file()))?;
                match Copied::from(from) {
                    Copied::Whole => self.install_staged(&item, &staged, Data::Here)?,
                    Copied::Torn => return Ok(Copied::Torn),
                }
                Ok(Copied::Whole)
            }
            Step::Fill(origin, _) => self.fill(ino, origin, from),
            Step::Nothing | Step::Take(..) => Ok(Copied::Whole),
        }
    }

    /// Whether the content may still be added, which is not to undo what happens to the times meanwhile.
    fn may_be_filled(&self, ino: Ino) -> bool {
        self.tree().leaf(ino).is_some_and(|leaf| matches!(leaf.data, Data::Below(_)))
    }

    fn step(&self, ino: Ino, need: Need) -> Result<Step> {
        if let Some(leaf) = self.tree().leaf(ino) {
            return match (&leaf.data, need) {
                (Data::Here, _) | (Data::Below(_), Need::Attributes) => Ok(Step::Nothing),
                (Data::Below(Origin::Base(of)), _) => {
                    Ok(Step::Fill(Origin::Base(*of), self.kind_of_need(*of, need)?))
                }
                (Data::Below(origin), _) => Ok(Step::Fill(origin.clone(), need)),
            };
        }
        let item = self.w.lower.find(ino)?;
        match item.of()?.kind() {
            Kind::Directory => Err(ErrorKind::IsADirectory.into()),
            _ => Ok(match self.taking(&item)? {
                Some(taking) => Step::Take(taking),
                None => Step::Install(self.kind_of_need(ino, need)?),
            }),
        }
    }

    /// What is not to be fetched need not be copied, and what is empty has nothing to fetch.
    fn kind_of_need(&self, ino: Ino, need: Need) -> Result<Need> {
        let item = self.w.lower.find(ino)?;
        let of = item.of()?;
        let has_content = of.kind() == Kind::Regular && of.size() > 0;
        Ok(match need {
            _ if !has_content => Need::NoContent,
            Need::Attributes if !self.w.upper.form.has_redirects() => Need::Content,
            need => need,
        })
    }

    async fn fetch(&self, ino: Ino, origin: &Origin) -> Result<Arc<VerifiedFile>> {
        if let Origin::Base(of) = origin {
            self.w.lower.note_read_of_all(*of);
        }
        let cached = match origin {
            Origin::Base(of) => self.w.lower.cached(&self.w.lower.find(*of)?)?.ok_or(ErrorKind::Io)?,
            Origin::Replaced(content) => self.w.lower.cached_content(content),
            Origin::Lost => return Err(lost()),
        };
        cached.fetch_all().await.map_err(|source| {
            let path = match origin {
                Origin::Base(of) => self.w.lower.path(*of),
                Origin::Replaced(_) | Origin::Lost => format!("inode {ino}"),
            };
            let kind = if source.is_lack_of_room() { ErrorKind::NoSpace } else { ErrorKind::Io };
            Error::new(kind, CopyUpError { path, source })
        })
    }

    /// Makes a copy, and gives it the names that the file has.
    fn install(&self, ino: Ino, content: &Content<'_>) -> Result<()> {
        let item = self.w.lower.find(ino)?;
        let staged = match self.w.stage_leaf(&item, content) {
            // Cached content has to go first.
            Err(error)
                if error.kind() == ErrorKind::NoSpace
                    && self.w.lower.cache().make_space(item.of()?.size()) =>
            {
                self.w.stage_leaf(&item, content)?
            }
            staged => staged?,
        };
        let data = match content {
            Content::Below { .. } => Data::Below(Origin::Base(ino)),
            Content::Copy(_) | Content::Empty => Data::Here,
        };
        self.install_staged(&item, &staged, data)
    }

    /// Gives a copy the names that the file has: none, if a reload took them away meanwhile.
    pub(super) fn install_staged(&self, item: &Item, staged: &Staged<'_>, data: Data) -> Result<()> {
        let (w, ino) = (&self.w, item.ino());
        let stat = staged.at().stat()?;

        let mut tree = self.tree();
        if item.of()?.nlink() > 1 {
            // Some names may be in directories that were moved: then it is known where.
            tree.names_gone_before(w, ino)?;
        }
        let mut names: Vec<(Place, Arc<OwnedFd>)> = Vec::new();
        // Where the base has it now, which need not be where it had it when the copy was begun.
        let known = if w.lower.is_shown(ino) { w.lower.find(ino)?.names()? } else { Vec::new() };
        for (parent, name) in known {
            let place = Place { parent, name };
            let directory = match tree.raised(w, place.parent) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                directory => directory?,
            };
            if tree.find(w, place.parent, &place.name)?
                == Some(Found::Base(ino, FileType::from_raw_mode(stat.st_mode)))
            {
                names.push((place, directory));
            }
        }
        let nameless = match names.is_empty() {
            true => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                Some(Arc::new(openat(&w.upper.work, staged.name(), flags, Mode::empty())?))
            }
            false => {
                tree.name_copy(w, staged, &names)?;
                None
            }
        };
        let places = names.into_iter().map(|(place, _)| place).collect();
        tree.add_leaf(w, places, Some(ino), &stat, data, nameless)?;
        self.now_in_upper(&mut tree, ino)
    }

    /// Adds the content to a copy that has only the attributes.
    ///
    /// As long as the mark says that the content is in the base, nobody looks at what is here, and the times are in a mark as
    /// well: a crash half-way changes nothing that can be seen.
    fn fill(&self, ino: Ino, origin: &Origin, from: &VerifiedFile) -> Result<Copied> {
        let w = &self.w;
        let (size, segments) = match origin {
            Origin::Base(of) => {
                let item = w.lower.find(*of)?;
                let of = item.of()?;
                (of.size(), segments(&of)?)
            }
            Origin::Replaced(content) => (content.size, iter::once(0..content.size).collect()),
            Origin::Lost => return Err(lost()),
        };
        let file = self.without_content(ino)?;
        let times = Times::of(&fstat(&file)?);
        w.upper.set_mark_of(&file, Mark::Times, times.to_mark().as_bytes())?;
        let copied = copy_content(size, segments, from.file(), &file)
            .and_then(|()| Ok(file.sync_data()?))
            .map(|()| Copied::from(from));
        let is_whole = matches!(copied, Ok(Copied::Whole));
        if !is_whole {
            // What did not fit must not take the room that is left.
            let _ = file.set_len(0).and_then(|()| file.set_len(size));
        }
        times.restore(&file)?;
        if is_whole {
            self.has_content(ino, &file)?;
        }
        w.upper.clear_mark_of(&file, Mark::Times)?;
        copied
    }

    /// Makes a copy that has only the attributes an empty file: it is one, or is about to become one.
    fn empty(&self, ino: Ino) -> Result<()> {
        let file = self.without_content(ino)?;
        let times = Times::of(&fstat(&file)?);
        // On a full disk there may be no room for it; to truncate makes some.
        match self.w.upper.set_mark_of(&file, Mark::Times, times.to_mark().as_bytes()) {
            Err(error) if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::QuotaExceeded) => {}
            marked => marked?,
        }
        file.set_len(0)?;
        // Not all who open a file for writing write.
        times.restore(&file)?;
        self.has_content(ino, &file)?;
        self.w.upper.clear_mark_of(&file, Mark::Times)
    }

    /// Opens a copy that has only the attributes. Its name may change, or go, from now on; the inode stays.
    fn without_content(&self, ino: Ino) -> Result<File> {
        let mut tree = self.tree();
        tree.at(&self.w, ino)?.open(OFlags::RDWR)
    }

    /// The content of a copy is its own from now on.
    fn has_content(&self, ino: Ino, file: &File) -> Result<()> {
        let mut tree = self.tree();
        self.w.upper.clear_mark_of(file, Mark::Metacopy)?;
        if let Some(leaf) = tree.leaf_mut(ino) {
            leaf.data = Data::Here;
        }
        self.now_in_upper(&mut tree, ino)
    }

    /// Lets those who have it open see what is written from now on.
    fn now_in_upper(&self, tree: &mut Tree, ino: Ino) -> Result<()> {
        let is_file = tree
            .leaf(ino)
            .is_some_and(|leaf| leaf.kind == FileType::RegularFile && matches!(leaf.data, Data::Here));
        if is_file && self.open.is_open(ino) {
            self.open.switch(ino, open_upper(&tree.at(&self.w, ino)?, false)?);
        }
        Ok(())
    }
}

/// What is said about content that nobody knows any more.
pub(super) fn lost() -> Error {
    Error::new(
        ErrorKind::Io,
        "its content was in a base that was replaced, and only its attributes are kept: mount the old flist to copy it",
    )
}

/// Opens a file of the upper: for reading at least, and for writing if that is needed, or if nothing speaks against it.
pub(super) fn open_upper(at: &At, writes: bool) -> Result<UpperFile> {
    let (file, is_writable) = match (at.try_open(OFlags::RDWR), writes) {
        (Err(Errno::ACCESS), false) => match at.try_open(OFlags::RDONLY) {
            Ok(file) => (file, false),
            Err(_) => (at.open(OFlags::RDWR)?, true),
        },
        (Err(Errno::ACCESS), true) => (at.open(OFlags::RDWR)?, true),
        (opened, _) => (opened?, true),
    };
    let stat = fstat(&file)?;
    Ok(UpperFile::new(file, is_writable, &stat))
}
