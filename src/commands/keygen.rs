//! `aysfs keygen`: a key pair for encryption.

use std::path::PathBuf;

use aysfs_store::crypt::PrivateKey;
use serde::Serialize;

use crate::cli::KeygenArgs;

#[derive(Serialize)]
struct Made {
    private: PathBuf,
    public: PathBuf,
    fingerprint: String,
}

pub(crate) fn run(args: &KeygenArgs) -> anyhow::Result<()> {
    let key = PrivateKey::generate()?;
    let mut public = args.file.clone().into_os_string();
    public.push(".pub");
    let public = PathBuf::from(public);
    key.write(&args.file, &public)?;
    let fingerprint = hex::encode(key.public().fingerprint());
    let made = Made { private: args.file.clone(), public, fingerprint };
    if args.json {
        println!("{}", serde_json::to_string(&made)?);
    } else {
        let Made { private, public, fingerprint } = made;
        println!("{}: the private key, to read: keep it secret, and keep a copy", private.display());
        println!("{}: the public key, to encrypt for its owner", public.display());
        println!("fingerprint {fingerprint}");
    }
    Ok(())
}
