//! The tree that is measured: many small files like those of a program, and one large one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Random, Stop, source_code};

/// How many small files are in one directory.
const PER_DIRECTORY: usize = 50;
/// How many directories are in one package.
const PER_PACKAGE: usize = 40;

/// Half of the small files are smaller; their sizes are log-normal.
const MEDIAN: f64 = 1800.0;
const SIGMA: f64 = 1.0;
const SIZES: std::ops::RangeInclusive<f64> = 16.0..=256e3;

/// What every small file begins with.
const START: &str = "# unit ";

/// How much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many small files.
    pub files: usize,
    /// Bytes of the large one.
    pub large: u64,
}

impl Shape {
    /// How many names there are: directories included, the root not.
    pub fn names(self) -> usize {
        let directories = self.files.div_ceil(PER_DIRECTORY);
        self.files + directories + directories.div_ceil(PER_PACKAGE) + 1
    }
}

/// The tree below a directory.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The directory.
    pub root: PathBuf,
    /// How much of it there is.
    pub shape: Shape,
}

impl Tree {
    /// The tree of this shape at `root`, whether or not it is there already.
    pub fn at(root: impl Into<PathBuf>, shape: Shape) -> Self {
        Self { root: root.into(), shape }
    }

    /// Where a small file is.
    pub fn file(&self, number: usize) -> PathBuf {
        self.directory(number / PER_DIRECTORY).join(format!("unit_{number:05}.py"))
    }

    fn directory(&self, number: usize) -> PathBuf {
        self.root.join(format!("package_{:02}/module_{number:04}", number / PER_PACKAGE))
    }

    /// Where the large file is.
    pub fn large(&self) -> PathBuf {
        self.root.join("large.bin")
    }

    /// Makes it; returns the bytes of the small files.
    ///
    /// # Errors
    /// Those of the filesystem, and of [`Stop::check`].
    pub fn make(&self, stop: &Stop) -> io::Result<u64> {
        let mut random = Random(42);
        let text = source_code(&mut random, 1 << 20);
        let mut bytes = 0;
        for number in 0..self.shape.files {
            stop.check()?;
            if number % PER_DIRECTORY == 0 {
                fs::create_dir_all(self.directory(number / PER_DIRECTORY))?;
            }
            let length = size(&mut random);
            let start = random.pick(text.len() - length);
            // The first line makes every file another content.
            let mut content = format!("{START}{number}\n").into_bytes();
            content.extend_from_slice(&text[start..start + length]);
            bytes += content.len() as u64;
            fs::write(self.file(number), content)?;
        }
        fs::create_dir_all(&self.root)?;
        write_text(&self.large(), self.shape.large, &text, &mut random, stop)?;
        Ok(bytes)
    }
}

/// Whether it is the content of a small file.
pub(crate) fn is_small_file(content: &[u8]) -> bool {
    content.starts_with(START.as_bytes())
}

fn write_text(path: &Path, bytes: u64, text: &[u8], random: &mut Random, stop: &Stop) -> io::Result<()> {
    let mut out = File::create(path)?;
    let mut left = bytes;
    while left > 0 {
        stop.check()?;
        let start = random.pick(text.len() / 2);
        let piece = &text[start..start + text.len() / 2];
        let piece = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        out.write_all(piece)?;
        left -= piece.len() as u64;
    }
    Ok(())
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
