//! Parquet files as rows: columns of texts, numbers and lists of texts, as Hugging Face data sets have them.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};

/// Maximum number of rows; the largest benchmark has a twentieth.
const MAX_ROWS: i64 = 2_000_000;

/// Reads all rows as objects; numbers become texts of their digits.
///
/// # Errors
/// A file that is not Parquet, too many rows, or a column of another type than text, number or list of texts.
pub(super) fn read_parquet(path: &Path) -> Result<Vec<Value>> {
    let invalid = |error: parquet::errors::ParquetError| Error::caused_by(Kind::Invalid, error).about(path);
    let file = File::open(path).map_err(Error::io(path))?;
    if !file.metadata().map_err(Error::io(path))?.is_file() {
        return Err(Error::invalid("not a regular file").about(path));
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(invalid)?;
    let n_rows = builder.metadata().file_metadata().num_rows();
    if !(0..=MAX_ROWS).contains(&n_rows) {
        return Err(Error::invalid(format!("{n_rows} rows; expected at most {MAX_ROWS}")).about(path));
    }
    let mut rows = Vec::new();
    for batch in builder.build().map_err(invalid)? {
        let batch = batch.map_err(|error| Error::caused_by(Kind::Invalid, error).about(path))?;
        let mut objects = vec![Map::new(); batch.num_rows()];
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            for (index, object) in objects.iter_mut().enumerate() {
                let value = cell(column, index).map_err(|error| error.about(field.name().clone()).about(path))?;
                object.insert(field.name().clone(), value);
            }
        }
        rows.extend(objects.into_iter().map(Value::Object));
    }
    Ok(rows)
}

/// Returns a cell of a column.
fn cell(column: &ArrayRef, index: usize) -> Result<Value> {
    use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
    if column.is_null(index) {
        return Ok(Value::Null);
    }
    let list = |items: ArrayRef| (0..items.len()).map(|item| cell(&items, item)).collect::<Result<Vec<_>>>();
    Ok(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(index).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(index).into(),
        DataType::Utf8View => column.as_string_view().value(index).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(index).to_string().into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(index).to_string().into(),
        DataType::Float32 => column.as_primitive::<Float32Type>().value(index).to_string().into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(index).to_string().into(),
        DataType::Boolean => column.as_boolean().value(index).into(),
        DataType::Null => Value::Null,
        DataType::List(_) => list(column.as_list::<i32>().value(index))?.into(),
        DataType::LargeList(_) => list(column.as_list::<i64>().value(index))?.into(),
        other => return Err(Error::invalid(format!("a column of the type {other}, which is not read"))),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{Date32Array, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::Compression;
    use parquet::file::properties::WriterProperties;
    use serde_json::json;

    use super::*;

    fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let file = File::create(path).expect("ours");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a schema");
        writer.write(&batch).expect("ours");
        writer.close().expect("ours");
    }

    #[test]
    fn rows_of_texts_numbers_and_lists_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("test.parquet");
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("A. x"), Some("B. y")]);
        lists.append_null();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("question", Arc::new(StringArray::from(vec![Some("what?"), None]))),
            ("answer", Arc::new(Int64Array::from(vec![7, -1]))),
            ("options", Arc::new(lists.finish())),
        ];
        write(&path, columns);
        let expected = [
            json!({ "question": "what?", "answer": "7", "options": ["A. x", "B. y"] }),
            json!({ "question": null, "answer": "-1", "options": null }),
        ];
        assert_eq!(read_parquet(&path).expect("Parquet"), expected);
    }

    #[test]
    fn other_columns_and_other_files_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("test.parquet");
        write(&path, vec![("day", Arc::new(Date32Array::from(vec![1])))]);
        let error = read_parquet(&path).expect_err("dates are not read").to_string();
        assert!(error.contains("day: a column of the type Date32, which is not read"), "{error}");
        std::fs::write(&path, "PAR1 and no more").expect("ours");
        assert!(read_parquet(&path).is_err());
    }
}
