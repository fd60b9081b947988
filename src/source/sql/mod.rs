//! Entries in a SQL database: the documented table, or the operator's own query.

pub mod columns;
mod postgres;
mod sqlite;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;

pub use self::{postgres::Postgres, sqlite::Sqlite};
use crate::{
    app::ports::{Changed, Fetched, Freshness, TenantSource},
    domain::tenant::TenantId,
};

/// Table of entries; its name is the channel of PostgreSQL's notifications too.
pub const TABLE: &str = "tenantd_tenants";
/// What is asked of the documented table.
const OWN_QUERY: &str = "SELECT tenant, config FROM tenantd_tenants WHERE tenant = $1";
/// How soon a broken watch is tried again.
const RETRY_WATCH: Duration = Duration::from_secs(1);

/// Columns by name.
pub type Row = Vec<(String, Value)>;

/// One database.
#[async_trait]
pub trait Database: Send + Sync {
    /// Rows of a query with the tenant as its one parameter, two at most.
    async fn rows(&self, query: &str, tenant: &str) -> Result<Vec<Row>, String>;

    /// Tells changes until the connection breaks. `own`: of the documented table.
    async fn watch(
        &self,
        own: bool,
        poll: Duration,
        changed: &mpsc::Sender<Changed>,
    ) -> Result<(), String>;

    /// Makes the documented table where there is none.
    async fn init(&self) -> Result<(), String>;

    /// All entries, ordered by tenant.
    async fn all(&self) -> Result<Vec<(String, Value)>, String>;

    /// Puts entries, all or none of them.
    async fn put(&self, entries: &[(String, String)]) -> Result<(), String>;

    /// Removes an entry; false when there was none.
    async fn remove(&self, tenant: &str) -> Result<bool, String>;
}

/// The database of an address; relative paths of SQLite start at `folder`. No
/// connection is made: one that is down must not stop the sidecar.
///
/// # Errors
/// What is wrong with the address; never the address, which may hold a password.
pub fn open(
    url: &str,
    folder: &std::path::Path,
    max_connections: u32,
    timeout: Duration,
) -> Result<Arc<dyn Database>, String> {
    if url.starts_with("sqlite:") {
        Ok(Arc::new(Sqlite::open(url, folder, max_connections, timeout)?))
    } else {
        Ok(Arc::new(Postgres::open(url, max_connections, timeout)?))
    }
}

/// The source.
pub struct SqlSource {
    database: Arc<dyn Database>,
    query: Option<String>,
    poll: Duration,
    max_bytes: usize,
}

impl SqlSource {
    /// Asks `database` the operator's query, or the documented table's.
    #[must_use]
    pub fn new(
        database: Arc<dyn Database>,
        query: Option<String>,
        poll: Duration,
        max_bytes: usize,
    ) -> Self {
        Self { database, query, poll, max_bytes }
    }
}

#[async_trait]
impl TenantSource for SqlSource {
    async fn fetch(&self, tenant: &TenantId, _: Option<&str>) -> Result<Fetched, String> {
        let query = self.query.as_deref().unwrap_or(OWN_QUERY);
        let mut rows = self.database.rows(query, tenant.as_str()).await?;
        let Some(row) = rows.pop() else { return Ok(Fetched::Missing) };
        if !rows.is_empty() {
            return Err("the query gave more than one row".to_owned());
        }
        let value = columns::entry(row, tenant, self.max_bytes)?;
        Ok(Fetched::Entry { value, revision: None, freshness: Freshness::default() })
    }

    async fn watch(&self, changed: &mpsc::Sender<Changed>) {
        let mut told = String::new();
        loop {
            let own = self.query.is_none();
            let Err(problem) = self.database.watch(own, self.poll, changed).await else { return };
            let _ = changed.send(Changed::Lost).await;
            if problem != told {
                tracing::warn!("changes in the database are not seen until it is back: {problem}");
                told = problem;
            }
            tokio::time::sleep(RETRY_WATCH).await;
        }
    }
}

/// What a driver said, without what it may quote of the data.
fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            // Class 22 quotes values; the others tell of the query, the login or
            // the server.
            let quotes_data = code.starts_with("22") || code.starts_with("23");
            if quotes_data {
                format!("the database answered with error {code}, that a value is not valid")
            } else {
                let hint = if error.message().contains(TABLE) {
                    "; `tenantd tenants init` makes the table"
                } else {
                    ""
                };
                format!("the database answered with error {code}: {}{hint}", error.message())
            }
        }
        sqlx::Error::Io(error) => format!("the database could not be reached: {error}"),
        sqlx::Error::Tls(error) => format!("the database could not be reached: TLS: {error}"),
        sqlx::Error::PoolTimedOut => "no connection to the database was free in time".to_owned(),
        sqlx::Error::ColumnDecode { index, .. } => {
            format!("column {index} has a type that is not understood; cast it to text or json")
        }
        sqlx::Error::Configuration(_) => "the address of the database is not valid".to_owned(),
        _ => "the database gave an answer that was not understood".to_owned(),
    }
}

/// A connection that goes back to its pool only when its answer was read to the
/// end: one that was left in the middle would make the next user wait for it.
struct Lent<DB: sqlx::Database>(Option<sqlx::pool::PoolConnection<DB>>);

impl<DB: sqlx::Database> Lent<DB> {
    async fn of(pool: &sqlx::Pool<DB>) -> Result<Self, sqlx::Error> {
        pool.acquire().await.map(|connection| Self(Some(connection)))
    }

    fn connection(&mut self) -> Result<&mut DB::Connection, sqlx::Error> {
        self.0.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl<DB: sqlx::Database> Drop for Lent<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// A place in the file system that a relative path of the address means.
fn absolute(path: &std::path::Path, folder: &std::path::Path) -> PathBuf {
    if path.as_os_str() == ":memory:" { path.to_owned() } else { folder.join(path) }
}
