//! Pictures as controls want them: brighter, mirrored, in other colours.
//!
//! What does not live here: the controls (`controls`).

use crate::{
    controls::{self, Controls},
    format::Size,
};

use super::painted::Area;

/// How controls want the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Added to each component.
    pub brightness: i32,
    /// Steepness about the middle; 128 is 1.
    pub contrast: i32,
    /// Distance from grey; 128 is 1.
    pub saturation: i32,
    /// Colours are turned by so many degrees.
    pub hue: i32,
    /// 100 times the exponent by which dark tones become lighter.
    pub gamma: i32,
    /// Light, in percent: gain and, where it is not automatic, exposure.
    pub light: i32,
    /// White balance in kelvin, 4600 in the middle: more is warmer.
    pub temperature: i32,
    /// What stands below the clock, with zeros behind it.
    pub caption: [u8; controls::CAPTION_LENGTH],
    /// Left is right.
    pub is_mirrored: bool,
    /// Top is bottom.
    pub is_upside_down: bool,
}

impl Look {
    /// The picture as it was painted.
    pub const PLAIN: Look = Look {
        brightness: 0,
        contrast: 128,
        saturation: 128,
        hue: 0,
        gamma: 100,
        light: 100,
        temperature: 4600,
        caption: [0; controls::CAPTION_LENGTH],
        is_mirrored: false,
        is_upside_down: false,
    };

    pub(crate) fn of(controls: &Controls) -> Look {
        let value = |id, default| controls.value(id).unwrap_or(default);
        // What is automatic is right as it is.
        let exposure = match value(controls::EXPOSURE_AUTO, 0) {
            controls::EXPOSURE_MANUAL => value(controls::EXPOSURE, controls::USUAL_EXPOSURE),
            _ => controls::USUAL_EXPOSURE,
        };
        let temperature = match value(controls::AUTO_WHITE_BALANCE, 1) {
            0 => value(controls::TEMPERATURE, 4600),
            _ => 4600,
        };
        let mut caption = [0; controls::CAPTION_LENGTH];
        let text = controls.text(controls::CAPTION).unwrap_or_default();
        caption.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        Look {
            caption,
            brightness: value(controls::BRIGHTNESS, 0),
            contrast: value(controls::CONTRAST, 128),
            saturation: value(controls::SATURATION, 128),
            hue: value(controls::HUE, 0),
            gamma: value(controls::GAMMA, 100),
            light: (100 + value(controls::GAIN, 0)) * exposure / controls::USUAL_EXPOSURE,
            temperature,
            is_mirrored: value(controls::HFLIP, 0) != 0,
            is_upside_down: value(controls::VFLIP, 0) != 0,
        }
    }
}

/// What carries out a look.
pub(super) struct Adjuster {
    pub(super) look: Look,
    /// By how much each component of the turned colour is made of the plain ones, in 256ths.
    turn: [[i32; 3]; 3],
    /// What each component becomes at last.
    tone: [[u8; 256]; 3],
}

impl Adjuster {
    pub(super) fn new(look: Look) -> Adjuster {
        // Warm light has more red and less blue.
        let warmth = (f64::from(look.temperature) / 4600.0).sqrt();
        let tone = [warmth, 1.0, 1.0 / warmth].map(|share| {
            let light = share * f64::from(look.light) / 100.0;
            let exponent = 100.0 / f64::from(look.gamma.max(1));
            std::array::from_fn(|value| {
                let bright = (value as f64 * light / 255.0).min(1.0);
                (bright.powf(exponent) * 255.0).round() as u8
            })
        });
        Adjuster { look, turn: turn(look.hue), tone }
    }

    /// Whether the picture looks as it was painted.
    pub(super) fn is_plain(&self) -> bool {
        self.look == Look { caption: self.look.caption, ..Look::PLAIN }
    }

    /// Changes an area of a picture into its place in another; that place.
    pub(super) fn adjust(&self, rgb: &[u8], size: Size, area: Area, into: &mut [u8]) -> Area {
        let look = &self.look;
        let (width, height) = (size.width as usize, size.height as usize);
        let flip = |from: usize, to: usize, len: usize, is_flipped: bool| {
            if is_flipped { (len - to, len - from) } else { (from, to) }
        };
        let (left, right) = flip(area.left, area.right, width, look.is_mirrored);
        let (top, bottom) = flip(area.top, area.bottom, height, look.is_upside_down);
        let place = Area { left, top, right, bottom };
        let line = |y: usize| {
            let from = if look.is_upside_down { height - 1 - y } else { y };
            &rgb[(from * width + area.left) * 3..(from * width + area.right) * 3]
        };
        for y in top..bottom {
            let start = (y * width + left) * 3;
            let end = (y * width + right) * 3;
            if y > top && line(y) == line(y - 1) {
                into.copy_within(start - width * 3..end - width * 3, start);
                continue;
            }
            let from = line(y).as_chunks::<3>().0;
            let out = into[start..end].as_chunks_mut::<3>().0;
            for (at, pixel) in from.iter().enumerate() {
                let at = if look.is_mirrored { from.len() - 1 - at } else { at };
                out[at] = self.pixel(*pixel);
            }
        }
        place
    }

