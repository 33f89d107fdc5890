//! Conversation about one encoded video: each turn is one request, whose prompt shares its prefix with the earlier
//! turns. Called by `ask` and `chat`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::rc::Rc;

use super::ask::{Answer, Asking};
use super::error::{of_engine, stopped};
use super::{EncodedVideo, Limits};
use crate::engine::{Completion, Engine, RequestEvent, Visual};
use crate::error::Error;
use crate::text::Conversation;
use crate::vlm::PromptIds;

/// Conversation about one encoded video.
pub struct VideoChat<'a> {
    asking: Asking<'a>,
    video: &'a EncodedVideo,
    limits: Limits,
    visual: Visual,
    conversation: Conversation,
    engine: Engine<'a>,
}

/// Event of a request, queued until the engine's step is over.
enum ChatEvent {
    Text(String),
    Done(Result<Completion, Error>),
}

impl<'a> VideoChat<'a> {
    /// Creates an empty conversation.
    ///
    /// # Errors
    /// When the key-value memory cannot be allocated.
    pub fn new(asking: Asking<'a>, video: &'a EncodedVideo, limits: &Limits) -> Result<Self, Error> {
        let visual = Visual::new(video.visual.clone());
        let (conversation, engine) = (asking.conversation_about(video), asking.engine()?);
        Ok(Self { asking, video, limits: *limits, visual, conversation, engine })
    }

    /// Asks a question. `on_text` receives the answer as it is generated, and returns whether to go on.
    ///
    /// # Errors
    /// When the prompt does not fit the context, or `on_text` breaks off. The question is then removed from the
    /// conversation.
    pub fn ask(&mut self, question: &str, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Answer, Error> {
        let prompt = self.conversation.ask(question);
        let ids = prompt.and_then(|prompt| PromptIds::encode(&prompt, self.asking.vlm.tokenizer()));
        let answer = ids.map_err(of_engine).and_then(|ids| self.answer(ids, on_text));
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

    fn answer(&mut self, ids: PromptIds, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Answer, Error> {
        let question = self.asking.question(ids, self.video)?;
        let events = Rc::new(RefCell::new(VecDeque::new()));
        let sender = events.clone();
        let listener = Box::new(move |event: RequestEvent<'_>| {
            sender.borrow_mut().push_back(match event {
                RequestEvent::Token { text, .. } => ChatEvent::Text(text.to_owned()),
                RequestEvent::Done(outcome) => ChatEvent::Done(outcome),
            });
            ControlFlow::Continue(())
        });
        let id = self.engine.submit(self.asking.request(&question, &self.visual, &self.limits, listener)?);
        loop {
            let is_running = self.engine.step();
            loop {
                let Some(event) = events.borrow_mut().pop_front() else { break };
                match event {
                    ChatEvent::Text(text) if on_text(&text).is_break() => self.engine.cancel(id),
                    ChatEvent::Text(_) => {}
                    ChatEvent::Done(outcome) => {
                        if let Ok(completion) = &outcome {
                            let _ = on_text(&completion.rest);
                        }
                        return self.asking.answer(&question, outcome);
                    }
                }
            }
            if !is_running {
                return Err(stopped());
            }
        }
    }
}
