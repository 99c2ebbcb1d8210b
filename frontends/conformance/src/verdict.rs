//! Who is to blame for a failure: the case, the filesystem or the frontend.

use std::fmt;

use crate::process::Outcome;

/// What is wrong where a trial fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// It fails without any code of ours.
    Case,
    /// It fails whatever the frontend.
    FileSystem,
    /// It fails with this frontend only.
    Frontend,
    /// It fails whatever the frontend, and a plain directory is nothing to compare with.
    CaseOrFileSystem,
    /// There is no other frontend to compare with.
    FileSystemOrFrontend,
    /// There is nothing to compare with.
    Unknown,
}

/// Where a trial ran, and how it ended.
pub(crate) struct Run {
    pub(crate) place: String,
    pub(crate) outcome: Outcome,
}

impl Run {
    pub(crate) fn failed(&self) -> bool {
        self.outcome != Outcome::Passed
    }
}

/// Judges a failure by how the same case ended on a plain directory, if it can run there, and through another
/// frontend, if there is one.
pub(crate) fn blame(locally: Option<&Run>, elsewhere: Option<&Run>) -> Blame {
    match (locally.map(Run::failed), elsewhere.map(Run::failed)) {
        (Some(true), _) => Blame::Case,
        (Some(false), Some(true)) => Blame::FileSystem,
        (None, Some(true)) => Blame::CaseOrFileSystem,
        (_, Some(false)) => Blame::Frontend,
        (Some(false), None) => Blame::FileSystemOrFrontend,
        (None, None) => Blame::Unknown,
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Case => "the case is to blame (or the local filesystem): it fails on a plain directory too",
            Self::FileSystem => {
                "the filesystem is to blame: it fails through another frontend too, not on a plain directory"
            }
            Self::Frontend => "the frontend is to blame: it fails nowhere else",
            Self::CaseOrFileSystem => {
                "the case or the filesystem is to blame: it fails through another frontend too"
            }
            Self::FileSystemOrFrontend => {
                "the filesystem or the frontend is to blame: it does not fail on a plain directory, and there is \
                 no other frontend to compare with"
            }
            Self::Unknown => "nobody can be blamed: there is no other frontend to compare with",
        })
    }
}

/// Shows the verdict and what it rests on.
pub(crate) fn explain(blame: Blame, runs: &[Run]) -> String {
    let mut text = blame.to_string();
    for Run { place, outcome } in runs {
        let said = match outcome {
            Outcome::Passed => "passed",
            Outcome::Failed(said) => said.as_str(),
        };
        text.push_str(&format!("\n--- {place}\n{said}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_fails_without_the_rest_is_to_blame() {
        let run = |outcome| Run { place: String::new(), outcome };
        let (passed, failed) = (run(Outcome::Passed), run(Outcome::Failed(String::new())));
        assert_eq!(blame(Some(&failed), None), Blame::Case);
        assert_eq!(blame(Some(&failed), Some(&passed)), Blame::Case);
        assert_eq!(blame(Some(&passed), Some(&failed)), Blame::FileSystem);
        assert_eq!(blame(Some(&passed), Some(&passed)), Blame::Frontend);
        assert_eq!(blame(Some(&passed), None), Blame::FileSystemOrFrontend);
        assert_eq!(blame(None, Some(&failed)), Blame::CaseOrFileSystem);
        assert_eq!(blame(None, Some(&passed)), Blame::Frontend);
        assert_eq!(blame(None, None), Blame::Unknown);
    }
}
