//! Gauges: what is true now, read when it is collected.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Meter},
};

use super::{labels::TenantLabels, names};
use crate::{
    app::{
        figures::{Figures, TenantFigures},
        shed::Shed,
    },
    domain::validity::Validity,
};

/// Figures that the callbacks read: made beforehand, since they may not wait.
pub type Latest = Arc<ArcSwap<Figures>>;

/// The states of a breaker, each a series: exactly one of them is 1.
const STATES: [&str; 3] = ["closed", "open", "half_open"];

struct Gauges<'a> {
    meter: &'a Meter,
    latest: Latest,
    tenants: Arc<TenantLabels>,
}

/// Registers all of them.
pub fn observe(meter: &Meter, latest: &Latest, tenants: &Arc<TenantLabels>) {
    let gauges = Gauges { meter, latest: Arc::clone(latest), tenants: Arc::clone(tenants) };
    gauges.by_tenant(names::SESSIONS_ACTIVE, "Live sessions", |of| vec![(None, of.live.into())]);
    gauges.by_tenant(names::SESSIONS_PENDING, "Live sessions without a sign of life", |of| {
        vec![(None, of.pending.into())]
    });
    gauges.by_tenant(names::SESSIONS_CAP, "Most live sessions", |of| {
        of.cap.map(|cap| (None, cap.into())).into_iter().collect()
    });
    gauges.by_tenant(names::BREAKER_STATE, "1 for the state of the breaker", |of| {
        STATES.iter().map(|state| (Some(*state), u64::from(*state == of.breaker))).collect()
    });
    gauges.by_tenant(names::TENANT_SUSPENDED, "1 while suspended", |of| {
        vec![(None, of.suspended.into())]
    });
    gauges
        .whole(names::MACHINE_CAP, "Most live sessions on the machine", |of| of.machine_cap.into());
    gauges.whole(names::TENANTS, "Tenants with state", |of| of.tenants.len() as u64);
    gauges.whole(names::WORKERS, "Agent processes attached", |of| of.workers);
    gauges.whole(names::WATCHERS, "Watch streams open", |of| of.watchers.into());
    gauges.whole(names::CONNECTIONS, "Connections open", |of| of.connections);
    gauges.whole(names::EVENTS_HEAD, "Last sequence of the event log", |of| of.head);
    gauges.whole(names::DRAINING, "1 while draining", |of| of.draining.into());
    gauges.whole(names::AUDIT_HEAD, "Last sequence of the audit log", |of| of.audit.sequence);
    gauges.whole(names::AUDIT_WAITING, "Records that wait for the disk", |of| of.audit.waiting);
    gauges.whole(names::AUDIT_FAILING, "1 while the audit log takes no records", |of| {
        of.audit.is_failing.into()
    });
    gauges.whole(names::RELOAD_FAILED, "1 when the last reload was refused", |of| {
        of.reload_failed.into()
    });
    gauges.whole(names::STATE_FAILING, "1 while the state cannot be written", |of| {
        of.state_failing.into()
    });
    gauges.whole(names::STATE_LOST, "1 when the state of the run before could not be read", |of| {
        of.state_lost.into()
    });
    let latest = Arc::clone(&gauges.latest);
    meter
        .u64_observable_counter(names::CALLS_DENIED)
        .with_description("Calls that their caller may not make")
        .with_callback(move |to| to.observe(latest.load().denied, &[]))
        .build();
    gauges.shed(names::CONNECTIONS_SHED, "Connections closed for the sake of the others", false);
    gauges.shed(names::CALLS_SHED, "Calls refused for the sake of the others", true);
    certificates(meter, &gauges.latest);
    let latest = Arc::clone(&gauges.latest);
    meter
        .u64_observable_counter(names::WATCH_GAPS)
        .with_description("Gaps told to watchers")
        .with_callback(move |to| to.observe(latest.load().gaps, &[]))
        .build();
    meter
        .u64_observable_gauge(names::BUILD_INFO)
        .with_description("1, with the version")
        .with_callback(|to| {
            to.observe(1, &[KeyValue::new(names::VERSION, env!("CARGO_PKG_VERSION"))]);
        })
        .build();
    process(meter, &gauges.latest);
}

