//! `sla-ledger run`: count, export, until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::app::{Ending, Options, Service, Signals};
use crate::config::Config;
use crate::documents::DocumentSet;
use crate::http::Access;
use crate::logging;

/// Count calls from Kafka, judge them by the contract, export availability and what it costs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sla-ledger run /etc/sla-ledger/sla-ledger.yaml
  kill -HUP <pid>      reload what can be reloaded
  kill -TERM <pid>     flush, leave the group, end within 10 s")]
pub struct Args {
    /// The configuration file.
    #[arg(value_name = "FILE", default_value_os_t = super::check_config::default_path())]
    config: PathBuf,
}

/// Runs the service; 0 after a clean stop, 1 on a failure, 2 when the configuration is wrong.
pub fn run(args: &Args) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            super::complain_of(&errors.render(super::stderr_is_terminal()));
            return ExitCode::from(2);
        }
    };
    let directory = config.contract.directory(&args.config);
    let documents = match DocumentSet::load(&directory, &config.expected_ledger()) {
        Ok(documents) => documents,
        Err(errors) => {
            super::complain_of(&errors.render(super::stderr_is_terminal()));
            return ExitCode::from(2);
        }
    };
    let [web_config, api_tokens] = config.http.files(&args.config);
    let access = match Access::load(web_config.as_deref(), api_tokens.as_deref()) {
        Ok(access) => access,
        Err(errors) => {
            errors.iter().for_each(|file| super::complain_of(&file.render(super::stderr_is_terminal())));
            return ExitCode::from(2);
        }
    };
    let logging = match logging::init(&config.logging) {
        Ok(handle) => handle,
        Err(error) => {
            super::complain(&error);
            return ExitCode::from(2);
        }
    };
    let config_file = Some(args.config.clone());
    let options = Options { config, documents, access, config_file, logging: Some(logging), embedded_shards: None };
    super::finish(super::runtime().and_then(|runtime| {
        let result = runtime.block_on(serve(options));
        // A drain that ran out of time has a thread that waits for Kafka; the end does not wait for it.
        runtime.shutdown_background();
        result
    }))
}

/// Runs the service, and starts it again within this process when partitions were added. Probes and scrapes find nobody for a
/// moment; the process, its id and its arguments stay.
async fn serve(options: Options) -> Result<()> {
    // One for all services of this process: a signal between two of them is not lost.
    let mut signals = Signals::listen()?;
    let mut options = options;
    loop {
        match Service::start(options).await?.run(&mut signals).await? {
            Ending::Stopped => return Ok(()),
            Ending::Again(again) => options = *again,
        }
    }
}
