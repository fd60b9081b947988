//! Certificates of clients that are taken back before their time: the lists of
//! their authorities.

use std::path::Path;

use anyhow::Context as _;
use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject as _};

use super::{end, read as read_file, since_epoch, wrong};
use crate::domain::validity::Validity;

const FILE: &str = "client_crl_file";

/// What a file holds.
pub struct Lists {
    pub lists: Vec<CertificateRevocationListDer<'static>>,
    /// When the first of them should have been replaced.
    pub validity: Option<Validity>,
}

/// Reads a file.
///
/// # Errors
/// What is wrong with it.
pub fn read(path: &Path) -> anyhow::Result<Lists> {
    let bytes = read_file(path, FILE)?;
    let lists = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let lists = lists.with_context(|| wrong(path, FILE))?;
    anyhow::ensure!(!lists.is_empty(), "{} holds no PEM revocation list", wrong(path, FILE));
    let mut validities = Vec::new();
    for der in &lists {
        let (_, list) = x509_parser::parse_x509_crl(der)
            .map_err(|_| anyhow::anyhow!("{} holds no revocation list", wrong(path, FILE)))?;
        if let Some(next) = list.next_update() {
            let (from, until) = (since_epoch(&list.last_update()), since_epoch(&next));
            validities.push(Validity { file: FILE, from, until });
        }
    }
    Ok(Lists { lists, validity: validities.into_iter().min_by_key(end) })
}
