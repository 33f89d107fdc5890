//! Conversations about several media: prompts beside those of transformers' processors, and answers of the engine.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;
use vidense::engine::{Completion, Engine, RequestEvent, Visual};
use vidense::error::{Error, Kind};
use vidense::exec::Stop;
use vidense::pipeline::{
    Answer, AnswerOptions, Asking, ChatContent, ChatPrompt, ChatTurn, EncodedVideo, ExpectedMedium, FittingPrompt,
    Limits, LoadedModel, encode_video, open,
};
use vidense::spec::{GeneratePlan, Plan, PromptPlan};
use vidense::temporal::Temporal;
use vidense::text::{
    ChatTemplate, Conversation, FrameLayout, FrameMarks, MediumIndex, Passage, Placeholder, Prompt, PromptConvention,
    QuestionPart, ShownFrame, ShownFrames, Template, Timestamps, Tokenizer,
};
use vidense::units::{Seconds, Tokens};
use vidense::video::{Sample, TimesSampling};

use crate::harness::{ask, ids, json, repository};

/// The marks of a family, and the placeholder of its videos.
fn family(name: &str) -> (FrameMarks, Placeholder) {
    let marks = |layout, open: &str, close: &str| FrameMarks { layout, open: open.to_owned(), close: close.to_owned() };
    let fake = "<fake_token_around_image>";
    match name {
        "smolvlm" => (marks(FrameLayout::SmolVlm, &format!("{fake}<global-img>"), fake), Placeholder::Image),
        "internvl" => (marks(FrameLayout::InternVl, "<img>", "</img>"), Placeholder::ImageInVideo),
        "llava_onevision" => (FrameMarks::default(), Placeholder::Video),
        _ => (FrameMarks::default(), Placeholder::Image),
    }
}

/// The family's own template. SmolVLM's processor has one of its own for videos, which is built in.
fn template(name: &str, case: &Value, placeholder: Placeholder) -> Template {
    if name == "smolvlm" {
        return Template::SmolVlm;
    }
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
    write("tokenizer.json", &json(&repository("tests/golden/text/base.json"))["pieces"].to_string());
    write("tokenizer_config.json", &case["tokenizer"].to_string());
    write("chat_template.jinja", case["template"].as_str().unwrap());
    let convention = PromptConvention::HuggingFace { image_token_id: None, placeholder };
    let tokenizer = Tokenizer::open(dir.path(), convention).unwrap();
    Template::Checkpoint(Arc::new(ChatTemplate::find(dir.path(), &tokenizer).unwrap()))
}

fn shown(medium: &Value) -> ShownFrames {
    if medium == "image" {
        let frames = vec![ShownFrame::default()];
        return ShownFrames { frames, are_separate: true, is_single_image: true, ..ShownFrames::default() };
    }
    let (total, seconds) = (medium["total"].as_u64().unwrap() as usize, medium["seconds"].as_f64().unwrap());
    let frame = |index: &Value| {
        let index = index.as_u64().unwrap() as usize;
        ShownFrame { index, time: Some(Seconds(index as f64 * seconds / total as f64)) }
    };
    let frames = medium["frames"].as_array().unwrap().iter().map(frame).collect();
    ShownFrames { frames, video: Some((total, Seconds(seconds))), are_separate: true, ..ShownFrames::default() }
}

fn part(content: &Value) -> QuestionPart {
    match content.as_str() {
        Some(text) => QuestionPart::Text(text.to_owned()),
        None => QuestionPart::Medium(MediumIndex(content.as_u64().unwrap() as usize)),
    }
}

/// The text of a prompt, with a mark for each run of visual tokens.
fn marked(prompt: &Prompt) -> String {
    let text = |part: &Passage<String>| match part {
        Passage::Text(text) => text.clone(),
        Passage::Medium(MediumIndex(i)) | Passage::Frames(MediumIndex(i), _) => format!("⟦{i}⟧"),
    };
    prompt.parts.iter().map(text).collect()
}

