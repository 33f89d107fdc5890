//! BatchRecorder of a batch: the only writer of records, and the state of the results that decides about further
//! questions.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::batch::item::Id;
use crate::batch::questions::BatchQuestion;
use crate::batch::store::{ResultRecord, StepTimes, Store, StoreState};
use crate::error::Error;

/// Writer of a batch's records.
pub(super) struct BatchRecorder<'r> {
    pub(super) store: &'r mut Store,
    pub(super) state: StoreState,
    /// Questions of this run with their first ids: a manifest may list a video twice.
    begun: HashMap<Id, Option<String>>,
    /// Items that failed in this run as a whole.
    failed_items: HashSet<Id>,
    /// First error after which nothing is written any more.
    failure: Option<Error>,
}

/// First or repeated listing of a question about an item in one run.
pub(super) enum QuestionListing {
    /// First listing.
    First,
    /// Repeated listing under the same id, or without one.
    Repeated,
    /// Repeated listing under another id.
    Renamed,
}

impl<'r> BatchRecorder<'r> {
    pub(super) fn new(store: &'r mut Store, state: StoreState) -> Self {
        Self { store, state, begun: HashMap::new(), failed_items: HashSet::new(), failure: None }
    }

    /// Writes a record. Returns whether it was written; after an error nothing is.
    pub(super) fn add(&mut self, record: &ResultRecord, times: Option<StepTimes>) -> bool {
        if self.failure.is_some() {
            return false;
        }
        if let Err(error) = self.store.add(record, times) {
            self.failure = Some(error);
            return false;
        }
        self.state.update(record);
        if record.question.is_none() && record.failure().is_some() {
            self.failed_items.insert(record.item);
        }
        true
    }

    /// Syncs records that were written a while ago. Returns whether records can be written.
    pub(super) fn sync_if_due(&mut self) -> bool {
        if self.failure.is_none()
            && let Err(error) = self.store.sync_if_due()
        {
            self.failure = Some(error);
        }
        self.failure.is_none()
    }

    /// Ends the writing with an error, unless there was one before.
    pub(super) fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// Registers a question about an item.
    pub(super) fn begin(&mut self, item: Id, question: &BatchQuestion) -> QuestionListing {
        match self.begun.entry(item.with_question(&question.question)) {
            Entry::Vacant(entry) => {
                entry.insert(question.id.clone());
                QuestionListing::First
            }
            Entry::Occupied(entry) if question.id.is_some() && *entry.get() != question.id => QuestionListing::Renamed,
            Entry::Occupied(_) => QuestionListing::Repeated,
        }
    }

    /// Returns whether an item failed in this run as a whole.
    pub(super) fn has_failed(&self, item: Id) -> bool {
        self.failed_items.contains(&item)
    }

    /// Returns the recorder, or its first error.
    pub(super) fn into_result(mut self) -> Result<Self, Error> {
        match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }
}
