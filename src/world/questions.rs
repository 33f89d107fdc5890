//! Questions about a scene, with their answers, in a few wordings each.

use serde::{Deserialize, Serialize};

use super::Draw;
use super::scene::{Cell, Colour, Object, Scene, Shape};

/// Subject of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum QuestionKind {
    /// The colour of an object.
    Color,
    /// The shape of an object.
    Shape,
    /// The number of objects.
    Count,
    /// The existence of an object of a colour and a shape.
    Exist,
    /// The cell of an object, of nine.
    Position,
    /// The colour of the background.
    Background,
    /// The pattern of an object.
    Texture,
    /// The size of an object.
    Size,
    /// Everything, in a fixed order.
    Caption,
    /// Each shape with its colour, the shape first. Only for training: a colour right after its shape
    /// teaches a language model to find objects by their shape, as captions teach it to find them by their colour.
    Listing,
}

impl QuestionKind {
    /// All kinds that [`questions`] asks.
    pub const ALL: [Self; 9] = [
        Self::Color,
        Self::Shape,
        Self::Count,
        Self::Exist,
        Self::Position,
        Self::Background,
        Self::Texture,
        Self::Size,
        Self::Caption,
    ];

    /// Returns the name in files.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the share that is right by always giving the likeliest answer.
    pub fn chance(self) -> f64 {
        match self {
            Self::Color => 1.0 / Colour::ALL.len() as f64,
            Self::Shape => 1.0 / Shape::ALL.len() as f64,
            Self::Count => 0.4,
            Self::Exist | Self::Size => 0.5,
            Self::Position => 1.0 / Cell::COUNT as f64,
            Self::Background => 0.25,
            Self::Texture => 1.0 / 3.0,
            Self::Caption | Self::Listing => 0.0,
        }
    }
}

/// A question and its only right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Subject of the question.
    pub kind: QuestionKind,
    /// Text of the question.
    pub question: String,
    /// Text of the answer.
    pub answer: String,
}

/// Word of a question for the medium it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// "image", "picture" or "video", drawn at random: for training.
    Any,
    /// "image" or "picture".
    Image,
    /// "video".
    Video,
}

impl Medium {
    fn word(self, draw: &mut Draw) -> &'static str {
        match self {
            Self::Any => draw.pick::<&str>(&["image", "picture", "video"]),
            Self::Image => draw.pick::<&str>(&["image", "picture"]),
            Self::Video => "video",
        }
    }
}

/// Returns a question of every kind that the scene has an answer for, each in a random wording; two of existence.
pub fn questions(scene: &Scene, medium: Medium, draw: &mut Draw) -> Vec<Question> {
    use QuestionKind::{Background, Caption, Color, Count, Exist, Position, Shape, Size, Texture};
    let kinds = [Color, Shape, Position, Texture, Size, Caption, Exist, Exist, Background, Count];
    kinds.into_iter().filter_map(|kind| ask(kind, scene, medium, draw)).collect()
}

/// Returns a question of one kind, if the scene has an answer for it.
pub fn ask(kind: QuestionKind, scene: &Scene, medium: Medium, draw: &mut Draw) -> Option<Question> {
    let word = medium.word(draw);
    let (question, answer) = match kind {
        QuestionKind::Color => {
            let (object, question) = ask_attribute(scene, "color", Reference::ByShape, draw)?;
            (question, object.colour.word().to_owned())
        }
        QuestionKind::Shape => {
            let (object, question) = ask_attribute(scene, "shape", Reference::ByColour, draw)?;
            (question, object.shape.word().to_owned())
        }
        QuestionKind::Texture => texture(scene, draw)?,
        QuestionKind::Size => size(scene, draw)?,
        QuestionKind::Position => position(scene, word, draw)?,
        QuestionKind::Count => {
            let many = format!("How many shapes are in the {word}?");
            let wordings = [
                "How many objects are there?",
                "How many things can you see?",
                "Count the objects.",
                "What is the number of objects?",
                &many,
            ];
            ((*draw.pick(&wordings)).to_owned(), COUNTS[scene.objects.len() - 1].to_owned())
        }
        QuestionKind::Exist => exist(scene, word, draw),
        QuestionKind::Background => {
            let wordings = [
                "What color is the background?",
                "What is the background color?",
                "Tell me the color of the background.",
                "Which color does the background have?",
            ];
            ((*draw.pick(&wordings)).to_owned(), scene.background.word().to_owned())
        }
        QuestionKind::Caption => {
            let wordings = [
                format!("Describe the {word}."),
                format!("What is in the {word}?"),
                "Give a short caption.".to_owned(),
                "What do you see?".to_owned(),
                format!("Describe this {word} in one sentence."),
            ];
            (draw.pick(&wordings).clone(), caption(scene))
        }
        QuestionKind::Listing => {
            let wordings = ["List the shapes and their colors.", "Name each shape with its color."];
            ((*draw.pick(&wordings)).to_owned(), listing(scene))
        }
    };
    Some(Question { kind, question, answer })
}

const COUNTS: [&str; 3] = ["one", "two", "three"];

/// Attributes by which a question names an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reference {
    ByColour,
    ByShape,
    Any,
}

