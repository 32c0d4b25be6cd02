//! After a death inside of the lock: everything is made again from the entries of the tables, which are whole or free. What was
//! in work is given up, and nothing else.

use super::connections::env;
use super::ready::Ready;
use super::transmit::ReplyQueue;
use super::{PortKind, Stack};
use crate::fixed::List;
use crate::fixed::list::Links;
use crate::tcp::{Env, State};
use crate::values::Instant;
use bytemuck::Zeroable;

impl Stack {
    /// The lock is held by somebody who begins: nothing is in work yet.
    pub fn work_begins(&mut self) {
        self.core.in_work = None;
    }

    /// Puts everything right after the lock's holder died inside: lists and indexes are made again from the entries.
    /// Sleeping threads are all woken to look for themselves. The connection that was in work is reset.
    pub fn repair(&mut self, now: Instant) {
        self.core.counters.inc(crate::values::Counter::LockRecovered);
        self.sockets.repair();
        self.conns.repair();
        self.requests.repair();
        self.ports.repair();
        self.waiters.repair();
        self.links.repair();
        self.sets.repair();
        self.items.repair();
        self.holds.repair();
        self.notes.repair();
        self.wheel.repair();
        self.rebuild_connections();
        self.rebuild_readiness();
        self.rebuild_notes();
        let owned: Vec<_> = self.conns.iter().flat_map(|(_, c)| c.tcb.owned_chunks(&self.pool)).collect();
        self.pool.repair(owned.into_iter());
        self.rebuild_ports();
        self.rebuild_holds(now);
        self.reset_broken(now);
    }

    fn rebuild_connections(&mut self) {
        let core = &mut *self.core;
        core.by_tuple.clear();
        core.by_request.clear();
        core.by_port.clear();
        core.by_cookie.clear();
        core.by_number.clear();
        for id in self.ports.ids().collect::<Vec<_>>() {
            self.ports[id].clear_chain();
            let number = self.ports[id].number();
            core.by_number.insert(&mut self.ports, u64::from(number), id);
        }
        core.output = List::default();
        core.time_waits = List::default();
        core.replies = ReplyQueue::zeroed();
        for id in self.sockets.ids().collect::<Vec<_>>() {
            let s = &mut self.sockets[id];
            s.cookie_chain = None;
            s.port_chain = None;
            s.accept_queue = List::default();
            s.syn_queue = 0;
            s.syn_young = 0;
            s.fast.len = 0;
            let (cookie, port) = (s.cookie, s.local.port);
            let listening = s.phase == super::SocketPhase::Listening;
            core.by_cookie.insert(&mut self.sockets, cookie, id);
            if listening {
                core.by_port.insert(&mut self.sockets, u64::from(port), id);
            }
        }
        for id in self.conns.ids().collect::<Vec<_>>() {
            let c = &mut self.conns[id];
            c.chain = None;
            c.accept_links = Default::default();
            c.output_links = Default::default();
            c.time_wait_links = Default::default();
            if let Some(timer) = c.timer.take() {
                self.wheel.cancel(timer);
            }
            c.timer_at = Instant::ZERO;
            let (indexed, listener, fast_queue) = (c.indexed, c.listener, c.fast_queue);
            let hash = core.key.of_tuple(&c.tuple, 0);
            if indexed {
                core.by_tuple.insert(&mut self.conns, hash, id);
            }
            if let Some(listener) = listener.and_then(|l| self.sockets.get_mut(l)) {
                listener.accept_queue.push_back(&mut self.conns, id);
            }
            if let Some(listener) = fast_queue.and_then(|l| self.sockets.get_mut(l)) {
                listener.fast.len += 1;
            }
            core.output.push_back(&mut self.conns, id);
            if self.conns[id].tcb.state() == State::TimeWait {
                core.time_waits.push_back(&mut self.conns, id);
            }
        }
        // Half-open handshakes are forgotten: the peer's SYN or ACK comes again.
        for id in self.requests.ids().collect::<Vec<_>>() {
            if let Some(timer) = self.requests[id].timer {
                self.wheel.cancel(timer);
            }
            self.requests.remove(id);
        }
    }

    /// After the lock's holder died: the counts made again from those who use the ports.
    pub(super) fn rebuild_ports(&mut self) {
        for id in self.ports.ids().collect::<Vec<_>>() {
            let p = &mut self.ports[id];
            (p.refs, p.strict) = (0, 0);
        }
        let sockets = self.sockets.iter().filter_map(|(_, s)| Some((s.port?, s.options.reuse_addr)));
        let conns = self.conns.iter().filter_map(|(_, c)| Some((c.port?, c.reuse_addr)));
        for (port, reuse_addr) in sockets.chain(conns) {
            if let Some(p) = self.ports.get_mut(port) {
                p.refs += 1;
                p.strict += u32::from(!reuse_addr);
            }
        }
        for id in self.ports.ids().collect::<Vec<_>>() {
            let p = &mut self.ports[id];
            p.dead = u32::from(p.refs == 0 && p.kind == PortKind::Bound);
        }
        self.core.ports_given_up += 1;
    }

