//! What each boundary of the engine is in the model. The match is total: a boundary that is added there is looked for
//! here, by the compiler.

use std::collections::BTreeSet;

use reseal::rekey::Step as Boundary;

use super::{Model, WRITERS};

/// The name of the boundary's step; `None` for one that changes nothing the protocol rests on.
fn step_of(boundary: Boundary) -> Option<&'static str> {
    match boundary {
        Boundary::CreateRun => Some("StartRun"),
        Boundary::Claim => Some("Claim"),
        Boundary::ReadPage => Some("ReadPage"),
        Boundary::Commit => Some("CommitBatch"),
        Boundary::SettleConflicts => Some("SettleConflicts"),
        Boundary::DeferRow => Some("PassOverLocked"),
        Boundary::Tally => Some("JudgeSweep"),
        Boundary::NextSweep | Boundary::MoveRun => Some("EndSweep"),
        Boundary::RaiseFence => Some("FenceEnforce"),
        Boundary::BeginVerify | Boundary::Snapshot => Some("VerifySnapshot"),
        Boundary::EndVerify => Some("VerifyRecord"),
        Boundary::Retire => Some("Retire"),
        // A swap of staged values is one transaction that keeps every writer out.
        Boundary::OpenStaging
        | Boundary::ReadUnstaged
        | Boundary::Stage
        | Boundary::BeginSwap
        | Boundary::ReadChanged
        | Boundary::FinishSwap
        | Boundary::ClearStaged
        | Boundary::CloseStaging => None,
        // Before there is a run. Its data key is stored by CreateRun.
        Boundary::ReadRegistry
        | Boundary::UnwrapDataKey
        | Boundary::MakeDataKey
        | Boundary::ReadFence
        | Boundary::FindRun
        | Boundary::Sample
        | Boundary::Register
        | Boundary::Split => None,
        // A look at the run's row, which the next step's condition takes again.
        Boundary::ReadRun => None,
        // What a process says of itself, for those who watch.
        Boundary::Beat | Boundary::Leave => None,
        // Nobody sees a sealing before its batch is committed.
        Boundary::Reseal | Boundary::UnwrapValueKey | Boundary::MakeValueKey | Boundary::Fingerprint => None,
        // Time is not modelled: a lease that is given back is one that ran out.
        Boundary::Renew | Boundary::Release => None,
        // Quarantine is not modelled. A value that opens in the end is swapped by comparison, as any other.
        Boundary::CloseQuarantine
        | Boundary::ReadQuarantine
        | Boundary::ReadRow
        | Boundary::SettleQuarantined => None,
    }
}

#[test]
fn every_step_of_the_engine_is_one_of_the_models() {
    let state = &WRITERS.init_states()[0];
    let name = |step| format!("{step:?}").split(' ').next().unwrap().to_owned();
    let in_the_model: BTreeSet<String> = WRITERS.every_step(state).into_iter().map(name).collect();
    let of_the_engine: BTreeSet<String> =
        Boundary::ALL.iter().filter_map(|&boundary| step_of(boundary)).map(str::to_owned).collect();
    assert!(of_the_engine.is_subset(&in_the_model), "{of_the_engine:?}");
    let of_others: Vec<_> = in_the_model.difference(&of_the_engine).map(String::as_str).collect();
    assert_eq!(
        of_others,
        [
            "Crash",
            "FenceOff",
            "LeaseRunsOut",
            "NewKeyWrites",
            "OtherHalf",
            "StaleCommits",
            "StaleReads",
            "StaleSaves",
            "StaleWrites"
        ]
    );
}
