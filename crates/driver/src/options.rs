//! Options of a device, as `--device PATH=NAME:key=value` and a module's parameters
//! give them. Text in, no allocation.

use core::fmt;

/// One option that a device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// The key.
    pub name: &'static str,
    /// What the value is, such as `BYTES`.
    pub value: &'static str,
    /// The value when it is not given, as text; empty, if there is none then. An empty value
    /// cannot be given.
    pub default: &'static str,
    /// One line of help.
    pub help: &'static str,
}

/// Why an option's value was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// The device has no option of this name.
    Unknown,
    /// The value is not what the option takes; the text says what it takes.
    BadValue(&'static str),
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionError::Unknown => f.write_str("no such option"),
            OptionError::BadValue(expected) => write!(f, "expected {expected}"),
        }
    }
}

impl core::error::Error for OptionError {}

/// Bytes, with an optional suffix K, M, G or T (powers of 1024).
///
/// # Errors
/// [`OptionError::BadValue`] for anything else, or what does not fit in 64 bits.
pub fn parse_size(text: &str) -> Result<u64, OptionError> {
    const EXPECTED: OptionError =
        OptionError::BadValue("a number of bytes, such as 65536, 64K or 2M");
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        Some(b'T' | b't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(EXPECTED);
    }
    let number: u64 = digits.parse().map_err(|_| EXPECTED)?;
    number.checked_mul(1 << shift).ok_or(EXPECTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("65536"), Ok(65536));
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("1T"), Ok(1 << 40));
        for bad in ["", "K", "-1", "+1", "1.5M", "16777216T", "99999999999999999999"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
