//! `DATABASE_URL` of the control plane.

use super::{DEPLOY, HEALTH, await_death, contacts, prove, revoke, write_fly};
use crate::rotation::{
    SecretName,
    recipe::{Action, Authority, Check, IssuerName, Overlap, ProbeName, Recipe, Rollout, Step, Strategy},
};

const ELSEWHERE: Step = Step {
    name: "journal-elsewhere",
    action: Action::Check(Check::JournalIsElsewhere),
    text: "Check that the journal is not in the database whose password changes: it must outlive the change.",
    calls: "-",
    by: Authority::Nobody,
    seconds: 0,
};

const READABLE: Step = Step {
    name: "passwords-readable",
    action: Action::Check(Check::PasswordsCanBeRead),
    text: "Check that the project stores passwords: a reset whose reply is lost is then read again. And that the old URL leads \
           to its default branch, where the reset is made.",
    calls: "GET /projects/{project}, …/branches, …/branches/{branch}/endpoints",
    by: Authority::NeonToken,
    seconds: 1,
};

const LOGIN: Step =
    prove(ProbeName::PostgresLogin, "Log in with the new URL, and SELECT 1.", "a login, SELECT 1");

const REFUSED: Step =
    await_death(ProbeName::PostgresLogin, "Log in with the old URL until it is refused (28P01).", "a login");

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::DatabaseUrl,
    purpose: "The control plane's own Postgres: project molecule-cp (cool-sea-89357706) on Neon, whose endpoint does \
              not change.",
    kept: &["Fly secret of the control plane"],
    coupled: None,
    blast_radius: "The control plane is down: no sign-up, no billing, no change of a tenant. Tenants that run go on \
                   running.",
    half_done: "After a reset, every machine that was not restarted is without its database.",
    watch: None,
    contacts: &[contacts::NEON],
    max_age_days: None,
    rollout: Rollout::Deploy,
    by_hand: include_str!("by_hand/database_url.sh"),
    strategies: &[
        Strategy {
            name: "reset",
            when: "The password leaked or Neon forces a move, and there is one role only. Between the reset and the last restarted machine \
                   the control plane has no database: about a minute.",
            overlap: Overlap::None,
            steps: &[
                ELSEWHERE,
                READABLE,
                Step {
                    name: "reset",
                    action: Action::Mint(IssuerName::NeonRole),
                    text: "Reset the role's password and wait until Neon has applied it. The old password is dead from \
                           then on, and connections are dropped.",
                    calls: "POST roles/{role}/reset_password, GET operations/{id}, GET connection_uri",
                    by: Authority::NeonToken,
                    seconds: 15,
                },
                LOGIN,
                write_fly("DATABASE_URL"),
                DEPLOY,
                HEALTH,
                REFUSED,
            ],
        },
        Strategy {
            name: "alternate",
            when: "Two roles exist, NAME_a and NAME_b, both members of the owner: the idle one gets a fresh password \
                   and takes over, and nothing is down.",
            overlap: Overlap::UntilRevoked,
            steps: &[
                ELSEWHERE,
                READABLE,
                Step {
                    name: "other-role",
                    action: Action::Check(Check::OtherRole),
                    text: "Check that the other role of the pair exists.",
                    calls: "GET branches/{branch}/roles",
                    by: Authority::NeonToken,
                    seconds: 1,
                },
                Step {
                    name: "reset-idle",
                    action: Action::Mint(IssuerName::NeonOtherRole),
                    text: "Reset the idle role's password and wait until Neon has applied it.",
                    calls: "POST roles/{other role}/reset_password, GET operations/{id}, GET connection_uri",
                    by: Authority::NeonToken,
                    seconds: 15,
                },
                LOGIN,
                write_fly("DATABASE_URL"),
                DEPLOY,
                HEALTH,
                revoke(
                    IssuerName::NeonOtherRole,
                    Authority::NeonToken,
                    "Reset the old role's password and forget the answer.",
                    "POST roles/{role}/reset_password",
                ),
                REFUSED,
            ],
        },
    ],
};
