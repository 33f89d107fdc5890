//! Changes of the logits by a checkpoint's `generation_config.json`, before a token is chosen, greedily or not.
//!
//! Reference: `generation/logits_process.py` of transformers 5.24, in the order of `_get_logits_processor`: biases of
//! sequences, the penalty of repetitions, n-grams that must not repeat, sequences and ends that must not come,
//! suppressed ids.

use std::collections::BTreeSet;

/// Rules over the logits; the default changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitRules {
    /// `sequence_bias`: added to the last id of a sequence where the ids before it have just come.
    pub biases: Vec<(Vec<u32>, f32)>,
    /// Divides the logits of ids that came already. `1` changes nothing.
    pub repetition_penalty: f32,
    /// Length of the n-grams that must not come twice; `0` for none.
    pub no_repeat_ngram_size: usize,
    /// `bad_words_ids`: sequences that must not come.
    pub banned: Vec<Vec<u32>>,
    /// No end before prompt and answer have this many tokens.
    pub min_length: usize,
    /// No end before the answer has this many tokens.
    pub min_new_tokens: usize,
    /// Ids that never come.
    pub suppressed: Vec<u32>,
    /// Ids that never come first.
    pub suppressed_first: Vec<u32>,
    /// Ids that end an answer.
    pub ends: Vec<u32>,
}

impl Default for LogitRules {
    fn default() -> Self {
        Self {
            biases: Vec::new(),
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            banned: Vec::new(),
            min_length: 0,
            min_new_tokens: 0,
            suppressed: Vec::new(),
            suppressed_first: Vec::new(),
            ends: Vec::new(),
        }
    }
}

/// The prompt as the rules see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptHistory {
    /// Ids of the prompt that count as having come. Empty where a checkpoint's own code gives the model embeddings.
    pub ids: Vec<u32>,
    /// Tokens of the prompt, visual ones included.
    pub n_tokens: usize,
}

impl LogitRules {
    /// Returns whether the rules change no logit.
    pub(crate) fn is_neutral(&self) -> bool {
        *self == Self { ends: self.ends.clone(), ..Self::default() }
    }

