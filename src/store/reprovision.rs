//! What is kept of a re-provisioning, and of each tenant in it.

use serde_json::Value;

/// A new run.
#[derive(Debug, Clone)]
pub struct NewReprovision<'a> {
    /// Its id, a ULID.
    pub run_id: &'a str,
    /// The logical name of the target whose rows are the tenants; it may be in another database.
    pub target: &'a str,
    /// How it was asked for.
    pub options: &'a Value,
    /// The digest of the plan that it follows.
    pub plan: &'a str,
    /// Who works on it.
    pub holder: &'a str,
}

/// A run, as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReprovisionRow {
    /// Its id, a ULID.
    pub run_id: String,
    /// The target's logical name.
    pub target: String,
    /// How it was asked for, as JSON.
    pub options: String,
    /// The digest of the plan that it follows.
    pub plan: String,
    /// Who works on it.
    pub holder: Option<String>,
    /// Whether that one's lease has not run out.
    pub held: bool,
    /// When it does, in Unix milliseconds; each renewal moves it.
    pub lease_ms: Option<i64>,
    /// Unix milliseconds.
    pub begun_ms: i64,
    /// Unix milliseconds; `None` while it is open.
    pub ended_ms: Option<i64>,
    /// What it ended with, as it was written.
    pub certificate: Option<String>,
}

/// The right to write a run's sagas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReprovisionLease {
    /// The run.
    pub run_id: String,
    /// Grows with each holder: an earlier one's writes are refused.
    pub fence: i64,
}

/// A tenant of a new run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSaga {
    /// The row's key, as text.
    pub tenant: String,
    /// Its place in the run's order; no other tenant's.
    pub position: i64,
}

/// Where a tenant is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaRow {
    /// The run.
    pub run_id: String,
    /// The row's key, as text.
    pub tenant: String,
    /// Its place in the run's order.
    pub position: i64,
    /// In the names of what is made for it. A run begins above every generation that earlier runs of the target
    /// came to, so that no name is given twice.
    pub generation: i64,
    /// The phase it is in; empty before the first.
    pub phase: String,
    /// What is done about it.
    pub state: SagaState,
    /// Why it is parked.
    pub why: Option<String>,
    /// Particulars, as JSON: ids and names, never a secret.
    pub detail: String,
    /// Its old and new URLs, sealed; `None` before they are known, and after the run's end.
    pub sealed: Option<Vec<u8>>,
    /// When its downtime began, in Unix milliseconds.
    pub down_from_ms: Option<i64>,
    /// When its downtime was over, in Unix milliseconds.
    pub down_to_ms: Option<i64>,
    /// When it was first written, in Unix milliseconds by the database's clock; ignored when it is written.
    pub begun_ms: Option<i64>,
    /// Since when it is done or gone, in Unix milliseconds by the database's clock; ignored when it is written.
    pub ended_ms: Option<i64>,
}

/// What is done about a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SagaState {
    /// Its turn has not come.
    Waiting,
    /// It is in a phase.
    Running,
    /// It failed; the others go on.
    Parked,
    /// It is at its end.
    Done,
    /// Its row was deleted meanwhile.
    Gone,
}

impl SagaState {
    const ALL: [Self; 5] = [Self::Waiting, Self::Running, Self::Parked, Self::Done, Self::Gone];

    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Parked => "parked",
            Self::Done => "done",
            Self::Gone => "gone",
        }
    }

    /// The state that was stored so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// How many tenants of a run are in a phase and state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaCount {
    /// See [`SagaRow::phase`].
    pub phase: String,
    /// See [`SagaRow::state`].
    pub state: SagaState,
    /// How many.
    pub tenants: i64,
}
