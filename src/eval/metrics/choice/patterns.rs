//! Patterns by which the parser of choices recognizes labels, and words that turn them into something else. Called by
//! `labels`.
//!
//! Patterns of a label capture it as group 1. Quotes and full-width marks are those of ASCII by then.

use std::sync::LazyLock;

use regex::Regex;

/// Pattern that is compiled when it is first used.
pub(super) type Pattern = LazyLock<Option<Regex>>;

/// Compiles a pattern of this file.
fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

/// A stated choice: words that announce it, a verb, a noun, marks.
pub(super) static STATEMENT: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:answer|i(?: would| will|'d|'ll)? (?:choose|select|pick|go with|say)",
        r"|my (?:choice|selection|pick|guess)",
        r"|(?:correct|best|right|final|most \w+) (?:option|choice|letter|one|caption|sentence))",
        r"(?:\s+(?:for|to|here)(?:\s+\w+){0,3})?[*_`\x22']*",
        r"(?:\s+(?:is|was|be|would be|should be|to be|must be|will be))?",
        r"(?:\s+(?:most likely|likely|probably|definitely|clearly|indeed))?\s*",
        r"(?:(?:the )?(?:correct |best )?(?:option|choice|letter|caption|sentence)\s*)?[:=\-–—>]*\s*(?:is\s+)?",
        r"[*_`$\x22'\\]*(?:boxed|text|mathbf|mathrm)?[*_(\[{\x22']*\s*([A-Za-z0-9])",
    ))
});

/// A stated choice whose subject is described: `the option that fits best is B`.
pub(super) static DESCRIBED: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:answer|option|choice|caption|sentence|statement)\b[^.!?;:\n]{0,100}?\s(?:is|be)\s+",
        r"(?:(?:option|choice|caption|sentence)\s+)?[*_`\x22'(\[]*([A-Za-z0-9])",
    ))
});

/// A stated choice with a pronoun: `it is B`, `that must be (B)`.
pub(super) static PRONOUN: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:it|this|that)(?:'s|\s+(?:is|was|must be|should be|would be|will be|has to be))\s+",
        r"(?:most likely |likely |probably |definitely |clearly |indeed )?",
        r"(?:(?:option|choice|caption|sentence)\s+)?[*_`\x22'(\[]*([A-Za-z0-9])",
    ))
});

/// Predicate that affirms a label: `is the correct answer`.
const AFFIRMATION: &str = concat!(
    r"is\s+(?:\w+ly\s+)?(?:the\s+)?(?:most\s+|only\s+)?",
    r"(?:correct|right|best|better|true|accurate|appropriate|likely|plausible|suitable|answer)",
    r"(?:\s+(?:answer|option|choice|one|match|caption|sentence|description|statement))?",
    r"(?:\s*(?:[.,;:!)*]|$)|\s+(?:because|since|as|here|for|given|based)\b)",
);

/// Text before a label that a sentence affirms.
const BEFORE_AFFIRMED: &str =
    r"(?:^|[.!?\n:,]\s*|\b(?i:so|thus|therefore|hence|think|believe|that|only)\s+)[*(\[\x22']*";

/// A label that a sentence affirms: `so B is correct`.
pub(super) static AFFIRMED: Pattern =
    LazyLock::new(|| pattern(&format!(r"{BEFORE_AFFIRMED}([A-Z0-9])[)\]*\x22'.:]*\s+{AFFIRMATION}")));

/// A label that a box of LaTeX or a tag gives as the final answer.
pub(super) static BOXED: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)(?:\\f?boxed\s*\{\s*|<answer>\s*)(?:(?:\\\w+\s*\{|option|choice|answer(?: is)?:?)\s*)?",
        r"[*(\[{\x22'$]*([A-Za-z0-9])",
    ))
});

/// Text before a statement that makes it the final one.
pub(super) static CONCLUSION: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)(?:\bfinal\s+|\b(?:so|therefore|thus|hence|in\s+conclusion|in\s+summary|finally|actually|ultimately)",
        r"\b[,:]?\s+(?:[\w']+\s+){0,5})$",
    ))
});

/// A label after a word that concludes, without a verb: `therefore B`, `So, B`.
pub(super) static CONCLUDED: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?:\b(?i:therefore|thus|hence|actually,?\s+no)",
        r"|(?:^|[.!?\n]\s*)(?i:(?:hmm|ok|okay|well|wait|no),?\s+)?(?i:so)),?:?\s+",
        r"(?:(?i:option|choice)\s+)?[*_`\x22'(\[]*([A-Z0-9])",
    ))
});

/// Text before a statement that makes it one of a wrong choice: `the wrong [answer is B]`.
pub(super) static WRONG: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)(?:\b(?:wrong|incorrect|worst|false|bad|unlikely|least\s+\w+|second|next|other|no|not|never)|n't)\s+",
        r"(?:(?:the|an?|my|your)\s+)?(?:(?:correct|right|best|final|possible)\s+)?$",
    ))
});

