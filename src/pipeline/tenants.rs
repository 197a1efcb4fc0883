//! A map by tenant that is cheap to copy: a copy shares what neither side has changed since.
//!
//! It is a hash table cut into buckets. A copy takes a pointer a bucket, and a change copies the bucket it lies in, once a
//! copy. So what is published costs what has changed, and a reader keeps its copy for as long as it likes.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashMap;

/// Buckets of a map: enough that a few changes of many tenants copy little, few enough that a copy is nothing.
const BUCKETS: usize = 256;

type State = foldhash::fast::RandomState;
type Bucket<V> = HashMap<Arc<str>, V, State>;

/// Values by tenant.
#[derive(Debug, Clone)]
pub struct TenantMap<V> {
    state: State,
    buckets: Vec<Arc<Bucket<V>>>,
    len: usize,
}

impl<V> Default for TenantMap<V> {
    fn default() -> Self {
        let state = State::default();
        let buckets = (0..BUCKETS).map(|_| Arc::new(Bucket::with_hasher(state.clone()))).collect();
        Self { state, buckets, len: 0 }
    }
}

impl<V> TenantMap<V> {
    fn place(&self, tenant: &str) -> usize {
        // The low and the highest bits find the place within the bucket.
        (self.state.hash_one(tenant) >> 40) as usize % BUCKETS
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
        self.buckets[self.place(tenant)].get(tenant)
    }

    /// Is the tenant there?
    pub fn contains(&self, tenant: &str) -> bool {
        self.get(tenant).is_some()
    }

    /// All tenants, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.buckets.iter().flat_map(|bucket| bucket.iter())
    }

    /// All tenants, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.iter().map(|(tenant, _)| tenant)
    }
}

impl<V: Clone> TenantMap<V> {
    /// A tenant's value, to be changed.
    pub fn get_mut(&mut self, tenant: &str) -> Option<&mut V> {
        let place = self.place(tenant);
        // A bucket is not copied for nothing.
        if !self.buckets[place].contains_key(tenant) {
            return None;
        }
        Arc::make_mut(&mut self.buckets[place]).get_mut(tenant)
    }

    /// Sets a tenant's value; the one before comes back.
    pub fn insert(&mut self, tenant: Arc<str>, value: V) -> Option<V> {
        let place = self.place(&tenant);
        let old = Arc::make_mut(&mut self.buckets[place]).insert(tenant, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes a tenant; its value comes back.
    pub fn remove(&mut self, tenant: &str) -> Option<V> {
        let place = self.place(tenant);
        if !self.buckets[place].contains_key(tenant) {
            return None;
        }
        self.len -= 1;
        Arc::make_mut(&mut self.buckets[place]).remove(tenant)
    }
}

impl<T> TenantMap<Arc<T>> {
    /// The tenants whose value has changed between `older` and this copy of it, those that came and went among them.
    pub fn changed_since(&self, older: &Self) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        for (new, old) in self.buckets.iter().zip(&older.buckets).filter(|(new, old)| !Arc::ptr_eq(new, old)) {
            // Both are alive, so that the same place is the same value.
            let same =
                |(tenant, value): &(&Arc<str>, &Arc<T>)| old.get(*tenant).is_some_and(|old| Arc::ptr_eq(old, value));
            changed.extend(new.iter().filter(|pair| !same(pair)).map(|(tenant, _)| tenant.clone()));
            changed.extend(old.keys().filter(|tenant| !new.contains_key(*tenant)).cloned());
        }
        changed
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
    }
}