#[test]
fn conversations_about_several_media_have_the_prompts_of_transformers() {
    for case in json(&repository("tests/golden/text/chats.json")).as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (marks, placeholder) = family(name);
        let template = template(name, case, placeholder);
        for chat in case["cases"].as_array().unwrap() {
            let media = chat["media"].as_array().unwrap().iter().map(shown).collect();
            let empty = Conversation::new(template.clone(), chat["system"].as_str().map(str::to_owned));
            let mut conversation = empty.with_marks(marks.clone(), Timestamps::Checkpoint).with_media(media);
            for turn in chat["turns"].as_array().unwrap() {
                conversation.add(turn[0].as_array().unwrap().iter().map(part).collect());
                turn[1].as_str().into_iter().for_each(|answer| conversation.answer(answer));
            }
            let prompt = match chat["beginning"].as_str() {
                Some(beginning) => conversation.continue_answer(beginning).unwrap(),
                None => conversation.prompt().unwrap(),
            };
            assert_eq!(marked(&prompt), chat["text"].as_str().unwrap(), "{name}: {chat}");
        }
    }
}

/// SplitMix64: the same draws every time.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    /// A text of words and of marks that a template or the program gives a meaning.
    fn text(&mut self) -> String {
        const PIECES: [&str; 14] = [
            "why",
            " ",
            "\n",
            "<image>",
            "<video>",
            "<IMG_CONTEXT>",
            "\u{10FFFF}",
            "{'type': 'text'}",
            "{\"type\": \"image\"}",
            "CONTINUE_FINAL_MESSAGE_TAG ",
            "{{ messages }}",
            "{% endfor %}",
            "<|im_end|>",
            "é",
        ];
        (0..self.below(6)).map(|_| PIECES[self.below(PIECES.len())]).collect()
    }
}

#[test]
fn hostile_texts_move_no_medium_and_stay_in_the_prompt() {
    let mut draws = Draws(7);
    for case in json(&repository("tests/golden/text/chats.json")).as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (marks, placeholder) = family(name);
        let template = template(name, case, placeholder);
        let mut n_prompts = 0;
        for _ in 0..60 {
            let n_media = draws.below(4);
            let media: Vec<ShownFrames> = (0..n_media)
                .map(|_| ShownFrames { is_single_image: draws.below(2) == 0, ..ShownFrames::unknown(2) })
                .collect();
            let empty = Conversation::new(template.clone(), Some(draws.text())).with_media(media.clone());
            let mut conversation = empty.with_marks(marks.clone(), Timestamps::Checkpoint);
            let (mut left, mut last) = ((0..n_media).map(MediumIndex), String::new());
            for i in (0..=draws.below(3)).rev() {
                let here = if i == 0 { n_media } else { draws.below(2) };
                last = draws.text();
                let mut question: Vec<_> = left.by_ref().take(here).map(QuestionPart::Medium).collect();
                question.insert(draws.below(question.len() + 1), QuestionPart::Text(last.clone()));
                conversation.add(question);
                if i > 0 {
                    conversation.answer(&draws.text());
                }
            }
            let beginning = draws.text();
            let Ok(prompt) = conversation.continue_answer(&beginning) else { continue };
            n_prompts += 1;
            let shown = |is_image: bool| -> Vec<usize> {
                let begins = |part: &Passage<String>| match part {
                    Passage::Medium(medium) => Some(medium.0),
                    Passage::Frames(medium, frames) => (frames.start == 0).then_some(medium.0),
                    Passage::Text(_) => None,
                };
                prompt.parts.iter().filter_map(begins).filter(|&i| media[i].is_single_image == is_image).collect()
            };
            for is_image in [false, true] {
                let expected: Vec<usize> = (0..n_media).filter(|&i| media[i].is_single_image == is_image).collect();
                assert_eq!(shown(is_image), expected, "{name}: {prompt:?}");
            }
            let words = last.replace('\u{10FFFF}', "");
            assert!(prompt.text().contains(words.trim()), "{name}: {words:?} in {prompt:?}");
        }
        assert!(n_prompts > 30, "{name}: {n_prompts} prompts of 60");
    }
}

