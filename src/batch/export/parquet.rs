//! Parquet export: typed columns, written in groups of rows so that memory does not grow with the results.

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, ListBuilder, PrimitiveBuilder, UInt32Builder, UInt64Builder};
use arrow_array::types::ArrowPrimitiveType;
use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::{ResultRow, Table};

/// Number of rows per group.
const GROUP: usize = 4096;

/// Writer of a Parquet file.
pub(super) struct Parquet<W: Write + Send> {
    writer: ArrowWriter<W>,
    rows: Vec<ResultRow>,
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn new(file: W) -> io::Result<Self> {
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        // The schema of a batch without rows is that of all batches.
        let schema = batch(&[])?.schema();
        let writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(io::Error::other)?;
        Ok(Self { writer, rows: Vec::new() })
    }

    fn flush(&mut self) -> io::Result<()> {
        let batch = batch(&self.rows)?;
        self.rows.clear();
        self.writer.write(&batch).map_err(io::Error::other)
    }
}

impl<W: Write + Send> Table for Parquet<W> {
    fn add(&mut self, row: ResultRow) -> io::Result<()> {
        self.rows.push(row);
        if self.rows.len() >= GROUP { self.flush() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.flush()?;
        self.writer.close().map_err(io::Error::other)?;
        Ok(())
    }
}

/// Converts rows to columns.
fn batch(rows: &[ResultRow]) -> io::Result<RecordBatch> {
    let text =
        |of: fn(&ResultRow) -> Option<&str>| -> ArrayRef { Arc::new(StringArray::from_iter(rows.iter().map(of))) };
    let real =
        |of: fn(&ResultRow) -> Option<f64>| -> ArrayRef { Arc::new(Float64Array::from_iter(rows.iter().map(of))) };
    let whole =
        |of: fn(&ResultRow) -> Option<u32>| -> ArrayRef { Arc::new(UInt32Array::from_iter(rows.iter().map(of))) };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("item", text(|row| Some(&row.item))),
        ("video", text(|row| Some(&row.video))),
        ("start_seconds", real(|row| row.start_seconds)),
        ("end_seconds", real(|row| row.end_seconds)),
        ("question_id", text(|row| row.question_id.as_deref())),
        ("question", text(|row| row.question.as_deref())),
        ("answer", text(|row| row.answer.as_deref())),
        ("finish_reason", text(|row| row.finish_reason.as_deref())),
        (
            "token_ids",
            list(rows, UInt32Builder::new(), |row| Some(row.token_ids.as_ref()?.iter().map(|&id| Some(id)).collect())),
        ),
        ("n_tokens", whole(|row| row.n_tokens)),
        ("prompt_tokens", whole(|row| row.prompt_tokens)),
        ("visual_tokens", whole(|row| row.visual_tokens)),
        (
            "frame_indices",
            list(rows, UInt64Builder::new(), |row| {
                Some(row.frame_indices.as_ref()?.iter().map(|&i| Some(i)).collect())
            }),
        ),
        ("frame_seconds", list(rows, Float64Builder::new(), |row| row.frame_seconds.clone())),
        ("lost_packets", Arc::new(UInt64Array::from_iter(rows.iter().map(|row| row.lost_packets)))),
        ("decode_ms", real(|row| row.decode_ms)),
        ("preprocess_ms", real(|row| row.preprocess_ms)),
        ("encode_ms", real(|row| row.encode_ms)),
        ("connect_ms", real(|row| row.connect_ms)),
        ("prefill_ms", real(|row| row.prefill_ms)),
        ("generate_ms", real(|row| row.generate_ms)),
        ("error_stage", text(|row| row.error_stage.as_deref())),
        ("error_kind", text(|row| row.error_kind.as_deref())),
        ("error_cause", text(|row| row.error_cause.as_deref())),
        ("error_hint", text(|row| row.error_hint.as_deref())),
        ("model", text(|row| Some(&row.model))),
        ("plan", text(|row| Some(&row.plan))),
        ("version", text(|row| Some(&row.version))),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(io::Error::other)
}

/// Elements of a list.
type Cells<T> = Vec<Option<<T as ArrowPrimitiveType>::Native>>;

/// Builds a column of lists.
fn list<T: ArrowPrimitiveType>(
    rows: &[ResultRow],
    values: PrimitiveBuilder<T>,
    of: fn(&ResultRow) -> Option<Cells<T>>,
) -> ArrayRef {
    let mut lists = ListBuilder::new(values);
    for row in rows {
        lists.append_option(of(row));
    }
    Arc::new(lists.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn a_table_is_read_back_as_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("t.parquet");
        let mut table = Parquet::new(File::create(&path).expect("ours")).expect("a schema");
        let row = |i: u32| ResultRow {
            video: format!("{i}.mp4"),
            answer: i.is_multiple_of(2).then(|| "so".to_owned()),
            token_ids: Some(vec![i, 7]),
            frame_seconds: Some(vec![None, Some(0.5)]),
            ..ResultRow::default()
        };
        // More than one group.
        let n = GROUP as u32 + 3;
        (0..n).for_each(|i| table.add(row(i)).expect("room"));
        Box::new(table).finish().expect("room");
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).expect("ours")).expect("parquet");
        // As many columns as a row has fields, of the same names.
        let named = serde_json::to_value(ResultRow::default()).expect("a row");
        let names: Vec<&str> = reader.schema().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, named.as_object().expect("a map").keys().collect::<Vec<_>>());
        let batches: Vec<RecordBatch> = reader.build().expect("rows").map(|batch| batch.expect("whole")).collect();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), n as usize);
        let rows = |name| batches[0].column_by_name(name).expect("a column").slice(2, 1);
        assert_eq!(*rows("answer"), StringArray::from(vec![Some("so")]));
        assert_eq!(*rows("token_ids"), *list(&[row(2)], UInt32Builder::new(), |_| Some(vec![Some(2), Some(7)])));
        assert!(batches[0].column_by_name("answer").expect("a column").is_null(1));
    }
}
