//! A dead letter as a record that its topic accepts, whatever the original record was like.
//!
//! A flush is one transaction for all shards, so one letter that the broker refuses would stop them all. Anything
//! larger than the topic accepts is therefore left out, with its size and SHA-256 in headers: first the body, then the
//! headers, then the key. The calls topic still has all of it.

use std::borrow::Cow;

use rdkafka::message::{Header, OwnedHeaders};
use sha2::{Digest, Sha256};

use crate::pipeline::shard::DeadLetter;
use crate::report::statement::canonical::hex;

/// A batch of records before its first record, in bytes.
const BATCH_BYTES: usize = 61;
/// A record's attributes and the differences of its timestamp and offset to the batch's, in bytes, at the most.
const RECORD_BYTES: usize = 1 + 10 + 5;

/// A letter as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter<'a> {
    /// The key.
    pub key: Option<Cow<'a, [u8]>>,
    /// The value.
    pub payload: Option<&'a [u8]>,
    headers: Vec<(&'a str, Option<Cow<'a, [u8]>>)>,
}

/// What is left out, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Omit {
    Nothing,
    Body,
    Headers,
    Key,
}

impl<'a> Letter<'a> {
    /// The letter about a record of this partition of `topic`, in at most `limit` bytes where that can be. `keyed`: the
    /// letters' topic accepts no record without a key.
    pub fn of(letter: &'a DeadLetter, topic: &str, partition: u32, limit: usize, keyed: bool) -> Self {
        let mut made = Self::without(letter, topic, partition, Omit::Nothing, keyed);
        for omit in [Omit::Body, Omit::Headers, Omit::Key] {
            if made.bytes() <= limit {
                break;
            }
            made = Self::without(letter, topic, partition, omit, keyed);
        }
        made
    }

