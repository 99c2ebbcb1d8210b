//! What the old system really wrote, with the keys of its two recipients.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use aysfs_store::ContentId;
use aysfs_store::codec::{DecodeError, Decoded};
use aysfs_store::crypt::{KeyFile, PrivateKey, V1Key, decode_v1_sealed};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Fixture {
    user_rsa_der_base64: String,
    store_rsa_der_base64: String,
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    name: String,
    size: u64,
    sha256: String,
    md5: String,
    hash: String,
    user_key: String,
    store_key: String,
    object_base64: String,
}

impl File {
    fn hash(&self) -> [u8; 16] {
        md5(&self.hash)
    }

    fn body(&self) -> Vec<u8> {
        STANDARD.decode(&self.object_base64).expect("base64")
    }

    fn decode(&self, key: &V1Key, body: &[u8]) -> Result<(Vec<u8>, Decoded), DecodeError> {
        let mut plain = Vec::new();
        decode_v1_sealed(self.hash(), self.size, key, body, &mut plain).map(|decoded| (plain, decoded))
    }
}

fn unwrap(wrapped: &str, recipient: &PrivateKey) -> Option<V1Key> {
    V1Key::unwrap(&hex::decode(wrapped).expect("hex"), recipient)
}

fn md5(digits: &str) -> [u8; 16] {
    hex::decode(digits).expect("hex").try_into().expect("32 digits")
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("data/v1-encrypted.json")).expect("the fixture")
}

/// The private keys, as the PKCS#1 files that they were.
fn keys(fixture: &Fixture) -> [PrivateKey; 2] {
    let dir = tempfile::tempdir().expect("a directory");
    [&fixture.user_rsa_der_base64, &fixture.store_rsa_der_base64].map(|der| {
        let lines: Vec<&str> =
            der.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("ASCII")).collect();
        let label = "RSA PRIVATE KEY";
        let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
        let path = dir.path().join("key.pem");
        fs::write(&path, pem).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
        KeyFile::read_private(&path).expect("a key")
    })
}

#[test]
fn everything_that_the_old_system_wrote_is_read_by_both_recipients() {
    let fixture = fixture();
    let [user, store] = keys(&fixture);
    assert_eq!(fixture.files.len(), 3);
    for file in &fixture.files {
        for (recipient, wrapped) in [(&user, &file.user_key), (&store, &file.store_key)] {
            let key = unwrap(wrapped, recipient).expect("wrapped for it");
            let (plain, decoded) = file.decode(&key, &file.body()).expect("sound");
            assert_eq!(plain.len() as u64, file.size, "{}", file.name);
            assert_eq!(hex::encode(Sha256::digest(&plain)), file.sha256, "{}", file.name);
            assert_eq!(decoded.plain, ContentId::Md5(md5(&file.md5)));
            assert_eq!(decoded.stored, file.body().len() as u64);
        }
    }
}

#[test]
fn keys_of_others_open_nothing() {
    let fixture = fixture();
    let [user, store] = keys(&fixture);
    for file in &fixture.files {
        assert!(unwrap(&file.user_key, &store).is_none());
        assert!(unwrap(&file.store_key, &user).is_none());
        for other in fixture.files.iter().filter(|other| other.name != file.name) {
            let key = unwrap(&other.user_key, &user).expect("a key");
            assert!(matches!(file.decode(&key, &file.body()), Err(DecodeError::Key)), "{}", file.name);
        }
    }
    for bad in ["", "00", &"00".repeat(256), &fixture.files[0].user_key[2..]] {
        assert!(unwrap(bad, &user).is_none());
    }
    let changed = fixture.files[0].user_key.replacen('a', "b", 1);
    assert!(unwrap(&changed, &user).is_none());
}

#[test]
fn what_was_changed_is_refused() {
    let fixture = fixture();
    let [user, _] = keys(&fixture);
    for file in &fixture.files {
        let key = unwrap(&file.user_key, &user).expect("a key");
        let body = file.body();
        for position in (0..body.len()).step_by(1 + body.len() / 200) {
            let mut changed = body.clone();
            changed[position] ^= 1;
            assert!(file.decode(&key, &changed).is_err(), "{}: byte {position}", file.name);
            assert!(file.decode(&key, &body[..position]).is_err(), "{}: cut at {position}", file.name);
        }
        assert!(file.decode(&key, &[&body[..], b"x"].concat()).is_err());
        for size in [file.size.wrapping_sub(1), file.size + 1] {
            let mut plain = Vec::new();
            assert!(decode_v1_sealed(file.hash(), size, &key, &body[..], &mut plain).is_err());
        }
        let mut plain = Vec::new();
        let error =
            decode_v1_sealed([1; 16], file.size, &key, &body[..], &mut plain).expect_err("another hash");
        assert!(matches!(error, DecodeError::Body { .. }), "{error}");
    }
}
