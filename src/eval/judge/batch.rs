//! Files of a batch: the lines of requests, in as many files as a service's limits ask for.

use crate::error::{Error, Result};

/// Limits of a file of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Maximum number of requests.
    pub requests: usize,
    /// Maximum number of bytes.
    pub bytes: usize,
}

impl BatchLimits {
    /// Limits of OpenAI's batches: 50,000 requests and 200 MB a file (OpenAI, Batch API guide).
    pub const OPEN_AI: Self = Self { requests: 50_000, bytes: 200_000_000 };

    /// Splits lines into files, in their order; one file without lines if there are none.
    ///
    /// # Errors
    /// A line over the limit of bytes.
    pub fn split<'l>(&self, lines: &'l [String]) -> Result<Vec<&'l [String]>> {
        let mut files = Vec::new();
        let (mut begin, mut n_bytes) = (0, 0);
        for (index, line) in lines.iter().enumerate() {
            let length = line.len() + 1;
            if length > self.bytes {
                let rule = format!("{length} bytes, over the {} bytes of a file of a batch", self.bytes);
                return Err(Error::invalid(rule).about(format!("request {}", index + 1)));
            }
            if index - begin >= self.requests || n_bytes + length > self.bytes {
                files.push(&lines[begin..index]);
                (begin, n_bytes) = (index, 0);
            }
            n_bytes += length;
        }
        files.push(&lines[begin..]);
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_within_the_numbers_of_requests_and_bytes() {
        let lines = ["aaa", "bbb", "c", "d", "e"].map(str::to_owned);
        let lengths = |requests, bytes| {
            let files = BatchLimits { requests, bytes }.split(&lines).expect("short lines");
            assert_eq!(files.concat(), lines);
            files.iter().map(|file| file.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(5, 14), [5]);
        assert_eq!(lengths(2, 14), [2, 2, 1]);
        // Four bytes for each of the long lines, two for the others.
        assert_eq!((lengths(5, 13), lengths(5, 7), lengths(5, 4)), (vec![4, 1], vec![1, 2, 2], vec![1, 1, 2, 1]));
        let error = BatchLimits { requests: 5, bytes: 3 }.split(&lines).expect_err("long").to_string();
        assert_eq!(error, "request 1: 4 bytes, over the 3 bytes of a file of a batch");
        assert_eq!(BatchLimits::OPEN_AI.split(&[]).expect("none"), [&[] as &[String]]);
    }
}
