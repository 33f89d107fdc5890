//! WUPS: similarity of two sets of words by Wu and Palmer's measure over WordNet (Malinowski and Fritz 2014, arXiv
//! 1410.0210, section 3), as NExT-QA's evaluation computes it (`metrics.py` of NExT-OE): the first synset of each word,
//! similarities below a threshold scaled by 0.1, the product over the words of one side of the best match on the other,
//! words without a match left out, and the smaller of both directions.
//!
//! The similarity of two synsets is NLTK's `wup_similarity`, its rule for the common ancestor included (least depth
//! along the shortest path, ties by name). As in the script (pywsd's `lemmatize_sentence`), words are lemmatised before
//! stop words are removed. The script's lemmatiser asks a part-of-speech tagger, which is no part of this program: here
//! stop words and words in `-ing` and `-ed` are lemmatised as verbs if they have such a base form, other words as
//! nouns, else as verbs, else as adjectives; and a word that WordNet does not have loses a final `s` only, in place of
//! Porter's stem.

use std::collections::{HashMap, HashSet, VecDeque};

use super::wordnet::{Synset, WordNet, WordPart};

/// Words that NExT-QA's evaluation removes; numbers, `no`, `not`, and places such as `up` stay.
const STOP_WORDS: &str = "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself \
    she her hers herself it its itself they them their theirs themselves what which who whom this that those these am is \
    are was were be been being have has had having do does did doing a an the and but if or because as until while to \
    from of at for with about into through during again further then here there when where why how all any each most \
    other some such only own so than too very s t can will just don should now d ll m o re ve y ain aren couldn didn \
    doesn hadn hasn haven isn ma mightn mustn needn shan shouldn wasn weren won wouldn";

/// Endings of words that are lemmatised as verbs.
const VERB_ENDINGS: [&str; 2] = ["ing", "ed"];

/// Returns the lemmas of a text without stop words.
pub fn wups_words(text: &str, wordnet: &WordNet) -> Vec<String> {
    let stop: HashSet<&str> = STOP_WORDS.split_ascii_whitespace().collect();
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let lemmas = words.map(|word| {
        // Stop words such as `was` and `does` are forms of verbs, also if WordNet has a noun `wa` or `doe`.
        let is_verb = stop.contains(word) || VERB_ENDINGS.iter().any(|ending| word.ends_with(ending));
        lemma(word, if is_verb { &VERB_FIRST } else { &NOUN_FIRST }, wordnet)
    });
    lemmas.filter(|lemma| !stop.contains(lemma.as_str())).collect()
}

/// Parts of speech of a form of a verb, in the order of the search.
const VERB_FIRST: [WordPart; 2] = [WordPart::Verb, WordPart::Noun];

/// Parts of speech of another word.
const NOUN_FIRST: [WordPart; 3] = [WordPart::Noun, WordPart::Verb, WordPart::Adjective];

/// Returns the shortest base form of a word, by the first part of speech that has one; else its stem, if WordNet has
/// that (`hi` for `his`, as in the script), or the word itself. An adverb that is no noun and no verb stays: `after` is
/// no form of the adjective `aft`.
fn lemma(word: &str, parts: &[WordPart], wordnet: &WordNet) -> String {
    let base = |part: &WordPart| match part {
        WordPart::Adjective if !wordnet.base_forms(word, WordPart::Adverb).is_empty() => Some(word.to_owned()),
        part => wordnet.base_forms(word, *part).into_iter().min_by_key(String::len),
    };
    parts.iter().find_map(base).unwrap_or_else(|| {
        let stem = word.strip_suffix('s').filter(|stem| wordnet.first_synset(stem).is_some());
        stem.unwrap_or(word).to_owned()
    })
}

/// Returns the WUPS of two lists of words, between 0 and 1; similarities below `threshold` are scaled by 0.1.
pub fn wups(answer: &[String], reference: &[String], threshold: f64, wordnet: &WordNet) -> f64 {
    let mut known = HashMap::new();
    let mut similarity = |a: &str, b: &str| -> f64 {
        *known.entry((a.to_owned(), b.to_owned())).or_insert_with(|| word_similarity(a, b, threshold, wordnet))
    };
    let mut product = |from: &[String], to: &[String]| {
        let best = |word: &String, similarity: &mut dyn FnMut(&str, &str) -> f64| {
            to.iter().map(|other| similarity(word, other)).fold(0.0, f64::max)
        };
        let matches: Vec<f64> =
            from.iter().map(|word| best(word, &mut similarity)).filter(|best| *best > 0.0).collect();
        if matches.is_empty() { 0.0 } else { matches.iter().product() }
    };
    let there: f64 = product(answer, reference);
    there.min(product(reference, answer))
}

