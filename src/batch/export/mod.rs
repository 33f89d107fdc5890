//! Export of results as a table: one row per valid record, as Parquet with typed columns, CSV or JSONL. Called by
//! `results export`.

mod parquet;
mod row;
mod text;

use std::io::{self, Write};
use std::path::Path;

use strum::{EnumString, VariantNames};

use row::ResultRow;

use super::store::StoredResults;
use crate::choice;
use crate::error::Error;
use crate::files::{Durability, OutputFile};

/// Format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_table_format)]
pub enum TableFormat {
    /// Typed columns, compressed with zstd.
    Parquet,
    /// Comma-separated values; lists are written as JSON.
    Csv,
    /// One JSON object per line.
    Jsonl,
}

fn unknown_table_format(name: &str) -> Error {
    choice::unknown_name("table format", name, TableFormat::VARIANTS)
}

/// Writer of rows.
trait Table {
    fn add(&mut self, row: ResultRow) -> io::Result<()>;
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Writes results as a table to a file or another destination of [`OutputFile`]. Returns the number of rows.
///
/// # Errors
/// When the results cannot be read, or the file cannot be written.
pub fn export(results: &StoredResults, format: TableFormat, path: &Path) -> Result<u64, Error> {
    let io = Error::io(path);
    let mut output = OutputFile::create(path).map_err(&io)?;
    let n_rows = match format {
        TableFormat::Parquet => fill(results, Box::new(parquet::Parquet::new(&mut output).map_err(&io)?), path)?,
        TableFormat::Csv | TableFormat::Jsonl => export_to(results, format, &mut output)?,
    };
    output.finish(Durability::Synced).map_err(&io)?;
    Ok(n_rows)
}

/// Writes results as a table to a stream. Returns the number of rows.
///
/// # Errors
/// The errors of [`export`], and a refusal of Parquet, which is written to files only.
pub fn export_to(results: &StoredResults, format: TableFormat, out: &mut dyn Write) -> Result<u64, Error> {
    let shown = Path::new("standard output");
    let table: Box<dyn Table + '_> = match format {
        TableFormat::Csv => Box::new(text::Csv::new(out)),
        TableFormat::Jsonl => Box::new(text::Jsonl::new(out)),
        TableFormat::Parquet => {
            return Err(Error::invalid("parquet is written to a file").with_hint("--out FILE").about(shown));
        }
    };
    fill(results, table, shown)
}

fn fill(results: &StoredResults, mut table: Box<dyn Table + '_>, path: &Path) -> Result<u64, Error> {
    let io = Error::io(path);
    let (timings, mut n_rows) = (results.timings()?, 0);
    results.for_each(&mut |record| {
        let times = timings.get(&record.key()).copied();
        n_rows += 1;
        table.add(ResultRow::of(record, times, &results.header)).map_err(&io)
    })?;
    table.finish().map_err(&io)?;
    Ok(n_rows)
}
