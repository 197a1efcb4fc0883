//! Where the contract's documents take effect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::documents::DocumentSet;
use crate::domain::registry::Registry;
use crate::metrics::process::ProcessMetrics;
use crate::pipeline::rulings::{NotedRuling, refusal, refused_rulings};
use crate::view::View;
use crate::visible::visible;

/// How often the active rulings are compared with the ledger's.
const RULINGS_LOOK: Duration = Duration::from_millis(500);

/// Makes documents take effect.
pub(super) struct Office {
    pub(super) documents: Arc<ArcSwap<DocumentSet>>,
    /// Orders and bills of the files, without those of the topic.
    pub(super) file_registry: ArcSwap<Registry>,
    pub(super) view: Arc<View>,
    pub(super) metrics: Arc<ProcessMetrics>,
    /// Held while documents take effect.
    pub(super) turn: Mutex<()>,
}

impl Office {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adopts these documents, if they differ. Counting and flushing go on meanwhile. `from_topic`: orders and bills
    /// come from a topic as well; its thread reports when the new ones from the files have been merged with them.
    pub(super) fn adopt(&self, mut documents: DocumentSet, from_topic: bool) -> String {
        let _turn = self.turn();
        let old = self.documents.load_full();
        let changed: Vec<_> = documents.files.iter().filter(|file| !old.files.contains(file)).collect();
        let gone = old.files.iter().filter(|file| !documents.files.iter().any(|new| new.name == file.name));
        let mut answer = String::new();
        for (name, what) in changed.iter().map(|f| (&f.name, "read")).chain(gone.map(|f| (&f.name, "gone"))) {
            tracing::info!(document = name, what, "document changed");
            answer.push_str(&format!("{} {what}\n", visible(name)));
        }
        if answer.is_empty() {
            return "no document changed\n".into();
        }
        self.file_registry.store(documents.registry.clone());
        if from_topic {
            documents.registry = old.registry.clone();
        }
        self.bring_into_force(documents);
        answer
    }

    /// Orders and bills of the topic have changed.
    pub(super) fn adopt_registry(&self, registry: Arc<Registry>) {
        let _turn = self.turn();
        self.bring_into_force(DocumentSet { registry, ..DocumentSet::clone(&self.documents.load()) });
    }

    /// See [`Office::judge_rulings`]; waits until no documents are taking effect.
    pub(super) fn compare_rulings(&self) {
        let _turn = self.turn();
        self.judge_rulings();
    }

    /// Do the active rulings agree with those that the ledger has applied? Counting needs no ruling and goes on either
    /// way; figures that depend on the documents are marked. Nothing is reported, and no ruling recorded, before the
    /// ledger has been read.
    fn judge_rulings(&self) {
        let rulings = &self.documents.load().documents.rulings;
        let Some(value) = self.view.published() else { return };
        let rejected = refused_rulings(&value.book, rulings);
        match (self.view.rejected_rulings().is_empty(), rejected.is_empty()) {
            (_, false) if *self.view.rejected_rulings() != rejected => {
                let error = refusal(&rejected);
                tracing::error!(error, "no statement is issued until a corrected rulings.yaml is loaded");
            }
            (false, true) => tracing::info!("rulings.yaml agrees with the ledger again"),
            _ => {}
        }
        self.metrics.set_rulings_rejected(rejected.len());
        self.view.set_rulings(NotedRuling::all(rulings), rejected);
    }

    fn bring_into_force(&self, documents: DocumentSet) {
        let began = std::time::Instant::now();
        if !self.view.adopt(&Arc::new(documents.contract(None))) {
            return;
        }
        self.metrics.set_documents(&documents.files);
        self.documents.store(Arc::new(documents));
        self.judge_rulings();
        let (tenants, took) = (self.view.published().map_or(0, |value| value.standings.len()), began.elapsed());
        tracing::info!(tenants, seconds = took.as_secs_f64(), "judged by the new documents");
    }
}

/// Compares the active rulings with the ledger's periodically: the documents were read at startup before the ledger,
/// and another instance may have applied rulings that this one does not have.
pub(super) async fn watch_rulings(office: Arc<Office>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(RULINGS_LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let office = office.clone();
        // It waits for documents that are being adopted.
        _ = tokio::task::spawn_blocking(move || office.compare_rulings()).await;
    }
}