/// Returns the words for an object, or `None` where they would fit other objects too.
fn refer(scene: &Scene, object: &Object, by: Reference, draw: &mut Draw) -> Option<String> {
    let (colour, shape) = (object.colour.word(), object.shape.word());
    let by_colour = ["object", "one", "thing"].map(|noun| format!("the {colour} {noun}"));
    let is_unique = scene.objects.iter().filter(|other| other.shape == object.shape).count() == 1;
    let mut wordings = Vec::new();
    if by != Reference::ByShape {
        wordings.extend(by_colour);
    }
    if by != Reference::ByColour && is_unique {
        wordings.extend(std::iter::repeat_n(format!("the {shape}"), 3));
    }
    if by == Reference::Any {
        wordings.extend(std::iter::repeat_n(format!("the {colour} {shape}"), 3));
    }
    (!wordings.is_empty()).then(|| draw.pick(&wordings).clone())
}

/// Returns an object that can be referred to, and the words for it.
fn choose<'s>(
    candidates: impl Iterator<Item = &'s Object>,
    scene: &Scene,
    by: Reference,
    draw: &mut Draw,
) -> Option<(&'s Object, String)> {
    let mut candidates: Vec<&Object> = candidates.collect();
    draw.shuffle(&mut candidates);
    candidates.into_iter().find_map(|object| Some((object, refer(scene, object, by, draw)?)))
}

/// Returns an object that can be referred to without the attribute, and the question for the attribute.
fn ask_attribute<'s>(
    scene: &'s Scene,
    attribute: &str,
    by: Reference,
    draw: &mut Draw,
) -> Option<(&'s Object, String)> {
    let (object, name) = choose(scene.objects.iter(), scene, by, draw)?;
    let wordings = [
        format!("What {attribute} is {name}?"),
        format!("What is the {attribute} of {name}?"),
        format!("Which {attribute} does {name} have?"),
        format!("Tell me the {attribute} of {name}."),
    ];
    Some((object, draw.pick(&wordings).clone()))
}

fn texture(scene: &Scene, draw: &mut Draw) -> Option<(String, String)> {
    let (object, name) = choose(scene.objects.iter(), scene, Reference::Any, draw)?;
    let wordings = [
        format!("What pattern does {name} have?"),
        format!("What is the pattern of {name}?"),
        format!("Is {name} solid, striped or dotted?"),
        format!("Which texture does {name} have?"),
    ];
    Some((draw.pick(&wordings).clone(), object.texture.word().to_owned()))
}

fn size(scene: &Scene, draw: &mut Draw) -> Option<(String, String)> {
    let (object, name) = choose(scene.objects.iter(), scene, Reference::Any, draw)?;
    let wordings = [
        format!("What size is {name}?"),
        format!("How big is {name}?"),
        format!("Is {name} small or large?"),
        format!("What is the size of {name}?"),
    ];
    Some((draw.pick(&wordings).clone(), object.size.word().to_owned()))
}

/// Asks for the cell of an object that stands still; moving objects have none.
fn position(scene: &Scene, word: &str, draw: &mut Draw) -> Option<(String, String)> {
    let still = scene.objects.iter().filter(|object| object.cell.is_some());
    let (object, name) = choose(still, scene, Reference::Any, draw)?;
    let wordings = [
        format!("Where is {name}?"),
        format!("What is the position of {name}?"),
        format!("In which part of the {word} is {name}?"),
    ];
    Some((draw.pick(&wordings).clone(), object.cell?.words().to_owned()))
}

/// Asks whether a colour and a shape occur together. Half of the answers are yes. Of the others, 40 % take the colour
/// of an object, 30 % the shape of an object, 30 % both at random; the pair itself never occurs.
fn exist(scene: &Scene, word: &str, draw: &mut Draw) -> (String, String) {
    let is_there = draw.chance(0.5);
    let (colour, shape) = if is_there {
        let object = draw.pick(&scene.objects);
        (object.colour, object.shape)
    } else {
        absent(scene, draw)
    };
    let name = format!("a {} {}", colour.word(), shape.word());
    let wordings = [
        format!("Is there {name}?"),
        format!("Can you see {name}?"),
        format!("Is there {name} in the {word}?"),
        format!("Does the {word} show {name}?"),
    ];
    (draw.pick(&wordings).clone(), if is_there { "yes" } else { "no" }.to_owned())
}

fn absent(scene: &Scene, draw: &mut Draw) -> (Colour, Shape) {
    loop {
        let kind = draw.unit();
        let object = draw.pick(&scene.objects);
        let (colour, shape) = (*draw.pick(Colour::ALL), *draw.pick(Shape::ALL));
        let pair = match kind {
            ..0.4 => (object.colour, shape),
            0.4..0.7 => (colour, object.shape),
            _ => (colour, shape),
        };
        if !scene.objects.iter().any(|object| (object.colour, object.shape) == pair) {
            return pair;
        }
    }
}

/// Returns "circle red, star blue", in the order of the shapes, then of the colours.
fn listing(scene: &Scene) -> String {
    let mut objects: Vec<&Object> = scene.objects.iter().collect();
    objects.sort_by_key(|object| (object.shape, object.colour));
    let pairs: Vec<String> = objects.iter().map(|o| format!("{} {}", o.shape.word(), o.colour.word())).collect();
    pairs.join(", ")
}

/// Returns "a large striped red circle and a small solid blue star on a black background", in the order of the colours,
/// which is the same in every frame of a video.
fn caption(scene: &Scene) -> String {
    let mut objects: Vec<&Object> = scene.objects.iter().collect();
    objects.sort_by_key(|object| object.colour);
    let names: Vec<String> = objects
        .iter()
        .map(|o| format!("a {} {} {} {}", o.size.word(), o.texture.word(), o.colour.word(), o.shape.word()))
        .collect();
    let list = match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    };
    format!("{list} on a {} background", scene.background.word())
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
