//! Each vendor's client, against a stand-in that remembers and fails as the vendor does.

mod control_plane;
mod resend;
mod stripe;
