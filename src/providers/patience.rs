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
    /// Looks until there is something to see. It looks at least once, and a last time at the deadline.
    ///
    /// # Errors
    /// The first error of `ask`. A deadline that passed is none: it gives `None`.
    pub async fn until<T, E>(
        &self,
        mut ask: impl AsyncFnMut() -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        let mut wait = self.begin();
        loop {
            if let Some(seen) = ask().await? {
                return Ok(Some(seen));
            }
            if !wait.pause().await {
                return Ok(None);
            }
        }
    }

    /// The same for a loop that looks by itself: in a future that moves between threads, an `async` closure that
    /// borrows is refused by the compiler (rust-lang/rust#110338).
    pub fn begin(&self) -> Wait {
        Wait { patience: *self, begun: Instant::now() }
    }
}

/// A wait that has begun.
#[derive(Debug)]
pub struct Wait {
    patience: Patience,
    begun: Instant,
}

impl Wait {
    /// Pauses before another look; `false` if the last one was at or after the deadline.
    pub async fn pause(&mut self) -> bool {
        let left = self.patience.at_most.saturating_sub(self.begun.elapsed());
        if !left.is_zero() {
            sleep(self.patience.every.min(left)).await;
        }
        !left.is_zero()
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
