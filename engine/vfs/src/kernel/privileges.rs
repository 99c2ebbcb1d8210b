//! Bits that lend the rights of a file's owner, and must go when others change it.

use crate::{Attr, FileKind, Ino, Result, SetAttr, Vfs};

const SET_USER: u16 = 0o4000;
const SET_GROUP: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o010;

/// Takes the set-user-ID bit from a file that is about to be changed, and the set-group-ID bit if its group may execute it, as the
/// kernel does it for local filesystems (`file_remove_privs`).
///
/// For frontends that told the kernel to leave it to them (`FUSE_HANDLE_KILLPRIV_V2`).
///
/// # Errors
/// Those of the filesystem; the file must not be changed then.
pub async fn drop_privileges(vfs: &dyn Vfs, ino: Ino) -> Result<()> {
    let attr = vfs.getattr(ino, None).await?.attr;
    match unprivileged(&attr) {
        perm if perm == attr.perm => Ok(()),
        perm => vfs.setattr(ino, None, SetAttr { perm: Some(perm), ..SetAttr::default() }).await.map(drop),
    }
}

/// The permissions without those bits.
fn unprivileged(attr: &Attr) -> u16 {
    let lent = match attr.kind {
        // There it says which group new files get.
        FileKind::Directory => 0,
        _ if attr.perm & GROUP_EXECUTE != 0 => SET_USER | SET_GROUP,
        _ => SET_USER,
    };
    attr.perm & !lent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memfs::MemFs;
    use crate::{Caller, Name};

    #[tokio::test]
    async fn what_lends_rights_goes_and_nothing_else() {
        let fs = MemFs::default();
        let caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };
        let cases = [
            (FileKind::Regular, 0o6755, 0o755),
            (FileKind::Regular, 0o2745, 0o2745),
            (FileKind::Regular, 0o4601, 0o601),
            (FileKind::Regular, 0o1644, 0o1644),
            (FileKind::Directory, 0o6777, 0o6777),
        ];
        for (number, (kind, perm, left)) in cases.into_iter().enumerate() {
            let name = Name::new(number.to_string().as_bytes()).expect("a name");
            let made = match kind {
                FileKind::Directory => fs.mkdir(caller, Ino::ROOT, &name, 0o700).await,
                _ => fs.mknod(caller, Ino::ROOT, &name, kind, 0o600).await,
            };
            let ino = made.expect("made").attr.ino;
            let changes = SetAttr { perm: Some(perm), ..SetAttr::default() };
            fs.setattr(ino, None, changes).await.expect("changed");
            drop_privileges(&fs, ino).await.expect("dropped");
            assert_eq!(fs.getattr(ino, None).await.expect("there").attr.perm, left, "{perm:o}");
        }
    }
}
