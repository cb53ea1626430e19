//! Each vendor's client, against a stand-in that remembers and fails as the vendor does.

mod at_hand;
mod login;
mod neon;
mod upstash;
