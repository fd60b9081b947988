//! The config file.

use std::path::PathBuf;

use async_trait::async_trait;

use crate::{
    app::ports::ConfigSource,
    config::{self, Config},
};

/// The file; none: built-in defaults.
pub struct FileSource {
    /// Its path.
    pub path: Option<PathBuf>,
}

#[async_trait]
impl ConfigSource for FileSource {
    async fn load(&self) -> Result<Config, String> {
        let Some(path) = self.path.clone() else { return Ok(Config::builtin()) };
        tokio::task::spawn_blocking(move || config::load(&path))
            .await
            .map_err(|_| "reading the config file was interrupted".to_owned())?
            .map_err(|wrong| wrong.to_string())
    }
}
