//! Subtitles with times, as LongVideoBench distributes them: a list of `{start, end, line}` with times as h:mm:ss, or
//! of `{timestamp: [start, end], text}` with seconds, whose last end may be null.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::rows::{DatasetRow, read_rows};
use crate::error::{Error, Result};
use crate::text::Subtitle;
use crate::units::Seconds;

/// File of the subtitles of a video that is a part of a longer one.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedSubtitles {
    /// File, relative to the data directory.
    pub file: PathBuf,
    /// Beginning of the video on the clock of the subtitles.
    pub starts_at: Seconds,
    /// Duration of the video: the end of a subtitle without one, as in the benchmark's code.
    pub duration: Seconds,
}

impl TimedSubtitles {
    /// Reads the subtitles, with times on the video's own clock.
    ///
    /// # Errors
    /// An unreadable file, or the first entry that is not a subtitle, with its position.
    pub fn read(&self, data: &Path) -> Result<Vec<Subtitle>> {
        read_rows(&data.join(&self.file))?.iter().map(|row| self.subtitle(row)).collect()
    }

    fn subtitle(&self, row: &DatasetRow) -> Result<Subtitle> {
        let (start, end, key) = match row.value("timestamp") {
            Some(pair) => {
                let (start, end) = self.pair(pair).ok_or_else(|| row.error("`timestamp` is not [start, end]"))?;
                (start, end, "text")
            }
            None => (clock_time(row, "start")?, clock_time(row, "end")?, "line"),
        };
        let on_video = |time: Seconds| Seconds(time.0 - self.starts_at.0);
        Ok(Subtitle { start: on_video(start), end: on_video(end), text: row.text(key)?.to_owned() })
    }

    fn pair(&self, pair: &Value) -> Option<(Seconds, Seconds)> {
        let seconds = |value: &Value| value.as_str()?.parse().ok().filter(|time: &f64| time.is_finite()).map(Seconds);
        match pair.as_array()?.as_slice() {
            [start, Value::Null] => Some((seconds(start)?, self.duration)),
            [start, end] => Some((seconds(start)?, seconds(end)?)),
            _ => None,
        }
    }
}

/// Returns a time that is written as h:mm:ss.
fn clock_time(row: &DatasetRow, key: &str) -> Result<Seconds> {
    let text = row.text(key)?;
    text.parse().map_err(|error: Error| row.locate(error.about(format!("`{key}`"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_on_the_clock_of_the_video() {
        let dir = tempfile::tempdir().expect("a directory");
        let subtitles = TimedSubtitles { file: "a.json".into(), starts_at: Seconds(100.0), duration: Seconds(10.0) };
        let read = |text: &str| {
            std::fs::write(dir.path().join("a.json"), text).expect("ours");
            let found = subtitles.read(dir.path()).map_err(|error| error.to_string())?;
            Ok::<_, String>(found.into_iter().map(|s| (s.start.0, s.end.0, s.text)).collect::<Vec<_>>())
        };
        let lines = r#"[{"start": "00:01:41.500", "end": "00:01:42.000", "line": "one"}]"#;
        assert_eq!(read(lines), Ok(vec![(1.5, 2.0, "one".to_owned())]));
        let texts = r#"[{"timestamp": [101.5, 102], "text": "one"}, {"timestamp": [105.25, null], "text": ""}]"#;
        assert_eq!(read(texts), Ok(vec![(1.5, 2.0, "one".to_owned()), (5.25, -90.0, String::new())]));
        for (text, rule) in [
            (r#"[{"timestamp": [1], "text": "x"}]"#, "entry 1: `timestamp` is not [start, end]"),
            (r#"[{"timestamp": ["x", 2], "text": "x"}]"#, "entry 1: `timestamp` is not [start, end]"),
            (r#"[{"start": "00:00:01", "end": "soon", "line": "x"}]"#, "invalid time `soon`"),
            (r#"[{"start": "00:00:01", "end": "00:00:02"}]"#, "entry 1: missing field `line`"),
            (r#"[{"start": "00:00:01", "end": "00:00:02", "line": "a", "line": "b"}]"#, "the key `line` comes twice"),
        ] {
            let error = read(text).expect_err("refused");
            assert!(error.contains(rule) && error.contains("a.json"), "{error}");
        }
    }
}
