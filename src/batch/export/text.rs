//! Text exports: JSON lines and comma-separated values.

use std::io::{self, Write};

use serde_json::Value;

use super::{ResultRow, Table};

/// Writer of one JSON object per line.
pub(super) struct Jsonl<'o> {
    out: &'o mut dyn Write,
}

impl<'o> Jsonl<'o> {
    pub(super) fn new(out: &'o mut dyn Write) -> Self {
        Self { out }
    }
}

impl Table for Jsonl<'_> {
    fn add(&mut self, row: ResultRow) -> io::Result<()> {
        serde_json::to_writer(&mut *self.out, &row)?;
        self.out.write_all(b"\n")
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writer of comma-separated values with a header; lists are written as JSON.
pub(super) struct Csv<'o> {
    out: csv::Writer<&'o mut dyn Write>,
    has_header: bool,
}

impl<'o> Csv<'o> {
    pub(super) fn new(out: &'o mut dyn Write) -> Self {
        Self { out: csv::Writer::from_writer(out), has_header: false }
    }

    fn header(&mut self, row: &ResultRow) -> io::Result<()> {
        let names = columns(row)?;
        self.has_header = true;
        self.out.write_record(names.iter().map(|(name, _)| name)).map_err(io::Error::from)
    }
}

impl Table for Csv<'_> {
    fn add(&mut self, row: ResultRow) -> io::Result<()> {
        if !self.has_header {
            self.header(&row)?;
        }
        self.out.write_record(columns(&row)?.iter().map(|(_, cell)| cell)).map_err(io::Error::from)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.has_header {
            self.header(&ResultRow::default())?;
        }
        self.out.flush()
    }
}

/// Returns the names and cells of a row, in their order.
fn columns(row: &ResultRow) -> io::Result<Vec<(String, String)>> {
    let Value::Object(map) = serde_json::to_value(row)? else { return Ok(Vec::new()) };
    let cell = |value| match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(map.into_iter().map(|(name, value)| (name, cell(value))).collect())
}