/// Words within a statement that make it one of a wrong choice: `the best option [to exclude is] B`.
pub(super) static EXCLUSION: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:exclude|eliminate|reject|avoid|discard|dismiss|rule out|not|no|never|cannot|neither|nor|wrong",
        r"|incorrect|worst|least|none|other|unlikely|impossible)\b|n't\b",
    ))
});

/// The first character of a line, after marks.
pub(super) static LINE: Pattern = LazyLock::new(|| pattern(r"(?m)^[ \t*_`\x22'(\[#>$\\–•-]*([A-Za-z0-9])"));

/// A label at the end, after a mark that announces it or as a sentence of its own.
pub(super) static END: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?:[:>→=]|(?:[a-z]{3}|[0-9)\]\x22'*]|\b(?:or|nor|and)\s+[A-Z])[.!?]\s)\s*[*_`$\x22'(\[{]*",
        r"([A-Z0-9])[)\]}*_`$\x22'.!\s]*$",
    ))
});

/// A label in brackets.
pub(super) static BRACKETS: Pattern = LazyLock::new(|| pattern(r"(?:^|[^A-Za-z0-9])[(\[{]\s*([A-Za-z0-9])\s*[)\]}]"));

/// A named option.
pub(super) static NAME: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:(?:option|choice|caption|sentence|statement)[\x22'*]*\s*[:#]?|(?:letter|label)[\x22'*]*\s*[:=])",
        r"\s*[*_(\[\x22']*([A-Za-z0-9])\b",
    ))
});

/// A label before a mark, with which a text of an option may begin.
pub(super) static MARKED: Pattern = LazyLock::new(|| pattern(r"\b([A-Z0-9])[.):]"));

/// Beginnings of reasons, of exclusions of other labels, and of another question.
const REASONS: &str = concat!(
    r"because|since|based on|given that|as (?:the|it|this|he|she|they|we)\b|for the following",
    r"|(?:(?:and|but) )?not\b|rather than\b|instead of\b|over\b|(?:and|but) (?-i:[A-Z0-9])\b|(?:question|q)\s*:",
);

/// Text after a label that gives a reason, affirms it, excludes others, or opens another question.
pub(super) static REASON: Pattern = LazyLock::new(|| pattern(&format!(r"(?i)^,?\s+(?:{REASONS}|{AFFIRMATION})")));

/// The next label of a list, after a word: `or B`, `and option (C)`, `as well as D`.
pub(super) static NEXT_AFTER_WORD: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"^[)\]}*_`\x22'$.]*[,;]?\s*\(?(?:and/or|or|and|nor|then|to|through|plus|versus|vs\.?|as\s+well\s+as)\s+",
        r"(?:(?:maybe|perhaps|possibly|even|also|then)\s+)*",
        r"(?:(?i:option|choice|caption|sentence|answer)\s+)?[*_`\x22'$(\[{]*([A-Za-z0-9])",
    ))
});

/// The next label of a list, after a sign or nothing: `, B`, `/B`, `-D`, `(A)(B)`, `A B`, `A.B`.
pub(super) static NEXT_AFTER_SIGN: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"^[)\]}*_`\x22'$]*(?:[.)\]]*\s*[,;/&+|~–—-]\s*|\.+|\s*)",
        r"(?:(?i:then|maybe|perhaps|possibly|also|option|choice|caption)\s+)*",
        r"[*_`\x22'$(\[{]*([A-Za-z0-9])",
    ))
});

/// Text after a label of a list that goes on.
pub(super) static LIST: Pattern =
    LazyLock::new(|| pattern(r"^\s*(?:[,;/&+|~]|(?:or|and|nor|then|to|through)\b|[A-Z0-9](?:\s|$))"));

/// Text before a label that rejects it: `neither (A) nor`, `all except`, `rule out option`.
pub(super) static NEGATED: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)(?:\b(?:not|neither|nor|never|cannot|except|excluding|excludes?|excluded|eliminat(?:e|es|ed|ing)",
        r"|reject(?:s|ed|ing)?|discard(?:s|ed|ing)?|dismiss(?:es|ed|ing)?|rul(?:e|es|ed|ing)\s+out|than|instead\s+of",
        r"|unlike|without|against|apart\s+from|besides|avoid|wrong|incorrect|worst",
        r"|least(?:\s+\w+)?|unlikely|second[\s-]best",
        r"|contrary\s+to|disagree\s+with",
        r"|(?:all|any|anything|everything|every\s+\w+|each)\s+but)|n't)",
        r"(?:[ \t(\[\x22'*:]+(?:for|of|the|an?|options?|choices?|captions?|sentences?|answers?|one|be|is|are|was|either",
        r"|both|likely|correct|right|choose|select|pick|think|believe|say|true|sure|certain|clear|that|it|it's",
        r"|in|favou?r))*",
        r"(?:[ \t,;&/(\[\x22'*:]+(?:(?:or|and|nor)\s+)?(?-i:[A-Z0-9])[)\]]*)*",
        r"[ \t,;&/(\[\x22'*:]+(?:(?:or|and|nor)[ \t(\[\x22'*]+)?(?:option\s+)?[(\[\x22'*]*$",
    ))
});

