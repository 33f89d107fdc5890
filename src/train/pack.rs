//! Packing: all conversations about an image behind one copy of its visual tokens, apart from each other.
//!
//! A conversation sees the prompt's beginning, the image and itself, at the positions that it would have alone; so the
//! loss and its gradients are those of training on each by itself, while the image is read once.

use std::ops::Range;

use crate::nn::VisibleKeys;
use crate::text::{Conversation, FrameMarks, PartPosition, Passage, ShownFrames, Template, Timestamps, Tokenizer};
use crate::vlm::Design;

use super::data::Dialogue;
use super::loss::Targets;
use crate::error::Error;

/// The ids of one conversation after the image, and what predicting each of them counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrainSegment {
    ids: Vec<u32>,
    /// 0 for the words of the prompt.
    weights: Vec<f32>,
}

impl TrainSegment {
    #[cfg(test)]
    pub(super) fn new(ids: Vec<u32>, weights: Vec<f32>) -> Self {
        Self { ids, weights }
    }
}

/// Turns conversations into ids as a prompt at run time would have them.
pub(crate) struct Packer<'m> {
    tokenizer: &'m Tokenizer,
    template: &'m Template,
    marks: &'m FrameMarks,
    /// Text after an answer that the template does not write itself.
    closing: &'m str,
}

impl<'m> Packer<'m> {
    /// Makes a packer for a model's tokenizer and template.
    pub(crate) fn new(design: &'m Design) -> Self {
        let Design { tokenizer, template, marks, closing, .. } = design;
        Self { tokenizer, template, marks, closing }
    }

    fn conversation(&self) -> Conversation {
        let shown = ShownFrames::unknown(1);
        let conversation = Conversation::new(self.template.clone(), None).with_frames(shown);
        conversation.with_marks(self.marks.clone(), Timestamps::None)
    }

    /// Returns the ids before the image.
    ///
    /// # Errors
    /// When the tokenizer refuses.
    pub(crate) fn before_visual(&self) -> Result<Vec<u32>, Error> {
        let parts = self.tokenizer.encode_prompt(&self.conversation().ask("")?)?;
        Ok(parts.first().and_then(Passage::text).cloned().unwrap_or_default())
    }

    /// Returns the ids of a conversation after the image. Of a template without turns, each turn is a conversation.
    ///
    /// # Errors
    /// When the tokenizer refuses.
    pub(crate) fn segments(&self, dialogue: &Dialogue) -> Result<Vec<TrainSegment>, Error> {
        if self.template.has_turns() {
            return Ok(vec![self.segment(&dialogue.turns, dialogue.weight)?]);
        }
        dialogue.turns.chunks(1).map(|turn| self.segment(turn, dialogue.weight)).collect()
    }

    /// Encodes a conversation as a whole; the end of a part among the ids is found by encoding the text up to there.
    fn segment(&self, turns: &[(String, String)], weight: f32) -> Result<TrainSegment, Error> {
        let encode = |text: &str| self.tokenizer.encode(text, PartPosition::Later);
        let mut conversation = self.conversation();
        let mut answers = Vec::new();
        let mut text = String::new();
        for (question, answer) in turns {
            let prompt = conversation.ask(question)?.after_visual().to_owned();
            text = format!("{prompt}{}{}", self.template.reply(answer), self.closing);
            answers.push((prompt, text.clone()));
            conversation.answer(answer);
        }
        let ids = encode(&text)?;
        let mut weights = vec![0.0; ids.len()];
        for (prompt, replied) in answers {
            let end_of = |part: &str| Ok::<usize, Error>(common_prefix(&encode(part)?, &ids));
            weights[end_of(&prompt)?..end_of(&replied)?].fill(weight);
        }
        Ok(TrainSegment { ids, weights })
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Rows of a batch: prompt beginning, visual tokens, then `n_after` ids.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    /// `(B, n_after)`, row by row, filled up with id 0.
    pub ids: Vec<u32>,
    /// Ids of a row after the visual tokens.
    pub n_after: usize,
    /// `(B, S)`, row by row.
    pub positions: Vec<u32>,
    /// Visible keys of each position.
    pub visible: VisibleKeys,
    /// Indices of the flattened positions whose next id counts.
    pub rows: Vec<u32>,
    /// The ids that come next there.
    pub targets: Targets,
}

/// The lengths that rows share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    /// Ids before the image.
    pub n_before: usize,
    /// `V`.
    pub n_visual: usize,
    /// Positions left out between the image and each conversation.
    pub gap: usize,
    /// Positions of the model; conversations are cut at it.
    pub context: usize,
}

