//! The value formats: bytes in, bytes out. No I/O, no async, no clock.
