//! Breaks the protocol on purpose, one rule at a time, to show that the simulator detects it. Without the `mutations`
//! feature every switch is a constant `false`.

macro_rules! mutations {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A rule that can be broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Mutation { $($(#[doc = $doc])* $name,)* }

        impl Mutation {
            /// Every mutation.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mutations! {
    /// A zombie's commit is accepted.
    NoFence,
    /// Counting begins before the takeover has read the ledger.
    CountBeforeTakeover,
    /// The takeover waits for C = O instead of reading to E.
    CommittedInsteadOfEnd,
    /// E is read by a read_committed client (the last stable offset).
    EndFromReadCommitted,
    /// The group's committed offset is preferred to C.
    GroupOffsetPreferred,
    /// An unknown outcome of a commit is treated as success.
    UnknownIsSuccess,
    /// An unknown outcome of a commit is treated as failure, without reloading.
    UnknownIsFailure,
    /// No new producer after a commit or abort that was retried.
    KeepProducerAfterRetry,
    /// Acknowledgements are not awaited, and the committed offset is fetched without waiting for pending ones.
    AcksNotAwaited,
    /// A torn transaction: keys are changed again below their `cov`.
    NoCoverage,
    /// A takeover forgets how many calls a month had no room for.
    UnadmittedNotCarried,
    /// A torn transaction: items are added again below the `cov` of their day's records.
    NoEvidenceCoverage,
    /// A record of failing calls is keyed by a count of them, not by an offset.
    EvidenceByCount,
    /// An owner that counts a torn flush again treats a call that the evidence limit refused as itemised.
    TornEvidenceAdmitted,
    /// A merged record of failing calls covers more than those it was made of.
    MergedCoversMore,
    /// What a later call makes of an earlier item's second is not written.
    RaiseNotWritten,
    /// Totals are summed from the loaded tallies at a takeover, not taken from C.
    TotalsRederived,
    /// A flush may happen before the position has passed every loaded `cov`.
    NoBarrier,
    /// `cov` is one too high.
    CovOffByOne,
    /// Changed settings begin at C's `next_offset`, below what a torn flush has counted with the old ones.
    SettingsBelowCoverage,
    /// Calls are counted under settings that no committed C has recorded yet.
    CountBeforeCheckpoint,
    /// C is of a later moment than the facts it goes out with: one that has changed since is missing.
    CheckpointNotFromSnapshot,
    /// A commit clears every dirty key, also those changed since the snapshot.
    ClearAllDirty,
    /// A takeover starts at `next_offset`, without warming the windows.
    NoWarming,
    /// The seconds of clause 5.7 count new calls, not the ids that a generation holds.
    SecondsByVerdict,
    /// Of the older generation's seconds only the ids count that were new to it.
    PrevCountsFresh,
    /// A call below the horizon is not entered into the window.
    EnteredAfterHorizon,
    /// A call beyond the limit of rows is not entered into the window.
    EnteredAfterLimit,
    /// A duplicate of the older generation is not entered into the younger one.
    DuplicateNotEntered,
    /// A rotation forgets both generations.
    RotationDropsBoth,
    /// A generation begins when the one before was due to end, not at the record that ends it.
    GenerationStartsWhenDue,
    /// The first generation records a watermark that was not there before its first timestamp.
    FirstGenerationStoresClock,
    /// Past a gap in the source the window begins at the floor's watermark, not at the checkpoint's.
    WatermarkLostInGap,
    /// A generation ends by the window of the settings before.
    OlderEpochsWindow,
    /// A record that a torn flush has counted may hold its shard.
    HoldBelowBarrier,
    /// The timestamp of an ignored record moves the watermark.
    TimestampBeforeIgnored,
    /// The horizon moves with a flush, not with the record that moves the watermark.
    HorizonByFlush,
    /// The book applies values as it reads them, not at the next C.
    ApplyBeforeCheckpoint,
    /// What a tail has read is published at every C, also while it lags.
    PublishWhileLagging,
    /// The book checks totals at every C, also while it lags.
    CheckWhileLagging,
    /// Calls of months below the horizon are left out of the totals.
    NoClosed,
    /// A fold's tombstone goes out with the fold's own flush.
    FoldTombstoneAtOnce,
    /// A void day stays in the digest until its tombstone, which goes out with the fold.
    VoidInDigest,
    /// The book counts a day that its month already contains.
    VoidCounted,
    /// A month's tally keeps its `cov` when a day is folded into it.
    TallyKeepsCoverage,
    /// A late call of a folded day begins a new day.
    FoldedDayIntoNewDay,
    /// The digest of a folded day stays in the shard's.
    FoldedDigestKept,
    /// A fold is undone when its flush does not commit.
    FoldUndone,
    /// A call whose rows go beyond the limit is counted if there is room for one of them.
    LimitOvershot,
    /// Days are folded before the position has passed every loaded `cov`.
    FoldBelowBarrier,
    /// Totals settled past a gap count void days as well.
    SettledWithVoid,
    /// A parked shard resumes although a torn flush's values come after its last checkpoint.
    ParkedOverTorn,
    /// A parked shard resumes no matter which instance wrote the last checkpoint.
    ParkedOverCheckpoint,
    /// A parked shard resumes although the source no longer holds what it would read next.
    ParkedPastSource,
    /// A new owner does not load the rulings that the ledger holds.
    ForgetRulings,
    /// A new owner does not load the published states of alerts.
    ForgetAlerts,
    /// Alerts of a torn flush are not published again.
    TornAlertsNotRepeated,
    /// An alert is published before its record is in the ledger.
    ToldBeforeWritten,
    /// Two states of one alert are published in one flush.
    ToldTwiceAtOnce,
    /// The set of tenants with changed figures is overwritten by the next value, not extended.
    ChangedOverwritten,
    /// A new owner is given the shard's state without the values that wait for a checkpoint.
    StateWithoutWaiting,
}

#[cfg(feature = "mutations")]
mod switch {
    use super::Mutation;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Is this rule broken at present?
    pub fn mutated(mutation: Mutation) -> bool {
        ACTIVE.get() == Some(mutation)
    }

    /// Breaks one rule on this thread while `body` runs.
    pub fn with_mutation<T>(mutation: Option<Mutation>, body: impl FnOnce() -> T) -> T {
        struct Restore(Option<Mutation>);
        impl Drop for Restore {
            fn drop(&mut self) {
                ACTIVE.set(self.0);
            }
        }
        let _restore = Restore(ACTIVE.replace(mutation));
        body()
    }
}

#[cfg(feature = "mutations")]
pub use switch::{mutated, with_mutation};

/// Is this rule broken at present? Never in this build.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn mutated(_: Mutation) -> bool {
    false
}
