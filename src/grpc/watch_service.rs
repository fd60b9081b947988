//! `WatchService`: what operators read.

use std::{pin::Pin, sync::Arc};

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{
    caller, convert,
    status::status,
    watch::{self, Encoded, Filter},
};
use crate::{
    app::{Sidecar, ports::EventSink as _},
    domain::{reject::Rejection, tenant::TenantId},
    wire::{
        served::{WatchSessionsResponse, watch_service_server::WatchService},
        v1,
    },
};

/// Most values in one filter.
const MAX_FILTER: usize = 100;
/// Most entries on one page.
const MAX_PAGE: usize = 1000;

/// The service.
pub struct Watches(Arc<Sidecar>, Arc<Encoded>);

impl Watches {
    /// The service of one sidecar.
    #[must_use]
    pub fn new(sidecar: Arc<Sidecar>) -> Self {
        Self(sidecar, Arc::default())
    }
}

#[tonic::async_trait]
impl WatchService for Watches {
    type WatchSessionsStream =
        Pin<Box<dyn Stream<Item = Result<WatchSessionsResponse, Status>> + Send>>;

    async fn watch_sessions(
        &self,
        request: Request<v1::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let head = self.0.events.head();
        let cursor = asked.cursor.map(|cursor| (cursor.epoch, cursor.sequence));
        let filter = filter(asked.tenants, asked.agent_names, asked.kinds).map_err(status)?;
        let named: Vec<TenantId> = filter.named().map_err(status)?;
        let counted = self.0.watching(&caller, &named).map_err(status)?;
        if let Some((epoch, sequence)) = &cursor
            && epoch == self.0.events.epoch()
            && *sequence > head
        {
            return Err(status(Rejection::field(
                "cursor.sequence",
                format_args!("is after the last event, {head}, of this epoch"),
            )));
        }
        let items = watch::run(Arc::clone(&self.0), Arc::clone(&self.1), counted, filter, cursor);
        Ok(Response::new(Box::pin(items)))
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        let caller = caller(&request)?;
        let details = request.get_ref().details;
        let report = self.0.report_all(&caller, details).await.map_err(status)?;
        let memory = report.workers.iter().filter(|(_, (health, _))| health.memory_bytes > 0);
        let memory = memory.map(|(worker, (health, _))| (worker.to_string(), health.memory_bytes));
        let drained = report
            .drain
            .map(|drain| drain.deadline.saturating_sub(report.now.mono.since(drain.since.mono)));
        let last = report.latest.failure.as_ref();
        let config = self.0.config();
        let failure = report.reload_failure.as_ref();
        Ok(Response::new(v1::GetSnapshotResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cursor: Some(v1::Cursor {
                epoch: self.0.events.epoch().to_owned(),
                sequence: report.head,
            }),
            start_time: Some(convert::time(report.started.wall)),
            uptime: Some(convert::duration(report.now.mono.since(report.started.mono))),
            draining: report.drain.is_some(),
            active_sessions: report.totals.live,
            pending_sessions: report.pending,
            machine_cap: config.limits.max_sessions,
            sessions_by_tenant: report.by_tenant.into_iter().collect(),
            sessions_by_agent: report.by_agent.into_iter().collect(),
            total_sessions_started: report.totals.started,
            total_session_failures: report.totals.failures,
            total_rejections: report
                .rejections
                .into_iter()
                .map(|(reason, count)| (reason.to_owned(), count))
                .collect(),
            workers: u32::try_from(report.workers.len()).unwrap_or(u32::MAX),
            memory_bytes_by_worker: memory.collect(),
            watchers: report.watchers,
            tenants_in_memory: report.totals.tenants,
            config: report.config.map(|config| v1::ConfigStatus {
                path: config.path,
                load_time: Some(convert::time(report.loaded.wall)),
                tenants: u32::try_from(config.tenants).unwrap_or(u32::MAX),
                last_error: failure.map(|failure| failure.error.clone()).unwrap_or_default(),
                last_error_time: failure.map(|failure| convert::time(failure.at.wall)),
            }),
            tenants: report.tenants.iter().map(convert::tenant).collect(),
            attached_workers: if details {
                report.workers.iter().map(convert::worker).collect()
            } else {
                Vec::new()
            },
            resident_bytes: report.resident_bytes.unwrap_or_default(),
            last_error: last.map(|last| last.error.clone()).unwrap_or_default(),
            last_error_time: last.map(|last| convert::time(last.at.wall)),
            last_error_tenant: last
                .and_then(|last| last.tenant.as_ref())
                .map(ToString::to_string)
                .unwrap_or_default(),
            last_routed_agent: convert::name(report.latest.agent.as_ref()),
            drain_remaining: drained.map(convert::duration),
            time: Some(convert::time(report.now.wall)),
            sources: report.sources.into_iter().map(convert::source_status).collect(),
        }))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let now = self.0.now();
        let of = match asked.tenant.as_str() {
            "" => None,
            named => Some(TenantId::parse(named).map_err(status)?),
        };
        let all = self.0.sessions(&caller, of.as_ref()).await.map_err(status)?;
        let wanted = all.into_iter().filter(|session| {
            let agent = session.agent.as_ref().map_or("", |agent| agent.as_str());
            asked.agent_name.is_empty() || agent == asked.agent_name
        });
        let sessions = wanted.map(|session| convert::session(&session, now));
        let (sessions, next_page_token) =
            page(sessions, |s| &s.session_id, asked.page_size, &asked.page_token)
                .map_err(status)?;
        Ok(Response::new(v1::ListSessionsResponse { sessions, next_page_token }))
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let ids =
            self.0.tenants(&caller).await.map_err(status)?.into_iter().map(|id| id.to_string());
        let (ids, next_page_token) =
            page(ids, |id| id, asked.page_size, &asked.page_token).map_err(status)?;
        let mut tenants = Vec::with_capacity(ids.len());
        for id in ids {
            let id = TenantId::parse(&id).map_err(status)?;
            // One that went idle meanwhile is no error of the whole list.
            if let Ok(report) = self.0.tenant(&caller, &id).await {
                tenants.push(convert::tenant(&report));
            }
        }
        Ok(Response::new(v1::ListTenantsResponse { tenants, next_page_token }))
    }

    async fn get_tenant(
        &self,
        request: Request<v1::GetTenantRequest>,
    ) -> Result<Response<v1::GetTenantResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let tenant = TenantId::parse(&asked.tenant).map_err(status)?;
        let report = self.0.tenant(&caller, &tenant).await;
        if !asked.explain {
            let tenant = Some(convert::tenant(&report.map_err(status)?));
            return Ok(Response::new(v1::GetTenantResponse { tenant, ..Default::default() }));
        }
        // The more useful the less it works: what the sources say is told also of
        // a tenant that cannot be shown.
        let (origins, answers) = self.0.explain(&caller, &tenant).await.map_err(status)?;
        Ok(Response::new(v1::GetTenantResponse {
            tenant: report.ok().as_ref().map(convert::tenant),
            origins: origins.into_iter().map(convert::origin).collect(),
            answers: answers.into_iter().map(convert::source_answer).collect(),
        }))
    }
}