#[test]
fn a_template_of_texts_takes_one_medium_and_refuses_more_by_name() {
    let case = serde_json::json!({
        "tokenizer": { "image_token": "<image>" }, "template": "U: {{ messages[0].content + '' }}",
    });
    let template = template("texts", &case, Placeholder::Image);
    let text = |text: &str| QuestionPart::Text(text.to_owned());
    let medium = |i| QuestionPart::Medium(MediumIndex(i));
    let prompt = |n_media: usize, question: Vec<QuestionPart>| {
        let mut conversation =
            Conversation::new(template.clone(), None).with_media(vec![ShownFrames::unknown(1); n_media]);
        conversation.add(question);
        conversation.prompt().map(|prompt| marked(&prompt))
    };
    assert_eq!(prompt(1, vec![medium(0), text("Why?")]).unwrap(), "U: ⟦0⟧\nWhy?");
    assert_eq!(prompt(0, vec![text("Why?")]).unwrap(), "U: Why?");
    let error = prompt(2, vec![medium(0), medium(1), text("Why?")]).unwrap_err().to_string();
    assert!(error.contains("a template of texts takes one medium, in the first question; hint: --template"), "{error}");
}

#[test]
fn a_text_conversation_has_no_placeholder_of_a_template_that_always_writes_one() {
    let template = |source: &str| {
        let case = serde_json::json!({ "tokenizer": { "image_token": "<image>" }, "template": source });
        template("bare", &case, Placeholder::Image)
    };
    let prompt = |source: &str, question: &str| {
        let mut conversation = Conversation::new(template(source), None).with_media(Vec::new());
        conversation.ask(question).map(|prompt| marked(&prompt))
    };
    let error = prompt("<image>{{ messages[0].content[0].text }}", "Why?").unwrap_err().to_string();
    assert!(error.contains("a conversation about text alone has `<image>` 1 times in its prompt"), "{error}");
    // A placeholder in a text is text.
    assert_eq!(prompt("U: {{ messages[0].content[0].text }}", "Is <image> a word?").unwrap(), "U: Is <image> a word?");
    // A list that a template of texts prints is not its prompt.
    assert_eq!(prompt("U: {{ messages[0].content }}", "Why?").unwrap(), "U: Why?");
}

/// vidense-mini with a template of many turns, and a few clips of the shapes world.
struct Mini {
    model: LoadedModel,
    videos: Vec<EncodedVideo>,
}

impl Mini {
    fn open() -> Self {
        let plan = Plan {
            model: repository("samples/mini").to_str().unwrap().to_owned(),
            sample: Some(Sample::uniform(3)),
            temporal: Some(Temporal::Concat),
            prompt: PromptPlan { template: Some("vicuna_v1".to_owned()), ..PromptPlan::default() },
            generate: GeneratePlan { max_new_tokens: 8, ..GeneratePlan::default() },
            ..Plan::default()
        };
        let model = open(plan).unwrap();
        let clips = ["clips/clip-00000.mp4", "clips/clip-00001.webm", "three_shapes.mp4"];
        let encode =
            |name: &str| encode_video(&model.vlm, &repository("samples").join(name), &model.plan, &|_| {}).unwrap();
        let videos = clips.into_iter().map(encode).collect();
        Self { model, videos }
    }

    fn asking(&self) -> Asking<'_> {
        self.model.asking()
    }

    fn prompt(&self, turns: &[ChatTurn], media: &[usize]) -> Result<FittingPrompt, Error> {
        let media: Vec<&EncodedVideo> = media.iter().map(|&i| &self.videos[i]).collect();
        self.asking().chat_prompt(
            &ChatPrompt { system: Some("Answer."), turns, media: &media },
            &AnswerOptions::of(&self.model.plan),
        )
    }
}

fn turn(question: Vec<ChatContent>, answer: Option<&str>) -> ChatTurn {
    ChatTurn { question, answer: answer.map(str::to_owned) }
}

fn text(text: &str) -> ChatContent {
    ChatContent::Text(text.to_owned())
}

type RequestOutcome = Result<Completion, Error>;

