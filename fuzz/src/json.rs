//! A slow reader of JSON (RFC 8259), written from the grammar: the oracle for what reads it quickly. Every value keeps its
//! raw text; a string with a lone surrogate is JSON, but has no value.

/// So deep it reads; whatever is deeper it doesn't judge.
const DEPTH_MAX: usize = 200;

/// A value and its raw text.
#[derive(Debug)]
pub(crate) struct Json<'a> {
    pub(crate) raw: &'a str,
    pub(crate) value: Value<'a>,
}

#[derive(Debug)]
pub(crate) enum Value<'a> {
    /// null, true or false.
    Word,
    Number,
    Text(Option<String>),
    List(Vec<Json<'a>>),
    /// Keys decoded, in their order.
    Object(Vec<(Option<String>, Json<'a>)>),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoJson {
    Wrong,
    TooDeep,
}

impl<'a> Json<'a> {
    /// One value, with nothing but white space around it.
    pub(crate) fn read(text: &'a str) -> Result<Self, NoJson> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at == text.len() {
            Ok(value)
        } else {
            Err(NoJson::Wrong)
        }
    }

    pub(crate) fn object(&self) -> Option<&[(Option<String>, Json<'a>)]> {
        match &self.value {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    /// All values of that key.
    pub(crate) fn all(&self, key: &str) -> Vec<&Json<'a>> {
        let members = self.object().unwrap_or_default();
        members
            .iter()
            .filter(|(name, _)| name.as_deref() == Some(key))
            .map(|(_, value)| value)
            .collect()
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: u8) -> Result<(), NoJson> {
        self.take(wanted).then_some(()).ok_or(NoJson::Wrong)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, NoJson> {
        if depth > DEPTH_MAX {
            return Err(NoJson::TooDeep);
        }
        self.space();
        let start = self.at;
        let value = match self.peek().ok_or(NoJson::Wrong)? {
            b'{' => self.members(depth)?,
            b'[' => self.items(depth)?,
            b'"' => Value::Text(self.string()?),
            b'-' | b'0'..=b'9' => self.number()?,
            _ => self.word()?,
        };
        let raw = &self.text[start..self.at];
        Ok(Json { raw, value })
    }

    fn members(&mut self, depth: usize) -> Result<Value<'a>, NoJson> {
        let mut members = Vec::new();
        self.expect(b'{')?;
        self.space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            self.expect(b':')?;
            members.push((key, self.value(depth + 1)?));
            self.space();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            self.expect(b',')?;
        }
    }

    fn items(&mut self, depth: usize) -> Result<Value<'a>, NoJson> {
        let mut items = Vec::new();
        self.expect(b'[')?;
        self.space();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            self.expect(b',')?;
        }
    }

    fn word(&mut self) -> Result<Value<'a>, NoJson> {
        let rest = &self.text[self.at..];
        let word = ["null", "true", "false"]
            .into_iter()
            .find(|word| rest.starts_with(word))
            .ok_or(NoJson::Wrong)?;
        self.at += word.len();
        Ok(Value::Word)
    }

    fn number(&mut self) -> Result<Value<'a>, NoJson> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(Value::Number)
    }

    fn digits(&mut self) -> Result<(), NoJson> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > start).then_some(()).ok_or(NoJson::Wrong)
    }

    fn string(&mut self) -> Result<Option<String>, NoJson> {
        self.expect(b'"')?;
        let mut units: Vec<u16> = Vec::new();
        loop {
            let char = self.text[self.at..].chars().next().ok_or(NoJson::Wrong)?;
            self.at += char.len_utf8();
            match char {
                '"' => return Ok(String::from_utf16(&units).ok()),
                '\\' => units.push(self.escape()?),
                '\0'..='\u{1f}' => return Err(NoJson::Wrong),
                _ => units.extend_from_slice(char.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escape(&mut self) -> Result<u16, NoJson> {
        let byte = self.peek().ok_or(NoJson::Wrong)?;
        self.at += 1;
        let char = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4).ok_or(NoJson::Wrong)?;
                if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(NoJson::Wrong);
                }
                self.at += 4;
                return u16::from_str_radix(digits, 16).map_err(|_| NoJson::Wrong);
            }
            _ => return Err(NoJson::Wrong),
        };
        Ok(u16::from(char))
    }
}
