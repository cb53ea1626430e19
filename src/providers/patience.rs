//! How long an observed state is waited for.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often to look, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The pause between two looks.
    pub every: Duration,
    /// When to give up, from the first look.
    pub at_most: Duration,
}

impl Patience {
    /// Begins to wait, for code that looks in a loop of its own.
    pub fn begin(&self) -> Waiting {
        Waiting { patience: *self, begun: Instant::now() }
    }

    /// Looks until there is something to see. It looks at least once, and a last time at the deadline.
    ///
    /// A closure that borrows makes a future here that the compiler can't see to be `Send` (its diagnostic says "not
    /// general enough"); what is to be spawned looks in a loop, between [`begin`](Self::begin) and [`again`](Waiting::again).
    ///
    /// # Errors
    /// The first error of `ask`. A deadline that passed is none: it gives `None`.
    pub async fn until<T, E>(
        &self,
        mut ask: impl AsyncFnMut() -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        let waiting = self.begin();
        loop {
            if let Some(seen) = ask().await? {
                return Ok(Some(seen));
            }
            if !waiting.again().await {
                return Ok(None);
            }
        }
    }
}

/// A wait that is under way.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    patience: Patience,
    begun: Instant,
}

impl Waiting {
    /// Pauses until the next look is due, the last one at the deadline; `false`, at once, when that has passed.
    pub async fn again(&self) -> bool {
        let left = self.patience.at_most.saturating_sub(self.begun.elapsed());
        if left.is_zero() {
            return false;
        }
        sleep(self.patience.every.min(left)).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { every: Duration::from_millis(2), at_most: Duration::from_millis(20) };

    #[tokio::test]
    async fn it_looks_until_there_is_something_or_the_time_is_over() {
        let mut looks = 0;
        let third = PATIENCE
            .until(async || {
                looks += 1;
                Ok::<_, ()>((looks == 3).then_some("seen"))
            })
            .await;
        assert_eq!((third, looks), (Ok(Some("seen")), 3));

        let begun = Instant::now();
        assert_eq!(PATIENCE.until(async || Ok::<Option<()>, ()>(None)).await, Ok(None));
        assert!(begun.elapsed() >= PATIENCE.at_most);
        assert_eq!(PATIENCE.until(async || Err::<Option<()>, _>("no")).await, Err("no"));
    }

    #[tokio::test]
    async fn without_time_it_looks_once() {
        let mut looks = 0;
        let now = Patience { every: Duration::ZERO, at_most: Duration::ZERO };
        let seen = now
            .until(async || {
                looks += 1;
                Ok::<Option<()>, ()>(None)
            })
            .await;
        assert_eq!((seen, looks), (Ok(None), 1));
    }
}
