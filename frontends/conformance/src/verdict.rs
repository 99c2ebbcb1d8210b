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
    /// It cannot be told, for want of another frontend.
    FileSystemOrFrontend,
}

/// Where a trial ran, and how it ended.
pub(crate) struct Run {
    pub(crate) place: String,
    pub(crate) outcome: Outcome,
}

/// Judges a failure by how the same case ended on a plain directory, and through another frontend.
pub(crate) fn blame(locally: &Outcome, through_reference: Option<&Outcome>) -> Blame {
    match (locally, through_reference) {
        (Outcome::Failed(_), _) => Blame::Case,
        (Outcome::Passed, Some(Outcome::Failed(_))) => Blame::FileSystem,
        (Outcome::Passed, Some(Outcome::Passed)) => Blame::Frontend,
        (Outcome::Passed, None) => Blame::FileSystemOrFrontend,
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Case => "the case is to blame (or the local filesystem): it fails on a plain directory too",
            Self::FileSystem => {
                "the filesystem is to blame: it fails through another frontend too, not on a plain directory"
            }
            Self::Frontend => "the frontend is to blame: it fails with no other, nor on a plain directory",
            Self::FileSystemOrFrontend => {
                "the filesystem or the frontend is to blame: it does not fail on a plain directory, and there is \
                 no other frontend to compare with"
            }
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
        let failed = || Outcome::Failed("wrong".into());
        assert_eq!(blame(&failed(), None), Blame::Case);
        assert_eq!(blame(&failed(), Some(&Outcome::Passed)), Blame::Case);
        assert_eq!(blame(&Outcome::Passed, Some(&failed())), Blame::FileSystem);
        assert_eq!(blame(&Outcome::Passed, Some(&Outcome::Passed)), Blame::Frontend);
        assert_eq!(blame(&Outcome::Passed, None), Blame::FileSystemOrFrontend);
    }
}
