//! Events of a batch's run: answers and failures become records, and thumbnails are stored.

use std::collections::HashSet;

use super::feed::PlannedItem;
use super::{BatchContext, BatchEvent};
use crate::batch::item::ArchiveItem;
use crate::batch::store::{ResultRecord, StepTimes};
use crate::exec::lock;
use crate::pipeline::{EncodedVideo, ItemError, RunEvent};

/// Kind of failure that is of a question, not of its video.
const TOKEN_BUDGET: &str = "token_budget";

/// Consumer of the events of a run.
pub(super) struct AnswerEvents<'s, 'r> {
    context: &'s BatchContext<'r>,
    /// Jobs under way whose thumbnail was stored.
    with_thumbnail: HashSet<usize>,
}

impl<'s, 'r> AnswerEvents<'s, 'r> {
    pub(super) fn new(context: &'s BatchContext<'r>) -> Self {
        Self { context, with_thumbnail: HashSet::new() }
    }

    /// Records an event.
    pub(super) fn take(&mut self, event: RunEvent<'_>) {
        match event {
            RunEvent::Answer { video, encoded, question, answer } => {
                let Some(planned) = lock(&self.context.planned).get(&video.number).cloned() else { return };
                self.add_thumbnail(video.number, &planned.item, encoded);
                let (item, question) = (&planned.item, &planned.questions[question]);
                match answer {
                    Ok(answer) => {
                        let record = ResultRecord::answered(item, question, encoded, &answer);
                        if self.context.record(&record, Some(StepTimes::of(&encoded.timings, &answer))) {
                            self.context.batch.tally.add_answer(&answer);
                        }
                    }
                    Err(error) => {
                        self.context.record(&ResultRecord::failed(item, Some(question), &error), None);
                    }
                }
            }
            RunEvent::Done { video, encoded } => {
                self.with_thumbnail.remove(&video.number);
                let planned = lock(&self.context.planned).remove(&video.number);
                let Some(planned) = planned else { return };
                let is_recorded = match encoded {
                    Ok(encoded) => {
                        self.context.batch.tally.add_done_item(encoded, planned.bytes);
                        true
                    }
                    Err(error) => {
                        self.context.batch.tally.add_failed_item(planned.bytes);
                        self.record_failure(&planned, &error)
                    }
                };
                if !is_recorded {
                    lock(&self.context.planned).insert(video.number, planned);
                }
                self.report_cache();
            }
        }
    }

    /// Records the failure of an item. Returns whether it is recorded.
    fn record_failure(&self, planned: &PlannedItem, error: &ItemError) -> bool {
        let item = &planned.item;
        if error.error.kind().word() == TOKEN_BUDGET {
            // A failure of these questions: a shorter one may fit.
            let mut records =
                planned.questions.iter().map(|question| ResultRecord::failed(item, Some(question), error));
            return records.all(|record| self.context.record(&record, None));
        }
        // A manifest may list the item twice.
        let is_known = lock(&self.context.recorder).has_failed(item.id);
        is_known || self.context.record(&ResultRecord::failed(item, None, error), None)
    }

    /// Stores the thumbnail of an item, once.
    fn add_thumbnail(&mut self, number: usize, item: &ArchiveItem, encoded: &EncodedVideo) {
        if !self.with_thumbnail.insert(number) {
            return;
        }
        let Some(jpeg) = &encoded.thumbnail else { return };
        let stored = lock(&self.context.recorder).store.add_thumbnail(item.id, jpeg);
        if let Err(error) = stored {
            (self.context.on_event)(BatchEvent::Missed { what: "thumbnails", cause: error.to_string() });
        }
    }

    /// Reports a failed write of the feature cache.
    fn report_cache(&self) {
        if let Some(error) = self.context.batch.options.features.and_then(|features| features.take_write_error()) {
            (self.context.on_event)(BatchEvent::Missed { what: "visual tokens", cause: error.to_string() });
        }
    }
}