    /// Changes the logits of the next token.
    pub(super) fn apply(&self, logits: &mut [f32], prompt: &PromptHistory, generated: &[u32]) {
        let ids = [prompt.ids.as_slice(), generated].concat();
        let mut add = |id: u32, bias: f32| {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        };
        completed(&self.biases, &ids).for_each(|(id, bias)| add(id, bias));
        self.penalise(logits, &ids);
        let banned = self.banned.iter().filter(|sequence| !self.is_end(sequence));
        let banned: Vec<(Vec<u32>, f32)> = banned.map(|sequence| (sequence.clone(), f32::NEG_INFINITY)).collect();
        let mut out: Vec<u32> = completed(&banned, &ids).map(|(id, _)| id).collect();
        out.extend(repeating(&ids, self.no_repeat_ngram_size));
        if prompt.n_tokens + generated.len() < self.min_length || generated.len() < self.min_new_tokens {
            out.extend(&self.ends);
        }
        out.extend(&self.suppressed);
        if generated.is_empty() {
            out.extend(&self.suppressed_first);
        }
        for id in out {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// Divides a positive logit of an id that came, multiplies a negative one.
    fn penalise(&self, logits: &mut [f32], ids: &[u32]) {
        for id in ids.iter().copied().collect::<BTreeSet<u32>>() {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit < 0.0 { *logit * self.repetition_penalty } else { *logit / self.repetition_penalty };
            }
        }
    }

    fn is_end(&self, sequence: &[u32]) -> bool {
        matches!(sequence, [id] if self.ends.contains(id))
    }
}

/// Returns the last id of each sequence whose other ids are the last of `ids`.
fn completed<'a>(sequences: &'a [(Vec<u32>, f32)], ids: &'a [u32]) -> impl Iterator<Item = (u32, f32)> + 'a {
    sequences.iter().filter_map(|(sequence, bias)| {
        let (last, before) = sequence.split_last()?;
        ids.ends_with(before).then_some((*last, *bias))
    })
}

/// Returns the ids that would complete an n-gram which came already.
fn repeating(ids: &[u32], n: usize) -> Vec<u32> {
    if n == 0 || ids.len() < n {
        return Vec::new();
    }
    let prefix = &ids[ids.len() + 1 - n..];
    ids.windows(n)
        .filter_map(|window| window.split_last())
        .filter(|(_, before)| *before == prefix)
        .map(|(id, _)| *id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rules: &LogitRules, prompt: &[u32], generated: &[u32]) -> Vec<f32> {
        let mut logits = vec![1.0, 2.0, -3.0, 4.0];
        let prompt = PromptHistory { ids: prompt.to_vec(), n_tokens: prompt.len() };
        rules.apply(&mut logits, &prompt, generated);
        logits
    }

    const OUT: f32 = f32::NEG_INFINITY;

    #[test]
    fn rules_that_say_nothing_change_nothing() {
        let rules = LogitRules { ends: vec![3], ..LogitRules::default() };
        assert!(rules.is_neutral());
        assert_eq!(after(&rules, &[0, 1, 2], &[3]), [1.0, 2.0, -3.0, 4.0]);
    }

    #[test]
    fn the_penalty_is_over_prompt_and_answer_once_an_id() {
        let rules = LogitRules { repetition_penalty: 2.0, ..LogitRules::default() };
        assert_eq!(after(&rules, &[2, 2], &[1, 9]), [1.0, 1.0, -6.0, 4.0]);
    }

    #[test]
    fn n_grams_do_not_come_twice() {
        let rules = LogitRules { no_repeat_ngram_size: 2, ..LogitRules::default() };
        // 3 0 and 3 2 came; after another 3 neither may.
        assert_eq!(after(&rules, &[3, 0, 3], &[2, 3]), [OUT, 2.0, OUT, 4.0]);
        let unigrams = LogitRules { no_repeat_ngram_size: 1, ..LogitRules::default() };
        assert_eq!(after(&unigrams, &[1], &[]), [1.0, OUT, -3.0, 4.0]);
    }

    #[test]
    fn sequences_are_banned_and_biased_by_their_last_id() {
        let banned = LogitRules {
            banned: vec![vec![0], vec![1, 3], vec![2, 1], vec![3]],
            ends: vec![3],
            ..LogitRules::default()
        };
        // 3 ends a text, which cannot be banned alone; but after 1 it would complete a sequence.
        assert_eq!(after(&banned, &[], &[2]), [OUT, OUT, -3.0, 4.0]);
        assert_eq!(after(&banned, &[1], &[]), [OUT, 2.0, -3.0, OUT]);
        let biased = LogitRules { biases: vec![(vec![0], 0.5), (vec![1, 2], 10.0)], ..LogitRules::default() };
        assert_eq!(after(&biased, &[1], &[]), [1.5, 2.0, 7.0, 4.0]);
        assert_eq!(after(&biased, &[], &[]), [1.5, 2.0, -3.0, 4.0]);
    }

    #[test]
    fn an_end_waits_for_the_shortest_length() {
        let new = LogitRules { min_new_tokens: 2, ends: vec![3], ..LogitRules::default() };
        assert_eq!((after(&new, &[0; 9], &[1])[3], after(&new, &[0; 9], &[1, 1])[3]), (OUT, 4.0));
        let all = LogitRules { min_length: 4, ends: vec![3], ..LogitRules::default() };
        assert_eq!((after(&all, &[0, 0], &[1])[3], after(&all, &[0, 0], &[1, 1])[3]), (OUT, 4.0));
    }

    #[test]
    fn suppressed_ids_do_not_come_and_some_only_not_first() {
        let rules = LogitRules { suppressed: vec![1, 99], suppressed_first: vec![0], ..LogitRules::default() };
        assert!(!rules.is_neutral());
        assert_eq!(after(&rules, &[], &[]), [OUT, OUT, -3.0, 4.0]);
        assert_eq!(after(&rules, &[], &[2]), [1.0, OUT, -3.0, 4.0]);
    }
}
