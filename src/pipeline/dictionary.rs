//! The numbers that a shard's ledger gives to actions and codes, as its readers know them.

use std::sync::Arc;

use super::record::{DICTIONARY_NAMES, NewNames, RecordError, TallyDay};

/// The names of one shard, by number. A copy shares them.
#[derive(Debug, Clone, Default)]
pub struct Dictionary(Arc<Vec<Arc<str>>>);

impl Dictionary {
    /// How many names have a number.
    pub fn len(&self) -> u32 {
        self.0.len() as u32
    }

    /// Is it empty?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in the names of an `N` record whose key says `first`.
    ///
    /// # Errors
    /// They do not follow the existing ones.
    pub fn append(&mut self, first: u32, new: NewNames) -> Result<(), RecordError> {
        let end = self.0.len() + new.names.len();
        if first != self.len() || end > DICTIONARY_NAMES as usize {
            let is = self.len();
            return Err(RecordError::Value(format!("names are numbered from {first} on, and {is} have a number")));
        }
        Arc::make_mut(&mut self.0).extend(new.names.into_iter().map(Arc::from));
        Ok(())
    }

    /// The name with this number in this day; empty if the number is unknown, which does not happen in a checked day.
    pub fn name<'a>(&'a self, day: &'a TallyDay, number: u32) -> &'a str {
        self.name_beside(&day.names, number)
    }

    /// As [`Dictionary::name`], for a record with these names of its own.
    pub fn name_beside<'a>(&'a self, own: &'a [String], number: u32) -> &'a str {
        match number.checked_sub(DICTIONARY_NAMES) {
            None => self.0.get(number as usize).map_or("", |name| name),
            Some(at) => own.get(at as usize).map_or("", |name| name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_one_another() {
        let names = |names: &[&str]| NewNames { seq: 1, names: names.iter().map(|n| (*n).to_owned()).collect() };
        let mut dictionary = Dictionary::default();
        assert!(dictionary.append(1, names(&["a"])).is_err());
        assert_eq!(dictionary.append(0, names(&["a", "b"])), Ok(()));
        let before = dictionary.clone();
        assert_eq!(dictionary.append(2, names(&["c"])), Ok(()));
        assert!(dictionary.append(2, names(&["c"])).is_err());
        let day = TallyDay { names: vec!["own".into()], ..TallyDay::default() };
        assert_eq!([0, 2, DICTIONARY_NAMES, 9].map(|n| dictionary.name(&day, n)), ["a", "c", "own", ""]);
        assert_eq!((before.len(), before.name(&day, 2)), (2, ""));
        assert!(dictionary.append(3, names(&vec!["x"; DICTIONARY_NAMES as usize])).is_err());
    }
}
