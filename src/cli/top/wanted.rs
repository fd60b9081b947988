//! What rows are wanted, and by what they are sorted.

/// What a table is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Sort {
    Tenant,
    Active,
    Pending,
    Breaker,
    Acquires,
    Refusals,
    Failures,
    Session,
    Agent,
    Worker,
    Age,
    State,
    Lag,
    Memory,
}

impl Sort {
    /// Those of the tenants' table.
    pub const TENANTS: [Self; 7] = [
        Self::Tenant,
        Self::Active,
        Self::Pending,
        Self::Breaker,
        Self::Acquires,
        Self::Refusals,
        Self::Failures,
    ];
    /// Those of the sessions' table.
    pub const SESSIONS: [Self; 8] = [
        Self::Session,
        Self::Agent,
        Self::Tenant,
        Self::Worker,
        Self::Age,
        Self::State,
        Self::Lag,
        Self::Memory,
    ];

    /// As `--sort` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Breaker => "breaker",
            Self::Acquires => "acquires",
            Self::Refusals => "refusals",
            Self::Failures => "failures",
            Self::Session => "session",
            Self::Agent => "agent",
            Self::Worker => "worker",
            Self::Age => "age",
            Self::State => "state",
            Self::Lag => "lag",
            Self::Memory => "memory",
        }
    }

    /// Names begin with the first, figures with the largest.
    #[must_use]
    pub const fn descends(self) -> bool {
        !matches!(self, Self::Tenant | Self::Session | Self::Agent | Self::Worker | Self::State)
    }
}

/// Which rows are wanted, by how they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Status {
    /// Tenants at their cap
    Full,
    /// Tenants whose breaker is open
    Open,
    /// Tenants whose breaker is half-open
    HalfOpen,
    /// Tenants that an operator suspended
    Suspended,
    /// Tenants whose acquires are refused now
    Refusing,
    /// Sessions without a sign of life so far
    Pending,
    /// Sessions that run
    Active,
    /// Sessions whose worker went away
    Grace,
    /// Sessions reported as failed
    Failed,
    /// Sessions that a half-open breaker admitted
    Probe,
    /// Sessions whose event loop was blocked within 30 s
    Slow,
}

impl Status {
    /// Those of the tenants' table.
    pub const TENANTS: [Self; 5] =
        [Self::Full, Self::Open, Self::HalfOpen, Self::Suspended, Self::Refusing];
    /// Those of the sessions' table.
    pub const SESSIONS: [Self; 6] =
        [Self::Pending, Self::Active, Self::Grace, Self::Failed, Self::Probe, Self::Slow];

    /// As `--status` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::Suspended => "suspended",
            Self::Refusing => "refusing",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Grace => "grace",
            Self::Failed => "failed",
            Self::Probe => "probe",
            Self::Slow => "slow",
        }
    }
}

/// What rows a table shows.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only these tenants; empty: all.
    pub tenants: Vec<String>,
    /// Only these agents; empty: all.
    pub agents: Vec<String>,
    /// Text that a row must hold, in whatever case.
    pub text: String,
    /// Only one tenant's sessions.
    pub one_tenant: Option<String>,
    /// By how they stand.
    pub status: Option<Status>,
}

impl Wanted {
    pub(super) fn tenant(&self, id: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|tenant| tenant == id)
    }

    pub(super) fn agent(&self, name: &str) -> bool {
        self.agents.is_empty() || self.agents.iter().any(|agent| agent == name)
    }

    /// Says whether one of some fields holds the text.
    pub(super) fn matcher(&self) -> impl Fn(&[&str]) -> bool + use<> {
        let text = self.text.to_lowercase();
        move |fields| {
            text.is_empty() || fields.iter().any(|field| field.to_lowercase().contains(&text))
        }
    }
}
