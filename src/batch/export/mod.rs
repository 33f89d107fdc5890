//! Results as a table: one row a line that counts, with typed columns, as Parquet, CSV or JSONL.

mod parquet;
mod row;
mod text;

use std::io::{self, Write};
use std::path::Path;

use strum::{EnumString, VariantNames};

pub use row::ResultRow;

use super::BatchError;
use super::store::StoredResults;
use crate::choice;
use crate::error::Error;
use crate::files::{Flush, Output};

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case", parse_err_ty = Error, parse_err_fn = unknown_table_format)]
pub enum TableFormat {
    /// Columns with types, compressed with zstd.
    Parquet,
    /// Text; lists are written as JSON.
    Csv,
    /// An object a line.
    Jsonl,
}

fn unknown_table_format(name: &str) -> Error {
    choice::unknown_name("table format", name, TableFormat::VARIANTS)
}

/// What takes rows.
trait Table {
    fn add(&mut self, row: ResultRow) -> io::Result<()>;
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Writes results as a table to a file, or to what else [`Output`] takes. Returns the number of rows.
///
/// # Errors
/// When the results cannot be read, or the file cannot be written.
pub fn export(results: &StoredResults, format: TableFormat, path: &Path) -> Result<u64, BatchError> {
    let io = BatchError::io(path);
    let mut output = Output::create(path).map_err(&io)?;
    let n_rows = match format {
        TableFormat::Parquet => fill(results, Box::new(parquet::Parquet::new(&mut output).map_err(&io)?), path)?,
        TableFormat::Csv | TableFormat::Jsonl => export_to(results, format, &mut output)?,
    };
    output.finish(Flush::Disk).map_err(&io)?;
    Ok(n_rows)
}

/// Writes results as a table to whoever takes it; as Parquet only to a file.
///
/// # Errors
/// As [`export`].
pub fn export_to(results: &StoredResults, format: TableFormat, out: &mut dyn Write) -> Result<u64, BatchError> {
    let shown = Path::new("standard output");
    let table: Box<dyn Table + '_> = match format {
        TableFormat::Csv => Box::new(text::Csv::new(out)),
        TableFormat::Jsonl => Box::new(text::Jsonl::new(out)),
        TableFormat::Parquet => {
            return Err(BatchError::io(shown)(io::Error::other("parquet is written to a file; hint: --out FILE")));
        }
    };
    fill(results, table, shown)
}

fn fill(results: &StoredResults, mut table: Box<dyn Table + '_>, path: &Path) -> Result<u64, BatchError> {
    let wrong = BatchError::io(path);
    let (timings, mut n_rows) = (results.timings()?, 0);
    results.for_each(&mut |record| {
        let times = timings.get(&record.key()).copied();
        n_rows += 1;
        table.add(ResultRow::of(record, times, &results.header)).map_err(&wrong)
    })?;
    table.finish().map_err(&wrong)?;
    Ok(n_rows)
}
