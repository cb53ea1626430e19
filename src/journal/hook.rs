//! The boundaries of a step, where a process can die.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

/// Where a process is, between two things that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// The intent is journaled, and nothing was asked of a provider yet.
    BeforeCall,
    /// The provider has answered, and nothing is journaled of it yet.
    AfterCall,
    /// What became of it is journaled.
    AfterRecord,
}

type Observe = dyn Fn(&'static str, Moment) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// Awaited at every boundary of every step; [`Hook::default`] does nothing. What never ends holds the process there.
#[derive(Clone, Default)]
pub struct Hook(Option<Arc<Observe>>);

impl Hook {
    /// Awaits `observe`, which is told the step's name.
    pub fn new<F: Future<Output = ()> + Send + 'static>(
        observe: impl Fn(&'static str, Moment) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(move |step, moment| Box::pin(observe(step, moment)))))
    }

    pub(crate) async fn at(&self, step: &'static str, moment: Moment) {
        if let Some(observe) = &self.0 {
            observe(step, moment).await;
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hook(set)" } else { "Hook(none)" })
    }
}
