//! Reloads, one after the other, whoever asks: a signal or a request.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use chrono::Utc;

use super::{Reload, ReloadError};

/// The queue. Cheap to clone.
///
/// Never two reloads at once. Those who ask while one runs wait for the next one, which they share: it begins after each of
/// them asked, so it reads the files as they were then or later, and a hundred requests make two reloads.
#[derive(Clone)]
pub struct Reloads {
    reload: Arc<Reload>,
    turn: Arc<tokio::sync::Mutex<Option<Done>>>,
    last: Arc<ArcSwapOption<LastReload>>,
}

/// The last reload that ended, for those who did not ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastReload {
    /// When it ended, in ms since 1970-01-01T00:00:00Z.
    pub at_ms: i64,
    /// What it said.
    pub result: Result<String, ReloadError>,
}

/// The last reload.
struct Done {
    began: Instant,
    result: Result<String, ReloadError>,
}

impl Reloads {
    /// A queue in front of `reload`.
    pub fn new(reload: Arc<Reload>) -> Self {
        Self { reload, turn: Arc::default(), last: Arc::default() }
    }

    /// The last reload that ended; `None`: there was none since the start.
    pub fn last(&self) -> Option<Arc<LastReload>> {
        self.last.load_full()
    }

    /// What the next reload says. It runs to its end on a blocking thread, also when nobody waits for it any more.
    ///
    /// # Errors
    /// As [`Reload`]; and when it panicked.
    pub async fn reload(&self) -> Result<String, ReloadError> {
        let asked = Instant::now();
        let mut turn = self.turn.clone().lock_owned().await;
        if let Some(done) = turn.as_ref().filter(|done| done.began >= asked) {
            return done.result.clone();
        }
        let (reload, last) = (self.reload.clone(), self.last.clone());
        // The turn goes with the work, so that one who leaves does not let the next reload begin beside it.
        let done = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let result = reload();
            last.store(Some(Arc::new(LastReload { at_ms: Utc::now().timestamp_millis(), result: result.clone() })));
            *turn = Some(Done { began, result: result.clone() });
            result
        });
        let broken = |_| Err(ReloadError::Failed("the reload ended early; the log says more".into()));
        done.await.unwrap_or_else(broken)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn those_who_ask_while_one_runs_share_the_next() {
        let (made, (go, may_go)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel::<()>());
        let (begun, has_begun) = mpsc::channel();
        let reloads = Reloads::new({
            let (made, may_go, begun) = (made.clone(), Mutex::new(may_go), Mutex::new(begun));
            Arc::new(move || {
                let number = made.fetch_add(1, Ordering::SeqCst);
                _ = begun.lock().unwrap().send(());
                may_go.lock().unwrap().recv().unwrap();
                Ok(number.to_string())
            })
        });
        let ask = || {
            let reloads = reloads.clone();
            tokio::spawn(async move { reloads.reload().await })
        };
        assert_eq!(reloads.last(), None);
        let first = ask();
        tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
        let others: Vec<_> = (0..20).map(|_| ask()).collect();
        // One that nobody waits for any more does not let another begin.
        first.abort();
        assert!(first.await.is_err());
        // Two for each that waits, one for the reload that runs, one for the queue itself.
        while Arc::strong_count(&reloads.turn) < 42 {
            tokio::task::yield_now().await;
        }
        (0..2).for_each(|_| go.send(()).unwrap());
        for other in others {
            assert_eq!(other.await.unwrap(), Ok("1".to_owned()));
        }
        assert_eq!(made.load(Ordering::SeqCst), 2);
        assert_eq!(reloads.last().map(|last| last.result.clone()), Some(Ok("1".to_owned())));
    }
}
