//! As much of JSON as `vsr … --json` prints: parsed strictly, so that what is not JSON fails.
//!
//! **Invariants:** the whole text is one value; nothing is guessed.
//!
//! **Not here:** numbers with fractions or exponents: no command that tests read prints them.

use std::collections::BTreeMap;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(i128),
    String(String),
    Array(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

impl Json {
    /// The one value that `text` is.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim() };
        let value = parser.value()?;
        if parser.rest.is_empty() { Ok(value) } else { Err(parser.error("the end")) }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.get(name),
            _ => None,
        }
    }

    #[track_caller]
    pub(crate) fn member(&self, name: &str) -> &Self {
        self.get(name).unwrap_or_else(|| panic!("no member {name:?} in {self:?}"))
    }

    #[track_caller]
    pub(crate) fn array(&self) -> &[Self] {
        match self {
            Self::Array(values) => values,
            other => panic!("not an array: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn bool(&self) -> bool {
        match self {
            Self::Bool(value) => *value,
            other => panic!("not a boolean: {other:?}"),
        }
    }

    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Number(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(crate) fn as_string(&self) -> Option<String> {
        match self {
            Self::String(value) => Some(value.clone()),
            _ => None,
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn error(&self, expected: &str) -> String {
        let near: String = self.rest.chars().take(30).collect();
        format!("not JSON: {expected} expected at {near:?}")
    }

    fn skip(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token).map(str::trim_start);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.skip(token) { Ok(()) } else { Err(self.error(token)) }
    }

    fn value(&mut self) -> Result<Json, String> {
        let words =
            [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))];
        for (word, value) in words {
            if self.skip(word) {
                return Ok(value);
            }
        }
        match self.rest.chars().next() {
            Some('"') => self.string().map(Json::String),
            Some('[') => self.array(),
            Some('{') => self.object(),
            Some('-' | '0'..='9') => self.number(),
            _ => Err(self.error("a value")),
        }
    }

    fn number(&mut self) -> Result<Json, String> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '-');
        let (digits, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let value = digits.parse().map_err(|_| self.error("an integer"))?;
        if rest.starts_with(['.', 'e', 'E']) {
            return Err(self.error("an integer"));
        }
        self.rest = rest.trim_start();
        Ok(Json::Number(value))
    }

    fn string(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((offset, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = self.rest[offset + 1..].trim_start();
                    return Ok(text);
                }
                '\\' => {
                    let (at, escape) = chars.next().ok_or_else(|| self.error("an escape"))?;
                    match escape {
                        '"' | '\\' | '/' => text.push(escape),
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        'b' => text.push('\u{8}'),
                        'f' => text.push('\u{c}'),
                        'u' => {
                            let hex = self.rest.get(at + 1..at + 5);
                            let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok());
                            let c = code.and_then(char::from_u32);
                            text.push(c.ok_or_else(|| self.error("four hex digits"))?);
                            chars.nth(3);
                        }
                        _ => return Err(self.error("a known escape")),
                    }
                }
                c if c < ' ' => return Err(self.error("an escaped control character")),
                c => text.push(c),
            }
        }
        Err(self.error("the end of a string"))
    }

    fn array(&mut self) -> Result<Json, String> {
        self.expect("[")?;
        let mut values = Vec::new();
        if self.skip("]") {
            return Ok(Json::Array(values));
        }
        loop {
            values.push(self.value()?);
            if !self.skip(",") {
                self.expect("]")?;
                return Ok(Json::Array(values));
            }
        }
    }

    fn object(&mut self) -> Result<Json, String> {
        self.expect("{")?;
        let mut members = BTreeMap::new();
        if self.skip("}") {
            return Ok(Json::Object(members));
        }
        loop {
            let name = self.string().map_err(|_| self.error("a name"))?;
            self.expect(":")?;
            if members.insert(name, self.value()?).is_some() {
                return Err(self.error("a name that is not there yet"));
            }
            if !self.skip(",") {
                self.expect("}")?;
                return Ok(Json::Object(members));
            }
        }
    }
}

#[test]
fn json_is_parsed_strictly() {
    let json = Json::parse(r#" {"a": [1, -2, null, true], "b": "x\"\u0041\n", "c": {}} "#);
    let json = json.expect("valid");
    assert_eq!(json.member("a").array()[1], Json::Number(-2));
    assert_eq!(json.member("b").as_string().expect("a string"), "x\"A\n");
    for bad in ["", "{", "[1,]", "{\"a\" 1}", "01x", "1.5", "\"\n\"", "{}{}", "{\"a\":1,\"a\":2}"] {
        assert!(Json::parse(bad).is_err(), "{bad:?}");
    }
}
