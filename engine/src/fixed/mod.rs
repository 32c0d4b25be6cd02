//! Containers for the arena. They know nothing of TCP.
//!
//! Everything that lives in the arena is plain data: no pointer, reference, `Box`, `Vec`, `dyn` or function pointer, because
//! each process of a family maps the arena somewhere else and another build of the library must never follow an address
//! of this one. All-zero bytes are an empty container, so a fresh mapping needs no set-up. [`Item`] is the bound that
//! says so.

pub mod hash;
pub mod id;
pub mod list;
pub mod memory;
pub mod pool;
pub mod ranges;
pub mod stream;
pub mod table;
pub mod wheel;

pub use hash::Index;
pub use id::Id;
pub use list::{Links, List};
pub use memory::{Memory, Shared};
pub use pool::{ChunkId, Pool};
pub use ranges::RangeSet;
pub use stream::StreamBuf;
pub use table::{Table, TableState};
pub use wheel::{TimerId, TimerKey, Wheel};

/// What may be stored in the arena: plain data, valid when all its bytes are zero. `Send` keeps raw pointers out,
/// `'static` keeps references out.
pub trait Item: bytemuck::Zeroable + Send + 'static {}
impl<T: bytemuck::Zeroable + Send + 'static> Item for T {}
