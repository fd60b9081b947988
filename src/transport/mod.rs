//! What lies between an accepted socket and the gRPC server.
pub mod authority;
pub mod crowd;
mod hpack;
mod huffman;
pub mod io;
pub mod movable;
pub mod peer;

pub use authority::AuthorityFix;
