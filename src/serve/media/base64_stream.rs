//! Strict base64, decoded in pieces: a body of 200 MB is never held a second time. Errors name a position, never data.

use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use base64::{DecodeSliceError, Engine as _};

use crate::error::{Error, Kind, Result};

/// Standard alphabet, canonical padding, no line breaks.
const STRICT: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD);
/// Characters of a group, of which each encodes three bytes.
const GROUP: usize = 4;
/// Characters that are decoded at once; a multiple of [`GROUP`].
const PIECE: usize = 1 << 16;

/// Returns the number of bytes that a text in base64 encodes.
///
/// # Errors
/// An empty text, or a length that is not a multiple of 4.
pub(super) fn decoded_len(text: &str) -> Result<u64> {
    let n = text.len();
    if n == 0 {
        return Err(Error::new(Kind::Empty, "no data"));
    }
    if !n.is_multiple_of(GROUP) {
        let rule = format!("invalid base64: {n} characters, not a multiple of {GROUP}");
        return Err(Error::invalid(rule).with_hint("standard base64 with `=` at its end, without line breaks"));
    }
    let n_padding = text.bytes().rev().take(2).take_while(|byte| *byte == b'=').count();
    Ok((n / GROUP * 3 - n_padding) as u64)
}

/// Decodes a text and passes its bytes on piece by piece.
///
/// # Errors
/// As [`decoded_len`]; a character outside of the alphabet, by its position from 0; an error of `take`.
pub(super) fn decode(text: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    decoded_len(text)?;
    let mut bytes = vec![0; text.len().min(PIECE) / GROUP * 3];
    let pieces = text.as_bytes().chunks(PIECE);
    let last = pieces.len() - 1;
    for (i, piece) in pieces.enumerate() {
        let start = i * PIECE;
        if i < last && piece.ends_with(b"=") {
            return Err(invalid_at(start + piece.len() - 1));
        }
        let n = STRICT.decode_slice(piece, &mut bytes).map_err(|error| invalid(&error, start, piece.len()))?;
        take(&bytes[..n])?;
    }
    Ok(())
}

/// Returns the error of a piece of `len` characters that begins at `start`.
fn invalid(error: &DecodeSliceError, start: usize, len: usize) -> Error {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    match error {
        DecodeSliceError::DecodeError(InvalidByte(at, _) | InvalidLastSymbol(at, _)) => invalid_at(start + at),
        DecodeSliceError::DecodeError(InvalidPadding | InvalidLength(_)) | DecodeSliceError::OutputSliceTooSmall => {
            invalid_at(start + len - 1)
        }
    }
}

fn invalid_at(position: usize) -> Error {
    let error = Error::invalid(format!("invalid base64 at position {position}"));
    error.with_hint("standard base64 with `=` at its end, without line breaks")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Result<Vec<u8>> {
        let mut found = Vec::new();
        decode(text, &mut |bytes| {
            found.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn bytes_are_decoded_across_pieces() {
        for n in [1, 2, 3, 49_151, 49_152, 49_153, 200_000] {
            let bytes: Vec<u8> = (0..n).map(|i| (i * 7 % 251) as u8).collect();
            let text = STRICT.encode(&bytes);
            assert_eq!(decoded_len(&text).expect("valid"), n as u64);
            assert_eq!(decoded(&text).expect("valid"), bytes, "{n} bytes");
        }
    }

    #[test]
    fn errors_name_the_position_and_not_the_data() {
        let long = format!("{}*AAA", "AAAA".repeat(20_000));
        let inner_padding = format!("{}AA==AAAA", "AAAA".repeat(PIECE / GROUP - 1));
        for (text, position) in [
            ("AA AAAAA", 2),
            ("AAA\n", 3),
            ("AA-_", 2),
            ("A===", 1),
            // Bits beyond the last byte that are not zero.
            ("AB==", 1),
            ("AA==AAAA", 2),
            ("äAA", 0),
            (&long, 80_000),
            // The padding is at the end of a piece, not of the text.
            (&inner_padding, PIECE - 1),
        ] {
            let error = decoded(text).expect_err(&text[..text.len().min(8)]).to_string();
            let expected = format!("invalid base64 at position {position}; hint: ");
            assert!(error.starts_with(&expected), "{error}, not {expected}");
        }
        assert_eq!(decoded("").expect_err("empty").kind(), Kind::Empty);
        let error = decoded("AAAAA").expect_err("cut").to_string();
        assert!(error.starts_with("invalid base64: 5 characters, not a multiple of 4; hint: "), "{error}");
    }
}
