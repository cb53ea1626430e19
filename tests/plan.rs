//! What a plan says is so, and it changes nothing.

mod elsewhere;
