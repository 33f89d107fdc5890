//! Errors as they are printed, renamed, carried and sent.

use strum::IntoEnumIterator as _;

use super::*;

#[test]
fn subjects_rule_and_hint_are_printed_once_in_order() {
    let rule: Result<()> = Err(Error::invalid("4672 tokens, over 4096").with_hint("max_pool"));
    let error = rule.about("temporal.concat").about(Path::new("x.yaml")).expect_err("an error");
    assert_eq!(error.to_string(), "x.yaml: temporal.concat: 4672 tokens, over 4096; hint: max_pool");
    assert_eq!(error.statement(), "x.yaml: temporal.concat: 4672 tokens, over 4096");
    assert_eq!((error.rule(), error.hint()), ("4672 tokens, over 4096", Some("max_pool")));
}

#[test]
fn a_path_is_renamed_as_a_subject_and_nowhere_else() {
    let error = Error::invalid("/a is short").about(Path::new("/a/1.png")).about(Path::new("/a"));
    assert_eq!(error.with_path_as(Path::new("/a"), "clip").to_string(), "clip: clip/1.png: /a is short");
    let other = Error::invalid("empty").about(Path::new("/ab"));
    assert_eq!(other.with_path_as(Path::new("/a"), "clip").to_string(), "/ab: empty");
}

#[test]
fn an_item_is_named_once_by_its_path_and_not_by_text() {
    let item = Path::new("/a/b");
    let named = |error: Error| error.about_item(item).to_string();
    assert_eq!(named(Error::invalid("empty").about(item)), "/a/b: empty");
    assert_eq!(named(Error::invalid("empty").about(item.join("1.png"))), "/a/b/1.png: empty");
    assert_eq!(named(Error::invalid("empty").about("/a/b".to_owned())), "/a/b: empty");
    assert_eq!(named(Error::invalid("empty").about(Path::new("/a/bc"))), "/a/b: /a/bc: empty");
    assert_eq!(named(Error::invalid("/a/b is empty")), "/a/b: /a/b is empty");
    let two = Error::all([Error::invalid("x").about(item), Error::invalid("y")]).expect("two");
    assert_eq!(named(two), "/a/b: x\n/a/b: y");
}

#[test]
fn a_cause_is_found_by_its_type_and_lost_on_the_wire() {
    let error = Error::io("x")(io::ErrorKind::PermissionDenied.into());
    assert_eq!(error.to_string(), "x: permission denied");
    assert_eq!(error.cause::<io::Error>().map(io::Error::kind), Some(io::ErrorKind::PermissionDenied));
    let sent = serde_json::to_string(&error).expect("JSON");
    let received: Error = serde_json::from_str(&sent).expect("an error");
    assert_eq!((received.to_string(), received.kind()), (error.to_string(), Kind::Unreadable));
    assert!(received.cause::<io::Error>().is_none());
}

#[test]
fn an_error_passes_through_results_of_io_and_of_candle_with_its_parts() {
    let raised = || Error::invalid("strided; hint: none").with_hint("contiguous()").about("x.bin");
    let parts = |error: &Error| (error.rule().to_owned(), error.hint().map(str::to_owned), error.subjects().len());
    let read = Error::io("dir")(io::Error::other(raised()));
    assert_eq!(read.to_string(), "dir: x.bin: strided; hint: none; hint: contiguous()");
    assert_eq!((read.kind(), parts(&read)), (Kind::Unreadable, (parts(&raised()).0, parts(&raised()).1, 2)));
    let computed = Error::from(candle_core::Error::from(raised()).bt());
    assert_eq!((computed.kind(), parts(&computed)), (Kind::Compute, parts(&raised())));
    let reworded = raised().reworded(|statement| format!("not a file: {statement}"));
    assert_eq!(reworded.to_string(), "not a file: x.bin: strided; hint: none; hint: contiguous()");
}

#[test]
fn several_errors_are_printed_one_a_line_and_share_an_outer_subject() {
    let errors = ["a is 1", "b is 2"].map(|rule| Error::invalid(rule).with_hint("0"));
    let error = Error::all(errors).expect("two errors").about("x.yaml");
    assert_eq!(error.to_string(), "x.yaml: a is 1; hint: 0\nx.yaml: b is 2; hint: 0");
    assert_eq!(error.errors().map(Error::rule).collect::<Vec<_>>(), ["a is 1", "b is 2"]);
    assert!(Error::all([]).is_none());
}

#[test]
fn words_of_the_driver_and_of_cublas_tell_that_memory_is_out() {
    for words in [
        "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
        "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
        "Metal error: out of memory",
    ] {
        assert!(Error::from(candle_core::Error::msg(words)).kind().is_out_of_memory(), "{words}");
    }
    let error = Error::compute("encoding frames")(candle_core::Error::msg("shape mismatch in matmul").bt());
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Compute, "encoding frames: shape mismatch in matmul")
    );
    assert!(error.cause::<candle_core::Error>().is_some());
}

/// Words that stand in results files since the first release.
#[test]
fn words_of_kinds_are_those_of_results_files() {
    let words = [
        "not_found",
        "unreadable",
        "not_regular",
        "empty",
        "not_media",
        "no_video_stream",
        "no_decoder",
        "no_conversion",
        "no_images",
        "no_frames",
        "unstable",
        "empty_window",
        "sample",
        "time_limit",
        "frame_size",
        "frame_count",
        "host_memory",
        "stall",
        "stopped",
        "stream",
        "cover_only",
        "crash",
        "hang",
        "no_process",
        "no_times",
        "times_fall",
        "token_budget",
        "frames",
        "preprocess",
        "text",
        "compute",
        "device_memory",
        "model",
        "defect",
        "kv_memory",
    ];
    let known: Vec<&str> = Kind::iter().map(Kind::word).collect();
    for word in words {
        assert!(known.contains(&word), "{word}");
    }
    assert_eq!([Kind::Halted, Kind::Stopped].map(Kind::word), ["stopped"; 2]);
    assert_eq!(Kind::OutOfMemory.word(), "compute");
}
