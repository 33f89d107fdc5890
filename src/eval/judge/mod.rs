//! Judges: a language model scores open answers by a paper's prompt, over an OpenAI-compatible service or its batches.
//!
//! [`JudgeSpec`] is the prompt, from `evals/judges/*.yaml`; [`JudgeRequests`] makes one request for each question, or
//! for each pair of VCG-Bench's consistency; [`JudgeReplies`] are the replies by the request's id; [`judge_answers`]
//! joins them and scores, [`recount`] scores kept replies again, [`JudgeTable`] has the means, [`ComparableResults`]
//! the published results that compare. [`Judgements`] finds the judged answers of an evaluation. [`ask_judge`] sends
//! the requests to a service. A reply that is missing, failed, ambiguous or not parsed is a wrong answer, and counted:
//! no verdict is guessed. Called by `eval judge`, reports and matrices.

mod ask;
mod batch;
mod comparable;
mod found;
mod judged;
mod literal;
mod option;
mod price;
mod replies;
mod reply_log;
mod requests;
mod retry;
mod spec;
mod spec_rules;
mod table;
mod verdict;

pub use ask::{AskEvent, AskReport, JudgeService, ask_judge};
pub use batch::BatchLimits;
pub use comparable::ComparableResults;
pub use found::{JUDGED, JUDGES, Judgement, Judgements, evaluation_of};
pub use judged::{
    JudgeRecord, JudgeStatus, JudgedAnswer, RecordedJudge, judge_answers, price_replies, read_judged, read_scored,
    recount,
};
pub use price::TokenPrices;
pub use replies::{JudgeReplies, ReceivedReply, TokenUsage, UnjoinedReplies};
pub use reply_log::{JudgeSetup, ReplyLog, ReplyLogFormat};
pub use requests::{JudgeOptions, JudgeRequest, JudgeRequests};
pub use retry::RetryPolicy;
pub use spec::{BUILT_IN_JUDGES, JudgeSpec, VerdictKind, open_judge};
pub use table::{JudgeCounts, JudgeIdentity, JudgeRow, JudgeTable};
pub use verdict::{JudgeVerdict, parse_verdict};
