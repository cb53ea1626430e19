//! How a sweep is shared out.
//!
//! The first goes through the table as it lies in its file: every block is read once, and once it was re-sealed nobody
//! comes back to it. A walk over random keys meets each block as often as it has rows, and its writes scatter; in a
//! table larger than memory every row is then a read of its own. What moved meanwhile is for the later sweeps, which
//! go by key, so that every row is met whatever moves.

use crate::{
    rekey::Job,
    store::{KeyRange, RowKey, Span, StoreError, Stretch},
};

/// Rows a shard, about: somewhat fewer than a page holds, since every page of a stretch reads all of its blocks. Where
/// more than two workers share the memory for pages, fewer.
const SHARD_ROWS: u64 = 7_000;

/// Ranges of keys a sweep, at most: they may be larger than a shard, since a page reads nothing of its range but its rows.
const MOST_RANGES: u64 = 256;

/// The shards of a first sweep.
#[derive(Debug)]
pub(super) struct Shares {
    pub(super) spans: Vec<Span>,
    /// See [`RunRow::horizon`](crate::store::RunRow::horizon).
    pub(super) horizon: Option<i64>,
}

/// How many rows there are, and how the first sweep shares them out.
pub(super) async fn first_sweep(job: &Job) -> Result<(u64, Shares), StoreError> {
    // First: what is written after it lies behind its horizon.
    let whole = job.store.whole(&job.target).await?;
    let rows = job.store.count_rows(&job.target).await?;
    let shares = match whole {
        Some(whole) => Shares { spans: stretches(&whole, parts(job, rows)), horizon: Some(whole.before) },
        None => Shares { spans: key_ranges(job, rows).await?, horizon: None },
    };
    Ok((rows, shares))
}

/// How the next sweep shares the rows out, of which the run began with so many: it looks at none that shows the new key,
/// which one worker is soon through with; or at all.
pub(super) async fn later_sweep(job: &Job, rows: i64) -> Result<Vec<Span>, StoreError> {
    if job.mark_of_the_settled().is_some() {
        return Ok(vec![Span::ALL]);
    }
    key_ranges(job, u64::try_from(rows).unwrap_or_default()).await
}

fn parts(job: &Job, rows: u64) -> u64 {
    let workers = u64::try_from(job.options.workers).unwrap_or(1).max(1);
    let shard = (2 * SHARD_ROWS / workers).clamp(1000, SHARD_ROWS);
    (rows / shard).max(workers.min(rows / 1000)).max(1)
}

async fn key_ranges(job: &Job, rows: u64) -> Result<Vec<Span>, StoreError> {
    let parts = parts(job, rows).min(MOST_RANGES);
    Ok(between(job.store.split_points(&job.target, rows, parts).await?))
}

/// Ranges between these points, the first and the last without bound, so that every key is in exactly one.
fn between(points: Vec<RowKey>) -> Vec<Span> {
    let mut spans = Vec::with_capacity(points.len() + 1);
    let mut lo = None;
    for point in points {
        spans.push(Span::Keys(KeyRange { lo: lo.replace(point.clone()), hi: Some(point) }));
    }
    spans.push(Span::Keys(KeyRange { lo, hi: None }));
    spans
}

/// At most `parts` stretches of the same length, which cover the whole.
fn stretches(whole: &Stretch, parts: u64) -> Vec<Span> {
    let (from, to) = (i128::from(whole.from), i128::from(whole.to));
    let length = ((to - from + i128::from(parts) - 1) / i128::from(parts)).max(1);
    let cut = |part: u64| i64::try_from((from + i128::from(part) * length).min(to)).unwrap_or(i64::MAX);
    let stretch = |part| Stretch { from: cut(part), to: cut(part + 1), ..*whole };
    let stretches = (0..parts).map(stretch);
    let mut spans: Vec<Span> =
        stretches.filter(|stretch| stretch.from < stretch.to).map(Span::Table).collect();
    if spans.is_empty() {
        // A sweep has at least one shard: by it is known that it is over.
        spans.push(Span::Table(*whole));
    }
    spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stretches_cover_the_table_once(from in any::<i64>(), length in 0_i64.., parts in 1_u64..500) {
            let to = from.saturating_add(length);
            let spans = stretches(&Stretch { from, to, before: 7 }, parts);
            prop_assert!(!spans.is_empty() && spans.len() as u64 <= parts);
            let mut end = from;
            for span in &spans {
                let Span::Table(stretch) = span else { panic!("a stretch") };
                prop_assert_eq!((stretch.from, stretch.before), (end, 7));
                prop_assert!(stretch.to > stretch.from || length == 0);
                end = stretch.to;
            }
            prop_assert_eq!(end, to);
        }
    }
}
