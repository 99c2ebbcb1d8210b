//! The behaviour of a local Linux filesystem, one function for each promise.
//!
//! Each takes a directory to work in: of a fresh, empty, writable mount that is open to all users and honours
//! devices and set-uid bits, seen by root.

pub mod access;
pub mod attributes;
pub mod content;
pub mod listing;
pub mod names;
pub mod xattrs;

/// Calls a macro with all cases.
#[macro_export]
macro_rules! for_each_case {
    ($each:ident) => {
        $each! {
            access:
                the_kernel_checks_permissions
                sticky_directories_protect_names
                writing_takes_set_uid_away
                a_new_owner_takes_set_uid_away
                the_umask_applies_once;
            attributes:
                modes_and_owners_change
                times_are_exact_to_the_nanosecond
                changes_move_the_right_times
                setgid_directories_hand_on_their_group
                link_counts_of_directories
                the_filesystem_has_a_size;
            content:
                what_is_written_is_read
                appending_goes_to_the_end
                sizes_change
                holes_are_found
                space_is_changed
                ranges_are_copied
                mappings_are_coherent
                a_mapping_of_an_append_handle_keeps_its_place
                direct_io_works
                syncing_succeeds
                programs_run
                locks_exclude
                writers_do_not_disturb_each_other;
            listing:
                entries_have_their_type_and_inode
                ten_thousand_names_are_listed_once_while_others_change
                a_listing_can_start_again;
            names:
                all_kinds_are_made
                odd_names_are_kept
                long_names_are_refused
                removal_follows_the_rules
                hard_links_share_a_file
                rename_follows_the_rules
                rename_flags
                an_open_file_survives_its_name;
            xattrs:
                attributes_are_set_and_listed
                flags_are_honoured
                buffers_are_respected;
        }
    };
}
