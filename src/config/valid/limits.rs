//! The bounds of `[limits]`.

use std::time::Duration;

use super::Check;
use crate::config::{Limits, raw};

impl Check<'_> {
    pub(super) fn limits(&mut self, raw: &raw::Limits) -> Limits {
        const MILLION: u32 = 1_000_000;
        const MIB: u32 = 1024 * 1024;
        let base = Limits::default();
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let of = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let second = Duration::from_secs(1);
        Limits {
            max_sessions: self.count(raw.max_sessions.as_ref(), base.max_sessions, 1, MILLION),
            max_tenants: self.count(raw.max_tenants.as_ref(), base.max_tenants, 1, MILLION),
            max_workers: size(self.count(
                raw.max_workers.as_ref(),
                of(base.max_workers),
                1,
                MILLION,
            )),
            max_watchers: self.count(raw.max_watchers.as_ref(), base.max_watchers, 1, 10_000),
            max_connections: size(self.count(
                raw.max_connections.as_ref(),
                of(base.max_connections),
                1,
                MILLION,
            )),
            max_streams: self.count(raw.max_streams.as_ref(), base.max_streams, 1, MILLION),
            metadata_bytes: size(self.count(
                raw.metadata_bytes.as_ref(),
                of(base.metadata_bytes),
                256,
                MIB,
            )),
            message_bytes: size(self.count(
                raw.message_bytes.as_ref(),
                of(base.message_bytes),
                64 * 1024,
                64 * MIB,
            )),
            connections_per_peer: self.count(
                raw.connections_per_peer.as_ref(),
                base.connections_per_peer,
                1,
                MILLION,
            ),
            calls_per_peer: self.count(
                raw.calls_per_peer.as_ref(),
                base.calls_per_peer,
                1,
                MILLION,
            ),
            partial_bytes: size(self.count(
                raw.partial_bytes.as_ref(),
                of(base.partial_bytes),
                64 * 1024,
                2048 * MIB - 1,
            )),
            handshake_timeout: self.span(
                raw.handshake_timeout.as_ref(),
                base.handshake_timeout,
                second,
            ),
            dead_after: self.span(raw.dead_after.as_ref(), base.dead_after, 2 * second),
            acquires_per_second: raw.acquires_per_second.as_ref().map(|rate| self.rate(rate)),
            acquires_waiting: self.count(
                raw.acquires_waiting.as_ref(),
                base.acquires_waiting,
                1,
                MILLION,
            ),
            tenant_acquires_waiting: self.count(
                raw.tenant_acquires_waiting.as_ref(),
                base.tenant_acquires_waiting,
                1,
                MILLION,
            ),
            credential_bytes: size(self.count(
                raw.credential_bytes.as_ref(),
                of(base.credential_bytes),
                16,
                MIB,
            )),
            events_kept: size(self.count(
                raw.events_kept.as_ref(),
                of(base.events_kept),
                16,
                10 * MILLION,
            )),
            events_kept_bytes: size(self.count(
                raw.events_kept_bytes.as_ref(),
                of(base.events_kept_bytes),
                64 * 1024,
                2048 * MIB - 1,
            )),
            agent_events_per_second: self.count(
                raw.agent_events_per_second.as_ref(),
                base.agent_events_per_second,
                1,
                MILLION,
            ),
            agent_event_bytes: size(self.count(
                raw.agent_event_bytes.as_ref(),
                of(base.agent_event_bytes),
                64,
                64 * 1024,
            )),
            worker_reports_per_second: self.count(
                raw.worker_reports_per_second.as_ref(),
                base.worker_reports_per_second,
                1,
                10_000,
            ),
            ended_remembered: size(self.count(
                raw.ended_remembered.as_ref(),
                of(base.ended_remembered),
                16,
                10 * MILLION,
            )),
            ended_remembered_for: self.span(
                raw.ended_remembered_for.as_ref(),
                base.ended_remembered_for,
                second,
            ),
            tenant_idle_after: self.span(
                raw.tenant_idle_after.as_ref(),
                base.tenant_idle_after,
                second,
            ),
            heartbeat: self.span(raw.heartbeat.as_ref(), base.heartbeat, second),
            threads: size(self.count(raw.threads.as_ref(), of(base.threads), 1, 256)),
            metric_tenants: size(self.count(
                raw.metric_tenants.as_ref(),
                of(base.metric_tenants),
                0,
                100_000,
            )),
        }
    }
}
