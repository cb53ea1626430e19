//! What a plan says is so, and it changes nothing.

mod digest;
mod elsewhere;
mod estimate;
mod permissions;
mod repeats;
mod surroundings;
mod words;