impl Packed {
    /// Packs the conversations of some images, one row an image.
    pub(crate) fn new(images: &[Vec<TrainSegment>], geometry: Geometry) -> Self {
        let Geometry { n_before, n_visual, gap, context } = geometry;
        let prefix = n_before + n_visual;
        let room = context.saturating_sub(prefix + gap);
        let n_after = images.iter().map(|row| row.iter().map(|s| s.ids.len().min(room)).sum()).max().unwrap_or(0);
        let s = prefix + n_after;
        let mut packed = Self {
            ids: Vec::with_capacity(images.len() * n_after),
            n_after,
            positions: Vec::with_capacity(images.len() * s),
            visible: VisibleKeys::new(Vec::new(), s),
            rows: Vec::new(),
            targets: Targets::default(),
        };
        let mut spans: Vec<[Range<usize>; 2]> = Vec::with_capacity(images.len() * s);
        for (row, segments) in images.iter().enumerate() {
            packed.positions.extend(0..prefix as u32);
            spans.extend((0..prefix).map(|i| [0..i + 1, 0..0]));
            let mut at = prefix;
            for segment in segments {
                let begin = at;
                for (i, (&id, &weight)) in segment.ids.iter().zip(&segment.weights).take(room).enumerate() {
                    packed.ids.push(id);
                    packed.positions.push((prefix + gap + i) as u32);
                    spans.push([0..prefix, begin..at + 1]);
                    if weight > 0.0 && at > prefix {
                        packed.rows.push((row * s + at - 1) as u32);
                        packed.targets.push(id, weight);
                    }
                    at += 1;
                }
            }
            for filling in at..s {
                packed.ids.push(0);
                packed.positions.push(0);
                spans.push([filling..filling + 1, 0..0]);
            }
        }
        packed.visible = VisibleKeys::new(spans, s);
        packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(ids: &[u32], weights: &[f32]) -> TrainSegment {
        TrainSegment { ids: ids.to_vec(), weights: weights.to_vec() }
    }

    #[test]
    fn conversations_stand_side_by_side_at_the_same_positions() {
        let images = [
            vec![segment(&[5, 6, 7], &[0.0, 0.0, 1.0]), segment(&[8, 9], &[0.0, 0.5])],
            vec![segment(&[4, 3], &[0.0, 2.0])],
        ];
        let packed = Packed::new(&images, Geometry { n_before: 1, n_visual: 2, gap: 10, context: 100 });
        assert_eq!(packed.n_after, 5);
        assert_eq!(packed.ids, [5, 6, 7, 8, 9, 4, 3, 0, 0, 0]);
        assert_eq!(packed.positions, [0, 1, 2, 13, 14, 15, 13, 14, 0, 1, 2, 13, 14, 0, 0, 0]);
        // The id at 5 is predicted at 4, that at 7 at 6; in the second row the one at 4 at 3, which is 8 + 3.
        assert_eq!(packed.rows, [4, 6, 11]);
        assert_eq!(packed.targets.classes, [7, 9, 3]);
        assert_eq!(packed.targets.weights, [1.0, 0.5, 2.0]);
    }

    #[test]
    fn what_does_not_fit_the_context_is_cut() {
        let images = [vec![segment(&[5, 6, 7, 8], &[0.0, 1.0, 1.0, 1.0])]];
        let packed = Packed::new(&images, Geometry { n_before: 1, n_visual: 2, gap: 0, context: 5 });
        assert_eq!((packed.ids, packed.targets.classes), (vec![5, 6], vec![6]));
    }
}
