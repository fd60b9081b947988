//! PostgreSQL.

use std::{str::FromStr as _, time::Duration};

use async_trait::async_trait;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Column as _, PgPool, Row as _, TypeInfo as _, ValueRef as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgRow},
};
use tokio::sync::mpsc;

use super::{Database, Lent, Row, TABLE, said};
use crate::{app::ports::Changed, domain::tenant::TenantId};

/// The documented table. Each change is told on the channel of its name.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS tenantd_tenants (
    tenant text PRIMARY KEY,
    config jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE OR REPLACE FUNCTION tenantd_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('tenantd_tenants', OLD.tenant);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('tenantd_tenants', NEW.tenant);
    END IF;
    RETURN NULL;
END
$$;
DROP TRIGGER IF EXISTS tenantd_changed ON tenantd_tenants;
CREATE TRIGGER tenantd_changed AFTER INSERT OR UPDATE OR DELETE ON tenantd_tenants
    FOR EACH ROW EXECUTE FUNCTION tenantd_changed();
";

/// One server.
pub struct Postgres {
    pool: PgPool,
    /// One connection of its own, so that listening takes none from asking.
    listening: PgPool,
}

impl Postgres {
    /// Makes no connection yet.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn open(url: &str, max_connections: u32, timeout: Duration) -> Result<Self, String> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| said(&error))?
            .application_name("tenantd");
        let pool = |max| {
            PgPoolOptions::new()
                .max_connections(max)
                // Before the question's own timeout, which could not say what it was.
                .acquire_timeout(timeout.mul_f64(0.8))
                .connect_lazy_with(options.clone())
        };
        Ok(Self { pool: pool(max_connections), listening: pool(1) })
    }
}

fn columns(row: &PgRow) -> Result<Row, sqlx::Error> {
    row.columns()
        .iter()
        .map(|column| {
            let at = column.ordinal();
            let value = if row.try_get_raw(at)?.is_null() {
                Value::Null
            } else {
                match column.type_info().name() {
                    "BOOL" => row.try_get::<bool, _>(at)?.into(),
                    "INT2" => row.try_get::<i16, _>(at)?.into(),
                    "INT4" => row.try_get::<i32, _>(at)?.into(),
                    "INT8" => row.try_get::<i64, _>(at)?.into(),
                    "FLOAT4" => row.try_get::<f32, _>(at)?.into(),
                    "FLOAT8" => row.try_get::<f64, _>(at)?.into(),
                    "TEXT" | "VARCHAR" | "CHAR" | "NAME" => row.try_get::<String, _>(at)?.into(),
                    "JSON" | "JSONB" => row.try_get::<Value, _>(at)?,
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
impl Database for Postgres {
    async fn rows(&self, query: &str, tenant: &str) -> Result<Vec<Row>, String> {
        let read = async {
            let mut lent = Lent::of(&self.pool).await?;
            let query = format!("SELECT * FROM ({query}) AS entry LIMIT 2");
            let rows =
                sqlx::query(AssertSqlSafe(query)).bind(tenant).fetch_all(lent.connection()?).await;
            lent.give_back();
            rows?.iter().map(columns).collect::<Result<_, sqlx::Error>>()
        };
        read.await.map_err(|error| match error {
            // The driver goes on trying to connect, and says no more than this.
            sqlx::Error::PoolTimedOut if self.pool.size() == 0 => {
                "the database could not be reached".to_owned()
            }
            error => said(&error),
        })
    }

    async fn watch(
        &self,
        _: bool,
        _: Duration,
        changed: &mpsc::Sender<Changed>,
    ) -> Result<(), String> {
        let watch = async {
            let mut listener = PgListener::connect_with(&self.listening).await?;
            listener.listen(TABLE).await?;
            // What changed before the channel was heard is not known.
            let _ = changed.send(Changed::All).await;
            loop {
                let heard = tokio::select! {
                    heard = listener.try_recv() => heard?,
                    () = changed.closed() => return Ok(()),
                };
                // Without a word the connection was lost, with what was told
                // meanwhile.
                let change = heard
                    .and_then(|word| TenantId::parse(word.payload()).ok())
                    .map_or(Changed::All, Changed::Tenant);
                let _ = changed.send(change).await;
            }
        };
        watch.await.map_err(|error: sqlx::Error| said(&error))
    }

    async fn init(&self) -> Result<(), String> {
        sqlx::raw_sql(SCHEMA).execute(&self.pool).await.map(drop).map_err(|error| said(&error))
    }

    async fn all(&self) -> Result<Vec<(String, Value)>, String> {
        sqlx::query_as("SELECT tenant, config FROM tenantd_tenants ORDER BY tenant")
            .fetch_all(&self.pool)
            .await
            .map_err(|error| said(&error))
    }

    async fn put(&self, entries: &[(String, String)]) -> Result<(), String> {
        let put = async {
            let mut transaction = self.pool.begin().await?;
            for (tenant, config) in entries {
                sqlx::query(
                    "INSERT INTO tenantd_tenants (tenant, config) VALUES ($1, $2::jsonb)
                     ON CONFLICT (tenant) DO UPDATE SET config = excluded.config,
                     updated_at = now()",
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
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected() > 0)
            .map_err(|error| said(&error))
    }
}
