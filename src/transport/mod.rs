//! What lies between an accepted socket and the gRPC server.
pub mod account;
pub mod authority;
pub mod crowd;
pub mod farewell;
mod hpack;
mod huffman;
pub mod io;
pub mod movable;
pub mod patience;
pub mod peer;
pub mod turn;

pub use authority::AuthorityFix;
