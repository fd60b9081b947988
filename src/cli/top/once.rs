//! `--once` and `--json`: the same rows, for scripts and for people without a
//! screen.

use std::{io::Write as _, time::Duration};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    app::{App, Table},
    feed::{self, Asked},
    model::{Link, Now},
    rows::{SessionRow, TenantRow},
    view::format,
};
use crate::cli::{
    operate::{line, session_json, tenant_json},
    snapshot::{snapshot_json, worker_json},
    text,
};

/// Prints what there is: once, or each time that figures come.
///
/// # Errors
/// `Unreachable`, or the sidecar's refusal; what cannot be written.
pub async fn run(
    asked: Asked,
    mut app: App,
    once: bool,
    json: bool,
    table: Option<Table>,
    clock: impl Fn() -> Now,
) -> anyhow::Result<()> {
    let (to, mut from) = mpsc::channel(feed::WAITING);
    let feed = feed::run(asked, to);
    tokio::pin!(feed);
    // Rates are of two looks.
    let mut looks = 0;
    loop {
        let fed = tokio::select! {
            ended = &mut feed => return ended,
            fed = from.recv() => fed,
        };
        let Some(fed) = fed else { return Ok(()) };
        let figures = matches!(fed, super::model::Fed::Figures(_));
        let now = clock();
        app.hear(fed, now);
        if let Link::Down { problem, .. } = &app.world.link {
            let problem = text::escape(problem);
            anyhow::ensure!(!once, "the sidecar went away meanwhile: {problem}");
            writeln!(std::io::stderr().lock(), "tenantd: {problem}; trying again")?;
        }
        if !figures || !app.world.is_complete() {
            continue;
        }
        looks += 1;
        if looks < 2 {
            continue;
        }
        if json {
            line(&text::json_line(&object(&app, now)))?;
        } else {
            tables(&app, table, now)?;
        }
        std::io::stdout().lock().flush()?;
        if once {
            return Ok(());
        }
    }
}

/// All as one JSON object, the rows filtered and sorted.
#[must_use]
pub fn object(app: &App, now: Now) -> Value {
    let mut sidecar =
        app.world.figures.as_ref().map_or(Value::Null, |figures| snapshot_json(figures));
    if let Some(fields) = sidecar.as_object_mut() {
        // They have their own places.
        fields.retain(|key, _| key != "tenants" && key != "attached_workers");
        let rates = app.world.history.rates();
        fields.insert("acquires_per_second".into(), json!(rates.map(|rates| rates.acquires)));
        fields.insert("refusals_per_second".into(), json!(rates.map(|rates| rates.refusals)));
    }
    json!({
        "sidecar": sidecar,
        "tenants": app.tenants(now).iter().map(tenant).collect::<Vec<_>>(),
        "sessions": app.sessions(now).iter().map(session).collect::<Vec<_>>(),
        "workers": app.world.workers.values().map(|worker| worker_json(&worker.state)).collect::<Vec<_>>(),
    })
}

fn with(mut value: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (value.as_object_mut(), more) {
        fields.extend(more);
    }
    value
}

fn tenant(row: &TenantRow<'_>) -> Value {
    with(
        tenant_json(&row.tenant.state),
        json!({
            "acquires_per_second": row.rates.map(|rates| rates.acquires),
            "refusals_per_second": row.rates.map(|rates| rates.refusals),
            "failure_ratio": row.failure_ratio,
        }),
    )
}

fn session(row: &SessionRow<'_>) -> Value {
    with(
        session_json(row.wire()),
        json!({
            "age_seconds": row.age.as_secs_f64(),
            "slow": row.lag.is_some(),
            "loop_lag_seconds": row.lag.map(|lag| lag.as_secs_f64()),
            "worker_memory_bytes": row.memory,
        }),
    )
}

fn tables(app: &App, table: Option<Table>, now: Now) -> anyhow::Result<()> {
    if let Some(of) = &app.world.figures {
        let up: Duration = of.uptime.as_ref().map(text::span).unwrap_or_default();
        let rates = app.world.history.rates();
        line(&format!(
            "tenantd {}  up {}  live {} ({} pending)  workers {}  acquires {}/s  refusals {}/s  failed {}{}",
            text::escape(&of.version),
            format::span(up),
            format::of_cap(of.active_sessions, Some(of.machine_cap)),
            of.pending_sessions,
            of.workers,
            format::rate(rates.map(|rates| rates.acquires)),
            format::rate(rates.map(|rates| rates.refusals)),
            of.total_session_failures,
            if of.draining { "  draining" } else { "" },
        ))?;
    }
    if table.is_none_or(|table| table == Table::Tenants) {
        let rows = app.tenants(now);
        let cells = rows.iter().map(|row| {
            let state = &row.tenant.state;
            vec![
                text::escape(row.id()),
                format::of_cap(state.live_sessions, state.cap),
                state.pending_sessions.to_string(),
                format::breaker(row.breaker, row.is_suspended()),
                format::rate(row.rates.map(|rates| rates.acquires)),
                format::rate(row.rates.map(|rates| rates.refusals)),
                format::percent(row.failure_ratio),
                state.total_sessions_started.to_string(),
                state.total_session_failures.to_string(),
                state.total_rejections.to_string(),
            ]
        });
        let titles = [
            "TENANT",
            "ACTIVE/CAP",
            "PENDING",
            "BREAKER",
            "ACQ/S",
            "REF/S",
            "FAIL%",
            "STARTED",
            "FAILED",
            "REFUSED",
        ];
        print(&titles, cells)?;
    }
    if table.is_none_or(|table| table == Table::Sessions) {
        let rows = app.sessions(now);
        let cells = rows.iter().map(|row| {
            let state = row.wire();
            vec![
                text::escape(&state.session_id),
                text::escape(&state.agent_name),
                text::escape(&state.tenant),
                text::escape(&state.worker),
                format::span(row.age),
                row.state.to_owned(),
                row.lag.map_or_else(|| "-".to_owned(), format::lag),
                row.memory.map_or_else(|| "-".to_owned(), format::bytes),
            ]
        });
        print(&["SESSION", "AGENT", "TENANT", "WORKER", "AGE", "STATE", "LAG", "MEM"], cells)?;
    }
    Ok(())
}

fn print(titles: &[&str], rows: impl Iterator<Item = Vec<String>>) -> anyhow::Result<()> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(titles);
    table.add_rows(rows);
    line("")?;
    // Without the blanks that fill lines up.
    table.lines().try_for_each(|row| line(row.trim_end()))
}