    /// After the lock's holder died: every list made again, every sleeper woken.
    pub(super) fn rebuild_readiness(&mut self) {
        self.core.wakes = List::default();
        for id in self.sockets.ids().collect::<Vec<_>>() {
            self.sockets[id].waits = List::default();
            self.sockets[id].items = List::default();
        }
        for id in self.sets.ids().collect::<Vec<_>>() {
            self.sets[id].waits = List::default();
            self.sets[id].items = List::default();
            self.sets[id].ready = List::default();
            self.sets[id].outer = List::default();
        }
        for id in self.waiters.ids().collect::<Vec<_>>() {
            self.waiters[id].links = List::default();
            self.waiters[id].wake_links = Links::default();
            self.waiters[id].woken = 0;
        }
        for id in self.links.ids().collect::<Vec<_>>() {
            let l = &mut self.links[id];
            l.on_target = Links::default();
            l.of_waiter = Links::default();
            let (waiter, socket, set) = (l.waiter, l.socket, l.set);
            let Some(w) = waiter.and_then(|w| self.waiters.get_mut(w)) else {
                self.links.remove(id);
                continue;
            };
            w.links.push_back(&mut self.links, id);
            if let Some(s) = socket.and_then(|s| self.sockets.get_mut(s)) {
                s.waits.push_back(&mut self.links, id);
            } else if let Some(s) = set.and_then(|s| self.sets.get_mut(s)) {
                s.waits.push_back(&mut self.links, id);
            }
        }
        for id in self.items.ids().collect::<Vec<_>>() {
            let i = &mut self.items[id];
            i.on_socket = Links::default();
            i.of_set = Links::default();
            i.on_ready = Links::default();
            let set = i.set.filter(|&s| self.sets.get(s).is_some());
            let socket = i.socket.filter(|&s| self.sockets.get(s).is_some());
            let inner = i.inner.filter(|&s| self.sets.get(s).is_some());
            let Some(set) = set.filter(|_| socket.is_some() || inner.is_some()) else {
                self.items.remove(id);
                continue;
            };
            if let Some(socket) = socket {
                self.sockets[socket].items.push_back(&mut self.items, id);
            } else if let Some(inner) = inner {
                self.sets[inner].outer.push_back(&mut self.items, id);
            }
            self.sets[set].items.push_back(&mut self.items, id);
            self.sets[set].ready.push_back(&mut self.items, id);
        }
        for id in self.waiters.ids().collect::<Vec<_>>() {
            self.wake_waiter(id);
        }
    }

    /// After the lock's holder died: the connection that it worked on may be half-changed, and is reset; a connection that
    /// its socket does not know is nobody's.
    pub(super) fn reset_broken(&mut self, now: Instant) {
        for id in self.conns.ids().collect::<Vec<_>>() {
            let conn = &self.conns[id];
            let strays = match conn.socket {
                Some(s) => self.sockets.get(s).is_none_or(|s| s.conn != Some(id)),
                // Begun, and not yet in a queue; or taken out of one.
                None => {
                    let ends = conn.tcb.is_orphan() || conn.tcb.state() == State::TimeWait;
                    !ends && conn.listener.is_none_or(|l| self.sockets.get(l).is_none())
                }
            };
            if strays {
                self.close_conn(now, id, true);
            }
        }
        for id in self.sockets.ids().collect::<Vec<_>>() {
            if self.sockets[id].conn.is_some_and(|c| self.conns.get(c).is_none()) {
                self.sockets[id].conn = None;
            }
        }
        let Some(id) = self.core.in_work.take() else { return };
        let core = &mut *self.core;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let (tuple, path, socket) = (conn.tuple, conn.path, conn.socket);
        let mut env = env!(self, core, now);
        let reply = conn.tcb.abort(&mut env, libc::ECONNRESET);
        if let Some(reply) = reply {
            self.queue_reply(&tuple, path, &reply);
        }
        if let Some(s) = socket.and_then(|s| self.sockets.get_mut(s)) {
            s.error = libc::ECONNRESET;
        }
        self.conn_ended(id);
        if let Some(socket) = socket {
            self.notify(socket, Ready::ALL);
        }
    }
}
