//! A hash index over the entries of a table: `N` buckets (a power of two), chained through the entries.

use super::{Id, Item, Table};
use bytemuck::Zeroable;
use core::marker::PhantomData;

/// Where an entry keeps the next one of its bucket, for the index named by `Tag`.
pub trait Chained<Tag>: Item + Sized {
    fn chain(&self) -> Option<Id<Self>>;
    fn set_chain(&mut self, next: Option<Id<Self>>);
}

#[repr(C)]
pub struct Index<T, Tag, const N: usize> {
    buckets: [Option<Id<T>>; N],
    tag: PhantomData<fn() -> Tag>,
}

// SAFETY: `Option<Id>` is `None` when zero.
#[allow(unsafe_code)]
unsafe impl<T, Tag, const N: usize> Zeroable for Index<T, Tag, N> {}

impl<T: Chained<Tag>, Tag, const N: usize> Index<T, Tag, N> {
    const MASK: usize = {
        assert!(N.is_power_of_two());
        N - 1
    };

    /// The first entry in the bucket of `hash` that `matches`.
    pub fn find<const D: usize>(
        &self,
        table: &Table<T, D>,
        hash: u64,
        mut matches: impl FnMut(&T) -> bool,
    ) -> Option<Id<T>> {
        let mut at = self.buckets[hash as usize & Self::MASK];
        while let Some(id) = at {
            let entry = table.get(id)?;
            if matches(entry) {
                return Some(id);
            }
            at = entry.chain();
        }
        None
    }

    /// Adds `id`, which is not in the index.
    pub fn insert<const D: usize>(&mut self, table: &mut Table<T, D>, hash: u64, id: Id<T>) {
        let bucket = &mut self.buckets[hash as usize & Self::MASK];
        if let Some(entry) = table.get_mut(id) {
            entry.set_chain(*bucket);
            *bucket = Some(id);
        }
    }

    /// Takes `id` out; false when it was not in the bucket of `hash`.
    pub fn remove<const D: usize>(&mut self, table: &mut Table<T, D>, hash: u64, id: Id<T>) -> bool {
        let next = table.get(id).and_then(Chained::chain);
        let bucket = &mut self.buckets[hash as usize & Self::MASK];
        if *bucket == Some(id) {
            *bucket = next;
        } else {
            let mut at = *bucket;
            loop {
                let Some(before) = at else { return false };
                let Some(entry) = table.get_mut(before) else { return false };
                if entry.chain() == Some(id) {
                    entry.set_chain(next);
                    break;
                }
                at = entry.chain();
            }
        }
        if let Some(entry) = table.get_mut(id) {
            entry.set_chain(None);
        }
        true
    }

    /// Empties every bucket, before a repair fills them again.
    pub fn clear(&mut self) {
        self.buckets.fill(None);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Memory, Shared};
    use super::*;

    struct ByKey;
    #[derive(Zeroable)]
    struct Entry {
        key: u64,
        next: Option<Id<Entry>>,
    }
    impl Chained<ByKey> for Entry {
        fn chain(&self) -> Option<Id<Self>> {
            self.next
        }
        fn set_chain(&mut self, next: Option<Id<Self>>) {
            self.next = next;
        }
    }

    #[test]
    fn finds_what_is_in_and_nothing_else() {
        let mut t: Table<Entry, 2> = Table::new(Shared::leak(), Memory::leak(2), 1000);
        let mut x: Index<Entry, ByKey, 8> = Index::zeroed();
        let ids: Vec<_> = (0..100)
            .map(|key| {
                let id = t.insert(Entry { key, next: None }).ok().unwrap();
                x.insert(&mut t, key, id);
                id
            })
            .collect();
        for key in (0..100).step_by(3) {
            assert!(x.remove(&mut t, key, ids[key as usize]));
            assert!(!x.remove(&mut t, key, ids[key as usize]));
        }
        for key in 0..100 {
            assert_eq!(x.find(&t, key, |e| e.key == key).is_some(), key % 3 != 0);
        }
    }
}
