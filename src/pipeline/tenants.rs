//! A map by tenant that is cheap to copy: a copy shares what neither side has changed since.
//!
//! It is a hash table of small buckets, grouped in blocks. A copy costs one pointer per block; the first change after a
//! copy copies its block's pointers and its bucket. So publishing costs only what has changed, however many tenants
//! there are, and a reader may keep its copy for as long as it likes. Buckets are small because copying one touches all
//! its entries.

use std::hash::BuildHasher;
use std::sync::Arc;

/// Maximum average number of tenants per bucket.
const FULL: usize = 4;
/// Buckets of a block; a power of two.
const BLOCK: usize = 64;

type Bucket<V> = Arc<[Entry<V>]>;
type Block<V> = Arc<[Bucket<V>]>;

/// Values by tenant.
#[derive(Debug, Clone)]
pub struct TenantMap<V> {
    state: foldhash::fast::RandomState,
    /// A power of two of them.
    blocks: Vec<Block<V>>,
    len: usize,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    /// Distinguishes most tenants without comparing their names.
    hash: u64,
    tenant: Arc<str>,
    value: V,
}

impl<V> Default for TenantMap<V> {
    fn default() -> Self {
        Self { state: foldhash::fast::RandomState::default(), blocks: vec![empty_block()], len: 0 }
    }
}

fn empty_block<V>() -> Block<V> {
    let empty: Bucket<V> = Arc::from([]);
    std::iter::repeat_n(empty, BLOCK).collect()
}

/// Where a tenant is: its hash, its block, its bucket in there.
#[derive(Clone, Copy)]
struct Place {
    hash: u64,
    block: usize,
    bucket: usize,
}

impl Place {
    fn of(hash: u64, blocks: usize) -> Self {
        // The highest bits are the best mixed ones.
        let at = (hash >> 32) as usize & (blocks * BLOCK - 1);
        Self { hash, block: at / BLOCK, bucket: at % BLOCK }
    }
}

impl<V> TenantMap<V> {
    fn place(&self, tenant: &str) -> Place {
        Place::of(self.state.hash_one(tenant), self.blocks.len())
    }

    /// The tenant's place in its bucket.
    fn find(&self, at: Place, tenant: &str) -> Option<usize> {
        let bucket = &self.blocks[at.block][at.bucket];
        bucket.iter().position(|entry| entry.hash == at.hash && *entry.tenant == *tenant)
    }

    /// How many tenants there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// None?
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A tenant's value.
    pub fn get(&self, tenant: &str) -> Option<&V> {
        let at = self.place(tenant);
        self.find(at, tenant).map(|index| &self.blocks[at.block][at.bucket][index].value)
    }

    /// Does the map contain the tenant?
    pub fn contains(&self, tenant: &str) -> bool {
        self.find(self.place(tenant), tenant).is_some()
    }

    fn buckets(&self) -> impl Iterator<Item = &Bucket<V>> {
        self.blocks.iter().flat_map(|block| block.iter())
    }

    fn entries(&self) -> impl Iterator<Item = &Entry<V>> {
        self.buckets().flat_map(|bucket| bucket.iter())
    }

    /// All tenants, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.entries().map(|entry| (&entry.tenant, &entry.value))
    }

    /// All tenants, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries().map(|entry| &entry.tenant)
    }
}

impl<V: Clone> TenantMap<V> {
    fn bucket_mut(&mut self, at: Place) -> &mut Bucket<V> {
        &mut Arc::make_mut(&mut self.blocks[at.block])[at.bucket]
    }

    /// A tenant's value, to be changed.
    pub fn get_mut(&mut self, tenant: &str) -> Option<&mut V> {
        let at = self.place(tenant);
        // Copies nothing if the tenant is missing.
        let index = self.find(at, tenant)?;
        Some(&mut Arc::make_mut(self.bucket_mut(at))[index].value)
    }