/// Returns the similarity of two words.
fn word_similarity(a: &str, b: &str, threshold: f64, wordnet: &WordNet) -> f64 {
    if a == b {
        return 1.0;
    }
    let synsets = (wordnet.first_synset(&a.to_lowercase()), wordnet.first_synset(&b.to_lowercase()));
    let (Some(first), Some(second)) = synsets else { return 0.0 };
    let similarity = wup_similarity(first, second, wordnet).unwrap_or(0.0);
    if similarity < threshold { 0.1 * similarity } else { similarity }
}

/// Synset, or the root above all taxonomies that are not of nouns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum TaxonomyNode {
    Synset(Synset),
    Root,
}

/// Returns Wu and Palmer's similarity of two synsets, if they have a common ancestor.
fn wup_similarity(a: Synset, b: Synset, wordnet: &WordNet) -> Option<f64> {
    let with_root = a.part != WordPart::Noun || b.part != WordPart::Noun;
    let (from_a, from_b) = (distances(a, with_root, wordnet), distances(b, with_root, wordnet));
    let mut common: Vec<TaxonomyNode> = from_a.keys().filter(|node| from_b.contains_key(*node)).copied().collect();
    if with_root && !common.contains(&TaxonomyNode::Root) {
        common.push(TaxonomyNode::Root);
    }
    let deepest = common.iter().map(|node| least_depth(*node, wordnet)).max()?;
    common.retain(|node| least_depth(*node, wordnet) == deepest);
    let ancestor = match common.contains(&TaxonomyNode::Synset(a)) {
        true => TaxonomyNode::Synset(a),
        false => common.into_iter().min_by_key(|node| match node {
            TaxonomyNode::Synset(synset) => wordnet.name(*synset),
            TaxonomyNode::Root => "*ROOT*".to_owned(),
        })?,
    };
    let depth = (greatest_depth(ancestor, wordnet, &mut HashMap::new()) + 1) as f64;
    let from_ancestor = match ancestor {
        TaxonomyNode::Synset(synset) => distances(synset, with_root, wordnet),
        TaxonomyNode::Root => HashMap::from([(TaxonomyNode::Root, 0)]),
    };
    let shortest = |from: &HashMap<TaxonomyNode, usize>| {
        from.iter().filter_map(|(node, n)| from_ancestor.get(node).map(|other| n + other)).min()
    };
    let (to_a, to_b) = (shortest(&from_a)? as f64, shortest(&from_b)? as f64);
    Some(2.0 * depth / (to_a + depth + to_b + depth))
}

/// Returns the distances of a synset to its ancestors; the root is one step above the farthest.
fn distances(synset: Synset, with_root: bool, wordnet: &WordNet) -> HashMap<TaxonomyNode, usize> {
    let mut found = HashMap::new();
    let mut queue = VecDeque::from([(synset, 0)]);
    while let Some((synset, distance)) = queue.pop_front() {
        if found.contains_key(&TaxonomyNode::Synset(synset)) {
            continue;
        }
        found.insert(TaxonomyNode::Synset(synset), distance);
        queue.extend(wordnet.hypernyms(synset).into_iter().map(|above| (above, distance + 1)));
    }
    if with_root {
        let farthest = found.values().max().copied().unwrap_or(0);
        found.insert(TaxonomyNode::Root, farthest + 1);
    }
    found
}

/// Returns the length of the shortest path from a node to a synset without hypernyms.
fn least_depth(node: TaxonomyNode, wordnet: &WordNet) -> usize {
    let TaxonomyNode::Synset(synset) = node else { return 0 };
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([(synset, 0)]);
    while let Some((synset, depth)) = queue.pop_front() {
        let above = wordnet.hypernyms(synset);
        if above.is_empty() {
            return depth;
        }
        if seen.insert(synset) {
            queue.extend(above.into_iter().map(|synset| (synset, depth + 1)));
        }
    }
    0
}

/// Returns the length of the longest path from a node to a synset without hypernyms. `known` has the lengths so far; in
/// a damaged database, whose hypernyms form a cycle, the cycle is passed once.
fn greatest_depth(node: TaxonomyNode, wordnet: &WordNet, known: &mut HashMap<Synset, usize>) -> usize {
    let TaxonomyNode::Synset(synset) = node else { return 0 };
    if let Some(depth) = known.get(&synset) {
        return *depth;
    }
    known.insert(synset, 0);
    let above = wordnet.hypernyms(synset).into_iter();
    let depth = above.map(|above| 1 + greatest_depth(TaxonomyNode::Synset(above), wordnet, known)).max().unwrap_or(0);
    known.insert(synset, depth);
    depth
}
