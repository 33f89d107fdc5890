//! Results as a table: one row a line that counts, with typed columns, as Parquet, CSV or JSONL.

mod parquet;
mod row;
mod text;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::str::FromStr;

pub use row::Row;

use super::BatchError;
use super::store::Results;

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// Columns with types, compressed with zstd.
    Parquet,
    /// Text; lists are written as JSON.
    Csv,
    /// An object a line.
    Jsonl,
}

impl FromStr for TableFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "parquet" => Ok(Self::Parquet),
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err(format!("`{text}` is no format of a table; hint: parquet, csv, jsonl")),
        }
    }
}

/// What takes rows.
trait Table {
    fn add(&mut self, row: Row) -> io::Result<()>;
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Writes results as a table to a file, beside and then renamed. Says how many rows it has.
///
/// # Errors
/// When the results cannot be read, or the file cannot be written.
pub fn export(results: &Results, format: TableFormat, path: &Path) -> Result<u64, BatchError> {
    // A link is followed, and what is no file, such as a pipe, is written to, not replaced.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let path = target.as_path();
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let file = File::options().write(true).open(path).map_err(BatchError::io(path))?;
        return write(results, format, file, path);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".tmp").tempfile_in(dir).map_err(BatchError::io(path))?;
    let n_rows = write(results, format, file.reopen().map_err(BatchError::io(path))?, path)?;
    #[cfg(unix)]
    let _ = file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    file.persist(path).map_err(|error| BatchError::io(path)(error.error))?;
    Ok(n_rows)
}

/// Writes results as a table to whoever takes it; as Parquet only to a file.
///
/// # Errors
/// As [`export`].
pub fn export_to(results: &Results, format: TableFormat, out: &mut dyn Write) -> Result<u64, BatchError> {
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

fn write(results: &Results, format: TableFormat, file: File, path: &Path) -> Result<u64, BatchError> {
    if format == TableFormat::Parquet {
        return fill(results, Box::new(parquet::Parquet::new(file).map_err(BatchError::io(path))?), path);
    }
    let mut out = BufWriter::new(file);
    let n_rows = export_to(results, format, &mut out)?;
    out.flush().map_err(BatchError::io(path))?;
    Ok(n_rows)
}

fn fill(results: &Results, mut table: Box<dyn Table + '_>, path: &Path) -> Result<u64, BatchError> {
    let wrong = BatchError::io(path);
    let (timings, mut n_rows) = (results.timings()?, 0);
    results.for_each(&mut |record| {
        let times = timings.get(&record.key()).copied();
        n_rows += 1;
        table.add(Row::of(record, times, &results.header)).map_err(&wrong)
    })?;
    table.finish().map_err(&wrong)?;
    Ok(n_rows)
}
