//! A conversation about one encoded video: each turn is one request, whose prompt shares its beginning with the turns
//! before.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::rc::Rc;

use super::ask::{Answer, Asking};
use super::{EncodedVideo, Limits, PipelineError};
use crate::engine::{Completion, Engine, EngineError, RequestEvent, Visual};
use crate::text::Conversation;
use crate::vlm::{ModelError, PromptIds};

/// A conversation about one video.
pub struct VideoChat<'a> {
    asking: Asking<'a>,
    seen: &'a EncodedVideo,
    limits: Limits,
    visual: Visual,
    conversation: Conversation,
    engine: Engine<'a>,
}

/// An event, kept until the step is over.
enum Heard {
    Text(String),
    Done(Result<Completion, EngineError>),
}

impl<'a> VideoChat<'a> {
    /// A conversation that has not begun.
    ///
    /// # Errors
    /// When the model has no key-value memory.
    pub fn new(asking: Asking<'a>, seen: &'a EncodedVideo, limits: &Limits) -> Result<Self, PipelineError> {
        let visual = Visual::new(seen.visual.clone());
        let (conversation, engine) = (asking.conversation_about(seen), asking.engine()?);
        Ok(Self { asking, seen, limits: *limits, visual, conversation, engine })
    }

    /// Asks a question. `on_text` hears the answer as it comes, and says whether the rest is wanted.
    ///
    /// # Errors
    /// When the prompt does not fit the context, or the rest is not wanted; the question is then forgotten.
    pub fn ask(
        &mut self,
        question: &str,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, PipelineError> {
        let prompt = self.conversation.ask(question).map_err(ModelError::from);
        let ids = prompt.and_then(|prompt| PromptIds::encode(&prompt, self.asking.vlm.tokenizer()));
        let answer = ids.map_err(PipelineError::from).and_then(|ids| self.answer(ids, on_text));
        match answer {
            Ok(answer) => {
                self.conversation.answer(&answer.text);
                Ok(answer)
            }
            Err(error) => {
                self.conversation.withdraw();
                Err(error)
            }
        }
    }

    fn answer(
        &mut self,
        ids: PromptIds,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, PipelineError> {
        let question = self.asking.question(ids, self.seen)?;
        let heard = Rc::new(RefCell::new(VecDeque::new()));
        let to = heard.clone();
        let listener = Box::new(move |event: RequestEvent<'_>| {
            to.borrow_mut().push_back(match event {
                RequestEvent::Token { text, .. } => Heard::Text(text.to_owned()),
                RequestEvent::Done(outcome) => Heard::Done(outcome),
            });
            ControlFlow::Continue(())
        });
        let id = self.engine.submit(self.asking.request(&question, &self.visual, &self.limits, listener)?);
        loop {
            let goes_on = self.engine.step();
            loop {
                let Some(event) = heard.borrow_mut().pop_front() else { break };
                match event {
                    Heard::Text(text) if on_text(&text).is_break() => self.engine.cancel(id),
                    Heard::Text(_) => {}
                    Heard::Done(outcome) => {
                        if let Ok(completion) = &outcome {
                            let _ = on_text(&completion.rest);
                        }
                        return self.asking.answer(&question, outcome);
                    }
                }
            }
            if !goes_on {
                return Err(PipelineError::Nothing);
            }
        }
    }
}
