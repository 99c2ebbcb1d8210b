//! All cases, by what they need.

mod change;
mod mount;
mod read;
mod write;

use crate::case::Case;

/// Every group of cases.
pub(crate) const ALL: &[&[Case]] = &[
    write::access::CASES,
    write::attributes::CASES,
    write::content::CASES,
    write::data::CASES,
    write::listing::CASES,
    write::names::CASES,
    write::paths::CASES,
    write::unlinked::CASES,
    write::xattrs::CASES,
    write::crowds::CASES,
    write::signals::CASES,
    change::open_files::CASES,
    read::tree::CASES,
    read::directories::CASES,
    read::reading::CASES,
    read::readers::CASES,
    read::refusals::CASES,
    mount::options::CASES,
    mount::unmounting::CASES,
    mount::waiting::CASES,
    mount::caching::CASES,
    mount::messages::CASES,
    mount::unprivileged::CASES,
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A skip and an argument mean one case.
    #[test]
    fn names_are_unique() {
        let mut seen = HashSet::new();
        for case in ALL.iter().copied().flatten() {
            assert!(seen.insert(case.full_name()), "there are two cases {}", case.full_name());
        }
    }
}
