//! Answers that the readers of one address share for a moment. It is for fleets so large that answers rest on a shared
//! [board](crate::http::api::board): fifty readers of one page cost what one costs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use axum::http::HeaderValue;

use super::ask::Asked;
use super::{Body, Content};

/// How long one is shared, in ms.
const SHARED_MS: u64 = 1000;
/// Answers that are kept, and the bytes of one: pages and their like, no tables to download.
const MOST: usize = 64;
const MOST_BYTES: usize = 256 << 10;

/// The answers of the last moment.
#[derive(Default)]
pub struct Recent(Mutex<HashMap<String, Kept>>);

struct Kept {
    /// When it was made, in ms.
    at_ms: i64,
    kind: HeaderValue,
    file: Option<HeaderValue>,
    bytes: Bytes,
    /// The instant it reaches to.
    as_of: Option<String>,
}

impl Kept {
    fn is_recent(&self, now_ms: i64) -> bool {
        now_ms.abs_diff(self.at_ms) < SHARED_MS
    }
}

/// What makes two requests the same.
fn key(asked: &Asked) -> String {
    format!("{} {}", asked.lang().tag(), asked.address)
}

impl Recent {
    /// The answer to the same request a moment ago, and the instant it reaches to.
    pub fn find(&self, asked: &Asked, now_ms: i64) -> Option<(Body, Option<String>)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.get(&key(asked)).filter(|kept| kept.is_recent(now_ms))?;
        let content = Content::Whole(kept.bytes.to_vec());
        Some((Body { kind: kept.kind.clone(), content, file: kept.file.clone() }, kept.as_of.clone()))
    }

    /// Keeps an answer, if it is not too long.
    pub fn keep(&self, asked: &Asked, body: &Body, as_of: Option<String>, now_ms: i64) {
        let Content::Whole(bytes) = &body.content else { return };
        if bytes.len() > MOST_BYTES {
            return;
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let kept = Kept { at_ms: now_ms, kind: body.kind.clone(), file: body.file.clone(), bytes, as_of };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, kept| kept.is_recent(now_ms));
        if all.len() < MOST {
            all.insert(key(asked), kept);
        }
    }
}