    /// Sets a tenant's value and returns the previous one.
    pub fn insert(&mut self, tenant: Arc<str>, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(&tenant) {
            return Some(std::mem::replace(known, value));
        }
        if self.len >= FULL * BLOCK * self.blocks.len() {
            self.grow();
        }
        let at = self.place(&tenant);
        let bucket = self.bucket_mut(at);
        let new = Entry { hash: at.hash, tenant, value };
        *bucket = bucket.iter().cloned().chain([new]).collect();
        self.len += 1;
        None
    }

    /// Removes a tenant and returns its value.
    pub fn remove(&mut self, tenant: &str) -> Option<V> {
        let at = self.place(tenant);
        let index = self.find(at, tenant)?;
        let bucket = self.bucket_mut(at);
        let value = bucket[index].value.clone();
        *bucket = bucket.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, e)| e.clone()).collect();
        self.len -= 1;
        Some(value)
    }

    /// Twice as many blocks.
    fn grow(&mut self) {
        let blocks = self.blocks.len() * 2;
        let mut buckets: Vec<Vec<Entry<V>>> = (0..blocks * BLOCK).map(|_| Vec::new()).collect();
        for entry in self.entries() {
            let at = Place::of(entry.hash, blocks);
            buckets[at.block * BLOCK + at.bucket].push(entry.clone());
        }
        let mut buckets = buckets.into_iter().map(Arc::from);
        self.blocks = (0..blocks).map(|_| buckets.by_ref().take(BLOCK).collect()).collect();
    }
}

impl<T> TenantMap<Arc<T>> {
    /// The tenants whose value has changed between `older` and this copy of it, including added and removed ones.
    pub fn changed_since(&self, older: &Self) -> Vec<Arc<str>> {
        let (ours, theirs): (Vec<&Bucket<_>>, Vec<&Bucket<_>>) = if self.blocks.len() == older.blocks.len() {
            let blocks = self.blocks.iter().zip(&older.blocks).filter(|(new, old)| !Arc::ptr_eq(new, old));
            let buckets = blocks.flat_map(|(new, old)| new.iter().zip(old.iter()));
            buckets.filter(|(new, old)| !Arc::ptr_eq(new, old)).unzip()
        } else {
            (self.buckets().collect(), older.buckets().collect())
        };
        // Both are alive, so the same address is the same value.
        let is_same =
            |entry: &&Entry<Arc<T>>| older.get(&entry.tenant).is_some_and(|old| Arc::ptr_eq(old, &entry.value));
        let new = ours.into_iter().flat_map(|bucket| bucket.iter()).filter(|entry| !is_same(entry));
        let gone = theirs.into_iter().flat_map(|bucket| bucket.iter()).filter(|entry| !self.contains(&entry.tenant));
        new.chain(gone).map(|entry| entry.tenant.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut map = TenantMap::<Arc<u32>>::default();
        (0..1000).for_each(|n| assert_eq!(map.insert(n.to_string().into(), Arc::new(n)), None));
        let copy = map.clone();
        assert_eq!((map.len(), map.changed_since(&copy)), (1000, Vec::new()));
        *Arc::make_mut(map.get_mut("7").unwrap()) = 70;
        assert_eq!(map.remove("8"), Some(Arc::new(8)));
        assert_eq!(map.insert("new".into(), Arc::new(1)), None);
        assert_eq!((map.remove("other"), map.len()), (None, 1000));
        assert_eq!(map.get_mut("other"), None);
        assert_eq!((copy.get("7").map(|n| **n), map.get("7").map(|n| **n)), (Some(7), Some(70)));
        let mut changed = map.changed_since(&copy);
        changed.sort_unstable();
        assert_eq!(changed, ["7", "8", "new"].map(Arc::from));
        assert!(copy.contains("8") && !copy.contains("new") && copy.iter().count() == 1000);
        // Also if one of them has grown since.
        (1000..5000).for_each(|n| assert_eq!(map.insert(n.to_string().into(), Arc::new(n)), None));
        assert_eq!((map.len(), map.keys().count(), map.changed_since(&copy).len()), (5000, 5000, 4003));
        assert!((1000..5000).all(|n| map.get(&n.to_string()).is_some_and(|found| **found == n)));
    }
}
