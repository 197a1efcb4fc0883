//! `sla-ledger run`: counts and exports until it is stopped.

use std::process::ExitCode;

use anyhow::Result;

use super::config_path::ConfigPath;
use crate::app::{Ending, Options, Service, Signals};
use crate::config::Config;
use crate::documents::DocumentSet;
use crate::http::Access;
use crate::logging;

/// Count calls from Kafka, judge them by the contract, export availability and what it costs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sla-ledger run                       with the configuration in $SLA_LEDGER_CONFIG, or /etc/sla-ledger
  sla-ledger run --config ./config     with another one
  kill -HUP <pid>                      reload what can be reloaded
  kill -TERM <pid>                     flush, leave the group, end within 10 s

Exit codes: 0 stopped cleanly, 1 it failed, 2 invalid usage or configuration.")]
pub struct Args {
    #[command(flatten)]
    config: ConfigPath,
}

/// Runs the service; 0 after a clean stop, 1 on a failure, 2 when the configuration is wrong.
pub fn run(args: &Args) -> ExitCode {
    // Before anything is read: an unhandled signal would end the process, and a SIGHUP means a reload.
    let listening = super::runtime().and_then(|runtime| {
        let signals = {
            let _entered = runtime.enter();
            Signals::listen()?
        };
        Ok((runtime, signals))
    });
    let (runtime, signals) = match listening {
        Ok(listening) => listening,
        Err(error) => return super::finish(Err(error)),
    };
    let Some(options) = options(args) else { return ExitCode::from(2) };
    let result = runtime.block_on(serve(options, signals));
    // A drain that ran out of time has a thread that waits for Kafka; the end does not wait for it.
    runtime.shutdown_background();
    super::finish(result)
}

/// What the files say; `None`: their errors have been reported.
fn options(args: &Args) -> Option<Options> {
    let complain = |mistakes: String| super::complain_of(&mistakes);
    let colour = super::stderr_is_terminal();
    let file = args.config.file();
    let config = Config::load(&file).map_err(|mistakes| complain(mistakes.render(colour))).ok()?;
    let directory = config.contract.directory(&file);
    let documents = DocumentSet::load(&directory, &config.expected_ledger());
    let documents = documents.map_err(|mistakes| complain(mistakes.render(colour))).ok()?;
    let [web_config, api_tokens] = config.http.files(&file);
    let access = Access::load(web_config.as_deref(), api_tokens.as_deref());
    let access = access.map_err(|files| files.iter().for_each(|file| complain(file.render(colour)))).ok()?;
    let logging = logging::init(&config.logging).map_err(|error| super::complain(&error)).ok()?;
    let config_file = Some(file);
    Some(Options { config, documents, access, config_file, logging: Some(logging), embedded_shards: None })
}

/// Runs the service, and starts it again within this process when partitions were added. Probes and scrapes fail for a
/// moment; the process, its id and its arguments stay.
async fn serve(mut options: Options, mut signals: Signals) -> Result<()> {
    // One for all services of this process: a signal between two of them is not lost.
    loop {
        let service = tokio::select! {
            service = Service::start(options) => service?,
            // Nothing is counted yet, so nothing is left to flush.
            () = signals.told_to_end() => return Ok(()),
        };
        match service.run(&mut signals).await? {
            Ending::Stopped => return Ok(()),
            Ending::Again(again) => options = *again,
        }
    }
}