/// The answers to some prompts of one engine, all at once. `visuals` are those of each prompt's media.
fn answers<'a>(asking: Asking<'a>, engine: &mut Engine<'a>, prompts: &[(FittingPrompt, Vec<Visual>)]) -> Vec<Answer> {
    let done: Rc<RefCell<Vec<Option<RequestOutcome>>>> = Rc::default();
    done.borrow_mut().resize_with(prompts.len(), || None);
    for (i, (prompt, visuals)) in prompts.iter().enumerate() {
        let done = done.clone();
        let listener = Box::new(move |event: RequestEvent<'_>| {
            if let RequestEvent::Done(outcome) = event {
                done.borrow_mut()[i] = Some(outcome);
            }
            ControlFlow::Continue(())
        });
        let request = asking.chat_request(prompt, visuals, &Limits::default(), listener).unwrap();
        engine.submit(request);
    }
    engine.run(&Stop::new());
    let outcomes: Vec<_> = done.borrow_mut().drain(..).map(Option::unwrap).collect();
    prompts.iter().zip(outcomes).map(|((prompt, _), outcome)| asking.answer(prompt, outcome).unwrap()).collect()
}

#[test]
fn answers_about_two_videos_are_the_same_beside_other_requests() {
    let mini = Mini::open();
    let asking = mini.asking();
    let visuals: Vec<Visual> = mini.videos.iter().map(|video| Visual::new(video.visual.clone())).collect();
    let both = |a: usize, b: usize, question: &str| {
        let question = vec![ChatContent::Medium(0), text("and"), ChatContent::Medium(1), text(question)];
        let prompt = mini.prompt(&[turn(question, None)], &[a, b]).unwrap();
        (prompt, vec![visuals[a].clone(), visuals[b].clone()])
    };
    let prompts = [
        both(0, 1, "What color is the object?"),
        both(1, 0, "What color is the object?"),
        both(1, 2, "How many objects are there?"),
        (mini.prompt(&[turn(vec![text("Who are you?")], None)], &[]).unwrap(), Vec::new()),
    ];
    let alone: Vec<Answer> = prompts
        .iter()
        .map(|prompt| answers(asking, &mut asking.engine().unwrap(), std::slice::from_ref(prompt)).remove(0))
        .collect();
    let beside = answers(asking, &mut asking.engine().unwrap(), &prompts);
    for (i, (alone, beside)) in alone.iter().zip(&beside).enumerate() {
        assert_eq!(alone.token_ids, beside.token_ids, "{i}");
    }
    let n_visual = |i: usize| mini.videos[i].visual.dim(0).unwrap();
    assert_eq!(alone[0].visual_tokens, Tokens(n_visual(0) + n_visual(1)));
    assert_eq!(alone[3].visual_tokens, Tokens(0));
}

#[test]
fn a_second_turn_with_another_video_finds_the_pages_of_the_first() {
    let mini = Mini::open();
    let asking = mini.asking();
    let visuals: Vec<Visual> = mini.videos.iter().map(|video| Visual::new(video.visual.clone())).collect();
    let mut engine = asking.engine().unwrap();
    let first = vec![ChatContent::Medium(0), text("How many objects are there?")];
    let prompt = mini.prompt(&[turn(first.clone(), None)], &[0]).unwrap();
    let answer = answers(asking, &mut engine, &[(prompt, vec![visuals[0].clone()])]).remove(0);
    let turns = [turn(first, Some(&answer.text)), turn(vec![text("And here?"), ChatContent::Medium(1)], None)];
    let next = (mini.prompt(&turns, &[0, 1]).unwrap(), visuals[..2].to_vec());
    let reused = answers(asking, &mut engine, std::slice::from_ref(&next)).remove(0);
    assert!(reused.reused >= Tokens(mini.videos[0].visual.dim(0).unwrap()), "{:?}", reused.reused);
    let fresh = answers(asking, &mut asking.engine().unwrap(), std::slice::from_ref(&next)).remove(0);
    assert_eq!((fresh.reused, fresh.token_ids), (Tokens(0), reused.token_ids));
}

