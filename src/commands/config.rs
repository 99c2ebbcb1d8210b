//! `aysfs config`: examines config files.

use std::path::Path;

use aysfs_config::Config;

use crate::Refused;

/// Reads a config; one that is wrong is refused.
pub(crate) fn load(file: &Path) -> Result<Config, Refused> {
    Config::load(file).map_err(|error| Refused(format!("{:#}", anyhow::Error::from(error))))
}

pub(crate) fn check(file: &Path) -> anyhow::Result<()> {
    let config = load(file)?;
    for notice in &config.notices {
        eprintln!("note: {notice}");
    }
    println!("{}: fine ({} mounts, {} backends)", file.display(), config.mounts.len(), config.backends.len());
    Ok(())
}