impl Gauges<'_> {
    fn whole(
        &self,
        name: &'static str,
        about: &'static str,
        read: impl Fn(&Figures) -> u64 + Send + Sync + 'static,
    ) {
        let latest = Arc::clone(&self.latest);
        self.meter
            .u64_observable_gauge(name)
            .with_description(about)
            .with_callback(move |to| to.observe(read(&latest.load()), &[]))
            .build();
    }

    /// What was closed or refused for the sake of the others, by cause.
    fn shed(&self, name: &'static str, about: &'static str, of_calls: bool) {
        let latest = Arc::clone(&self.latest);
        let observe = move |to: &dyn AsyncInstrument<u64>| {
            let counts = Shed::ALL.into_iter().zip(latest.load().shed);
            for (why, count) in counts.filter(|(why, _)| why.is_of_calls() == of_calls) {
                to.observe(count, &[KeyValue::new(names::CAUSE, why.name())]);
            }
        };
        self.meter
            .u64_observable_counter(name)
            .with_description(about)
            .with_callback(observe)
            .build();
    }

    /// One point for each tenant told apart; the others' are added up.
    fn by_tenant(
        &self,
        name: &'static str,
        about: &'static str,
        read: impl Fn(&TenantFigures) -> Vec<(Option<&'static str>, u64)> + Send + Sync + 'static,
    ) {
        let (latest, tenants) = (Arc::clone(&self.latest), Arc::clone(&self.tenants));
        let observe = move |to: &dyn AsyncInstrument<u64>| {
            let mut others = BTreeMap::<Option<&str>, u64>::new();
            let point = |label: KeyValue, state: Option<&'static str>, value: u64| {
                let state = state.map(|state| KeyValue::new(names::STATE, state));
                let labels: Vec<_> = std::iter::once(label).chain(state).collect();
                to.observe(value, &labels);
            };
            for of in &latest.load().tenants {
                let (label, folded) = tenants.label(&of.tenant, of.known);
                for (state, value) in read(of) {
                    if folded {
                        *others.entry(state).or_default() += value;
                    } else {
                        point(label.clone(), state, value);
                    }
                }
            }
            // The caps of several are no cap.
            if name != names::SESSIONS_CAP {
                for (state, value) in others {
                    point(KeyValue::new(names::TENANT, names::OTHER), state, value);
                }
            }
        };
        self.meter
            .u64_observable_gauge(name)
            .with_description(about)
            .with_callback(observe)
            .build();
    }
}

/// One point for each file of the TCP listener's TLS.
fn certificates(meter: &Meter, latest: &Latest) {
    let file = |of: &Validity| [KeyValue::new(names::FILE, of.file)];
    let read = Arc::clone(latest);
    meter
        .u64_observable_gauge(names::TLS_EXPIRY)
        .with_description("When it ends, since the Unix epoch")
        .with_unit("s")
        .with_callback(move |to| {
            let latest = read.load();
            latest
                .certificates
                .iter()
                .for_each(|(of, _)| to.observe(of.until.as_secs(), &file(of)));
        })
        .build();
    let read = Arc::clone(latest);
    meter
        .u64_observable_gauge(names::TLS_EXPIRING)
        .with_description("1 when it is time to renew it")
        .with_callback(move |to| {
            let latest = read.load();
            for (of, is_ending) in &latest.certificates {
                to.observe((*is_ending).into(), &file(of));
            }
        })
        .build();
}

/// Figures of the process, from /proc.
fn process(meter: &Meter, latest: &Latest) {
    let latest = Arc::clone(latest);
    meter
        .f64_observable_gauge(names::PROCESS_UPTIME)
        .with_description("Time since the start")
        .with_unit("s")
        .with_callback(move |to| to.observe(latest.load().uptime.as_secs_f64(), &[]))
        .build();
    meter
        .u64_observable_gauge(names::PROCESS_MEMORY)
        .with_description("Resident memory")
        .with_unit("By")
        .with_callback(|to| {
            if let Some(bytes) = resident_bytes() {
                to.observe(bytes, &[]);
            }
        })
        .build();
    meter
        .f64_observable_counter(names::PROCESS_CPU)
        .with_description("CPU time used")
        .with_unit("s")
        .with_callback(|to| {
            let Ok(stat) = procfs::process::Process::myself().and_then(|me| me.stat()) else {
                return;
            };
            let ticks = procfs::ticks_per_second() as f64;
            for (mode, spent) in [("user", stat.utime), ("system", stat.stime)] {
                to.observe(spent as f64 / ticks, &[KeyValue::new(names::CPU_MODE, mode)]);
            }
        })
        .build();
    meter
        .u64_observable_gauge(names::PROCESS_FDS)
        .with_description("Open file descriptors")
        .with_callback(|to| {
            if let Ok(count) = procfs::process::Process::myself().and_then(|me| me.fd_count()) {
                to.observe(count as u64, &[]);
            }
        })
        .build();
    meter
        .u64_observable_gauge(names::PROCESS_THREADS)
        .with_description("Threads")
        .with_callback(|to| {
            if let Ok(stat) = procfs::process::Process::myself().and_then(|me| me.stat()) {
                to.observe(u64::try_from(stat.num_threads).unwrap_or(0), &[]);
            }
        })
        .build();
}

/// Resident memory of this process; none where there is no /proc.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let pages = procfs::process::Process::myself().and_then(|me| me.statm()).ok()?;
    Some(pages.resident * page_size())
}

fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(procfs::page_size)
}
