//! POSIX ACLs as extended attributes (`struct posix_acl_xattr_header`, version 2).

/// The ACL that decides about access.
pub(crate) const ACCESS: &str = "system.posix_acl_access";
/// The ACL that new entries of a directory get.
pub(crate) const DEFAULT: &str = "system.posix_acl_default";

/// Permission to read.
pub(crate) const READ: u16 = 4;

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const MASK: u16 = 16;
const OTHER: u16 = 32;
/// Entries that are for no user or group in particular.
const NO_ID: u32 = u32::MAX;

/// Everything for the owner, nothing for others, `permission` for one user.
pub(crate) fn granting(permission: u16, user: u32) -> Vec<u8> {
    let entries = [
        (USER_OBJ, 6, NO_ID),
        (USER, permission, user),
        (GROUP_OBJ, 0, NO_ID),
        (MASK, permission, NO_ID),
        (OTHER, 0, NO_ID),
    ];
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permission, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permission.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}
