//! Doubly linked lists threaded through the entries of a table, by handle.
//!
//! An entry may be on several lists at once, one per tag: `impl Linked<Tag> for Entry` says where the links of that list
//! are. Invariant: an entry is on at most one list of a tag.

use super::{Id, Item, Table};
use bytemuck::Zeroable;
use core::marker::PhantomData;

/// The links of one entry on one list.
pub struct Links<T> {
    prev: Option<Id<T>>,
    next: Option<Id<T>>,
    on_list: bool,
}

// SAFETY: `Option<Id>` is `None` and `false` is `false` when zero.
#[allow(unsafe_code)]
unsafe impl<T> Zeroable for Links<T> {}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Links { prev: None, next: None, on_list: false }
    }
}

impl<T> Clone for Links<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Links<T> {}

impl<T> Links<T> {
    pub fn is_linked(&self) -> bool {
        self.on_list
    }

    /// The entry after this one on the list.
    pub fn next_id(&self) -> Option<Id<T>> {
        self.next
    }
}

/// Where an entry keeps its links for the list named by `Tag`.
pub trait Linked<Tag>: Item + Sized {
    fn links(&self) -> &Links<Self>;
    fn links_mut(&mut self) -> &mut Links<Self>;
}

/// The ends of a list.
pub struct List<T, Tag> {
    head: Option<Id<T>>,
    tail: Option<Id<T>>,
    len: u32,
    tag: PhantomData<fn() -> Tag>,
}

// SAFETY: `Option<Id>` is `None` when zero.
#[allow(unsafe_code)]
unsafe impl<T, Tag> Zeroable for List<T, Tag> {}

impl<T, Tag> Default for List<T, Tag> {
    fn default() -> Self {
        List { head: None, tail: None, len: 0, tag: PhantomData }
    }
}

impl<T: Linked<Tag>, Tag> List<T, Tag> {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    pub fn front(&self) -> Option<Id<T>> {
        self.head
    }

    pub fn back(&self) -> Option<Id<T>> {
        self.tail
    }

    pub fn next<const D: usize>(&self, table: &Table<T, D>, id: Id<T>) -> Option<Id<T>> {
        table.get(id).and_then(|t| t.links().next)
    }

    /// Appends `id`; a no-op when it is on the list already.
    pub fn push_back<const D: usize>(&mut self, table: &mut Table<T, D>, id: Id<T>) {
        let Some(entry) = table.get_mut(id) else { return };
        if entry.links().on_list {
            return;
        }
        *entry.links_mut() = Links { prev: self.tail, next: None, on_list: true };
        match self.tail {
            Some(tail) => table[tail].links_mut().next = Some(id),
            None => self.head = Some(id),
        }
        self.tail = Some(id);
        self.len += 1;
    }

    /// Puts `id` first; a no-op when it is on the list already.
    pub fn push_front<const D: usize>(&mut self, table: &mut Table<T, D>, id: Id<T>) {
        let Some(entry) = table.get_mut(id) else { return };
        if entry.links().on_list {
            return;
        }
        *entry.links_mut() = Links { prev: None, next: self.head, on_list: true };
        match self.head {
            Some(head) => table[head].links_mut().prev = Some(id),
            None => self.tail = Some(id),
        }
        self.head = Some(id);
        self.len += 1;
    }

    /// Takes `id` off; false when it was not on the list.
    pub fn remove<const D: usize>(&mut self, table: &mut Table<T, D>, id: Id<T>) -> bool {
        let Some(entry) = table.get_mut(id) else { return false };
        let links = core::mem::take(entry.links_mut());
        if !links.on_list {
            return false;
        }
        match links.prev {
            Some(prev) => table[prev].links_mut().next = links.next,
            None => self.head = links.next,
        }
        match links.next {
            Some(next) => table[next].links_mut().prev = links.prev,
            None => self.tail = links.prev,
        }
        self.len -= 1;
        true
    }

    pub fn pop_front<const D: usize>(&mut self, table: &mut Table<T, D>) -> Option<Id<T>> {
        let id = self.head?;
        self.remove(table, id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Memory, Shared};
    use super::*;

    struct Queue;
    #[derive(Zeroable)]
    struct Entry {
        n: u32,
        links: Links<Entry>,
    }
    impl Linked<Queue> for Entry {
        fn links(&self) -> &Links<Self> {
            &self.links
        }
        fn links_mut(&mut self) -> &mut Links<Self> {
            &mut self.links
        }
    }

    #[test]
    fn keeps_order_and_forgets_the_removed() {
        let mut t: Table<Entry, 2> = Table::new(Shared::leak(), Memory::leak(2), 100);
        let mut l: List<Entry, Queue> = List::default();
        let ids: Vec<_> =
            (0..5).map(|n| t.insert(Entry { n, links: Links::default() }).ok().unwrap()).collect();
        ids.iter().for_each(|&id| l.push_back(&mut t, id));
        l.push_back(&mut t, ids[1]);
        assert_eq!(l.len(), 5);
        assert!(l.remove(&mut t, ids[0]) && l.remove(&mut t, ids[2]) && l.remove(&mut t, ids[4]));
        assert!(!l.remove(&mut t, ids[2]));
        let left: Vec<_> = core::iter::from_fn(|| l.pop_front(&mut t).map(|id| t[id].n)).collect();
        assert_eq!(left, [1, 3]);
        assert!(l.is_empty());
    }
}
