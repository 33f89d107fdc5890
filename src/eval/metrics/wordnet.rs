//! WordNet's database files (`dict/` of WordNet 3.0 or 3.1, format wndb(5WN)): synsets of a word, and their hypernyms.
//!
//! The directory holds `index.{noun,verb,adj,adv}`, `data.{noun,verb,adj,adv}` and, for irregular forms,
//! `{noun,verb,adj,adv}.exc`. Nothing of it is part of this program. Synsets of a word are in the order of NLTK's
//! reader: nouns, verbs, adjectives, adverbs; of each the word's base forms (morphy(7WN)), and their senses by
//! frequency.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Error;
use crate::files;

/// Limit of the size of a database file; WordNet's largest has 15 MB.
const MAX_BYTES: u64 = 256 << 20;

/// Parts of speech, in the order of the search.
const PARTS: [WordPart; 4] = [WordPart::Noun, WordPart::Verb, WordPart::Adjective, WordPart::Adverb];

/// Part of speech of a database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum WordPart {
    Noun,
    Verb,
    Adjective,
    Adverb,
}

impl WordPart {
    fn name(self) -> &'static str {
        match self {
            Self::Noun => "noun",
            Self::Verb => "verb",
            Self::Adjective => "adj",
            Self::Adverb => "adv",
        }
    }

    /// Endings and their replacements that lead to base forms.
    fn endings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Noun => &[
                ("s", ""),
                ("ses", "s"),
                ("ves", "f"),
                ("xes", "x"),
                ("zes", "z"),
                ("ches", "ch"),
                ("shes", "sh"),
                ("men", "man"),
                ("ies", "y"),
            ],
            Self::Verb => {
                &[("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")]
            }
            Self::Adjective => &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
            Self::Adverb => &[],
        }
    }
}

/// Synset: a part of speech and the offset of its line in WordNet's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Synset {
    pub(super) part: WordPart,
    pub(super) offset: u32,
}

/// Files of one part of speech.
#[derive(Debug, Default)]
struct PartFiles {
    /// Offsets of the synsets of each lemma.
    index: HashMap<String, Vec<u32>>,
    /// Base forms of irregular forms.
    exceptions: HashMap<String, Vec<String>>,
    /// Lines of the data file by offset.
    lines: HashMap<u32, Box<str>>,
}

/// WordNet's database in memory.
#[derive(Debug)]
pub struct WordNet {
    parts: [PartFiles; 4],
}

impl WordNet {
    /// Reads the database files of a directory.
    ///
    /// # Errors
    /// A missing or unreadable file, or a line that is not of the format.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let mut parts = <[PartFiles; 4]>::default();
        for (part, found) in PARTS.into_iter().zip(&mut parts) {
            *found = PartFiles::read(dir, part)?;
        }
        Ok(Self { parts })
    }

    fn part(&self, part: WordPart) -> &PartFiles {
        &self.parts[part as usize]
    }

    /// Returns the first synset of a word in lower case.
    pub(super) fn first_synset(&self, word: &str) -> Option<Synset> {
        PARTS.into_iter().find_map(|part| {
            let forms = self.base_forms(word, part);
            let offset = forms.iter().find_map(|form| self.part(part).index.get(form)?.first().copied())?;
            Some(Synset { part, offset })
        })
    }

    /// Returns the word itself and its base forms, as far as WordNet has them.
    pub(super) fn base_forms(&self, word: &str, part: WordPart) -> Vec<String> {
        let files = self.part(part);
        let regular = || {
            let of = |(old, new): &(&str, &str)| word.strip_suffix(old).map(|stem| format!("{stem}{new}"));
            part.endings().iter().filter_map(of).collect::<Vec<_>>()
        };
        let forms = files.exceptions.get(word).cloned().unwrap_or_else(regular);
        let mut found: Vec<String> = Vec::new();
        for form in std::iter::once(word.to_owned()).chain(forms) {
            if files.index.contains_key(&form) && !found.contains(&form) {
                found.push(form);
            }
        }
        found
    }

    /// Returns the hypernyms of a synset, then its instance hypernyms.
    pub(super) fn hypernyms(&self, synset: Synset) -> Vec<Synset> {
        let Some(line) = self.part(synset.part).lines.get(&synset.offset) else { return Vec::new() };
        let pointers = pointers(line).unwrap_or_default();
        let of = |symbol: &'static str| {
            let chosen = pointers.iter().filter(move |pointer| pointer.0 == symbol);
            chosen.map(|pointer| Synset { part: synset.part, offset: pointer.1 })
        };
        of("@").chain(of("@i")).collect()
    }

    /// Returns the name of a synset, `lemma.pos.sense`, by which NLTK orders synsets of one depth.
    pub(super) fn name(&self, synset: Synset) -> String {
        let files = self.part(synset.part);
        let line = files.lines.get(&synset.offset).map_or("", |line| line);
        let mut fields = line.split(' ').skip(2);
        let part = fields.next().unwrap_or_default();
        let lemma = fields.nth(1).unwrap_or_default();
        let lemma = lemma.split('(').next().unwrap_or_default().to_lowercase();
        let senses = files.index.get(&lemma).map_or(&[][..], |offsets| offsets);
        let sense = senses.iter().position(|offset| *offset == synset.offset).map_or(0, |index| index + 1);
        format!("{lemma}.{part}.{sense:02}")
    }
}