#[test]
fn a_chat_about_one_video_is_a_question_about_it() {
    let mini = Mini::open();
    let asking = mini.asking();
    let question = "What color is the circle?";
    let turns = [turn(vec![ChatContent::Medium(0), text(question)], None)];
    let chat = ChatPrompt { system: None, turns: &turns, media: &[&mini.videos[0]] };
    let prompt = asking.chat_prompt(&chat, &AnswerOptions::of(&mini.model.plan)).unwrap();
    let visual = Visual::new(mini.videos[0].visual.clone());
    let found = answers(asking, &mut asking.engine().unwrap(), &[(prompt, vec![visual])]).remove(0);
    let asked = ask(asking, &mini.videos[0], question).unwrap();
    let counts = |answer: &Answer| (answer.token_ids.clone(), answer.prompt_tokens, answer.visual_tokens);
    assert_eq!(counts(&found), counts(&asked));
}

#[test]
fn an_answer_is_continued_where_it_was_cut() {
    let mini = Mini::open();
    let asking = mini.asking();
    let visual = Visual::new(mini.videos[0].visual.clone());
    let question = vec![ChatContent::Medium(0), text("Describe the video.")];
    let prompt =
        |answer: Option<&str>| (mini.prompt(&[turn(question.clone(), answer)], &[0]).unwrap(), vec![visual.clone()]);
    let whole = answers(asking, &mut asking.engine().unwrap(), &[prompt(None)]).remove(0);
    let (beginning, _) = whole.text.rsplit_once(' ').expect("several words");
    let rest = answers(asking, &mut asking.engine().unwrap(), &[prompt(Some(beginning))]).remove(0);
    assert!(format!("{beginning} {}", rest.text).starts_with(&whole.text), "{:?} + {:?}", whole.text, rest.text);
}

#[test]
fn conditions_of_an_answer_are_the_clients() {
    let mini = Mini::open();
    let asking = mini.asking();
    let turns = [turn(vec![ChatContent::Medium(0), text("Describe the video.")], None)];
    let chat = ChatPrompt { system: None, turns: &turns, media: &[&mini.videos[0]] };
    let visual = || vec![Visual::new(mini.videos[0].visual.clone())];
    let plan = AnswerOptions::of(&mini.model.plan);
    let answer = |options: &AnswerOptions| {
        let prompt = asking.chat_prompt(&chat, options).unwrap();
        answers(asking, &mut asking.engine().unwrap(), &[(prompt, visual())]).remove(0)
    };
    let whole = answer(&plan);
    let second = whole.text.split(' ').nth(1).expect("several words");
    let stopped = answer(&AnswerOptions { stop: vec![second.to_owned()], ..plan.clone() });
    assert_eq!(stopped.text, whole.text.split(' ').next().unwrap());
    // More tokens than fit are lowered to the room.
    let huge = AnswerOptions { max_new_tokens: usize::MAX, ..plan.clone() };
    let size = asking.chat_prompt(&chat, &huge).unwrap().size();
    assert_eq!(size.text.0 + size.visual.0 + size.answer.0, mini.model.vlm.context());
    for (options, rule) in [
        (AnswerOptions { max_new_tokens: 0, ..plan.clone() }, "max_new_tokens: 0 tokens"),
        (AnswerOptions { stop: vec![String::new()], ..plan }, "stop: an empty string"),
    ] {
        let error = asking.chat_prompt(&chat, &options).unwrap_err().to_string();
        assert!(error.starts_with(rule), "{error}");
    }
}

#[test]
fn a_conversation_is_checked_before_a_video_is_read() {
    let mini = Mini::open();
    let asking = mini.asking();
    let options = AnswerOptions::of(&mini.model.plan);
    let check = |turns: &[ChatTurn], n_frames: &[usize]| {
        let media: Vec<_> = n_frames.iter().map(|&n_frames| ExpectedMedium { n_frames, image: None }).collect();
        asking.check_chat(&ChatPrompt { system: Some("Answer."), turns, media: &media }, &options)
    };
    let both = [turn(vec![ChatContent::Medium(0), ChatContent::Medium(1), text("Why?")], None)];
    assert_eq!(check(&both, &[3, 3]).unwrap(), mini.prompt(&both, &[0, 1]).unwrap().size());
    let error = check(&both, &[300, 3]).unwrap_err();
    assert_eq!(error.kind(), Kind::TokenBudget);
    let words = error.to_string();
    assert!(words.starts_with("conversation: medium 1 (concat): 300 frames x 64 tokens = 19200; medium 2"), "{words}");
    for (turns, n_frames, rule) in [
        (vec![], &[][..], "a conversation without a question"),
        (vec![turn(vec![text("A?")], None), turn(vec![text("B?")], None)], &[], "question 1 of 2 has no answer"),
        (vec![turn(vec![ChatContent::Medium(1)], None)], &[3], "unknown medium 1 of 1"),
        (vec![turn(vec![text("Why?")], None)], &[3], "no question shows medium 0 of 1"),
    ] {
        let error = check(&turns, n_frames).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Invalid, rule));
    }
}

