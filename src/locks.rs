//! Locks that are taken in one order only, so that no two threads can wait for each other for ever.
//!
//! A thread that holds a lock may take only locks further down the list of [`Rank`], and never the same one twice: a
//! thread that already reads would wait behind a queued writer, which waits for that thread. Debug builds check this at
//! every acquisition and panic with both names; in release builds nothing is left of the check.
//!
//! Deliberately not here: locks that are never held while another one is taken. Those need no rank.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// Every ranked lock, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rank {
    /// Documents come into force, one set after the other.
    Documents,
    /// Everybody is judged anew.
    Adopting,
    /// The buffers of a scrape.
    Exporter,
    /// The tail, from reading a batch until the standings show it.
    Publishing,
    /// The ledger as read.
    Book,
    /// The figures.
    Standings,
    /// The tenants' last hours.
    Pace,
    /// Whose facts changed while everybody is judged anew.
    Missed,
    /// Whose alerts are to be judged.
    Unjudged,
    /// Arrivals that are not visible yet.
    Arrivals,
    /// Until when the home holds.
    HomeUntil,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A mutex with a place in the order.
#[derive(Debug)]
pub struct RankedMutex<T> {
    rank: Rank,
    lock: Mutex<T>,
}

/// A read-write lock with a place in the order.
#[derive(Debug)]
pub struct RankedRwLock<T> {
    rank: Rank,
    lock: RwLock<T>,
}

/// A held lock. Releases it, and its place in the order, when dropped.
#[derive(Debug)]
pub struct Guard<G> {
    // Released before its place in the order is.
    inner: G,
    _held: held::Held,
}

/// A held [`RankedMutex`].
pub type RankedGuard<'a, T> = Guard<MutexGuard<'a, T>>;
/// A [`RankedRwLock`] held by a reader.
pub type ReadGuard<'a, T> = Guard<RwLockReadGuard<'a, T>>;
/// A [`RankedRwLock`] held by its writer.
pub type WriteGuard<'a, T> = Guard<RwLockWriteGuard<'a, T>>;

impl<T> RankedMutex<T> {
    /// An open lock of this rank.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, lock: Mutex::new(value) }
    }

    /// Waits for the lock.
    ///
    /// # Panics
    /// In debug builds, when this thread holds a lock of this rank or a later one.
    #[track_caller]
    pub fn lock(&self) -> RankedGuard<'_, T> {
        let held = held::Held::take(self.rank);
        Guard { inner: self.lock.lock().unwrap_or_else(PoisonError::into_inner), _held: held }
    }

    /// The lock, if nobody holds it.
    ///
    /// # Panics
    /// As [`RankedMutex::lock`].
    #[track_caller]
    pub fn try_lock(&self) -> Option<RankedGuard<'_, T>> {
        let held = held::Held::take(self.rank);
        let inner = match self.lock.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Guard { inner, _held: held })
    }
}

impl<T> RankedRwLock<T> {
    /// An open lock of this rank.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, lock: RwLock::new(value) }
    }

    /// Waits until nobody writes.
    ///
    /// # Panics
    /// In debug builds, when this thread holds a lock of this rank or a later one.
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        let held = held::Held::take(self.rank);
        Guard { inner: self.lock.read().unwrap_or_else(PoisonError::into_inner), _held: held }
    }

    /// Waits until nobody reads or writes.
    ///
    /// # Panics
    /// As [`RankedRwLock::read`].
    #[track_caller]
    pub fn write(&self) -> WriteGuard<'_, T> {
        let held = held::Held::take(self.rank);
        Guard { inner: self.lock.write().unwrap_or_else(PoisonError::into_inner), _held: held }
    }
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.inner
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.inner
    }
}

#[cfg(debug_assertions)]
mod held {
    use std::cell::Cell;

    use super::Rank;

    thread_local! {
        /// A bit for each rank this thread holds.
        static HELD: Cell<u32> = const { Cell::new(0) };
    }

    /// A place in the order, taken by this thread. Not `Send`, as the guards it goes with.
    #[derive(Debug)]
    pub struct Held(u32, std::marker::PhantomData<*const ()>);

    impl Held {
        #[track_caller]
        pub fn take(rank: Rank) -> Self {
            let bit = 1_u32 << rank as u8;
            HELD.with(|held| {
                let taken = held.get();
                // An assertion while a panic unwinds would end the process.
                if taken >= bit && !std::thread::panicking() {
                    let highest = u32::BITS - 1 - taken.leading_zeros();
                    panic!("lock order: {rank} (rank {}) is taken while rank {highest} is held", rank as u8);
                }
                held.set(taken | bit);
            });
            Self(bit, std::marker::PhantomData)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.with(|held| held.set(held.get() & !self.0));
        }
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use super::Rank;

    /// Nothing.
    #[derive(Debug)]
    pub struct Held;

    impl Held {
        #[inline(always)]
        pub fn take(_: Rank) -> Self {
            Self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the check says when the second lock is taken while the first is held.
    fn refused(first: impl FnOnce(&RankedRwLock<u8>, &RankedMutex<u8>) + Send) -> Option<String> {
        let (book, pace) = (RankedRwLock::new(Rank::Book, 1), RankedMutex::new(Rank::Pace, 2));
        let result = std::thread::scope(|scope| scope.spawn(|| first(&book, &pace)).join());
        result.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
    }

    #[test]
    fn the_order_is_checked() {
        assert_eq!(refused(|book, pace| drop((book.read(), pace.lock()))), None);
        assert_eq!(refused(|book, pace| drop((book.write(), pace.try_lock()))), None);
        let backwards = refused(|book, pace| drop((pace.lock(), book.read())));
        assert_eq!(backwards.as_deref(), Some("lock order: Book (rank 4) is taken while rank 6 is held"));
        assert!(refused(|book, pace| drop((pace.try_lock(), book.write()))).is_some());
        // A writer may wait between the two.
        assert!(refused(|book, _| drop((book.read(), book.read()))).is_some());
        assert!(refused(|_, pace| drop((pace.lock(), pace.try_lock()))).is_some());
    }

    #[test]
    fn a_lock_given_back_is_forgotten_in_any_order() {
        let released = refused(|book, pace| {
            let (first, second) = (book.read(), pace.lock());
            drop(first);
            drop(second);
            drop(pace.lock());
            drop((book.write(), pace.lock()));
        });
        assert_eq!(released, None);
        // A lock that is not to be had leaves no trace either.
        let pace = RankedMutex::new(Rank::Pace, 0);
        let book = RankedRwLock::new(Rank::Book, 0);
        let held = pace.lock();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                assert!(pace.try_lock().is_none());
                *book.read()
            });
            assert_eq!(other.join().ok(), Some(0));
        });
        assert_eq!(*held, 0);
    }
}
