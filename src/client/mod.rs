//! F5/F6: the client.
pub mod core;
