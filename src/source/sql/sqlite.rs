//! SQLite.

use std::{
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Column as _, Row as _, SqlitePool, TypeInfo as _, ValueRef as _,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow},
};
use tokio::sync::mpsc;

use super::{Database, Lent, Row, absolute, said};
use crate::{
    app::ports::Changed,
    domain::tenant::TenantId,
    source::reference::{self, Identity},
};

/// The documented table. Each change leaves a line in `tenantd_changes`, which a
/// sidecar reads when the database's version moved; the last 10,000 are kept.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS tenantd_tenants (
    tenant TEXT NOT NULL PRIMARY KEY,
    config TEXT NOT NULL CHECK (json_valid(config)),
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE TABLE IF NOT EXISTS tenantd_changes (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS tenantd_inserted AFTER INSERT ON tenantd_tenants BEGIN
    INSERT INTO tenantd_changes (tenant) VALUES (NEW.tenant);
END;
CREATE TRIGGER IF NOT EXISTS tenantd_updated AFTER UPDATE ON tenantd_tenants BEGIN
    INSERT INTO tenantd_changes (tenant) VALUES (OLD.tenant);
    INSERT INTO tenantd_changes (tenant) VALUES (NEW.tenant);
END;
CREATE TRIGGER IF NOT EXISTS tenantd_deleted AFTER DELETE ON tenantd_tenants BEGIN
    INSERT INTO tenantd_changes (tenant) VALUES (OLD.tenant);
END;
CREATE TRIGGER IF NOT EXISTS tenantd_forgotten AFTER INSERT ON tenantd_changes BEGIN
    DELETE FROM tenantd_changes WHERE sequence <= NEW.sequence - 10000;
END;
";

/// Most changes read at once; beyond it all count as changed.
const MAX_CHANGES: usize = 1000;

/// One file.
pub struct Sqlite {
    path: PathBuf,
    options: SqliteConnectOptions,
    max_connections: u32,
    timeout: Duration,
    pool: ArcSwap<SqlitePool>,
    /// The file that the pool has open.
    opened: Mutex<Option<Identity>>,
}

impl Sqlite {
    /// Makes no connection yet.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn open(
        url: &str,
        folder: &Path,
        max_connections: u32,
        timeout: Duration,
    ) -> Result<Self, String> {
        let options = SqliteConnectOptions::from_str(url).map_err(|error| said(&error))?;
        let path = absolute(options.get_filename(), folder);
        let options = options.filename(&path).busy_timeout(timeout);
        let pool = pool(&options, max_connections, timeout);
        Ok(Self {
            path,
            options,
            max_connections,
            timeout,
            pool: ArcSwap::from_pointee(pool),
            opened: Mutex::new(None),
        })
    }

    /// The pool of the file that is there now: one that was put in the place of
    /// another is another database.
    fn pool(&self) -> SqlitePool {
        let present = reference::identity(&self.path).map(|id| (id.0, id.1));
        let mut opened = self.opened.lock();
        let known = opened.map(|id| (id.0, id.1));
        if known.is_some() && present.is_some() && known != present {
            let fresh = pool(&self.options, self.max_connections, self.timeout);
            self.pool.store(std::sync::Arc::new(fresh));
        }
        *opened = reference::identity(&self.path).or(*opened);
        SqlitePool::clone(&self.pool.load())
    }

    fn changing(&self) -> SqlitePool {
        pool(&self.options.clone().create_if_missing(true), 1, self.timeout)
    }
}

fn pool(options: &SqliteConnectOptions, max: u32, timeout: Duration) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(max)
        .acquire_timeout(timeout)
        .connect_lazy_with(options.clone())
}

fn columns(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    row.columns()
        .iter()
        .map(|column| {
            let at = column.ordinal();
            let raw = row.try_get_raw(at)?;
            let declared = column.type_info().name().to_owned();
            let value = if raw.is_null() {
                Value::Null
            } else {
                match raw.type_info().name() {
                    "INTEGER" if declared == "BOOLEAN" => row.try_get::<bool, _>(at)?.into(),
                    "BOOLEAN" => row.try_get::<bool, _>(at)?.into(),
                    "INTEGER" => row.try_get::<i64, _>(at)?.into(),
                    "REAL" => row.try_get::<f64, _>(at)?.into(),
                    "TEXT" => row.try_get::<String, _>(at)?.into(),
                    other => {
                        let index = column.name().to_owned();
                        return Err(sqlx::Error::ColumnDecode { index, source: other.into() });
                    }
                }
            };
            Ok((column.name().to_owned(), value))
        })
        .collect()
}