impl PartFiles {
    fn read(dir: &Path, part: WordPart) -> Result<Self, Error> {
        let mut files = Self::default();
        read_lines(&dir.join(format!("index.{}", part.name())), &mut |line| {
            let mut fields = line.split_ascii_whitespace();
            let lemma = fields.next()?.to_owned();
            let n_synsets: usize = fields.nth(1)?.parse().ok()?;
            let n_pointers: usize = fields.next()?.parse().ok()?;
            let offsets = fields.skip(n_pointers.checked_add(2)?).take(n_synsets).map(|offset| offset.parse().ok());
            files.index.insert(lemma, offsets.collect::<Option<Vec<u32>>>()?);
            Some(())
        })?;
        read_lines(&dir.join(format!("data.{}", part.name())), &mut |line| {
            let offset = line.split(' ').next()?.parse().ok()?;
            pointers(line)?;
            files.lines.insert(offset, line.split(" | ").next()?.into());
            Some(())
        })?;
        let exceptions = dir.join(format!("{}.exc", part.name()));
        if exceptions.exists() {
            read_lines(&exceptions, &mut |line| {
                let mut words = line.split_ascii_whitespace().map(str::to_owned);
                files.exceptions.insert(words.next()?, words.collect());
                Some(())
            })?;
        }
        Ok(files)
    }
}

/// Calls `read` for each line but those of the licence and empty ones.
fn read_lines(path: &Path, read: &mut dyn FnMut(&str) -> Option<()>) -> Result<(), Error> {
    let bytes = files::read_bounded(path, MAX_BYTES).map_err(Error::io(path))?;
    let text = String::from_utf8_lossy(&bytes);
    for (number, line) in (1..).zip(text.lines()) {
        if !line.starts_with("  ") && !line.trim().is_empty() && read(line).is_none() {
            let error = Error::invalid("not a line of WordNet's database").about(format!("line {number}"));
            return Err(error.about(path));
        }
    }
    Ok(())
}

/// Returns the pointers of a line of a data file: symbol and offset of those to the same part of speech.
fn pointers(line: &str) -> Option<Vec<(&str, u32)>> {
    let mut fields = line.split(' ').skip(3);
    let n_words = usize::from_str_radix(fields.next()?, 16).ok()?;
    let mut fields = fields.skip(n_words.checked_mul(2)?);
    let n_pointers: usize = fields.next()?.parse().ok()?;
    let mut found = Vec::new();
    for _ in 0..n_pointers {
        let (symbol, offset, _part, _words) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if matches!(symbol, "@" | "@i") {
            found.push((symbol, offset.parse().ok()?));
        }
    }
    Some(found)
}
