//! Tiny replicas of each format of a benchmark.

use vidense::eval::benchmark::AnswerScorer;
use vidense::eval::dataset::{BenchmarkQuestion, DatasetFormat, DatasetQuestions, QuestionReference};
use vidense::units::Seconds;
use vidense::video::Window;

use super::Replica;

/// Id, video, question, number of options, reference, type and task of a question.
fn fields(question: &BenchmarkQuestion) -> (&str, String, &str, usize, QuestionReference, &str, &str) {
    let BenchmarkQuestion { id, video, question: text, options, reference, kind, task, .. } = question;
    (id, video.shown(), text, options.len(), reference.clone(), kind, task)
}

fn texts(of: &[&str]) -> QuestionReference {
    QuestionReference::Texts(of.iter().map(|&text| text.to_owned()).collect())
}

fn span(start: f64, end: f64) -> Window {
    Window { start: Some(Seconds(start)), end: Some(Seconds(end)) }
}

#[test]
fn zero_shot_pairs_are_joined_by_id() {
    let files = [
        (
            "q.json",
            r#"[{"video_name": "a", "question": "who?", "question_id": 7}, {"video_name": "b", "question": "what?", "question_id": "v_8"}]"#,
        ),
        (
            "a.json",
            r#"[{"answer": "dog", "type": 2, "question_id": "v_8"}, {"answer": "man", "type": 3, "question_id": "7"}]"#,
        ),
        ("short.json", r#"[{"answer": "man", "type": 3, "question_id": 7}]"#),
    ];
    let replica = Replica::new(&files);
    let found = replica.read("zero_shot_qa: { questions: q.json, answers: a.json, videos: v }").unwrap();
    assert_eq!(fields(&found[0]), ("7", "v/a".into(), "who?", 0, texts(&["man"]), "3", ""));
    assert_eq!(fields(&found[1]), ("v_8", "v/b".into(), "what?", 0, texts(&["dog"]), "2", ""));
    let error = replica.read("zero_shot_qa: { questions: q.json, answers: short.json, videos: v }").unwrap_err();
    assert_eq!(error, "q.json: entry 2: no answer with the id `v_8`");
}

#[test]
fn vcg_bench_is_read_in_both_layouts() {
    let files = [
        (
            "generic.json",
            r#"[{"video_name": "v_a", "Q": "one?", "A": "x"}, {"video_name": "v_a", "Q": "two?", "A": "y"}]"#,
        ),
        ("pairs.json", r#"[{"video_name": "v_a", "Q1": "one?", "Q2": "two?", "A": "x"}]"#),
        (
            "slowfast.json",
            r#"[{"video_name": "a", "question_id": "v_a_0", "question": ["one?", "two?"], "answer": "x"}]"#,
        ),
    ];
    let replica = Replica::new(&files);
    let read = |file: &str| replica.read(&format!("vcg_bench: {{ pairs: {file}, videos: v }}")).unwrap();
    let ids = |found: &[BenchmarkQuestion]| found.iter().map(|q| (q.id.clone(), q.weight)).collect::<Vec<_>>();
    assert_eq!(ids(&read("generic.json")), [("v_a_0".into(), 1.0), ("v_a_1".into(), 1.0)]);
    assert_eq!(ids(&read("pairs.json")), [("v_a_0/1".into(), 0.5), ("v_a_0/2".into(), 0.5)]);
    assert_eq!(ids(&read("slowfast.json")), ids(&read("pairs.json")));
}

#[test]
fn tables_of_multiple_choice_are_read_by_index_and_by_text() {
    let official = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n\
                    40,9,6,4,how many?,2,6,DC,1,2,3,4,5\n41,9,6,4,why?,0,1,CW,a,b,c,d,e\n";
    let ig_vlm = ",video_name,frame_count,width,height,question,answer_number,question_id,question_type,a0,a1,a2,a3,a4,answer\n\
                  0,40,9,6,4,how many?,1,406,DC,1,2,3,4,5,2\n";
    let intent_test = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4,action,lemma,lemma_id\n\
                       61,12,6,3,why does he go near,2,2,CW,talk,make music,to energise him,hit,annoy,playing,play,14\n";
    let intent = ",video_name,question,question_id,answer,video_id,question_type,a0,a1,a2,a3,a4\n\
                  1,88,\"how, then?\",88_CH_1,move,88,CH,jump,nod,push,play,move\n";
    let files = [
        ("official.csv", official),
        ("ig.csv", ig_vlm),
        ("intent.csv", intent),
        ("intent_test.csv", intent_test),
        (
            "slowfast.json",
            r#"[{"task_name": "NExTQA", "video_name": "40.mp4", "question_id": "406", "question": "why?", "answer_number": 1, "candidates": ["a", "b", "c", "d", "e"], "answer": "b"}]"#,
        ),
        ("map.json", r#"{"40": "0101/40", "41": "0102/41"}"#),
        ("bad.csv", "video,question,answer,qid,type,a0,a1\n1,why?,x,1,CW,x,y\n1,why?,none,2,CW,x,y\n"),
    ];
    let replica = Replica::new(&files);
    let choice = QuestionReference::Choice;
    let found = replica.read("next_qa: { questions: official.csv, videos: v, map: map.json }").unwrap();
    // All answers are indices, although `2` is an option's text as well.
    assert_eq!(fields(&found[0]), ("40_6", "v/0101/40".into(), "how many?", 5, choice(2), "DC", ""));
    let found = replica.read("next_qa: { questions: ig.csv, videos: v }").unwrap();
    assert_eq!(fields(&found[0]), ("406", "v/40".into(), "how many?", 5, choice(1), "DC", ""));
    let found = replica.read("next_qa: { questions: slowfast.json, videos: v }").unwrap();
    assert_eq!(fields(&found[0]), ("406", "v/40.mp4".into(), "why?", 5, choice(1), "NExTQA", ""));
    let found = replica.read("intent_qa: { questions: intent.csv, videos: v }").unwrap();
    assert_eq!(fields(&found[0]), ("88_CH_1", "v/88".into(), "how, then?", 5, choice(4), "CH", ""));
    let found = replica.read("intent_qa: { questions: intent_test.csv, videos: v }").unwrap();
    assert_eq!(fields(&found[0]), ("61_2", "v/61".into(), "why does he go near", 5, choice(2), "CW", ""));
    let error = replica.read("next_qa: { questions: bad.csv, videos: v }").unwrap_err();
    assert_eq!(error, "bad.csv: line 3: the answer `none` is none of the options");
}

#[test]
fn open_answers_have_second_references_and_grounded_ones_spans() {
    let files = [
        ("oe.csv", "video,question,answer,qid,type\n40,what?,clap,9,TP\n41,is it?,no,4,DB\n"),
        ("second.json", r#"{"40": {"9": "clap his hand"}}"#),
        ("gqa.csv", "video_id,question,answer,qid,type,a0,a1\n40,what?,sit,8,TN,stand,sit\n"),
        ("gsub.json", r#"{"40": {"duration": 19, "location": {"8": [[8.9, 15.1]]}, "fps": 30}}"#),
    ];
    let replica = Replica::new(&files);
    let found = replica.read("next_qa_open: { questions: oe.csv, videos: v, second_references: second.json }").unwrap();
    assert_eq!(fields(&found[0]), ("40_9", "v/40".into(), "what?", 0, texts(&["clap", "clap his hand"]), "TN", ""));
    assert_eq!(found[1].reference, texts(&["no"]));
    let found = replica.read("next_gqa: { questions: gqa.csv, spans: gsub.json, videos: v }").unwrap();
    assert_eq!(found[0].reference, QuestionReference::Choice(1));
    assert_eq!(found[0].spans, [span(8.9, 15.1)]);
}

#[test]
fn ego_schema_is_scored_on_the_published_answers_only() {
    let files = [
        (
            "questions.json",
            r#"[{"q_uid": "u-1", "question": "why?", "option 0": "a", "option 1": "b"}, {"q_uid": "u-2", "question": "how?", "option 0": "a", "option 1": "b"}]"#,
        ),
        ("subset.json", r#"{"u-2": 1}"#),
        ("lmms.json", r#"[{"video_idx": "u-1", "question": "why?", "option": ["A. a", "B. b"], "answer": "0"}]"#),
        ("ig.csv", ",video_name,question_id,question,answer,a0,a1\n1,u-1,q1,why?,b,a,b\n"),
    ];
    let replica = Replica::new(&files);
    let read = |files: &str| replica.read(&format!("ego_schema: {{ {files}, videos: v }}")).unwrap();
    let references =
        |found: &[BenchmarkQuestion]| found.iter().map(|q| (q.id.clone(), q.reference.clone())).collect::<Vec<_>>();
    let hidden = QuestionReference::Hidden;
    assert_eq!(
        references(&read("questions: questions.json")),
        [("u-1".into(), hidden.clone()), ("u-2".into(), hidden)]
    );
    let choice = |id: &str, index| vec![(id.to_owned(), QuestionReference::Choice(index))];
    assert_eq!(references(&read("questions: questions.json, answers: subset.json")), choice("u-2", 1));
    assert_eq!(references(&read("questions: lmms.json")), choice("u-1", 0));
    assert_eq!(references(&read("questions: ig.csv")), choice("u-1", 1));
}

#[test]
fn mvbench_reads_tasks_with_clips_and_refuses_clips_of_images_without_a_rate() {
    let files = [
        (
            "json/action_sequence.json",
            r#"[{"video": "a.mp4", "question": "what?", "candidates": ["x", "y"], "answer": "y", "start": 1.5, "end": 4}]"#,
        ),
        (
            "json/episodic_reasoning.json",
            r#"[{"video": "s01", "question": "why?", "candidates": ["x", "y"], "answer": "x", "start": 0, "end": 2}]"#,
        ),
        ("tvqa/s01/00001.jpg", ""),
    ];
    let replica = Replica::new(&files);
    let read = |name: &str, dir: &str, more: &str| {
        replica.read(&format!("mvbench: {{ lists: json, tasks: [{{ name: {name}, videos: {dir}{more} }}] }}"))
    };
    let found = read("action_sequence", "star", "").unwrap();
    let name = "action_sequence";
    assert_eq!(
        fields(&found[0]),
        ("action_sequence/0", "star/a.mp4".into(), "what?", 2, QuestionReference::Choice(1), name, name)
    );
    assert_eq!((found[0].clip.start, found[0].clip.end), (Some(Seconds(1.5)), Some(Seconds(4.0))));
    let error = read("episodic_reasoning", "tvqa", "").unwrap_err();
    assert!(error.contains("the clip of a directory of images") && error.contains("hint: image_rate: 3"), "{error}");
    let found = read("episodic_reasoning", "tvqa", ", clips: whole").unwrap();
    assert_eq!((found[0].clip, found[0].image_rate), Default::default());
    // Images 1 to 6, both included: from 0 s to the end of the sixth.
    let found = read("episodic_reasoning", "tvqa", ", image_rate: 3").unwrap();
    assert_eq!((found[0].clip.start, found[0].clip.end), (Some(Seconds(0.0)), Some(Seconds(2.0))));
    assert_eq!(found[0].image_rate.map(|rate| rate.per_second()), Some(3.0));
    // A file has times of its own.
    assert_eq!(read("action_sequence", "star", ", image_rate: 3").unwrap()[0].image_rate, None);
}

#[test]
fn long_benchmarks_are_read_with_their_groups() {
    let files = [
        (
            "mme.json",
            r#"[{"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "videoID": "f_x", "question_id": "001-1", "task_type": "Counting Problem", "question": "which?", "options": ["A. Apples.", "B. Candles."], "answer": "B"}]"#,
        ),
        ("subtitle/f_x.srt", "1\n00:00:01,000 --> 00:00:02,000\nhello\n"),
        (
            "mlvu.json",
            r#"[{"video": "c.mp4", "duration": 5, "question": "count?", "candidates": ["2", "1"], "answer": "1", "question_type": "count"}]"#,
        ),
        (
            "mlvu_test.json",
            r#"[{"video": "c.mp4", "question": "count?", "candidates": ["2", "1"], "question_id": "AR_0", "question_type": "count"}]"#,
        ),
        ("summary.json", r#"[{"video": "c.mp4", "question": "sum up", "answer": "x", "question_type": "summary"}]"#),
        (
            "lvb.json",
            r#"[{"id": "x_0", "video_path": "x.mp4", "question": "what?", "candidates": ["a", "b"], "correct_choice": 1, "duration_group": 15, "question_category": "S2E"}]"#,
        ),
        (
            "pt.json",
            r#"{"video_1": {"metadata": {}, "mc_question": [{"id": 4, "question": "where?", "options": ["a", "b", "c"], "answer_id": 2, "area": "Memory", "reasoning": "Descriptive", "tag": ["x"]}]}}"#,
        ),
        (
            "rex.json",
            r#"[{"qid": "anet_val92", "vid": "v_Z", "source": "Anet_val", "question": "what?", "options": ["a", "b"]}]"#,
        ),
        (
            "rex.jsonl",
            r#"{"qid": "anet_val92", "query": "what?", "vid": "v_Z", "relevant_windows": [[5, 8]], "ans": "A"}"#,
        ),
    ];
    let replica = Replica::new(&files);
    let one = |format: &str| replica.read(format).unwrap_or_else(|error| panic!("{format}: {error}")).remove(0);
    let choice = QuestionReference::Choice;
    let mme = one("video_mme: { questions: mme.json, videos: data }");
    assert_eq!(fields(&mme), ("001-1", "data/f_x".into(), "which?", 2, choice(1), "Counting Problem", "short"));
    let mlvu = one("mlvu: { tasks: [{ questions: mlvu.json, videos: v }] }");
    assert_eq!(fields(&mlvu), ("count/0", "v/c.mp4".into(), "count?", 2, choice(1), "count", "count"));
    assert_eq!(one("mlvu: { tasks: [{ questions: mlvu_test.json, videos: v }] }").reference, QuestionReference::Hidden);
    let error = replica.read("mlvu: { tasks: [{ questions: summary.json, videos: v }] }").unwrap_err();
    assert_eq!(
        error,
        "summary.json: entry 1: no candidates: a generation task, which needs a judge; hint: the format `mlvu_generation`"
    );
    let lvb = one("long_video_bench: { questions: lvb.json, videos: v }");
    assert_eq!(fields(&lvb), ("x_0", "v/x.mp4".into(), "what?", 2, choice(1), "S2E", "15"));
    let test = one("perception_test: { questions: pt.json, videos: v }");
    assert_eq!(fields(&test), ("video_1/4", "v/video_1".into(), "where?", 3, choice(2), "Descriptive", "Memory"));
    let rex = one("rextime: { questions: rex.json, answers: rex.jsonl, activitynet: anet, qvhighlights: qvh }");
    assert_eq!(fields(&rex), ("anet_val92", "anet/v_Z".into(), "what?", 2, choice(0), "", ""));
    assert_eq!(rex.spans, [span(5.0, 8.0)]);
}

#[test]
fn temp_compass_options_are_read_from_the_question() {
    let files = [
        ("mc.json", r#"{"10": {"action": [{"question": "what?\nA. dunking\nB. passing", "answer": "B. passing"}]}}"#),
        (
            "cm.json",
            r#"{"10": {"speed": [{"question": "Which?\nSentence A: It runs.\nSentence B: It sits.", "answer": "Sentence A: It runs."}]}}"#,
        ),
        (
            "spaces.json",
            r#"{"10": {"order": [{"question": "when?\nA. It says: now\nB.Both\n C. never", "answer": "B.Both"}]}}"#,
        ),
        ("twice.json", r#"{"10": {"order": [{"question": "when?\nA. now\nA. never", "answer": "A. now"}]}}"#),
        ("yn.json", r#"{"10": {"order": [{"question": "Is it?", "answer": "no"}]}}"#),
        ("bad.json", r#"{"10": {"order": [{"question": "Is it?", "answer": "maybe"}]}}"#),
    ];
    let replica = Replica::new(&files);
    let read = |file: &str, task: &str| {
        replica.read(&format!("temp_compass: {{ questions: {file}, task: {task}, videos: v }}"))
    };
    let choice = QuestionReference::Choice;
    let found = read("mc.json", "multi_choice").unwrap();
    assert_eq!(fields(&found[0]), ("10/action/0", "v/10".into(), "what?", 2, choice(1), "action", ""));
    let found = read("cm.json", "caption_matching").unwrap();
    assert_eq!(fields(&found[0]), ("10/speed/0", "v/10".into(), "Which?", 2, choice(0), "speed", ""));
    assert_eq!(found[0].options.shown_label('A'), "Sentence A");
    assert_eq!(read("yn.json", "yes_no").unwrap()[0].reference, texts(&["no"]));
    let found = read("spaces.json", "multi_choice").unwrap();
    assert_eq!(found[0].options.texts(), ["It says: now", "Both", "never"]);
    assert_eq!(found[0].reference, choice(1));
    assert_eq!(read("twice.json", "multi_choice").unwrap_err(), "twice.json: `10/order/0`: the option `A` comes twice");
    assert_eq!(
        read("bad.json", "yes_no").unwrap_err(),
        "bad.json: `10/order/0`: the answer is `maybe`; expected yes or no"
    );
}

#[test]
fn captions_and_generated_texts_are_read_with_what_their_judge_scores_by() {
    let points = r#"[{"video": "a.mp4", "question": "describe", "answer": "x", "question_type": "subPlot", "scoring_points": ["one", "the man's"]}]"#;
    let replica = Replica::new(&[
        (
            "cap.json",
            r#"{"10": {"action": [{"question": "Describe.\nInformation A: x\nGenerated Caption:", "answer": "C. x"}]}}"#,
        ),
        (
            "mc.json",
            r#"{"10": {"action": [{"question": "what?\nA. x\nB. y", "answer": "A. x"}, {"question": "when?\nA. x\nB. y", "answer": "B. y"}]}}"#,
        ),
        ("other.json", r#"{"10": {"speed": [{"question": "what?\nA. x\nB. y", "answer": "A. x"}]}}"#),
        ("lost.json", r#"{"10": {"action": [{"question": "what?\nA. x\nB. y", "answer": "C. z"}]}}"#),
        ("points.json", points),
        ("summary.json", r#"[{"video": "a.mp4", "question": "sum up", "answer": "x", "question_type": "summary"}]"#),
        (
            "choice.json",
            r#"[{"video": "a.mp4", "question": "?", "answer": "x", "candidates": ["x", "y"], "question_type": "t"}]"#,
        ),
    ]);
    let caption = |choices: &str| {
        replica
            .read(&format!("temp_compass: {{ questions: cap.json, choices: {choices}, task: captioning, videos: v }}"))
    };
    let found = caption("mc.json").unwrap().remove(0);
    let question = "Describe.\nInformation A: x\nGenerated Caption:";
    // The reference is the answer to the first question of the video and aspect, not that of the caption's own letters.
    assert_eq!(fields(&found), ("10/action/0", "v/10".into(), question, 0, texts(&["A. x"]), "action", ""));
    assert_eq!(found.rubric.as_deref(), Some("what?\nA. x\nB. y"));
    let error = caption("other.json").unwrap_err();
    assert!(error.starts_with("cap.json: `10/action/0`: no question about it in "), "{error}");
    let error = caption("lost.json").unwrap_err();
    assert_eq!(error, "lost.json: `10/action/0`: the answer `C. z` is none of the options");
    let rule =
        |keys: &str| replica.spec(&format!("temp_compass: {{ questions: cap.json, {keys}, videos: v }}")).unwrap_err();
    assert!(rule("task: captioning").contains("format: captioning needs `choices`"));
    assert!(rule("task: yes_no, choices: mc.json").contains("format: `choices` is of captioning alone"));
    let generation = |file: &str| replica.read(&format!("mlvu_generation: {{ questions: {file}, videos: v }}"));
    let found = generation("points.json").unwrap().remove(0);
    assert_eq!(fields(&found), ("subPlot/0", "v/a.mp4".into(), "describe", 0, texts(&["x"]), "subPlot", "subPlot"));
    assert_eq!(found.rubric.as_deref(), Some("['one', \"the man's\"]"));
    assert_eq!(generation("summary.json").unwrap().remove(0).rubric, None);
    let error = generation("choice.json").unwrap_err();
    assert_eq!(error, "choice.json: entry 1: has candidates: a task of multiple choice, of the format `mlvu`");
}

#[test]
fn an_answer_of_mlvu_that_is_no_candidate_is_read_and_never_right() {
    let row = |answer: &str| {
        format!(
            r#"{{"video": "c.mp4", "question": "what?", "candidates": ["x", "y"], "answer": "{answer}", "question_type": "t"}}"#
        )
    };
    let replica = Replica::new(&[("f.json", &format!("[{}, {}]", row("x"), row("z")))]);
    let spec = replica.spec("mlvu: { tasks: [{ questions: f.json, videos: v }] }").unwrap();
    let found = spec.format.read(replica.dir.path()).unwrap();
    assert_eq!(found.files, [replica.path("f.json")]);
    assert_eq!(found.notes, ["1 answers are none of the candidates: no option of these questions is right"]);
    let scorer = AnswerScorer { measures: &spec.metrics, wordnet: None };
    let scores: Vec<f64> =
        found.questions.iter().map(|question| scorer.answered(question, "(A)").scores["choice"]).collect();
    assert_eq!(scores, [1.0, 0.0]);
}

#[test]
fn hostile_rows_are_refused_by_name() {
    let rex = r#"{"qid": "q1", "vid": "v", "source": "SOURCE", "question": "what?", "options": ["a", "b"]}"#;
    let replica = Replica::new(&[
        (
            "out.json",
            r#"[{"id": "i", "video_path": "../x.mp4", "question": "?", "candidates": ["a", "b"], "duration_group": 15}]"#,
        ),
        (
            "abs.json",
            r#"[{"id": "i", "video_path": "/x.mp4", "question": "?", "candidates": ["a", "b"], "duration_group": 15}]"#,
        ),
        ("rex.json", &format!("[{}]", rex.replace("SOURCE", "anet_val"))),
        ("other.json", &format!("[{}]", rex.replace("SOURCE", "youtube"))),
        ("twice.jsonl", "{\"qid\": \"q1\", \"ans\": \"A\"}\n{\"qid\": \"q1\", \"ans\": \"B\"}\n"),
        ("one.jsonl", "{\"qid\": \"q1\", \"ans\": \"A\"}\n"),
        (
            "pt.json",
            r#"{"v": {"mc_question": [{"id": 1, "question": "?", "options": ["a", "b"], "answer_id": true}]}}"#,
        ),
        ("q.json", r#"[{"video_name": "a", "question": "?", "question_id": 1}]"#),
        ("a.json", r#"[{"answer": "x", "question_id": 1}, {"answer": "y", "question_id": "1"}]"#),
        ("b.json", r#"[{"answer": "x", "question_id": 1}, {"answer": "y", "question_id": 2}]"#),
        (
            "mme.json",
            r#"[{"duration": "short", "videoID": "f", "question_id": "1", "task_type": "t", "question": "?", "options": ["A. a", "B. b"], "answer": "B"}]"#,
        ),
        ("subtitle/g.srt", ""),
    ]);
    let rextime = |questions: &str, answers: &str| {
        format!("rextime: {{ questions: {questions}, answers: {answers}, activitynet: anet, qvhighlights: qvh }}")
    };
    let mme = "video_mme: { questions: mme.json, videos: v, subtitles: subtitle MORE }";
    for (format, expected) in [
        (
            "long_video_bench: { questions: out.json, videos: v }",
            "the video name `../x.mp4` is empty or leaves its directory",
        ),
        (
            "long_video_bench: { questions: abs.json, videos: v }",
            "the video name `/x.mp4` is empty or leaves its directory",
        ),
        (&rextime("rex.json", "twice.jsonl"), "twice.jsonl: line 2: the id `q1` comes twice"),
        (
            &rextime("other.json", "one.jsonl"),
            "other.json: entry 1: unknown source `youtube`; expected qvhighlights or Anet",
        ),
        ("perception_test: { questions: pt.json, videos: v }", "`answer_id` is not a text or a number"),
        ("zero_shot_qa: { questions: q.json, answers: a.json, videos: v }", "a.json: entry 2: the id `1` comes twice"),
        ("zero_shot_qa: { questions: q.json, answers: b.json, videos: v }", "b.json: 2 answers for 1 questions"),
        (&mme.replace(" MORE", ""), "1 videos have no subtitles, expected at most 0; the first: f"),
    ] {
        let error = read(&replica, format).unwrap_err();
        assert!(error.contains(expected), "{format}: {error}");
    }
    assert!(read(&replica, &mme.replace(" MORE", ", without_subtitles: 1")).is_ok());
}

#[test]
fn keys_that_come_twice_are_refused_by_name() {
    let replica = Replica::new(&[
        ("q.json", "[{\"video_name\": \"a\",\n \"question\": \"?\", \"question\": \"!\", \"question_id\": 1}]"),
        ("rex.json", r#"[{"qid": "q1", "vid": "v", "source": "anet", "question": "?", "options": ["a", "b"]}]"#),
        ("rex.jsonl", "\n{\"qid\": \"q1\", \"ans\": \"A\", \"ans\": \"B\"}\n"),
        ("gqa.csv", "video_id,question,answer,qid,type,a0,a1\n40,what?,sit,8,TN,stand,sit\n"),
        ("gsub.json", r#"{"40": {"location": {"8": [[8.9, 15.1]], "8": [[1, 2]]}}}"#),
    ]);
    for (format, expected) in [
        (
            "zero_shot_qa: { questions: q.json, answers: q.json, videos: v }",
            "q.json: the key `question` comes twice at line 2 column ",
        ),
        (
            "rextime: { questions: rex.json, answers: rex.jsonl, activitynet: v, qvhighlights: v }",
            "rex.jsonl: line 2: the key `ans` comes twice at line 1 column ",
        ),
        (
            "next_gqa: { questions: gqa.csv, spans: gsub.json, videos: v }",
            "gsub.json: the key `8` comes twice at line 1 ",
        ),
    ] {
        let error = read(&replica, format).unwrap_err();
        assert!(error.starts_with(expected), "{format}: {error}");
    }
}

/// Reads a format; the prompt is not checked.
fn read(replica: &Replica, format: &str) -> Result<DatasetQuestions, String> {
    let format: serde_json::Value =
        serde_yaml::from_str(&format!("{{ {format} }}")).map_err(|error| error.to_string())?;
    let format: DatasetFormat = serde_json::from_value(format).map_err(|error| error.to_string())?;
    let prefix = format!("{}/", replica.dir.path().display());
    format.read(replica.dir.path()).map_err(|error| error.to_string().replace(&prefix, ""))
}

#[test]
fn mutated_files_end_in_questions_or_in_an_error() {
    let table = "video,question,answer,qid,type,a0,a1\n40,what?,1,6,DC,\"x, y\",z\n41,why?,0,1,CW,a,b\n";
    let list = r#"[{"video": "a.mp4", "question": "what?", "candidates": ["x", "y"], "answer": "y", "start": 1.5, "end": 4, "question_type": "t", "question_id": 3}]"#;
    let object = r#"{"10": {"action": [{"question": "what?\nA. dunking\nB. passing", "answer": "B. passing"}]}}"#;
    let cases = [
        ("f.csv", table, "next_qa: { questions: f.csv, videos: v }"),
        ("f.csv", table, "ego_schema: { questions: f.csv, videos: v }"),
        ("f.json", list, "mvbench: { lists: ., tasks: [{ name: f, videos: v }] }"),
        ("f.json", list, "mlvu: { tasks: [{ questions: f.json, videos: v }] }"),
        ("f.json", list, "zero_shot_qa: { questions: f.json, answers: f.json, videos: v }"),
        ("f.json", object, "temp_compass: { questions: f.json, task: multi_choice, videos: v }"),
    ];
    let mut state = 20_u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % n
    };
    for (name, text, format) in cases {
        let replica = Replica::new(&[(name, text)]);
        let mut n_read = 0;
        for _ in 0..150 {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..=draw(3) {
                let at = draw(bytes.len());
                match draw(3) {
                    0 => bytes[at] = draw(256) as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at + 1),
                }
            }
            std::fs::write(replica.path(name), &bytes).unwrap();
            n_read += usize::from(replica.read(format).is_ok());
        }
        assert!(n_read < 150, "{format}: every mutation was read");
    }
}
