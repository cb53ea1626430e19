//! Holding back: state machines that have their clock and what they look at as arguments, and do nothing themselves.
//! [`attend`](super::attend) feeds them; the workers heed what comes of it.

mod courtesy;
mod lag;
mod pace;

pub(in crate::rekey::engine) use courtesy::Courtesy;
pub(in crate::rekey::engine) use lag::Lag;
pub(in crate::rekey::engine) use pace::Pace;
