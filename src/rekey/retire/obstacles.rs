//! The preconditions of a retirement: what does not hold, what would make it hold, and by which name it is waived.

use super::{OldKey, OldKind, Standing, refused};
use crate::{
    envelope::Format,
    rekey::{Elsewhere, RetireError},
    store::{DataKeyState, FenceMode, OtherColumn, RunState, Standby, Store, Target},
};

/// Failing cells that are named, at most.
const NAMED: usize = 5;

/// A precondition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What does not hold.
    pub what: String,
    /// The target that it is about.
    pub target: Target,
    /// What would make it hold.
    pub remedy: Remedy,
    /// The name that waives it, for what a person can know better.
    pub waiver: Option<String>,
}

/// What would make a precondition hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Start a run from the key that is to go, or go on with the open one.
    Run,
    /// Start a run of v3 to a new data key.
    NewDataKey,
    /// Put the fence up, or up anew.
    Fence,
    /// See who writes under another key, give those programs the new one, and waive it.
    Holders,
    /// Verify.
    Verify,
    /// Mend and retry what is in quarantine.
    Quarantine,
    /// Wrap the data keys under another KMS key.
    Rewrap,
    /// Make the column a target too, or see that its values are nobody's.
    Column(OtherColumn),
    /// The same command again, later.
    Later,
    /// The same command again, with this typed back.
    Confirm(String),
}

/// Whose preconditions are looked at.
pub(super) struct Subject<'a> {
    key: &'a OldKey,
    /// Whether the target is the one that the operator named: the others' waivers have its name in them.
    is_named: bool,
}

impl<'a> Subject<'a> {
    pub(super) fn new(key: &'a OldKey, is_named: bool) -> Self {
        Self { key, is_named }
    }

    fn waiver(&self, target: &str, what: &str) -> Option<String> {
        Some(if self.is_named { what.to_owned() } else { format!("{target}:{what}") })
    }
}

/// What one target stands in the way with.
pub(super) fn of_target(standing: &Standing, subject: &Subject<'_>) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    let (name, run, keys) = (&standing.target.name, &standing.run, &standing.keys);
    let mut add = |what: String, remedy, waiver: Option<String>| {
        obstacles.push(Obstacle { what, target: standing.target.clone(), remedy, waiver });
    };
    match run.state {
        RunState::Running | RunState::Paused => {
            add(format!("run {} of {name} is open ({})", run.run_id, run.state.as_str()), Remedy::Run, None);
        }
        RunState::Chased | RunState::Failed => {
            let what = format!("the latest run of {name}, {}, ended {}", run.run_id, run.state.as_str());
            add(what, Remedy::Run, None);
        }
        RunState::Complete | RunState::Quarantined => {}
    }
    if keys.new == subject.key.name {
        add(format!("the latest run of {name} was to {}, not from it", keys.new), Remedy::Run, None);
        return obstacles;
    }
    if standing.has_fences() && standing.standing_fence().is_none() {
        add(fence_in_words(standing), Remedy::Fence, subject.waiver(name, "fence"));
    }
    let sees_all = match keys.format {
        Format::V1 => false,
        Format::V2 => matches!(subject.key.kind, OldKind::Data(_)),
        Format::V3 => true,
    };
    if !sees_all {
        let what = format!(
            "no fence can show that nobody writes {name} under {} any more: {}",
            subject.key.name,
            match keys.format {
                Format::V1 => "nothing in a v1 value says which key it is under",
                Format::V2 | Format::V3 => "of v2 it sees the form, and of the key nothing",
            }
        );
        add(what, Remedy::Holders, subject.waiver(name, "holders"));
    }
    if let Some((what, remedy)) = verification_in_words(standing) {
        add(what, remedy, None);
    }
    for cell in &standing.quarantined {
        let what = format!(
            "row {}, column {} of {name} is in quarantine ({})",
            cell.row_key, cell.column, cell.reason
        );
        let waiver = format!("quarantine:{}/{}", cell.row_key, cell.column);
        add(what, Remedy::Quarantine, subject.waiver(name, &waiver));
    }
    let more = standing.held.saturating_sub(u64::try_from(standing.quarantined.len()).unwrap_or(u64::MAX));
    if more > 0 {
        add(format!("{more} more cells of {name} are in quarantine"), Remedy::Quarantine, None);
    }
    obstacles
}

fn fence_in_words(standing: &Standing) -> String {
    let name = &standing.target.name;
    match &standing.fence {
        None => format!("there is no fence on {name}"),
        Some(fence) if fence.mode == FenceMode::Observe => format!("the fence of {name} only observes"),
        Some(fence) if !fence.is_intact() => {
            format!("the fence of {name} is not as it was put up: {}", fence.drift.join(", "))
        }
        Some(fence) => {
            format!(
                "the fence of {name} takes {}, and its latest run was to {}",
                fence.rule, standing.keys.new
            )
        }
    }
}