fn filter(tenants: Vec<String>, agents: Vec<String>, kinds: Vec<i32>) -> Result<Filter, Rejection> {
    for (field, len) in
        [("tenants", tenants.len()), ("agent_names", agents.len()), ("kinds", kinds.len())]
    {
        if len > MAX_FILTER {
            return Err(Rejection::field(
                field,
                format_args!("must be at most {MAX_FILTER} values, got {len}"),
            ));
        }
    }
    if let Some(unknown) = kinds.iter().find(|kind| v1::EventKind::try_from(**kind).is_err()) {
        return Err(Rejection::field(
            "kinds",
            format_args!("{unknown} is not a value of tenantd.v1.EventKind"),
        ));
    }
    let tenants = tenants
        .iter()
        .map(|tenant| TenantId::parse(tenant).map(|id| id.to_string()))
        .collect::<Result<_, _>>()?;
    Ok(Filter { tenants, agents: agents.into_iter().collect(), kinds: kinds.into_iter().collect() })
}

/// One page of an ordered list. The token is the last key of the page before.
fn page<T>(
    items: impl Iterator<Item = T>,
    key: impl Fn(&T) -> &String,
    size: i32,
    token: &str,
) -> Result<(Vec<T>, String), Rejection> {
    let size = match usize::try_from(size) {
        Ok(0) => MAX_PAGE,
        Ok(size) if size <= MAX_PAGE => size,
        Ok(_) | Err(_) => {
            return Err(Rejection::field(
                "page_size",
                format_args!("must be 0 to {MAX_PAGE}, got {size}"),
            ));
        }
    };
    let mut rest = items.filter(|item| key(item).as_str() > token);
    let page: Vec<T> = rest.by_ref().take(size).collect();
    let more = rest.next().is_some();
    let next = page.last().filter(|_| more).map(|last| key(last).clone()).unwrap_or_default();
    Ok((page, next))
}
