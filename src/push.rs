//! Pushing the local changes of a mount on a schedule.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aysfs_config::{Compression, Schedule};
use aysfs_engine::push::{PushError, Pushed, Pusher, PusherOptions};
use aysfs_engine::{Destination, Overlay};
use aysfs_store::{Mirror, Namespace, codec};
use tracing::info;

use crate::jobs::{Job, WallClock};

/// Beyond it brotli is several times slower for a few per cent.
const BROTLI_QUALITY: u32 = 5;

/// The changes of a mount are pushed until this is dropped.
pub(crate) struct Pushing {
    job: Job<Pushed>,
    pusher: Arc<Pusher>,
}

impl Pushing {
    /// Gives up what is under way, and returns when nothing of it is at work any more.
    pub(crate) async fn stop(self) {
        self.job.stop().await;
        self.pusher.rest().await;
    }
}

/// How the changes of a mount are pushed.
#[derive(Clone, Debug)]
pub(crate) struct PushPlan {
    pub(crate) schedule: Schedule,
    /// Whether the tree is published as a flist.
    pub(crate) publish: bool,
    pub(crate) compression: Compression,
    /// The transaction log.
    pub(crate) log: PathBuf,
}

impl PushPlan {
    /// What pushes the changes of `overlay`; `dir` is where it keeps what it has to know.
    pub(crate) fn pusher(
        &self,
        overlay: &Overlay,
        dir: PathBuf,
        namespace: &Namespace,
        stors: &Mirror,
    ) -> Result<Arc<Pusher>, PushError> {
        let options = PusherOptions {
            dir,
            namespace: namespace.clone(),
            publish: self.publish,
            destination: Destination::of(stors),
            compression: match self.compression {
                Compression::Zstd => codec::Compression::default(),
                Compression::Brotli => codec::Compression::Brotli(BROTLI_QUALITY),
                Compression::None => codec::Compression::None,
            },
            log: self.log.clone(),
        };
        Pusher::open(overlay.clone(), options).map(Arc::new)
    }

    /// Pushes whenever it is time.
    pub(crate) fn start(&self, pusher: Arc<Pusher>, point: &Path) -> Pushing {
        let (point, pushes) = (point.to_owned(), pusher.clone());
        let job = Job::start("pushing", Some(self.schedule.clone()), WallClock, move || {
            let (pusher, point) = (pushes.clone(), point.clone());
            async move {
                let pushed = pusher.run().await?;
                if let Some(version) = pushed.version {
                    let Pushed { files, new_objects, new_bytes, .. } = pushed;
                    info!(files, new_objects, new_bytes, version, "pushed {}", point.display());
                }
                Ok(pushed)
            }
        });
        Pushing { job, pusher }
    }
}
