//! What the workers of a process go by from batch to batch: what it was started with, what was ordered since, and what
//! the database can bear.

use std::num::NonZero;

use super::Waiting;
use crate::{
    rekey::Options,
    store::{Orders, Paused},
};

/// Read by every worker before each batch. Sent anew when it changes, so that who waits hears of it at once.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Directions {
    /// Finish the batch, give the shard back, and wait.
    pub(super) paused: Option<Paused>,
    /// Workers with a higher number finish their batch and end.
    pub(super) workers: usize,
    /// Rows a batch, at most; never more than a second lets through, or they would all be written at once.
    pub(super) batch: usize,
    /// Rows a second, of the whole process.
    pub(super) rate: Option<NonZero<u32>>,
    /// Write nothing for now, and why.
    pub(super) hold: Option<Waiting>,
}

impl Directions {
    /// As the options have it where nothing was ordered.
    pub(super) fn new(options: &Options, orders: &Orders) -> Self {
        let size = |order: Option<NonZero<u32>>| order.and_then(|order| usize::try_from(order.get()).ok());
        let rate = match orders.rate {
            Some(rate) => rate.limit(),
            None => options.max_rows_per_second.and_then(NonZero::new),
        };
        let batch = size(orders.batch).unwrap_or(options.batch.max(1));
        Self {
            paused: orders.paused.clone(),
            workers: size(orders.workers).unwrap_or(options.workers.max(1)),
            batch: size(rate).map_or(batch, |rate| batch.min(rate)),
            rate,
            hold: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RowRate;

    #[test]
    fn an_order_goes_before_what_the_process_was_started_with() {
        let options = Options { workers: 3, batch: 50, max_rows_per_second: Some(90), ..Options::default() };
        let started = Directions::new(&options, &Orders::default());
        assert_eq!((started.workers, started.batch, started.rate), (3, 50, NonZero::new(90)));
        let orders = Orders {
            rate: Some(RowRate::Unlimited),
            batch: NonZero::new(7),
            workers: NonZero::new(1),
            paused: None,
        };
        let ordered = Directions::new(&options, &orders);
        assert_eq!((ordered.workers, ordered.batch, ordered.rate), (1, 7, None));
    }

    #[test]
    fn a_batch_is_no_larger_than_what_a_second_lets_through() {
        let options = Options { batch: 1000, max_rows_per_second: Some(10), ..Options::default() };
        assert_eq!(Directions::new(&options, &Orders::default()).batch, 10);
        let unlimited = Orders { rate: Some(RowRate::Unlimited), ..Orders::default() };
        assert_eq!(Directions::new(&options, &unlimited).batch, 1000);
    }
}
