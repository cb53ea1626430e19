//! Standard input, output and error.

use std::{
    fmt,
    io::{self, Read, Write},
};

use reseal::secret::Plaintext;
pub(super) use reseal::time::rfc3339 as time;

/// Writes the answer, or a part of it, to standard output.
pub(super) fn answer(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes a line to standard error. That nobody reads it is no reason to stop.
pub(super) fn note(line: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}

/// Text as it may be put on a terminal: control characters, and those that turn the direction of writing, are
/// escaped. Keys of rows and messages of a database are not ours, and must not steer the operator's screen.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(char.escape_unicode());
            }
            char if char.is_control() => shown.extend(char.escape_default()),
            char => shown.push(char),
        }
    }
    shown
}

/// `text` as lines of at most 96 characters, each `indent` spaces in, the second and later two more; a longer word has
/// a line of its own.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    const WIDTH: usize = 96;
    let (mut lines, mut length) = (" ".repeat(indent), indent);
    for (number, word) in text.split(' ').enumerate() {
        let width = word.chars().count();
        if number > 0 && length + 1 + width > WIDTH {
            lines.push('\n');
            lines += &" ".repeat(indent + 2);
            length = indent + 2;
        } else if number > 0 {
            lines.push(' ');
            length += 1;
        }
        lines += word;
        length += width;
    }
    lines + "\n"
}

/// Reads standard input to its end, into memory that is wiped and never moved; `None` if it holds more than `limit`.
pub(super) fn read(limit: usize) -> io::Result<Option<Plaintext>> {
    let mut content = Plaintext::new();
    let buffer = content.expose_mut();
    buffer.resize(limit + 1, 0);
    let mut stdin = io::stdin().lock();
    let mut len = 0;
    while len < buffer.len() {
        match stdin.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let fits = len <= limit;
    buffer.truncate(len);
    Ok(fits.then_some(content))
}

/// `number` with commas between the thousands.
pub(super) fn commas(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A length of time, to two units.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.0} min {:.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!("{:.0} h {:.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(shown("acme \u{1b}[2J\r\nok\u{202e}"), "acme \\u{1b}[2J\\r\\nok\\u{202e}");
        assert_eq!(shown("größe 日本"), "größe 日本");
    }

    #[test]
    fn no_line_is_longer_than_the_screen() {
        let text = format!("{} {} end", "word ".repeat(40).trim(), "w".repeat(200));
        let lines = wrapped(&text, 2);
        assert_eq!(lines.split_whitespace().collect::<Vec<_>>(), text.split(' ').collect::<Vec<_>>());
        let long = lines.lines().filter(|line| line.chars().count() > 96).collect::<Vec<_>>();
        assert_eq!(long, [format!("    {}", "w".repeat(200))]);
        assert!(lines.starts_with("  word") && lines.lines().skip(1).all(|line| line.starts_with("    ")));
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [0, 999, 1000, 1_234_567, -1000].map(commas),
            ["0", "999", "1,000", "1,234,567", "-1,000"]
        );
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!([0.04, 59.9, 61.5, 7322.0].map(duration), ["0.0 s", "59.9 s", "1 min 1 s", "2 h 2 min"]);
    }
}
