//! Where to listen, and whether that is safe.

use std::{net::SocketAddr, path::PathBuf};

use super::Check;
use crate::config::{Listen, ListenTls, raw, spanned::Spanned};

/// Longest path of a unix socket.
const MAX_SOCKET_PATH: usize = 107;

impl Check<'_> {
    pub(super) fn listen(&mut self, raw: &raw::Listen) -> Listen {
        let unix = raw.unix.as_ref().map(|path| {
            if !path.get_ref().starts_with('/') || path.get_ref().len() > MAX_SOCKET_PATH {
                self.wrong(path.span(), "must be an absolute path of at most 107 bytes");
            }
            PathBuf::from(path.get_ref())
        });
        let mut listen = Listen { unix, unix_gid: raw.unix_gid, ..Listen::default() };
        if let Some(text) = &raw.unix_mode {
            match u32::from_str_radix(text.get_ref(), 8) {
                Ok(mode) if mode & !0o666 == 0 && mode & 0o600 == 0o600 => listen.unix_mode = mode,
                Ok(_) | Err(_) => {
                    let message = "must be a mode in octal with 6 for the owner, for example \"0660\" for a group as well";
                    self.wrong(text.span(), message);
                }
            }
        }
        if let Some(text) = &raw.tcp {
            listen.tcp = text.get_ref().parse::<SocketAddr>().ok();
            if listen.tcp.is_none() {
                let message = "must be an IP address and a port, for example \"127.0.0.1:7443\"";
                self.wrong(text.span(), message);
            }
        }
        listen.tls = raw.tls.as_ref().map(|tls| self.listen_tls(tls));
        listen
    }

    fn listen_tls(&mut self, raw: &raw::ListenTls) -> ListenTls {
        let path = |text: &Spanned<String>| self.folder.join(text.get_ref());
        let tls = ListenTls {
            cert_file: path(&raw.cert_file),
            key_file: path(&raw.key_file),
            client_ca_file: raw.client_ca_file.as_ref().map(path),
            client_crl_file: raw.client_crl_file.as_ref().map(path),
            client_cert_required: raw
                .client_cert
                .as_ref()
                .is_none_or(|word| *word.get_ref() == raw::ClientCert::Required),
        };
        if let (Some(word), None) = (&raw.client_cert, &raw.client_ca_file) {
            self.wrong(word.span(), "needs client_ca_file: who signs the certificates of clients");
        }
        if let (Some(path), None) = (&raw.client_crl_file, &raw.client_ca_file) {
            self.wrong(path.span(), "needs client_ca_file: who signs the certificates of clients");
        }
        tls
    }
}
