//! Every limit of the engine in one place. All memory is bounded by these; nothing grows without one.

/// Payload is stored in chunks of this many bytes (one page).
pub const CHUNK_BYTES: usize = 4096;

/// The arena is handed to tables in extents of this many bytes.
pub const EXTENT_BYTES: usize = 64 * 1024;

/// Extents in the largest arena: 1 GiB.
pub const MAX_EXTENTS: usize = 16 * 1024;

/// Payload chunks at most: 768 MiB.
pub const MAX_CHUNKS: usize = 192 * 1024;

/// A stream buffer holds at most this many chunks: 8 MiB. Linux's `tcp_rmem[2]` may be larger; the receive window of this
/// stack never is.
pub const STREAM_CHUNKS: usize = 2048;

/// Sockets (the objects that descriptors name) in one arena.
pub const MAX_SOCKETS: usize = 128 * 1024;

/// Connections in one arena, those in TIME-WAIT included.
pub const MAX_CONNECTIONS: usize = 128 * 1024;

/// Request sockets (SYN-RECEIVED, passive) over all listeners; each listener is bound by its backlog first.
pub const MAX_REQUESTS: usize = 64 * 1024;

/// Timers: one for each connection and request.
pub const MAX_TIMERS: usize = MAX_CONNECTIONS + MAX_REQUESTS;

/// Threads asleep in a blocking call or in a wait for readiness, over all processes of the family.
pub const MAX_WAITERS: usize = 8192;

/// Links from a sleeping thread to the sockets it waits for.
pub const MAX_WAIT_LINKS: usize = 256 * 1024;

/// epoll sets that hold at least one engine socket.
pub const MAX_EPOLL_SETS: usize = 4096;

/// Registrations of engine sockets in epoll sets.
pub const MAX_EPOLL_ITEMS: usize = 256 * 1024;

/// Ports that are guarded at once: listeners' and clients'.
pub const MAX_PORTS: usize = 32 * 1024;

/// Notes of which process holds what: one for each socket, epoll set or port and process.
pub const MAX_HOLDS: usize = 512 * 1024;

/// Processes of one family that are counted.
pub const MAX_PROCESSES: usize = 1024;

/// Pairs of addresses whose Fast Open cookie is remembered, and how many of them share a place.
pub const FAST_OPEN_PEERS: usize = 1024;
pub const FAST_OPEN_WAYS: usize = 4;

/// Entries of error queues that are not read yet, those included that wait to be queued.
pub const MAX_NOTES: usize = 64 * 1024;

/// Network interfaces known at once.
pub const MAX_INTERFACES: usize = 64;

/// Local addresses known at once.
pub const MAX_LOCAL_ADDRS: usize = 512;

/// Parts of a connection's flight that are told apart: by when they were sent, and by what has become of them.
pub const FLIGHT_SPANS: usize = 64;

/// Ranges of out-of-order bytes held, per connection.
pub const REORDER_RANGES: usize = 64;

/// Ranges received out of order that no SACK block has named yet: what one turn of the engine may bring. Of more than these,
/// the lowest are named.
pub const UNREPORTED_RANGES: usize = 32;

/// The largest IP packet that the device hands over or takes.
pub const MAX_PACKET_BYTES: usize = 65_536 + 40;
