//! A reload: the configuration and the contract's documents are read again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::office::Office;
use super::{warn_of_access, warn_of_documents};
use crate::config::Config;
use crate::documents::DocumentSet;
use crate::health::Health;
use crate::http::{Access, Door, ReloadError};
use crate::kafka::tail::now_ms;
use crate::logging;
use crate::metrics::process::ProcessMetrics;
use crate::pipeline::rulings::{refusal, refused_rulings};

/// Reads the configuration and the contract's documents again, applies what can be changed, and reports what cannot. An
/// error in any file keeps everything unchanged.
pub(super) struct Reloader {
    pub(super) file: Option<PathBuf>,
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) office: Arc<Office>,
    pub(super) door: Arc<Door>,
    pub(super) logging: Option<logging::Handle>,
    pub(super) metrics: Arc<ProcessMetrics>,
    pub(super) health: Arc<Health>,
}

impl Reloader {
    pub(super) fn reload(&self) -> Result<String, ReloadError> {
        let Some(file) = &self.file else {
            return Err(ReloadError::Invalid("there is no configuration file to reload".into()));
        };
        let (config, mut documents, access) = match self.load(file) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.metrics.reload(None);
                tracing::error!(file = %file.display(), error, "reload failed; keeping the previous configuration");
                return Err(ReloadError::Invalid(error));
            }
        };
        let old = self.config.load_full();
        let left = Config::reload_diff(&old, &config);
        let config = old.reloaded(&config);
        self.health.set_max_lag(config.ready.max_lag);
        self.door.replace(access);
        warn_of_access(&self.door, &config);
        self.config.store(Arc::new(config));
        let mut answer = String::from("configuration reloaded\n");
        for key in left {
            let (name, old, new) = (&key.key, &key.old, &key.new);
            tracing::warn!(key = name, old, new, "this change needs a restart; the old value stays");
            answer.push_str(&format!("{name} needs a restart; the old value stays\n"));
        }
        documents.loaded_at_ms = Some(now_ms());
        let from_topic = self.config.load().contract.registry_topic.is_some();
        answer.push_str(&self.office.adopt(documents, from_topic));
        self.metrics.reload(Some(now_ms()));
        // Before the ledger was read, no tenant is judged and the contract is not in use.
        match self.office.view.published() {
            Some(value) => warn_of_documents(&self.config.load(), value.standings.contract()),
            None => warn_of_documents(&self.config.load(), &self.office.documents.load().contract(None)),
        }
        tracing::info!(file = %file.display(), "configuration and documents reloaded");
        Ok(answer)
    }

    fn load(&self, file: &Path) -> Result<(Config, DocumentSet, Access), String> {
        let config = Config::load(file).map_err(|e| e.to_string())?;
        let [web_config, api_tokens] = config.http.files(file);
        let access = Access::load(web_config.as_deref(), api_tokens.as_deref())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        let expected = self.config.load().expected_ledger();
        let documents = DocumentSet::load(&config.contract.directory(file), &expected).map_err(|e| e.to_string())?;
        let published = self.office.view.published();
        let refused = published.map(|value| refused_rulings(&value.book, &documents.documents.rulings));
        let refused = refused.unwrap_or_default();
        if !refused.is_empty() {
            return Err(refusal(&refused));
        }
        let level = &config.logging.level;
        self.logging.as_ref().map_or(Ok(()), |logging| logging.set_level(level))?;
        Ok((config, documents, access))
    }
}
