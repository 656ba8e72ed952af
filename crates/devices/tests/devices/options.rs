//! Options, and constructors that are refused what they ask for.

use devmap_devices::{NoOptions, demo, events, hello, mem, pattern, zero};
use devmap_driver::{Errno, OptionError, OptionSpec};

use crate::mock::Mock;

#[test]
fn options_are_checked() {
    assert_eq!(NoOptions.set("size", "1"), Err(OptionError::Unknown));
    let mut options = mem::Options::default();
    assert_eq!(options.set("size", "64K"), Ok(()));
    assert_eq!(options.size, 65536);
    assert_eq!(options.set("length", "1"), Err(OptionError::Unknown));
    assert!(matches!(options.set("size", "0"), Err(OptionError::BadValue(_))));
    assert!(matches!(options.set("size", "big"), Err(OptionError::BadValue(_))));
    assert_eq!(options.size, 65536, "a refused value changes nothing");
    let mut options = pattern::Options::default();
    assert_eq!(options.set("size", "1T"), Ok(()));
    assert_eq!(options.size, pattern::MAX_SIZE);
    for bad in ["0", "2T", "1099511627777", ""] {
        assert!(matches!(options.set("size", bad), Err(OptionError::BadValue(_))), "{bad}");
    }
    assert_eq!(options.set("", "1"), Err(OptionError::Unknown));
}

#[test]
fn stated_defaults_are_the_defaults() {
    fn default_of(options: &[OptionSpec]) -> u64 {
        devmap_driver::parse_size(options[0].default).unwrap()
    }
    assert_eq!(default_of(mem::OPTIONS), mem::Options::default().size);
    assert_eq!(default_of(pattern::OPTIONS), pattern::Options::default().size);
}

#[test]
fn names_differ() {
    let names = [demo::NAME, events::NAME, hello::NAME, mem::NAME, pattern::NAME, zero::NAME];
    let set: std::collections::BTreeSet<_> = names.into_iter().collect();
    assert_eq!(set.len(), names.len());
}

/// Every constructor, refused its Nth request for every N, answers `ENOMEM`.
#[test]
fn refusals_are_passed_on() {
    fn refused<T>(new: impl Fn(&Mock) -> Result<T, Errno>, requests: usize) {
        for grants in 0..requests {
            assert_eq!(new(&Mock::granting(grants)).err(), Some(Errno::ENOMEM), "{grants}");
        }
        assert!(new(&Mock::granting(requests)).is_ok());
    }
    refused(|home| demo::Demo::new(home, &NoOptions), 2);
    refused(|home| mem::Mem::new(home, &mem::Options::default()), 1);
    refused(|home| zero::Zero::new(home, &NoOptions), 0);
    refused(|home| hello::Hello::new(home, &NoOptions), 0);
    refused(|home| events::Events::new(home, &NoOptions), 2);
    refused(|home| pattern::Pattern::new(home, &pattern::Options::default()), 0);
}
