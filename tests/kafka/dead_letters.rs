//! Dead letters: what must be in the topic, recorded while it is sent, compared with what is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use sla_ledger::generate::sink::{Sink, SinkError};
use sla_ledger::generate::{Event, Meant};

use crate::read::Record;

/// Identifies a record's content: reason, key, value, timestamp.
type Content = (String, Option<Vec<u8>>, Option<Vec<u8>>, i64);

/// Passes events on, and notes those that must end as dead letters.
pub struct Noting<S> {
    sink: S,
    noted: Noted,
}

/// The events that must end as dead letters, by content; the same content may come more than once.
#[derive(Debug, Clone, Default)]
pub struct Noted(Arc<Mutex<HashMap<Content, u64>>>);

impl<S> Noting<S> {
    pub fn new(sink: S, noted: Noted) -> Noting<S> {
        Noting { sink, noted }
    }
}

impl<S: Sink> Sink for Noting<S> {
    fn send(&mut self, event: &Event) -> Result<(), SinkError> {
        let reason = match event.meant {
            Meant::Malformed(reason) => Some(reason.as_str()),
            Meant::Quarantined(reason) => Some(reason.as_str()),
            Meant::Call | Meant::Duplicate { .. } => None,
        };
        if let Some(reason) = reason {
            let content = (reason.to_owned(), event.key.clone(), event.payload.clone(), event.arrival_ms);
            *self.noted.0.lock().unwrap_or_else(PoisonError::into_inner).entry(content).or_default() += 1;
        }
        self.sink.send(event)
    }

    fn idle(&mut self) {
        self.sink.idle();
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.sink.finish()
    }
}

impl Noted {
    /// Every difference between the dead letters and what was recorded, one line each: a source offset that comes
    /// twice, bytes that are not those of the source at the offset named, a wrong reason, one too many or too few.
    ///
    /// `source` holds the records of the calls topic at the offsets that the letters name, and may hold more.
    pub fn differences(
        &self,
        letters: &[Record],
        calls_topic: &str,
        source: &BTreeMap<(i32, i64), Record>,
    ) -> Vec<String> {
        let mut missing = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut differences = Vec::new();
        let mut seen = HashSet::new();
        for letter in letters {
            let at = format!("dead letter at offset {}", letter.offset);
            let Some(place) = place(letter).filter(|_| letter.header("sla.topic") == Some(calls_topic)) else {
                differences.push(format!("{at} does not say where it comes from: {:?}", letter.headers));
                continue;
            };
            if !seen.insert(place) {
                differences.push(format!("{at} repeats {place:?}"));
                continue;
            }
            let Some(original) = source.get(&place) else {
                differences.push(format!("{at} names {place:?}, which the calls topic does not hold"));
                continue;
            };
            if (&letter.key, &letter.payload) != (&original.key, &original.payload) {
                differences.push(format!("{at} has other bytes than the record at {place:?}"));
            }
            let reason = letter.header("sla.reason").unwrap_or_default().to_owned();
            let timestamp_ms = original.timestamp_ms.unwrap_or(-1);
            let content = (reason, letter.key.clone(), letter.payload.clone(), timestamp_ms);
            match missing.get_mut(&content) {
                Some(left) if *left > 0 => *left -= 1,
                _ => differences.push(format!("{at} with reason {} was not to be expected", content.0)),
            }
        }
        let left = missing.into_iter().filter(|(_, left)| *left > 0);
        differences.extend(
            left.map(|((reason, key, ..), left)| format!("{left} dead letters missing: {reason}, key {key:?}")),
        );
        differences
    }
}

/// Source partition and offset as a dead letter's headers say.
pub fn place(letter: &Record) -> Option<(i32, i64)> {
    Some((letter.header("sla.partition")?.parse().ok()?, letter.header("sla.offset")?.parse().ok()?))
}
