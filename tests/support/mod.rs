//! What the tests stand on: the real thing where it can run here, a stateful stand-in where it can't.

pub(crate) mod fault_proxy;
pub(crate) mod moto;
