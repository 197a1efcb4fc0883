//! Looks up an object's key among the few that are mapped.

/// Mapped keys, found by their length and first byte, which rules out nearly every other key.
#[derive(Debug, Clone)]
pub struct Keys<T> {
    /// By length and first byte: the first such key; `NONE`: no such key.
    slots: [u8; SLOTS],
    keys: Vec<Key<T>>,
}

#[derive(Debug, Clone)]
struct Key<T> {
    name: Box<[u8]>,
    value: T,
    /// The next one of the same slot, or `NONE`.
    next: u8,
}

const SLOTS: usize = 64;
const NONE: u8 = u8::MAX;

impl<T> Default for Keys<T> {
    fn default() -> Self {
        Self { slots: [NONE; SLOTS], keys: Vec::new() }
    }
}

impl<T> Keys<T> {
    /// Is it empty?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The value of each key.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.keys.iter().map(|key| &key.value)
    }

    /// The value of a key.
    #[inline]
    pub fn get(&self, name: &[u8]) -> Option<&T> {
        let mut at = self.slots[slot(name)];
        while at != NONE {
            let key = &self.keys[usize::from(at)];
            if *key.name == *name {
                return Some(&key.value);
            }
            at = key.next;
        }
        None
    }

    /// The value of a key; a new key gets `value`. Fewer than 255 of them: a mapping has six fields.
    pub fn get_or_insert(&mut self, name: &[u8], value: T) -> &mut T {
        let at = self.keys.iter().position(|key| *key.name == *name).unwrap_or_else(|| {
            assert!(self.keys.len() < usize::from(NONE), "a table of few keys");
            let slot = &mut self.slots[slot(name)];
            self.keys.push(Key { name: name.into(), value, next: *slot });
            *slot = (self.keys.len() - 1) as u8;
            self.keys.len() - 1
        });
        &mut self.keys[at].value
    }
}

#[inline]
fn slot(name: &[u8]) -> usize {
    let first = name.first().copied().unwrap_or_default();
    (usize::from(first) ^ name.len().wrapping_mul(7)) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_also_where_they_share_a_slot() {
        let mut keys = Keys::default();
        let names: Vec<String> = (1..usize::from(NONE)).map(|n| format!("k{n:03}")).collect();
        for (n, name) in names.iter().enumerate() {
            assert_eq!(*keys.get_or_insert(name.as_bytes(), n), n);
            assert_eq!(*keys.get_or_insert(name.as_bytes(), 7777), n);
        }
        assert!(names.iter().enumerate().all(|(n, name)| keys.get(name.as_bytes()) == Some(&n)));
        assert!(["", "k", "k999", "k0000", "x"].iter().all(|name| keys.get(name.as_bytes()).is_none()));
        assert_eq!(*keys.get_or_insert(b"", 5), 5);
    }
}
