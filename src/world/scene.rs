//! A scene: a canvas, a background, and one to three objects, each with a colour, a shape, a texture, a size and a
//! position.

use super::Draw;

/// Pixels of the longest side of a canvas: the unit of all lengths.
pub(crate) const SIDE: u32 = 128;

/// Declares an attribute: its values and their words.
macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum $name { $($variant),+ }

        impl $name {
            /// All values, in their fixed order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the name.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Returns the index in [`Self::ALL`].
            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}

attribute! {
    /// The colour of an object.
    Colour { Red = "red", Orange = "orange", Yellow = "yellow", Green = "green", Cyan = "cyan", Blue = "blue", Purple = "purple", Pink = "pink" }
}
attribute! {
    /// The shape of an object.
    Shape { Circle = "circle", Ring = "ring", Square = "square", Cross = "cross", Triangle = "triangle", Star = "star" }
}
attribute! {
    /// The pattern on an object.
    Texture { Solid = "solid", Striped = "striped", Dotted = "dotted" }
}
attribute! {
    /// The size of an object.
    Size { Small = "small", Large = "large" }
}
attribute! {
    /// The background. All are dark: bright ones made small towers miss shapes.
    Background { Black = "black", Gray = "gray", Brown = "brown", Navy = "navy" }
}

impl Colour {
    pub(super) fn rgb(self) -> [f64; 3] {
        match self {
            Self::Red => [220.0, 40.0, 40.0],
            Self::Orange => [245.0, 140.0, 30.0],
            Self::Yellow => [245.0, 225.0, 50.0],
            Self::Green => [45.0, 170.0, 60.0],
            Self::Cyan => [60.0, 210.0, 220.0],
            Self::Blue => [70.0, 110.0, 255.0],
            Self::Purple => [165.0, 75.0, 220.0],
            Self::Pink => [250.0, 150.0, 190.0],
        }
    }
}

impl Background {
    pub(super) fn rgb(self) -> [f64; 3] {
        match self {
            Self::Black => [12.0, 12.0, 12.0],
            Self::Gray => [62.0, 62.0, 62.0],
            Self::Brown => [75.0, 42.0, 15.0],
            Self::Navy => [15.0, 22.0, 75.0],
        }
    }
}

/// One of nine cells of the canvas, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell(pub usize);

impl Cell {
    /// Number of cells.
    pub const COUNT: usize = 9;

    /// Returns the cell of a point; a point outside the canvas belongs to the nearest cell.
    pub fn at(x: f64, y: f64, width: u32, height: u32) -> Self {
        let third = |at: f64, side: u32| (3.0 * at / f64::from(side)).clamp(0.0, 2.0) as usize;
        Self(3 * third(y, height) + third(x, width))
    }

    /// Returns the name in words.
    pub fn words(self) -> &'static str {
        const WORDS: [&str; Cell::COUNT] = [
            "top left",
            "top center",
            "top right",
            "middle left",
            "center",
            "middle right",
            "bottom left",
            "bottom center",
            "bottom right",
        ];
        WORDS[self.0 % Self::COUNT]
    }

    /// Returns the centre, as fractions of the canvas's width and height.
    fn middle(self) -> (f64, f64) {
        ((2 * (self.0 % 3) + 1) as f64 / 6.0, (2 * (self.0 / 3) + 1) as f64 / 6.0)
    }
}

/// An object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Colour, unique in a scene.
    pub colour: Colour,
    /// Shape.
    pub shape: Shape,
    /// Pattern.
    pub texture: Texture,
    /// Size.
    pub size: Size,
    /// Cell of an object that does not move.
    pub cell: Option<Cell>,
    /// Centre, in pixels.
    pub centre: (f64, f64),
    /// Radius, in pixels.
    pub radius: f64,
    /// Rotation, in radians.
    pub rotation: f64,
    /// Phase of the pattern, in pixels.
    pub phase: f64,
    /// Colour as painted, in RGB.
    pub rgb: [f64; 3],
}

impl Object {
    /// Returns whether the centre is at least `share` of the radius away from every border of a canvas.
    pub(super) fn is_inside(&self, width: u32, height: u32, share: f64) -> bool {
        let (x, y) = self.centre;
        x.min(f64::from(width) - x).min(y).min(f64::from(height) - y) >= share * self.radius
    }

    /// Returns the distance of two centres.
    pub(super) fn distance(&self, other: &Self) -> f64 {
        (self.centre.0 - other.centre.0).hypot(self.centre.1 - other.centre.1)
    }
}

