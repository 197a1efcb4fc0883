//! Adopting a contract while the ledger is read, as in the service.

use std::sync::Arc;

use sla_ledger::domain::contract::Contract;
use sla_ledger::view::{Editor, View};

/// Judges by another contract while the tail goes round.
///
/// # Panics
/// The contract was not adopted.
pub fn adopt(view: &View, editor: &mut Editor, contract: &Arc<Contract>) {
    std::thread::scope(|scope| {
        let adopted = scope.spawn(|| view.adopt(contract));
        while !adopted.is_finished() {
            editor.serve(view, || ());
            std::thread::yield_now();
        }
        assert!(adopted.join().expect("no panic"), "the old contract stays");
    });
}