#[test]
fn a_template_of_one_turn_shows_earlier_media_and_refuses_a_system_text() {
    let mini = Template::custom("<s>USER: <image>\n{question} ASSISTANT: {answer}</s>").unwrap();
    let mut conversation = Conversation::new(mini.clone(), None).with_media(vec![ShownFrames::unknown(1); 2]);
    conversation.add(vec![QuestionPart::Medium(MediumIndex(0)), QuestionPart::Text("A?".to_owned())]);
    conversation.answer("a");
    conversation.add(vec![QuestionPart::Medium(MediumIndex(1)), QuestionPart::Text("B?".to_owned())]);
    assert_eq!(marked(&conversation.prompt().unwrap()), "<s>USER: ⟦0⟧\n⟦1⟧\nB? ASSISTANT:");
    let error = Conversation::new(mini, None).with_system("Be brief.").unwrap_err().to_string();
    assert!(error.starts_with("system: the template `custom` has no system text"), "{error}");
}

/// A case's medium, read by its family's own rules.
fn encoded(model: &LoadedModel, dir: &Path, medium: &Value) -> EncodedVideo {
    let times = medium[1].as_array().map(|times| times.iter().map(|time| time.as_f64().unwrap()).collect());
    let sample = times.map(|times| Sample::Times(TimesSampling { times, ..TimesSampling::default() }));
    let plan = Plan { sample: sample.or(model.plan.sample.clone()), ..model.plan.clone() };
    encode_video(&model.vlm, &dir.join(medium[0].as_str().unwrap()), &plan, &|_| {}).unwrap()
}

#[test]
#[ignore = "slow"]
fn questions_about_two_media_are_answered_as_transformers_does() {
    for case in json(&repository("tests/golden/text/chat_answers.json")).as_array().unwrap() {
        let name = case["family"].as_str().unwrap();
        let dir = repository("tests/golden/families").join(name);
        let generate = GeneratePlan { max_new_tokens: 12, ..GeneratePlan::default() };
        let model = open(Plan { model: dir.to_str().unwrap().to_owned(), generate, ..Plan::default() }).unwrap();
        let videos: Vec<_> =
            case["media"].as_array().unwrap().iter().map(|medium| encoded(&model, &dir, medium)).collect();
        let content = |content: &Value| match content.as_str() {
            Some(words) => text(words),
            None => ChatContent::Medium(content.as_u64().unwrap() as usize),
        };
        let turn = |asked: &Value| turn(asked[0].as_array().unwrap().iter().map(content).collect(), asked[1].as_str());
        let turns: Vec<ChatTurn> = case["turns"].as_array().unwrap().iter().map(turn).collect();
        let (asking, media) = (model.asking(), videos.iter().collect::<Vec<_>>());
        let chat = ChatPrompt { system: None, turns: &turns, media: &media };
        let prompt = asking.chat_prompt(&chat, &AnswerOptions::of(&model.plan)).unwrap();
        let n_visual = case["n_visual_tokens"].as_u64().unwrap() as usize;
        assert_eq!(prompt.size().visual, Tokens(n_visual), "{name}");
        let visuals = videos.iter().map(|video| Visual::new(video.visual.clone())).collect();
        let answer = answers(asking, &mut asking.engine().unwrap(), &[(prompt, visuals)]).remove(0);
        assert_eq!(answer.token_ids, ids(&case["generated_ids"]), "{name}: {}", case["turns"]);
    }
}
