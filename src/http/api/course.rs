//! A service month of one tenant, evaluated from its facts: what its days and its breakdown are made of.

use std::collections::BTreeMap;

use super::months::Tenant;
use crate::domain::calendar::LocalDay;
use crate::domain::standing::{Figures, ServiceMonth};
use crate::http::answer::Reading;
use crate::http::answer::ask::{Asked, Problem};
use crate::pipeline::standings::{Breakdown, Evaluation};
use crate::pipeline::trend::Trend;
use crate::report::standing::Standing;

/// A service month with its days.
pub struct Course {
    pub tenant: Tenant,
    pub month: ServiceMonth,
    /// The days with counted calls.
    pub by_day: BTreeMap<LocalDay, Figures>,
    /// Its failures by action and code.
    pub breakdown: Breakdown,
    /// `None`: as of an instant, or without calls.
    pub trend: Option<Trend>,
}

impl Course {
    /// Of the request's path, under the contract in force or `as_of` an instant.
    ///
    /// # Errors
    /// As of [`Tenant::find`] and [`Tenant::month`].
    pub fn find(api: &Reading, asked: &Asked) -> Result<Self, Problem> {
        let as_of_ms = asked.query(&["as_of"])?.instant("as_of")?;
        let tenant = Tenant::find(api, asked, as_of_ms)?;
        let month = tenant.month(asked)?;
        let value = api.published()?;
        // What it remembers was judged by the documents in force.
        let known = value.standings.tenant(&tenant.name).filter(|_| as_of_ms.is_none());
        let waits = || asked.work.goes_on();
        let evaluation = Evaluation::new(&tenant.contract, &value.book, &tenant.name).while_awaited(&waits);
        let (by_day, breakdown) = evaluation.course(month.period, known);
        asked.work.check()?;
        let now_ms = api.now_ms();
        let trend = known.map(|known| Trend::as_seen(known, &month, now_ms));
        Ok(Self { tenant, month, by_day, breakdown, trend })
    }

    /// As `/tenants/{tenant}/months/{month}` shows the month.
    ///
    /// # Errors
    /// The ledger is not read yet.
    pub fn standing(&self, api: &Reading) -> Result<Standing, Problem> {
        Ok(api.judge(&self.tenant.contract)?.standing(&self.tenant.name, &self.month))
    }
}
