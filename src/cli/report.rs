//! What `run` and `verify` answer, in the shape that both share.

use reseal::{
    rekey::{Outcome, RunKeys},
    store::{Tally, Target},
};
use serde_json::{Map, Value, json};

use super::stdio::{commas, duration};

/// The parts of the shared shape.
pub(super) struct Report<'a> {
    pub(super) command: &'a str,
    pub(super) run: Option<&'a str>,
    pub(super) outcome: Outcome,
    pub(super) target: &'a Target,
    pub(super) keys: &'a RunKeys,
    pub(super) scanned: i64,
    pub(super) values: Value,
    pub(super) conflicts: i64,
    pub(super) kms_calls: i64,
    pub(super) seconds: f64,
    /// What this process did of it.
    pub(super) rows_here: u64,
}

impl Report<'_> {
    pub(super) fn json(&self) -> Value {
        let columns = self.target.columns.iter().map(|column| &column.name).collect::<Vec<_>>();
        json!({
            "command": self.command,
            "run": self.run,
            "outcome": self.outcome,
            "target": {"table": self.target.name, "columns": columns},
            "format": self.keys.format,
            "rows": {"scanned": self.scanned},
            "values": self.values,
            "conflicts": self.conflicts,
            "kms_calls": self.kms_calls,
            "seconds": round(self.seconds),
            "rows_per_second": round(self.rate()),
        })
    }

    /// Rows a second of this process.
    pub(super) fn rate(&self) -> f64 {
        let rows = f64::from(u32::try_from(self.rows_here).unwrap_or(u32::MAX));
        if self.seconds > 0.0 { rows / self.seconds } else { 0.0 }
    }

    /// How long it took, as a line.
    pub(super) fn pace(&self) -> String {
        format!(
            "{} KMS calls, {}, {:.0} rows/s here\n",
            commas(self.kms_calls),
            duration(self.seconds),
            self.rate()
        )
    }
}

/// To a thousandth.
fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// The counters of a run's cells, which add up.
pub(super) fn values(tally: &Tally) -> Value {
    json!({
        "rekeyed": tally.rekeyed,
        "current": tally.current,
        "null": tally.empty,
        "quarantined": tally.quarantined,
        "vanished": tally.vanished,
        "total": tally.total,
    })
}

/// The same in words.
pub(super) fn values_in_words(tally: &Tally) -> String {
    counts(&[
        (tally.rekeyed, "re-keyed"),
        (tally.current, "under the new key already"),
        (tally.empty, "empty (NULL or of zero length)"),
        (tally.quarantined, "put in quarantine"),
        (tally.vanished, "gone with their row"),
        (tally.total, "in all"),
    ])
}

/// Numbers and what they count, a line each.
pub(super) fn counts<T: AsRef<str>>(lines: &[(i64, T)]) -> String {
    let width = lines.iter().map(|(number, _)| commas(*number).len()).max().unwrap_or_default();
    lines.iter().map(|(number, what)| format!("  {:>width$}  {}\n", commas(*number), what.as_ref())).collect()
}

/// An object of counts by name.
pub(super) fn by_name<T: ToString>(counts: impl IntoIterator<Item = (T, i64)>) -> Value {
    Value::Object(
        counts.into_iter().map(|(name, count)| (name.to_string(), count.into())).collect::<Map<_, _>>(),
    )
}
