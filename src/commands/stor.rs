//! `aysfs stor`: serves a directory as an AYDO stor.

use anyhow::{Context, bail};
use aysfs_config::ByteSize;
use aysfs_store::aydostor::server::{Account, Limits, Server, ServerConfig, ServerError, TlsFiles};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::Refused;
use crate::cli::StorArgs;
use crate::signals::Signals;

pub(crate) async fn run(args: StorArgs) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let config = config(&args).map_err(|error| Refused(format!("{error:#}")))?;
    let (open, scheme) = (config.accounts.is_empty(), if config.tls.is_some() { "https" } else { "http" });
    let server = Server::new(config).map_err(|error| match error {
        ServerError::Tls { .. } => anyhow::Error::from(Refused(error.to_string())),
        ServerError::Root(_) => error.into(),
    })?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}: choose another address or port", args.listen))?;
    let address = listener.local_addr()?;
    if open {
        warn!("without --account, everyone who reaches {address} may read and write");
    } else if scheme == "http" && !address.ip().is_loopback() {
        warn!("without --tls-cert, passwords and content can be read on their way");
    }
    info!("serving {} on {scheme}://{address}/", args.root.display());
    server.serve(listener, async { info!("{}: finishing what is under way", signals.next().await) }).await;
    Ok(())
}

fn config(args: &StorArgs) -> anyhow::Result<ServerConfig> {
    let accounts: Vec<Account> = args
        .account
        .iter()
        // The text holds a password: the message must not.
        .enumerate()
        .map(|(number, text)| text.parse().with_context(|| format!("--account number {}", number + 1)))
        .collect::<Result<_, _>>()?;
    for (number, account) in accounts.iter().enumerate() {
        if accounts[..number].iter().any(|earlier| earlier.name() == account.name()) {
            bail!("--account number {}: {:?} is there already", number + 1, account.name());
        }
    }
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(TlsFiles { certificate: certificate.clone(), key: key.clone() })
        }
        _ => None,
    };
    let ByteSize(body) = args.max_object.parse().context("--max-object")?;
    Ok(ServerConfig { root: args.root.clone(), accounts, tls, limits: Limits { body, ..Limits::default() } })
}
