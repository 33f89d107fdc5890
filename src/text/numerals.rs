//! Numbers in English words, like the Python package `num2words`: SmolVLM's prompt spells out the number of frames.

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

/// Spells out a number, such as `one thousand, two hundred and sixty-four`. Numbers from a million on stay in digits:
/// no video has as many frames.
pub(super) fn in_words(n: usize) -> String {
    match n {
        0..20 => SMALL[n].to_owned(),
        20..100 if n.is_multiple_of(10) => TENS[n / 10].to_owned(),
        20..100 => format!("{}-{}", TENS[n / 10], SMALL[n % 10]),
        100..1000 => {
            let hundreds = format!("{} hundred", SMALL[n / 100]);
            if n.is_multiple_of(100) { hundreds } else { format!("{hundreds} and {}", in_words(n % 100)) }
        }
        1000..1_000_000 => {
            let thousands = format!("{} thousand", in_words(n / 1000));
            match n % 1000 {
                0 => thousands,
                rest @ 1..100 => format!("{thousands} and {}", in_words(rest)),
                rest => format!("{thousands}, {}", in_words(rest)),
            }
        }
        _ => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::in_words;

    /// Expected texts are those of num2words 0.5.
    #[test]
    fn numbers_read_as_num2words_writes_them() {
        for (n, words) in [
            (0, "zero"),
            (8, "eight"),
            (20, "twenty"),
            (64, "sixty-four"),
            (100, "one hundred"),
            (101, "one hundred and one"),
            (256, "two hundred and fifty-six"),
            (1000, "one thousand"),
            (1001, "one thousand and one"),
            (1234, "one thousand, two hundred and thirty-four"),
            (100_000, "one hundred thousand"),
            (123_456, "one hundred and twenty-three thousand, four hundred and fifty-six"),
        ] {
            assert_eq!(in_words(n), words);
        }
    }
}
