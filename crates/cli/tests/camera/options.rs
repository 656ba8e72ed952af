//! What is refused before any program starts, and why.

use super::*;

#[test]
fn wrong_options_are_told_what_would_be_right() {
    for (options, words) in [
        ("size=640", "WIDTHxHEIGHT"),
        ("fps=100", "a number from 1 to 60"),
        ("pattern=stripes", "bars, gradient, noise, solid or box"),
        ("picture=/no/such/file.png", "a picture that can be read"),
        ("picture=/no/such/file.png", "/no/such/file.png: No such file"),
        ("picture=/etc/passwd", "/etc/passwd: The image format could not be determined"),
        (
            "picture=/proc/self",
            "/proc/self: there is no file in it with the extension of a picture",
        ),
        ("source=/no/such/pipe", "mkfifo"),
        ("source=/no/such/pipe", "/no/such/pipe: No such file"),
        ("video=/etc", "/etc: it is no regular file"),
        ("color=ff0000", "color is that of pattern=solid"),
        ("end=stop", "end is for source, command and video"),
        ("late=10,pace=client", "late is for frames that come by the clock"),
        ("picture=", "a picture that can be read"),
        ("command=", "a command of the shell"),
        ("colour=ffffff", "did you mean \"color\"?"),
    ] {
        let output = run(&[&format!("/dev/video0=camera:{options}")], &["true"]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{message}");
        assert!(message.contains(words), "{options}: {message}");
    }
}