#[async_trait]
impl Database for Sqlite {
    async fn rows(&self, query: &str, tenant: &str) -> Result<Vec<Row>, String> {
        let read = async {
            let mut lent = Lent::of(&self.pool()).await?;
            let rows = sqlx::query(AssertSqlSafe(format!("SELECT * FROM ({query}) LIMIT 2")))
                .bind(tenant)
                .fetch_all(lent.connection()?)
                .await;
            lent.give_back();
            rows?.iter().map(columns).collect::<Result<_, sqlx::Error>>()
        };
        read.await.map_err(|error| said(&error))
    }

    async fn watch(
        &self,
        own: bool,
        poll: Duration,
        changed: &mpsc::Sender<Changed>,
    ) -> Result<(), String> {
        let watch = async {
            let mut connection = self.pool().acquire().await?.detach();
            let mut seen: Option<(i64, i64)> = None;
            let file = reference::identity(&self.path).map(|id| (id.0, id.1));
            // What changed before this connection is not known.
            let _ = changed.send(Changed::All).await;
            loop {
                let version: i64 =
                    sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut connection).await?;
                if seen.is_none_or(|(before, _)| before != version) {
                    let last = seen.map(|(_, last)| last);
                    let last = match (own, last) {
                        (false, None) => 0,
                        (false, Some(_)) => {
                            let _ = changed.send(Changed::All).await;
                            0
                        }
                        (true, last) => told(&mut connection, last, changed).await?,
                    };
                    seen = Some((version, last));
                }
                if changed.is_closed() {
                    return Ok(());
                }
                tokio::time::sleep(poll).await;
                if reference::identity(&self.path).map(|id| (id.0, id.1)) != file {
                    return Err(sqlx::Error::PoolClosed);
                }
            }
        };
        watch.await.map_err(|error: sqlx::Error| said(&error))
    }

    async fn init(&self) -> Result<(), String> {
        sqlx::raw_sql(SCHEMA)
            .execute(&self.changing())
            .await
            .map(drop)
            .map_err(|error| said(&error))
    }

    async fn all(&self) -> Result<Vec<(String, Value)>, String> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT tenant, config FROM tenantd_tenants ORDER BY tenant")
                .fetch_all(&self.pool())
                .await
                .map_err(|error| said(&error))?;
        rows.into_iter()
            .map(|(tenant, config)| {
                let value = serde_json::from_str(&config)
                    .map_err(|_| format!("the entry of {tenant} is not JSON"))?;
                Ok((tenant, value))
            })
            .collect()
    }

    async fn put(&self, entries: &[(String, String)]) -> Result<(), String> {
        let put = async {
            let mut transaction = self.changing().begin().await?;
            for (tenant, config) in entries {
                sqlx::query(
                    "INSERT INTO tenantd_tenants (tenant, config) VALUES ($1, $2)
                     ON CONFLICT (tenant) DO UPDATE SET config = excluded.config,
                     updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
                )
                .bind(tenant)
                .bind(config)
                .execute(&mut *transaction)
                .await?;
            }
            transaction.commit().await
        };
        put.await.map_err(|error| said(&error))
    }

    async fn remove(&self, tenant: &str) -> Result<bool, String> {
        sqlx::query("DELETE FROM tenantd_tenants WHERE tenant = $1")
            .bind(tenant)
            .execute(&self.changing())
            .await
            .map(|done| done.rows_affected() > 0)
            .map_err(|error| said(&error))
    }
}

/// Tells the changes after `last`, and the number of the newest.
async fn told(
    connection: &mut sqlx::SqliteConnection,
    last: Option<i64>,
    changed: &mpsc::Sender<Changed>,
) -> Result<i64, sqlx::Error> {
    let Some(last) = last else {
        let newest: Option<i64> = sqlx::query_scalar("SELECT max(sequence) FROM tenantd_changes")
            .fetch_one(connection)
            .await?;
        return Ok(newest.unwrap_or(0));
    };
    let lines: Vec<(i64, String)> = sqlx::query_as(
        "SELECT sequence, tenant FROM tenantd_changes WHERE sequence > $1 ORDER BY sequence",
    )
    .bind(last)
    .fetch_all(connection)
    .await?;
    let Some((newest, _)) = lines.last() else { return Ok(last) };
    let newest = *newest;
    if lines.len() > MAX_CHANGES || lines.first().is_some_and(|(first, _)| *first != last + 1) {
        let _ = changed.send(Changed::All).await;
        return Ok(newest);
    }
    for (_, tenant) in lines {
        if let Ok(tenant) = TenantId::parse(&tenant) {
            let _ = changed.send(Changed::Tenant(tenant)).await;
        }
    }
    Ok(newest)
}
