//! What is wrong with a text that isn't JSON, in the words of Go's decoder, which users know from Kubernetes.

use crate::limits::NESTING_MAX;

/// Why a scan ends.
enum Stop {
    /// The text ends in the middle.
    End,
    /// A byte that may not be there, and where one was.
    Byte(u8, String),
    /// Not looked at any further.
    TooDeep,
}

type Scan = Result<(), Stop>;

/// The first error of a text's syntax; `None` if there is none, or if it nests too deeply to look.
pub fn syntax_error(bytes: &[u8]) -> Option<String> {
    let mut scanner = Scanner { bytes, at: 0 };
    match scanner.document() {
        Ok(()) | Err(Stop::TooDeep) => None,
        Err(Stop::End) => Some("unexpected end of JSON input".to_owned()),
        Err(Stop::Byte(byte, context)) => Some(format!("invalid character {} {context}", quoted(byte))),
    }
}

/// A byte as Go quotes it.
fn quoted(byte: u8) -> String {
    let text = match byte {
        b'\'' => "\\'".to_owned(),
        0x07 => "\\a".to_owned(),
        0x08 => "\\b".to_owned(),
        0x0b => "\\v".to_owned(),
        0x0c => "\\f".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\\' => "\\\\".to_owned(),
        0..0x20 | 0x7f => format!("\\x{byte:02x}"),
        0x80..=0xa0 | 0xad => format!("\\u{byte:04x}"),
        other => char::from(other).to_string(),
    };
    format!("'{text}'")
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn document(&mut self) -> Scan {
        self.value(0)?;
        match self.past_space() {
            None => Ok(()),
            Some(byte) => stop(byte, "after top-level value"),
        }
    }

    /// The next byte; at the end Go looks at a space instead.
    fn next(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(b' ');
        self.at += 1;
        byte
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn past_space(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    fn value(&mut self, depth: usize) -> Scan {
        if depth > NESTING_MAX {
            return Err(Stop::TooDeep);
        }
        let first = self.past_space().ok_or(Stop::End)?;
        self.at += 1;
        match first {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(first),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            other => stop(other, "looking for beginning of value"),
        }
    }

    fn object(&mut self, depth: usize) -> Scan {
        let mut first = true;
        loop {
            match self.past_space().ok_or(Stop::End)? {
                b'}' if first => break,
                b'"' => self.at += 1,
                other => return stop(other, "looking for beginning of object key string"),
            }
            first = false;
            self.string()?;
            match self.past_space().ok_or(Stop::End)? {
                b':' => self.at += 1,
                other => return stop(other, "after object key"),
            }
            self.value(depth + 1)?;
            match self.past_space().ok_or(Stop::End)? {
                b',' => self.at += 1,
                b'}' => break,
                other => return stop(other, "after object key:value pair"),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Scan {
        if self.past_space() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            match self.past_space().ok_or(Stop::End)? {
                b',' => self.at += 1,
                b']' => break,
                other => return stop(other, "after array element"),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// What follows the opening quote.
    fn string(&mut self) -> Scan {
        loop {
            let byte = self.peek().ok_or(Stop::End)?;
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                0..0x20 => return stop(byte, "in string literal"),
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Scan {
        match self.next() {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => (0..4).try_for_each(|_| match self.next() {
                byte if byte.is_ascii_hexdigit() => Ok(()),
                byte => stop(byte, "in \\u hexadecimal character escape"),
            }),
            other => stop(other, "in string escape code"),
        }
    }

    fn number(&mut self, first: u8) -> Scan {
        let leading = if first == b'-' { self.next() } else { first };
        match leading {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            other => return stop(other, "in numeric literal"),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digit(&mut self, context: &str) -> Scan {
        match self.next() {
            b'0'..=b'9' => {
                self.digits();
                Ok(())
            }
            other => stop(other, context),
        }
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    /// What follows the first letter.
    fn literal(&mut self, text: &str) -> Scan {
        for expected in text.bytes().skip(1) {
            let found = self.next();
            if found != expected {
                return stop(found, &format!("in literal {text} (expecting {})", quoted(expected)));
            }
        }
        Ok(())
    }
}

fn stop(byte: u8, context: &str) -> Scan {
    Err(Stop::Byte(byte, context.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_are_said_as_go_says_them() {
        for (text, error) in [
            ("", "unexpected end of JSON input"),
            ("{hello", "invalid character 'h' looking for beginning of object key string"),
            ("{\"a\":1", "unexpected end of JSON input"),
            ("{\"a\":1}x", "invalid character 'x' after top-level value"),
            ("nul", "invalid character ' ' in literal null (expecting 'l')"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{\"i\":\"\\q\"}", "invalid character 'q' in string escape code"),
            ("{\"x\":tru}", "invalid character '}' in literal true (expecting 'e')"),
            ("{\"a\":\"\u{1}\"}", "invalid character '\\x01' in string literal"),
            ("{\"a\":01}", "invalid character '1' after object key:value pair"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\":-}", "invalid character '}' in numeric literal"),
        ] {
            assert_eq!(syntax_error(text.as_bytes()).as_deref(), Some(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn only_what_is_not_json_has_an_error(text in "[\\[\\]{}\",:tfnrue0-9.eE+\\\\ -]{0,12}") {
            // Both accept the same texts but for lone surrogates and numbers beyond what a float holds.
            let parsed = serde_json::from_str::<serde_json::Value>(&text).map_err(|error| error.to_string());
            let special = |error: &String| error.contains("out of range") || error.contains("surrogate") || error.contains("hex escape");
            prop_assume!(!parsed.as_ref().is_err_and(special));
            prop_assert_eq!(syntax_error(text.as_bytes()).is_none(), parsed.is_ok());
        }

        #[test]
        fn no_text_makes_it_panic(bytes: Vec<u8>) {
            let _ = syntax_error(&bytes);
        }
    }
}
