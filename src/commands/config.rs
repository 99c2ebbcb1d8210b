//! `aysfs config`: examines config files.

use std::path::Path;

use aysfs_config::Config;

use crate::Refused;

pub(crate) fn check(file: &Path) -> anyhow::Result<()> {
    let config = Config::load(file).map_err(|error| Refused(error.to_string()))?;
    for notice in &config.notices {
        eprintln!("note: {notice}");
    }
    println!("{}: fine ({} mounts, {} backends)", file.display(), config.mounts.len(), config.backends.len());
    Ok(())
}
