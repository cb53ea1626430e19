//! How large a batch may be while others wait for rows that batches hold.

/// Rows of a batch below which giving way further helps nobody: a commit takes about as long for fewer.
const FLOOR: usize = 10;

/// The most rows a batch may have: half of what it was whenever somebody is seen waiting, and a tenth of what was asked
/// for more whenever nobody is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::rekey::engine) struct Courtesy(Option<usize>);

impl Courtesy {
    /// One look: how many sessions wait for ours, which were asked to take `asked` rows a batch.
    pub(in crate::rekey::engine) fn look(self, waiting: u64, asked: usize) -> Self {
        let most = self.batch(asked);
        let most = if waiting > 0 { (most / 2).max(FLOOR) } else { most + (asked / 10).max(1) };
        Self((most < asked).then_some(most))
    }

    /// Whether it holds back at all.
    pub(in crate::rekey::engine) fn yields(self) -> bool {
        self.0.is_some()
    }

    /// The rows that a batch may have of the `asked` for.
    pub(in crate::rekey::engine) fn batch(self, asked: usize) -> usize {
        self.0.unwrap_or(asked).min(asked)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_batch_is_halved_for_those_who_wait_and_comes_back_when_nobody_does() {
        let mut courtesy = Courtesy::default();
        assert_eq!(courtesy.batch(1000), 1000);
        courtesy = courtesy.look(3, 1000).look(1, 1000);
        assert_eq!((courtesy.batch(1000), courtesy.batch(40)), (250, 40));
        for _ in 0..8 {
            courtesy = courtesy.look(0, 1000);
        }
        assert_eq!((courtesy.batch(1000), courtesy.yields()), (1000, false));
    }

    proptest! {
        #[test]
        fn never_more_than_asked_nor_nothing(looks in vec(0_u64..3, 0..50), asked in 1_usize..100_000) {
            let courtesy = looks.into_iter().fold(Courtesy::default(), |now, waiting| now.look(waiting, asked));
            let batch = courtesy.batch(asked);
            prop_assert!((1..=asked).contains(&batch));
            prop_assert!(courtesy.yields() == (batch < asked));
        }
    }
}
