//! `sla-ledger verify`: compares the ledger with a recount of the calls topic.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::config_path::ConfigPath;
use crate::config::Config;
use crate::kafka::verify::{self, Verdict};
use crate::pipeline::book::Book;
use crate::visible::visible;

/// Recount the calls topic and compare every figure with the ledger.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sla-ledger verify
  sla-ledger verify --config ./config --shard 3 --shard 4

Reads only; a running service is not disturbed.
Exit codes: 0 no difference, 1 differences, or a shard that cannot be verified, 2 invalid usage or configuration.")]
pub struct Args {
    #[command(flatten)]
    config: ConfigPath,

    /// Only this shard (partition of the calls topic); may be repeated.
    #[arg(long, value_name = "N")]
    shard: Vec<u32>,

    /// Differences printed for each shard at most.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    super::with_config(&args.config, |config| verify(args, config))
}

fn verify(args: &Args, config: &Config) -> Result<()> {
    let base = config.kafka.client().context("the Kafka client cannot be configured")?;
    let (source, topic) = (&config.source.topic, &config.ledger.topic);
    let counted = ledger_partitions(&base, topic)?;
    // A partition of the calls topic that the ledger does not have is not counted.
    let calls = partitions(&base, source)?
        .with_context(|| format!("the topic `{source}` (source.topic) does not exist: there is nothing to recount"))?;
    let shards = counted.max(calls);
    let ledger = verify::read_ledger(&base, topic, counted)?;
    let chosen: Vec<u32> = if args.shard.is_empty() { (0..shards).collect() } else { args.shard.clone() };
    if let Some(missing) = chosen.iter().find(|s| **s >= shards) {
        bail!("there is no shard {missing}: the topics `{source}` and `{topic}` have {shards} partitions");
    }
    let counted = chosen.iter().filter_map(|s| ledger.shard(*s)?.checkpoint());
    let bar = progress(counted.map(|c| (c.next_offset - c.start_offset).max(0) as u64).sum());
    let (mut records, mut found, mut impossible) = (0, 0, 0);
    let mut out = std::io::stdout().lock();
    for shard in chosen {
        match verify::verify_shard(&base, source, shard, &ledger, |n| bar.inc(n))? {
            Verdict::Empty => {}
            Verdict::Impossible(why) => {
                impossible += 1;
                writeln!(out, "shard {shard}: cannot be verified: {}", visible(&why.to_string()))?;
            }
            Verdict::Compared { records: read, differences } => {
                records += read;
                found += differences.len();
                for difference in differences.iter().take(args.limit) {
                    writeln!(out, "{}", visible(&difference.to_string()))?;
                }
                if differences.len() > args.limit {
                    writeln!(out, "shard {shard}: {} more differences", differences.len() - args.limit)?;
                }
            }
        }
    }
    bar.finish_and_clear();
    writeln!(out, "verified shards={shards} records={records} differences={found} not_verifiable={impossible}")?;
    if found + impossible > 0 {
        bail!("the ledger is not proved: {found} differences, {impossible} shards not verifiable");
    }
    Ok(())
}

/// The whole ledger as it is in Kafka; `None`: its topic does not exist.
pub(super) fn read_ledger(config: &Config) -> Result<Option<Book>> {
    let base = config.kafka.client().context("the Kafka client cannot be configured")?;
    let topic = &config.ledger.topic;
    let read = |shards| verify::read_ledger(&base, topic, shards);
    Ok(partitions(&base, topic)?.map(read).transpose()?)
}

/// The whole ledger as it is in Kafka, which must be there.
pub(super) fn existing_ledger(config: &Config) -> Result<Book> {
    read_ledger(config)?.with_context(|| no_ledger(&config.ledger.topic))
}

/// The partitions of the ledger topic.
fn ledger_partitions(base: &rdkafka::ClientConfig, topic: &str) -> Result<u32> {
    partitions(base, topic)?.with_context(|| no_ledger(topic))
}

/// What is said of a ledger topic that does not exist.
fn no_ledger(topic: &str) -> String {
    format!("the ledger topic `{topic}` (ledger.topic) does not exist: nothing was ever counted")
}

/// The partitions of a topic; `None`: the topic does not exist.
fn partitions(base: &rdkafka::ClientConfig, topic: &str) -> Result<Option<u32>> {
    let consumer: BaseConsumer = base.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), std::time::Duration::from_secs(20));
    let metadata = metadata.with_context(|| format!("cannot read the metadata of `{topic}`"))?;
    let partitions = metadata.topics().first().map_or(0, |t| t.partitions().len());
    Ok(Some(u32::try_from(partitions)?).filter(|partitions| *partitions > 0))
}

fn progress(records: u64) -> ProgressBar {
    let bar = ProgressBar::new(records);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} records  {per_sec}  {eta} left")
    {
        bar.set_style(style);
    }
    bar
}
