//! What may be typed to look after the content of a stor: `fsck`, `gc`, `repack`.

use std::path::PathBuf;

use clap::Args;

use super::{ReaderKey, StorAccess};

#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Flist: a local path or an http(s) URL.
    // Text, since clap repeats a value that it cannot parse, and this one may hold a password.
    pub(crate) flist: String,

    #[command(flatten)]
    pub(crate) stor: StorAccess,

    #[command(flatten)]
    pub(crate) reader: ReaderKey,

    /// Fetch all content, and decode it to its digest.
    #[arg(long)]
    pub(crate) full: bool,

    /// Fetch this share of the content, chosen at random, and decode it to its digest.
    #[arg(long, value_name = "PERCENT", conflicts_with = "full", value_parser = percent)]
    pub(crate) sample: Option<f64>,

    /// What to choose a sample with; the same number chooses the same content again.
    #[arg(long, value_name = "NUMBER", requires = "sample")]
    pub(crate) seed: Option<u64>,

    /// Print one JSON object for each problem, and one with the result at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Flists: local paths or http(s) URLs. What one of them names stays; all that are in use must be here.
    #[arg(required_unless_present = "published")]
    pub(crate) flists: Vec<String>,

    #[command(flatten)]
    pub(crate) stor: StorAccess,

    /// PEM file of the private RSA key of a recipient of an encrypted flist (repeatable).
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Vec<PathBuf>,

    /// No other flists than the one that a mount of mode RW has published in this namespace.
    ///
    /// That one (static/NAMESPACE.flist) is always among those whose content stays. A stor does not tell which other flists it
    /// has: those have to be named, as files or by their URLs.
    #[arg(long)]
    pub(crate) published: bool,

    /// How long an object must have been there, and then been known as garbage, before it is deleted, such as 24h or 7d.
    ///
    /// Whatever writes to the stor (pack, commit, push, repack) must take less than this from its beginning until its flist is among
    /// those that are named here. 0s deletes at once: only while nothing writes to this namespace.
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(crate) grace: String,

    /// Say what would be deleted, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RepackArgs {
    /// Flist: a local path or an http(s) URL.
    pub(crate) flist: String,

    /// Flist to write; an existing file is replaced when all is done.
    #[arg(short, long, value_name = "FLIST")]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) stor: StorAccess,

    #[command(flatten)]
    pub(crate) reader: ReaderKey,

    /// Copy what is needed of packs of which less than this is needed.
    #[arg(long, value_name = "PERCENT", default_value = "50%", value_parser = percent)]
    pub(crate) below: f64,

    /// Say what would be copied, and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A share of 100, with or without its sign.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let share = number.parse().ok().filter(|share| (0.0..=100.0).contains(share));
    share.ok_or_else(|| "expected a share from 0% to 100%".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percent() {
        assert_eq!(percent("50%"), Ok(50.0));
        assert_eq!(percent("0.5"), Ok(0.5));
        for bad in ["", "%", "-1", "101%", "NaN", "half"] {
            percent(bad).expect_err(bad);
        }
    }
}