    fn pixel(&self, [r, g, b]: [u8; 3]) -> [u8; 3] {
        let Look { brightness, contrast, saturation, hue, .. } = self.look;
        let plain = [i32::from(r), i32::from(g), i32::from(b)];
        let turned = if hue == 0 {
            plain
        } else {
            self.turn.map(|[r, g, b]| (r * plain[0] + g * plain[1] + b * plain[2] + 128) >> 8)
        };
        let middle = (77 * plain[0] + 150 * plain[1] + 29 * plain[2] + 128) >> 8;
        let component = |n: usize| {
            let coloured = middle + (turned[n] - middle) * saturation / 128;
            let steep = (coloured - 128) * contrast / 128 + 128;
            self.tone[n][(steep + brightness).clamp(0, 255) as usize]
        };
        [component(0), component(1), component(2)]
    }
}

/// A turn of the colours about the greys, which keeps luma: in 256ths.
fn turn(degrees: i32) -> [[i32; 3]; 3] {
    const LUMA: [f64; 3] = [0.299, 0.587, 0.114];
    let (sine, cosine) = f64::from(degrees).to_radians().sin_cos();
    // From YUV and back: U and V are turned.
    std::array::from_fn(|row| {
        std::array::from_fn(|column| {
            let unit = |n: usize| f64::from(u8::from(n == column));
            let y = LUMA[column];
            let (u, v) = ((unit(2) - y) / 1.772, (unit(0) - y) / 1.402);
            let (u, v) = (u * cosine - v * sine, u * sine + v * cosine);
            let green = |u: f64, v: f64| y - (0.114 * 1.772 * u + 0.299 * 1.402 * v) / 0.587;
            let value = [y + 1.402 * v, green(u, v), y + 1.772 * u][row];
            (value * 256.0).round() as i32
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Area = Area { left: 0, top: 0, right: 2, bottom: 2 };

    fn adjusted(rgb: &[u8], area: Area, look: Look) -> (Vec<u8>, Area) {
        let mut into = vec![0; rgb.len()];
        let place = Adjuster::new(look).adjust(rgb, Size::new(2, 2), area, &mut into);
        (into, place)
    }

    #[test]
    fn a_plain_look_changes_nothing() {
        let rgb: Vec<u8> = (0..2 * 2 * 3).map(|n| n * 20).collect();
        assert_eq!(adjusted(&rgb, ALL, Look::PLAIN).0, rgb);
        let turned = Adjuster { turn: turn(0), ..Adjuster::new(Look { hue: 1, ..Look::PLAIN }) };
        assert_eq!(turned.pixel([10, 200, 90]), [10, 200, 90]);
    }

    #[test]
    fn flips_move_an_area_to_its_place() {
        let rgb: Vec<u8> = (0..2 * 2 * 3).map(|n| n * 20).collect();
        let both = Look { is_mirrored: true, is_upside_down: true, ..Look::PLAIN };
        let (into, place) = adjusted(&rgb, Area { bottom: 1, right: 1, ..ALL }, both);
        assert_eq!(place, Area { left: 1, top: 1, right: 2, bottom: 2 });
        assert_eq!(into, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 40]);
        let mirrored = Look { is_mirrored: true, ..Look::PLAIN };
        assert_eq!(adjusted(&rgb, ALL, mirrored).0[..6], [60, 80, 100, 0, 20, 40]);
    }

    #[test]
    fn colours_go_where_the_controls_say() {
        let one = |look: Look, pixel| Adjuster::new(look).pixel(pixel);
        let grey = [100, 100, 100];
        // The other side of the circle: red becomes cyan, and grey stays.
        let turned = Look { hue: 180, ..Look::PLAIN };
        assert_eq!(one(turned, grey), grey);
        let [r, g, b] = one(turned, [200, 0, 0]);
        assert!(r < 10 && g > 60 && b > 60, "{r} {g} {b}");
        let lighter = one(Look { gamma: 200, ..Look::PLAIN }, grey)[0];
        assert_eq!(lighter, 160);
        assert_eq!(one(Look { light: 50, ..Look::PLAIN }, grey), [50; 3]);
        let [r, g, b] = one(Look { temperature: 6500, ..Look::PLAIN }, grey);
        assert!(r > g && g > b, "{r} {g} {b}");
    }
}