/// Text after a label that rejects it: `is wrong`, `can't be right`, `does not fit`.
pub(super) static REJECTION: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)^[)\].:*\x22'`]*\s*(?:,?\s*(?:but\s+)?(?:that|this|it|which)\s+)?(?:",
        r"(?:is|are|was|were|seems?|looks?|can|could|would|should|do|does|did|must|has|have|will|may|might)",
        r"(?:n't|\s+not)\b",
        r"|(?:is|are|was|were|seems?|looks?|(?:can|could|must|should|would)\s+be)\s+(?:\w+ly\s+|(?:also|both|all)\s+)*",
        r"(?:wrong|incorrect|false|ruled|excluded|eliminated|impossible|unlikely|out|invalid|inaccurate|rejected",
        r"|neither)\b",
        r"|cannot\b|can't\b|won't\b|never\b)",
    ))
});

/// Text after a label that calls it wrong without a verb: `: wrong`, `. Incorrect because`, `(not seen)`. Groups 1 and
/// 2 are what it is called, which may be the option's own text as well.
pub(super) static VERDICT: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)^[)\]}.*_\x22'`]*\s*[:=,–—-]*\s*[(\[*]*(wrong|incorrect|false",
        r"|ruled\s+out|excluded|eliminated|rejected|impossible",
        r"|not\s+(?:seen|visible|shown|present|mentioned|correct|right|true|possible|supported))",
        r"(?:\s+(?:in|by|on)\s+(?:the|this|any)\s+\w+)?",
        r"(?:\s*(?:[.,;!\n(*)\]]|$)|\s+(?:because|since|as)\b|\s+(?-i:[A-Z0-9])[.):])",
        r"|^[)\]*]*\s*[:=–—-]*\s*(no)\s*(?:[.,;\n(]|$)",
    ))
});

/// Text after the last label of a list whose verb is about all of them.
pub(super) static PLURAL: Pattern =
    LazyLock::new(|| pattern(r"(?i)^[)\].*\x22'`]*\s*(?:are|were|do|did|have|can|could|cannot)\b"));

/// Text after a label that asks about it.
pub(super) static ASKED: Pattern = LazyLock::new(|| pattern(r"^[)\]}*_`\x22'.]*\s*\?"));

/// Text after a letter that is no label: initials (`A. M.`), a range (`A - Z`), a score (`A: 10%`).
pub(super) static SYMBOL: Pattern =
    LazyLock::new(|| pattern(r"^(?:\.\s?[A-Z]\.|\s*[-–—]\s*[A-Z](?:[.,;!?)\n]|$)|\x22?\s*[:=]\s*[0-9])"));

/// Text before a letter that names something other than an option: `figure (B)`, `team (A)`.
pub(super) static THING: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:appendix|building|chapter|class|exit|fig\.?|figure|frame|gate|group|image|panel|part|person|picture",
        r"|player|point|room|scene|section|speaker|step|table|team|type)\s*[(\[{\x22'*]*$",
    ))
});

/// Words that take an answer back, up to the label that replaces it.
pub(super) static RETRACTION: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:sorry|wait|correction|scratch that|on second thoughts?|i meant?)[,.:!]?\s+",
        r"(?:(?:no|i meant?|actually|it is|it's|that is|rather)[,:]?\s+)*[*_`\x22'(\[]*([A-Za-z0-9])",
    ))
});

/// Text before a statement that makes it a condition: `if it were red, [the answer is A]`.
pub(super) static CONDITION: Pattern = LazyLock::new(|| {
    pattern(r"(?i)\b(?:(?:if|unless)\b[^.!?\n]*\b(?:were|was|is|did|does)\b[^.!?\n]*|unless\s+(?:the\s+)?)$")
});

/// Text before a label that doubts the statement of it or leaves it open: `I doubt the answer is`, `some might say`.
pub(super) static DOUBT: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:(?:i|we|you|they)\s+(?:(?:really|strongly|seriously|do|would)\s+)?doubt|whether",
        r"|(?:doubtful|false|untrue|unlikely|incorrect|wrong|impossible)\s+that",
        r"|no\s+(?:evidence|proof|reason|sign|indication)\b|(?:ask(?:s|ed|ing)?|wonder(?:s|ed|ing)?)\s+(?:me\s+)?if",
        r"|(?:nobody|no\s+one|no-one|some|others|many|people|someone|one)\s+(?:people\s+)?",
        r"(?:would|might|may|could|can)\s+",
        r"(?:say|think|argue|claim|believe|guess|choose|pick|select))",
        r"(?:\s+(?:that|the|an?|my|it|it's|this|most|likely|correct|right|best|final|answer|option|choice|is|was|be",
        r"|would|should|must|might|may|could))*\s+[(\[\x22'*]*$",
    ))
});

/// A statement that no option is right.
pub(super) static DENIAL: Pattern = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:no\s+(?:(?:correct|right|valid|good|suitable|such)\s+)?(?:answer|option|choice)s?",
        r"|none\s+of\s+(?:it|them|these|those|the\s+(?:above|options|choices|answers|given)))\b",
    ))
});

/// Commands of LaTeX around a text.
pub(super) static LATEX: Pattern = LazyLock::new(|| pattern(r"\\[A-Za-z]+\s*\{|\\[()\[\]]"));
