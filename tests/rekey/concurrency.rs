//! Writers at work during a run.
