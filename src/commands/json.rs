//! F6: JSON as the commands print it, written by hand: objects of numbers, texts and bytes.
//!
//! Keys and values of the store are bytes, and JSON has none. A field `value` whose bytes are UTF-8
//! is a string; otherwise the field is named `value_base64` instead and holds the bytes in base64
//! (RFC 4648, padded). So a reader that only writes text never meets the second form, and nothing
//! is replaced or lost.
//!
//! **Invariants:** what is written parses; keys of an object come in the order they were added.
//!
//! **Not here:** reading JSON.

use std::fmt::{Display, Write};

/// An object, or nothing yet.
#[derive(Debug, Default)]
pub(crate) struct Object {
    fields: String,
}

impl Object {
    /// A number, a boolean, or anything else whose text is JSON already.
    pub(crate) fn raw(mut self, name: &str, value: impl Display) -> Self {
        if !self.fields.is_empty() {
            self.fields.push_str(", ");
        }
        string(&mut self.fields, name);
        write!(self.fields, ": {value}").expect("a string takes everything");
        self
    }

    /// The same, `null` without a value.
    pub(crate) fn option(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.raw(name, value),
            None => self.raw(name, "null"),
        }
    }

    /// A string.
    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        let mut quoted = String::new();
        string(&mut quoted, value);
        self.raw(name, quoted)
    }

    /// Bytes: a string if they are UTF-8, else base64 under another name.
    pub(crate) fn bytes(self, name: &str, value: &[u8]) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => self.text(name, text),
            Err(_) => self.text(&format!("{name}_base64"), &base64(value)),
        }
    }

    /// The object as text, on one line.
    pub(crate) fn finish(self) -> String {
        format!("{{{}}}", self.fields)
    }
}

/// An array of JSON texts.
pub(crate) fn array(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    format!("[{}]", items.join(", "))
}

/// Appends `text` in quotes.
fn string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Control characters must be escaped; DEL and the C1 controls would only upset
            // terminals.
            control if control.is_control() => {
                write!(out, "\\u{:04x}", u32::from(control)).expect("a string takes everything");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= chunk.len() {
                let digit = (group >> (18 - 6 * place)) & 63;
                text.push(char::from(DIGITS[digit as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_with_every_kind_of_field() {
        let text = Object::default()
            .text("key", "a\"b")
            .raw("op", 7)
            .option("primary", None::<u8>)
            .option("view", Some(3))
            .raw("list", array(["1".into(), "2".into()]))
            .finish();
        let expected = r#"{"key": "a\"b", "op": 7, "primary": null, "view": 3, "list": [1, 2]}"#;
        assert_eq!(text, expected);
        assert_eq!(Object::default().finish(), "{}");
    }

    #[test]
    fn strings_are_escaped() {
        let quoted = |text: &str| {
            let mut out = String::new();
            string(&mut out, text);
            out
        };
        assert_eq!(quoted("\"\\\n\r\t"), r#""\"\\\n\r\t""#);
        assert_eq!(quoted("\0\u{1f}\u{7f}\u{85}"), r#""\u0000\u001f\u007f\u0085""#);
        assert_eq!(quoted("grün ✓ 🦀"), "\"grün ✓ 🦀\"");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_base64_under_another_name() {
        let object = |bytes: &[u8]| Object::default().bytes("value", bytes).finish();
        assert_eq!(object(b"abc"), r#"{"value": "abc"}"#);
        assert_eq!(object(b"\xff\xfe"), r#"{"value_base64": "//4="}"#);
    }

    #[test]
    fn base64_of_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
