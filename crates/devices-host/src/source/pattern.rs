//! Test patterns.

use crate::trouble::Dice;

use super::{
    Tick,
    painted::{Area, Changed, Painter, Picture},
    text::Clock,
};

/// What is painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Eight bars: white, yellow, cyan, green, magenta, red, blue, black.
    Bars,
    /// Red grows from left to right, green from top to bottom, blue is 128: component
    /// `255 * x / (width - 1)`, rounded down.
    Gradient,
    /// Grey noise, new in each frame.
    Noise,
    /// One colour.
    Solid,
    /// A white box on dark blue, which moves by 4 pixels a frame.
    Box,
}

const BARS: [[u8; 3]; 8] = [
    [255, 255, 255],
    [255, 255, 0],
    [0, 255, 255],
    [0, 255, 0],
    [255, 0, 255],
    [255, 0, 0],
    [0, 0, 255],
    [0, 0, 0],
];

/// Pixels of noise that frames are made of.
const NOISE: usize = 1 << 16;

const BACKGROUND: [u8; 3] = [0, 0, 96];

/// The painter of patterns.
#[derive(Clone, Debug)]
pub struct Patterns {
    /// What is painted.
    pub pattern: Pattern,
    /// The colour of [`Pattern::Solid`].
    pub colour: [u8; 3],
    /// The number and the time of the frame, if they are burnt in.
    clock: Option<Clock>,
    /// What noise is drawn from.
    pub seed: u64,
    /// Lines of noise.
    noise: Vec<u8>,
    last_box: Option<Area>,
}

impl Patterns {
    /// A painter; `has_clock`: with the number and the time of the frame burnt in.
    pub fn new(pattern: Pattern, colour: [u8; 3], has_clock: bool, seed: u64) -> Patterns {
        let clock = has_clock.then(Clock::default);
        Patterns { pattern, colour, clock, seed, noise: Vec::new(), last_box: None }
    }

    /// Where the box is in a frame: back and forth, across and down.
    fn box_at(sequence: u32, picture: &Picture) -> Area {
        let size = picture.size();
        let side = (size.width.min(size.height) as usize / 4).next_multiple_of(2);
        let bounce = |room: usize| {
            let at = sequence as usize * 4 % (2 * room).max(1);
            at.min(2 * room - at)
        };
        let left = bounce(size.width as usize - side);
        let top = bounce(size.height as usize - side);
        Area { left, top, right: left + side, bottom: top + side }
    }
}

impl Painter for Patterns {
    fn is_quick(&self) -> bool {
        self.pattern != Pattern::Noise
    }

    fn start(&mut self, picture: &mut Picture) -> Result<(), String> {
        let size = picture.size();
        let (width, height) = (size.width as usize, size.height as usize);
        self.last_box = None;
        self.clock.iter_mut().for_each(Clock::forget);
        match self.pattern {
            Pattern::Bars => picture.paint(|x, _| BARS[x * 8 / width]),
            Pattern::Gradient => {
                picture.paint(|x, y| [scaled(x, width), scaled(y, height), 128]);
            }
            Pattern::Solid => picture.fill(picture.all(), self.colour),
            Pattern::Box => picture.fill(picture.all(), BACKGROUND),
            Pattern::Noise => self.noise = noise(Dice(self.seed), NOISE),
        }
        Ok(())
    }

    fn paint(&mut self, tick: &Tick, picture: &mut Picture) -> Result<Changed, String> {
        let mut areas = Vec::new();
        match self.pattern {
            Pattern::Noise => {
                // Each line is some piece of what there is, another in each frame.
                let mut dice = Dice(self.seed ^ u64::from(tick.sequence) << 32);
                let line = picture.size().width as usize * 3;
                for line in picture.bytes_mut().chunks_exact_mut(line) {
                    let start = dice.next() as usize % (NOISE - line.len() / 3) * 3;
                    line.copy_from_slice(&self.noise[start..start + line.len()]);
                }
                self.clock.iter_mut().for_each(Clock::forget);
                areas.push(picture.all());
            }
            Pattern::Box => {
                if let Some(last) = self.last_box {
                    picture.fill(last, BACKGROUND);
                    areas.push(last);
                }
                let now = Patterns::box_at(tick.sequence, picture);
                picture.fill(now, [255; 3]);
                areas.push(now);
                let clock = Clock::area(picture);
                if now.meets(&clock) || self.last_box.is_some_and(|last| last.meets(&clock)) {
                    self.clock.iter_mut().for_each(Clock::forget);
                }
                self.last_box = Some(now);
            }
            Pattern::Bars | Pattern::Gradient | Pattern::Solid => {}
        }
        if let Some(clock) = &mut self.clock {
            areas.extend(clock.paint(tick, picture));
        }
        Ok(Changed::Areas(areas))
    }
}

fn scaled(at: usize, count: usize) -> u8 {
    (255 * at / (count - 1).max(1)) as u8
}

/// So many grey pixels of noise.
fn noise(mut dice: Dice, count: usize) -> Vec<u8> {
    let greys = std::iter::repeat_with(|| dice.next().to_le_bytes()).flatten();
    greys.take(count).flat_map(|grey| [grey; 3]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Size;

    #[test]
    fn the_box_is_in_frames_of_any_shape() {
        for (width, height) in [(160, 1080), (160, 120), (1920, 120), (162, 162)] {
            let picture = Picture::new(Size::new(width, height));
            for sequence in (0..2000).chain([u32::MAX]) {
                let area = Patterns::box_at(sequence, &picture);
                assert!(area.left < area.right && area.right <= width as usize);
                assert!(area.top < area.bottom && area.bottom <= height as usize);
            }
        }
    }
}