/// Contents of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Width, in pixels.
    pub width: u32,
    /// Height, in pixels.
    pub height: u32,
    /// The background.
    pub background: Background,
    /// The background as painted.
    pub background_rgb: [f64; 3],
    /// Objects in painting order: a later one covers an earlier one.
    pub objects: Vec<Object>,
}

/// The share of a clip's objects that stand still.
pub(super) const STILL: f64 = 0.3;
/// Tries for the position of one object, before the whole scene is drawn again.
const TRIES: usize = 20;

impl Scene {
    /// Returns a still scene with `n_objects` objects, or with one to three, each in a cell of its own.
    pub fn still(draw: &mut Draw, n_objects: Option<usize>) -> Self {
        loop {
            let mut scene = Self::empty(draw);
            let objects = Self::draw_objects(draw, n_objects);
            let placed: Option<()> = objects.into_iter().try_for_each(|object| {
                let placed = scene.place(object, draw)?;
                scene.objects.push(placed);
                Some(())
            });
            if placed.is_some() {
                return scene;
            }
        }
    }

    /// Returns a still scene whose objects stand as at one moment of a clip: three in ten in a cell, the others
    /// anywhere, cut by the border or partly covered, but each of them seen.
    pub fn loose(draw: &mut Draw) -> Self {
        loop {
            let mut scene = Self::empty(draw);
            let (width, height) = (f64::from(scene.width), f64::from(scene.height));
            let objects = Self::draw_objects(draw, None);
            let placed: Option<()> = objects.into_iter().try_for_each(|mut object| {
                if draw.chance(STILL) {
                    object = scene.place(object, draw)?;
                } else {
                    object.centre = (draw.unit() * width, draw.unit() * height);
                }
                scene.objects.push(object);
                Some(())
            });
            if placed.is_some() && (0..scene.objects.len()).all(|i| scene.shows(i)) {
                return scene;
            }
        }
    }

    /// Returns whether an object is visible: nearly whole, and not covered by one painted later.
    pub(super) fn shows(&self, index: usize) -> bool {
        let object = &self.objects[index];
        let covers = |later: &Object| later.distance(object) < 0.8 * (later.radius + object.radius);
        object.is_inside(self.width, self.height, 0.7) && !self.objects[index + 1..].iter().any(covers)
    }

    /// Returns a canvas with its background.
    pub(super) fn empty(draw: &mut Draw) -> Self {
        let height = if draw.chance(0.6) { SIDE } else { SIDE * 3 / 4 };
        let background = *draw.pick(Background::ALL);
        let background_rgb = background.rgb().map(|level| (level + draw.between(-8.0, 8.0)).max(0.0));
        Self { width: SIDE, height, background, background_rgb, objects: Vec::new() }
    }

    /// Returns objects of different colours, not yet positioned.
    pub(super) fn draw_objects(draw: &mut Draw, n_objects: Option<usize>) -> Vec<Object> {
        let count = n_objects.unwrap_or_else(|| *draw.pick(&[1, 2, 2, 3, 3]));
        let mut colours = Colour::ALL.to_vec();
        draw.shuffle(&mut colours);
        colours.into_iter().take(count).map(|colour| Self::draw_object(colour, draw)).collect()
    }

    fn draw_object(colour: Colour, draw: &mut Draw) -> Object {
        let size = *draw.pick(Size::ALL);
        let radius = match size {
            Size::Small => draw.between(0.115, 0.13),
            Size::Large => draw.between(0.18, 0.21),
        };
        Object {
            colour,
            shape: *draw.pick(Shape::ALL),
            texture: *draw.pick(Texture::ALL),
            size,
            cell: None,
            centre: (0.0, 0.0),
            radius: radius * f64::from(SIDE),
            rotation: draw.between(-0.1, 0.1),
            phase: draw.between(0.0, 12.0),
            rgb: colour.rgb().map(|level| (level + draw.between(-14.0, 14.0)).clamp(0.0, 255.0)),
        }
    }

    /// Puts an object into a random cell where it neither leaves the canvas nor touches another one that stands still.
    pub(super) fn place(&self, mut object: Object, draw: &mut Draw) -> Option<Object> {
        let (width, height) = (f64::from(self.width), f64::from(self.height));
        for _ in 0..TRIES {
            let cell = Cell(draw.index(Cell::COUNT));
            let (x, y) = cell.middle();
            object.cell = Some(cell);
            object.centre = ((x + draw.between(-0.07, 0.07)) * width, (y + draw.between(-0.07, 0.07)) * height);
            let touches =
                |other: &Object| other.cell.is_some() && other.distance(&object) < other.radius + object.radius;
            if object.is_inside(self.width, self.height, 0.85) && !self.objects.iter().any(touches) {
                return Some(object);
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "scene_tests.rs"]
mod tests;