/// What is wrong with the latest verify, if anything. What failed it and is in quarantine is told there.
pub(super) fn verification_in_words(standing: &Standing) -> Option<(String, Remedy)> {
    let (name, run) = (&standing.target.name, &standing.run.run_id);
    let Some(latest) = &standing.verification else {
        return Some((format!("no verify of {name} is on record"), Remedy::Verify));
    };
    let Some(sound) = standing.sound_verification() else {
        let what = match () {
            () if !latest.is_of(&standing.run) => {
                format!("the latest verify of {name} is older than its latest run, {run}")
            }
            () if !latest.is_whole() => format!("the latest verify of {name} did not see every cell"),
            () if latest.format != standing.keys.format.to_string()
                || latest.new_key != standing.keys.new =>
            {
                format!(
                    "the latest verify of {name} was for {} under {}, and its latest run was to {} under {}",
                    latest.format, latest.new_key, standing.keys.format, standing.keys.new
                )
            }
            () => format!("the latest verify of {name} was not made behind the fence that is up"),
        };
        return Some((what, Remedy::Verify));
    };
    let (count, cells) = standing.unexplained(sound);
    if count == 0 {
        return None;
    }
    let cells =
        cells.take(NAMED).map(|cell| format!("row {}, column {}: {}", cell.row, cell.column, cell.reason));
    let cells = cells.collect::<Vec<_>>().join("; ");
    let what = format!("{} values of {name} failed the latest verify ({cells})", count);
    Some((what, Remedy::Run))
}

/// What the registry says of the key.
///
/// # Errors
/// Refused: a data key that is destroyed, or of another target.
pub(super) async fn of_the_key(
    store: &dyn Store,
    key: &OldKey,
    target: &Target,
) -> Result<Vec<Obstacle>, RetireError> {
    let obstacle = |what, remedy| Obstacle { what, target: target.clone(), remedy, waiver: None };
    let known = store.data_keys(None).await?;
    match &key.kind {
        OldKind::Static(_) => Ok(Vec::new()),
        OldKind::Data(key_id) => match known.iter().find(|known| known.key_id == *key_id.as_bytes()) {
            Some(known) if known.state == DataKeyState::Active => {
                let what =
                    format!("{} is the active data key of {}: it seals values", key.name, known.purpose);
                Ok(vec![obstacle(what, Remedy::NewDataKey)])
            }
            Some(known) if known.state == DataKeyState::Destroyed => {
                Err(refused(format!("{} is destroyed already", key.name), "reseal keys list"))
            }
            _ => Ok(Vec::new()),
        },
        OldKind::Kms => {
            let wrapped = known.iter().filter(|known| known.kms == key.name && known.state.opens());
            let obstacles = wrapped.map(|known| {
                let id = hex::encode(known.key_id);
                let what =
                    format!("it wraps data key {id} of {}, which is {}", known.purpose, known.state.as_str());
                obstacle(what, Remedy::Rewrap)
            });
            Ok(obstacles.collect())
        }
    }
}

/// Standbys that may still have a value under the key, and take over with it.
pub(super) fn of_standbys(target: &Target, standbys: &[Standby]) -> Vec<Obstacle> {
    let behind = standbys.iter().filter(|standby| standby.is_caught_up != Some(true));
    let obstacle = |standby: &Standby| Obstacle {
        what: match standby.is_caught_up {
            Some(_) => format!("standby {} has not flushed what the verify saw", standby.name),
            None => format!(
                "how far standby {} has flushed can't be seen: the role needs pg_monitor",
                standby.name
            ),
        },
        target: target.clone(),
        remedy: Remedy::Later,
        waiver: Some(format!("standby:{}", standby.name)),
    };
    behind.map(obstacle).collect()
}

/// A data key can be active and drain without any run; who wrote under it is not known then.
pub(super) fn without_run(target: &Target) -> Obstacle {
    let what = format!("there was no run of {}", target.name);
    Obstacle { what, target: target.clone(), remedy: Remedy::Run, waiver: None }
}

/// Columns that hold values under the key, and those that could not be looked at.
pub(super) fn of_columns(target: &Target, elsewhere: &Elsewhere) -> Vec<Obstacle> {
    let obstacle = |column: &OtherColumn, what: String| {
        let name = format!("{}.{}.{}", column.schema, column.table, column.column);
        Obstacle {
            what: format!("{name} {what}"),
            target: target.clone(),
            remedy: Remedy::Column(column.clone()),
            waiver: Some(format!("column:{name}")),
        }
    };
    let holders = elsewhere.holders.iter().map(|holder| {
        let (schema, table) = (holder.schema.clone(), holder.table.clone());
        let column = OtherColumn { schema, table, column: holder.column.clone() };
        obstacle(&column, format!("holds values under it: {} of {} sampled", holder.opened, holder.sampled))
    });
    let unread = elsewhere.unread.iter();
    let unread = unread.map(|column| {
        obstacle(column, "could not be read: whether it holds values under it is unknown".to_owned())
    });
    holders.chain(unread).collect()
}
