//! The tree that is measured: many small files like those of a program, and one large one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aysfs_benches::{Random, source_code};

/// How many small files there are.
pub(crate) const FILES: usize = 50_000;
/// How many of them are in one directory.
const PER_DIRECTORY: usize = 50;
/// How many directories are in one package.
const PER_PACKAGE: usize = 40;
/// Bytes of the large file.
pub(crate) const LARGE: u64 = 512 << 20;

/// Half of the small files are smaller; their sizes are log-normal.
const MEDIAN: f64 = 1800.0;
const SIGMA: f64 = 1.0;
const SIZES: std::ops::RangeInclusive<f64> = 16.0..=256e3;

/// Names, directories included, the root not.
pub(crate) const NAMES: usize = FILES + DIRECTORIES + DIRECTORIES.div_ceil(PER_PACKAGE) + 1;
const DIRECTORIES: usize = FILES / PER_DIRECTORY;

/// Where a small file is.
pub(crate) fn file(root: &Path, number: usize) -> PathBuf {
    directory(root, number / PER_DIRECTORY).join(format!("unit_{number:05}.py"))
}

fn directory(root: &Path, number: usize) -> PathBuf {
    root.join(format!("package_{:02}/module_{number:04}", number / PER_PACKAGE))
}

/// Where the large file is.
pub(crate) fn large(root: &Path) -> PathBuf {
    root.join("large.bin")
}

/// Makes the tree; returns the bytes of the small files.
pub(crate) fn make(root: &Path) -> io::Result<u64> {
    let mut random = Random(42);
    let text = source_code(&mut random, 1 << 20);
    let mut bytes = 0;
    for number in 0..FILES {
        if number % PER_DIRECTORY == 0 {
            fs::create_dir_all(directory(root, number / PER_DIRECTORY))?;
        }
        let length = size(&mut random);
        let start = random.pick(text.len() - length);
        // The first line makes every file another content.
        let mut content = format!("# unit {number}\n").into_bytes();
        content.extend_from_slice(&text[start..start + length]);
        bytes += content.len() as u64;
        fs::write(file(root, number), content)?;
    }
    let mut out = File::create(large(root))?;
    let mut left = LARGE;
    while left > 0 {
        let start = random.pick(text.len() / 2);
        let piece = &text[start..start + text.len() / 2];
        let piece = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        out.write_all(piece)?;
        left -= piece.len() as u64;
    }
    Ok(bytes)
}

/// By the method of Box and Muller.
fn size(random: &mut Random) -> usize {
    let mut uniform = || (f64::from(u32::try_from(random.below(1 << 32)).expect("32 bits")) + 1.0) / 4.3e9;
    let normal = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let size = (MEDIAN * (SIGMA * normal).exp()).clamp(*SIZES.start(), *SIZES.end());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    {
        size as usize
    }
}
