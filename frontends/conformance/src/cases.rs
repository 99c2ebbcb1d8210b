//! All cases, by what they need.

mod mount;
mod write;

use crate::case::Case;

/// Every group of cases.
pub(crate) const ALL: &[&[Case]] = &[
    write::access::CASES,
    write::attributes::CASES,
    write::content::CASES,
    write::listing::CASES,
    write::names::CASES,
    write::xattrs::CASES,
    mount::options::CASES,
    mount::unmounting::CASES,
    mount::waiting::CASES,
    mount::caching::CASES,
    mount::messages::CASES,
    mount::unprivileged::CASES,
];
