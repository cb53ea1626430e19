//! `GITHUB_TOKEN`: rotates itself.

use super::contacts;
use crate::rotation::{
    SecretName,
    recipe::{Recipe, Rollout},
};

pub(super) static RECIPE: Recipe = Recipe {
    secret: SecretName::GithubToken,
    purpose: "Pushes the platform image to GHCR from a workflow run.",
    kept: &["built into each workflow run by GitHub"],
    coupled: None,
    blast_radius: "The run that holds it.",
    half_done: "It can't be: GitHub makes one for each run, and it ends with the run.",
    watch: None,
    contacts: &[contacts::GHCR],
    max_age_days: None,
    rollout: Rollout::Deploy,
    by_hand: "",
    strategies: &[],
};
