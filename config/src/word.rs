//! Values and names that are one of a few words.

/// A word that is not one of those that have a meaning here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not one of {}", .known.join(", "))]
pub struct UnknownWord {
    /// What was written.
    pub word: String,
    /// What may be written.
    pub known: Vec<&'static str>,
}

/// The meaning of `word`, among the words that have one.
pub(crate) fn meaning<T: Copy>(word: &str, words: &[(&'static str, T)]) -> Result<T, UnknownWord> {
    let found = words.iter().find(|(known, _)| *known == word).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| UnknownWord {
        word: word.into(),
        known: words.iter().map(|(known, _)| *known).collect(),
    })
}

/// How much of the longer word must be right for one word to be suggested in place of the other.
const ALIKE: f64 = 0.3;

/// What to write in place of `word`, as the end of a message.
pub(crate) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.into_iter().collect();
    let lowercase = word.to_lowercase();
    let likeness = |other: &str| strsim::normalized_damerau_levenshtein(&lowercase, other);
    let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest {
        Some(nearest) if likeness(nearest) >= ALIKE => format!("did you mean {nearest:?}?"),
        _ => format!("use one of {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_all_words_when_none_is_near() {
        let known = ["flist", "flist_times", "path", "mode", "allow_other"];
        assert_eq!(suggestion("floww", known), r#"did you mean "flist"?"#);
        assert_eq!(suggestion("flist_time", known), r#"did you mean "flist_times"?"#);
        assert_eq!(suggestion("PATH", known), r#"did you mean "path"?"#);
        assert_eq!(suggestion("zzz", known), "use one of flist, flist_times, path, mode, allow_other");
    }
}
