//! Each vendor's client, against a stand-in that remembers and fails as the vendor does.

mod at_hand;
mod contract;
mod control_plane;
mod fly;
mod github;
mod http;
mod login;
mod neon;
mod resend;
mod stripe;
mod upstash;
