//! Where sessions are held. `memory` is one machine's; each store answers the
//! port `app::ports::SessionStore`.

mod agenda;
pub mod ended;
pub mod memory;
mod table;