    fn without(letter: &'a DeadLetter, topic: &str, partition: u32, omit: Omit, keyed: bool) -> Self {
        let id = format!("{topic}/{partition}/{}", letter.offset);
        let mut made = Self {
            key: letter.key.as_deref().map(Cow::Borrowed),
            payload: letter.payload.as_deref(),
            headers: Vec::new(),
        };
        let mut left_out: Vec<(&'static str, String)> = Vec::new();
        if omit < Omit::Headers {
            let original = letter.headers.iter();
            made.headers.extend(original.map(|(name, value)| (name.as_str(), Some(Cow::Borrowed(value.as_slice())))));
        } else if !letter.headers.is_empty() {
            let bytes: usize = letter.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            left_out.push(("sla.omitted_headers", letter.headers.len().to_string()));
            left_out.push(("sla.omitted_headers_bytes", bytes.to_string()));
        }
        if omit >= Omit::Body
            && let Some(body) = made.payload.take_if(|body| !body.is_empty())
        {
            left_out.push(("sla.omitted_bytes", body.len().to_string()));
            left_out.push(("sla.omitted_sha256", hex(&Sha256::digest(body))));
        }
        if omit == Omit::Key
            && let Some(key) = made.key.take()
        {
            left_out.push(("sla.omitted_key_bytes", key.len().to_string()));
            left_out.push(("sla.omitted_key_sha256", hex(&Sha256::digest(&key))));
        }
        if keyed && made.key.is_none() {
            made.key = Some(Cow::Owned(id.clone().into_bytes()));
        }
        let own = [
            ("sla.id", Some(id)),
            ("sla.reason", Some(letter.reason.as_str().to_owned())),
            ("sla.topic", Some(topic.to_owned())),
            ("sla.partition", Some(partition.to_string())),
            ("sla.offset", Some(letter.offset.to_string())),
            ("sla.timestamp", letter.timestamp_ms.map(|ms| ms.to_string())),
        ];
        let own = own.into_iter().chain(left_out.into_iter().map(|(name, value)| (name, Some(value))));
        made.headers.extend(own.map(|(name, value)| (name, value.map(|value| Cow::Owned(value.into_bytes())))));
        made
    }

    /// Bytes of a batch that holds the letter alone, uncompressed; a few more than it has, never fewer.
    pub fn bytes(&self) -> usize {
        let field = |bytes: usize| varint(bytes) + bytes;
        let header = |(name, value): &(&str, Option<Cow<'_, [u8]>>)| {
            field(name.len()) + field(value.as_ref().map_or(0, |value| value.len()))
        };
        let headers: usize = self.headers.iter().map(header).sum();
        let key = field(self.key.as_ref().map_or(0, |key| key.len()));
        let record =
            RECORD_BYTES + key + field(self.payload.map_or(0, <[u8]>::len)) + varint(self.headers.len()) + headers;
        BATCH_BYTES + field(record)
    }

    /// The headers: the record's own, then ours.
    pub fn headers(&self) -> OwnedHeaders {
        let new = OwnedHeaders::new_with_capacity(self.headers.len());
        self.headers.iter().fold(new, |all, (key, value)| all.insert(Header { key, value: value.as_deref() }))
    }
}

/// Bytes of a length as Kafka writes it: seven bits a byte, one of them for the sign.
fn varint(length: usize) -> usize {
    (usize::BITS - (length << 1 | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::{Malformed, Rejection};

    fn letter(body: usize, headers: &[(usize, usize)], key: usize) -> DeadLetter {
        DeadLetter {
            offset: 7,
            timestamp_ms: Some(9),
            reason: Rejection::Malformed(Malformed::NotJson),
            key: Some(vec![b'k'; key]),
            payload: Some(vec![b'p'; body]),
            headers: headers.iter().map(|(name, value)| ("n".repeat(*name), vec![b'v'; *value])).collect(),
        }
    }

    /// What is left out at this limit: the names of the headers that record it.
    fn omitted(letter: &DeadLetter, limit: usize) -> Vec<&str> {
        let made = Letter::of(letter, "calls", 3, limit, false);
        assert!(made.bytes() <= limit, "{} bytes in {limit}", made.bytes());
        let names = made.headers.iter().map(|(name, _)| *name);
        names.filter_map(|name| name.strip_prefix("sla.omitted_")).collect()
    }

    #[test]
    fn no_record_makes_a_letter_too_large() {
        let all = ["headers", "headers_bytes", "bytes", "sha256", "key_bytes", "key_sha256"];
        let megabyte = 1 << 20;
        for (letter, expected) in [
            (letter(10, &[(3, 5)], 5), &[][..]),
            (letter(megabyte, &[], 5), &["bytes", "sha256"]),
            (letter(megabyte - 2000, &[(3, 5)], 5), &[]),
            (letter(megabyte - 100, &[(3, 5)], 5), &["bytes", "sha256"]),
            (letter(10, &[(3, megabyte)], 5), &all[..4]),
            (letter(10, &[(megabyte, 3)], 5), &all[..4]),
            (letter(10, &vec![(1, 0); megabyte / 2], 5), &all[..4]),
            (letter(10, &vec![(1, 0); megabyte / 2], megabyte), &all),
            (letter(megabyte, &[(3, megabyte)], megabyte), &all),
        ] {
            assert_eq!(omitted(&letter, megabyte), expected, "{} headers", letter.headers.len());
        }
    }

    #[test]
    fn what_is_left_out_is_named_by_size_and_digest() {
        let letter = letter(3000, &[(3, 5), (2, 2)], 5);
        let made = Letter::of(&letter, "calls", 3, 1000, false);
        let said = |name: &str| {
            let header = made.headers.iter().find(|(found, _)| *found == name);
            header.and_then(|(_, value)| String::from_utf8(value.as_deref()?.to_vec()).ok())
        };
        assert_eq!((made.payload, made.key.as_deref()), (None, Some(&b"kkkkk"[..])));
        assert_eq!(said("sla.omitted_bytes").as_deref(), Some("3000"));
        assert_eq!(said("sla.omitted_sha256"), Some(hex(&Sha256::digest(vec![b'p'; 3000]))));
        assert_eq!(said("sla.id").as_deref(), Some("calls/3/7"));
        assert_eq!(said("nnn").as_deref(), Some("vvvvv"));
        let keyless = DeadLetter { key: None, ..letter };
        assert_eq!(Letter::of(&keyless, "calls", 3, 1000, false).key, None);
        assert_eq!(Letter::of(&keyless, "calls", 3, 1000, true).key.as_deref(), Some(&b"calls/3/7"[..]));
    }

    #[test]
    fn lengths_are_as_long_as_kafka_writes_them() {
        for (length, bytes) in [(0, 1), (63, 1), (64, 2), (8191, 2), (8192, 3), (1 << 20, 4), (1 << 27, 5)] {
            assert_eq!(varint(length), bytes, "{length}");
        }
    }
}
