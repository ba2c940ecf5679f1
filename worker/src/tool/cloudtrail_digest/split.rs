//! Cuts a stream into records without holding more than one: `{"Records":[…]}` as CloudTrail writes it, an array of
//! records, or records one after the other, as one a line.
//!
//! It follows strings and brackets and nothing else of JSON; whoever reads a record finds out what is wrong inside.

/// The largest record that is judged: 1 MiB. CloudTrail's own are at most 256 KB (CloudTrail quotas); four times that
/// leaves room for what others wrote.
pub(super) const RECORD_BYTES: usize = 1024 * 1024;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// The text of an object.
    Record(&'a [u8]),
    /// A record over [`RECORD_BYTES`], which was passed over.
    TooLarge,
    /// What stands where a record should.
    Garbage,
}

/// Where in the stream it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Between records, outside of everything.
    #[default]
    Top,
    /// In an object at the top: a record, or what holds them.
    Object,
    /// In an array of records; `wrapped`: itself in an object.
    List { wrapped: bool },
    /// In a record of such an array.
    Item { wrapped: bool },
    /// In a word of such an array, which is none of its records.
    Word { wrapped: bool },
    /// Behind the array, in the object that holds it.
    Behind,
    /// In what is no record, to the end of the line.
    Lost,
}

/// A stream being cut.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    place: Place,
    /// The record that is being read; emptied when it is too large.
    record: Vec<u8>,
    too_large: bool,
    /// Brackets open in the object or item.
    depth: u64,
    in_string: bool,
    escaped: bool,
    /// Whether a line has just begun.
    new_line: bool,
    /// What of `"Records":[` has been seen, at the depth where it counts.
    key: Key,
    read: u64,
}

/// How much of the key has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    No,
    /// So many bytes of `"Records"`.
    Part(usize),
    /// All of it, and then a colon.
    Colon,
}

const RECORDS: &[u8] = b"\"Records\"";

impl Splitter {
    /// How many bytes were read.
    pub(super) fn bytes(&self) -> u64 {
        self.read
    }

    /// Whether the stream may end here.
    pub(super) fn finish(&self) -> bool {
        matches!(self.place, Place::Top | Place::Lost)
    }

    /// Reads on, and hands over each piece as it ends.
    pub(super) fn push(&mut self, bytes: &[u8], piece: &mut dyn FnMut(Piece<'_>)) {
        self.read += bytes.len() as u64;
        let mut at = 0;
        while at < bytes.len() {
            if self.in_string && !self.escaped && self.key == Key::No {
                // What most of a log consists of is passed in one step.
                let end = memchr::memchr3(b'"', b'\\', b'\n', &bytes[at..]).unwrap_or(bytes.len() - at);
                self.keep(&bytes[at..at + end]);
                at += end;
                if at == bytes.len() {
                    break;
                }
            }
            self.step(bytes[at], piece);
            at += 1;
        }
    }

    fn step(&mut self, byte: u8, piece: &mut dyn FnMut(Piece<'_>)) {
        match self.place {
            Place::Top => match byte {
                b'{' => self.begin(Place::Object, byte),
                b'[' => self.place = Place::List { wrapped: false },
                // With the three bytes that some put in front of UTF-8.
                b' ' | b'\t' | b'\r' | b'\n' | b',' | 0xef | 0xbb | 0xbf => {}
                _ => {
                    piece(Piece::Garbage);
                    self.place = Place::Lost;
                }
            },
            Place::Lost => {
                if byte == b'\n' {
                    self.place = Place::Top;
                }
            }
            Place::List { wrapped } => match byte {
                // A list or a string is passed over like a record.
                b'{' | b'[' | b'"' => self.begin(Place::Item { wrapped }, byte),
                b']' => self.close(wrapped),
                b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
                _ => {
                    piece(Piece::Garbage);
                    self.place = Place::Word { wrapped };
                }
            },
            Place::Word { wrapped } => match byte {
                b',' => self.place = Place::List { wrapped },
                b']' => self.close(wrapped),
                _ => {}
            },
            Place::Object | Place::Item { .. } | Place::Behind => self.inside(byte, piece),
        }
    }

    /// The array of records has ended.
    fn close(&mut self, wrapped: bool) {
        self.place = if wrapped { Place::Behind } else { Place::Top };
        // The object around it is open still.
        (self.depth, self.key) = (1, Key::No);
    }

    fn begin(&mut self, place: Place, byte: u8) {
        self.place = place;
        self.record.clear();
        (self.too_large, self.depth, self.key) = (false, 0, Key::No);
        (self.in_string, self.escaped, self.new_line) = (false, false, false);
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = 1,
            _ => {}
        }
        self.keep(&[byte]);
    }

    /// One byte of an object or item.
    fn inside(&mut self, byte: u8, piece: &mut dyn FnMut(Piece<'_>)) {
        let new_line = std::mem::replace(&mut self.new_line, byte == b'\n');
        if new_line && byte == b'{' && self.place == Place::Object && !self.in_string {
            // Nobody writes so within a record: the one before did not end, and the next need not be lost with it.
            piece(if self.too_large { Piece::TooLarge } else { Piece::Garbage });
            return self.begin(Place::Object, byte);
        }
        self.keep(&[byte]);
        if self.in_string {
            match byte {
                // No string of JSON goes over a line: whatever was begun is broken, and the next line may be better.
                b'\n' => {
                    piece(Piece::Garbage);
                    self.place = Place::Top;
                    self.in_string = false;
                    return;
                }
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            if let Key::Part(seen) = self.key {
                self.key = if RECORDS.get(seen) == Some(&byte) { Key::Part(seen + 1) } else { Key::No };
            }
            if !self.in_string && self.depth == 0 {
                self.end(piece);
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                let may_hold = self.place == Place::Object && self.depth == 1;
                self.key = if may_hold { Key::Part(1) } else { Key::No };
            }
            b'{' | b'[' => {
                if self.key == Key::Colon && byte == b'[' {
                    self.place = Place::List { wrapped: true };
                    self.record.clear();
                    return;
                }
                self.key = Key::No;
                self.depth += 1;
            }
            b'}' | b']' => {
                self.key = Key::No;
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.end(piece);
                }
            }
            b':' => self.key = if self.key == Key::Part(RECORDS.len()) { Key::Colon } else { Key::No },
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => self.key = Key::No,
        }
    }

    /// The object or item is complete.
    fn end(&mut self, piece: &mut dyn FnMut(Piece<'_>)) {
        let behind = self.place == Place::Behind;
        self.place = match self.place {
            Place::Item { wrapped } => Place::List { wrapped },
            _ => Place::Top,
        };
        if behind {
            // The rest of what held the records.
        } else if self.too_large {
            piece(Piece::TooLarge);
        } else if self.record.first() == Some(&b'{') {
            piece(Piece::Record(&self.record));
        } else {
            piece(Piece::Garbage);
        }
        self.record.clear();
    }

    fn keep(&mut self, bytes: &[u8]) {
        if !matches!(self.place, Place::Object | Place::Item { .. }) || self.too_large {
            return;
        }
        if self.record.len() + bytes.len() > RECORD_BYTES {
            self.too_large = true;
            self.record.clear();
        } else {
            self.record.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of a text, whatever the size of the chunks it comes in.
    fn pieces(text: &[u8]) -> (Vec<String>, bool) {
        let cut = |size: usize| {
            let (mut splitter, mut found) = (Splitter::default(), Vec::new());
            for chunk in text.chunks(size) {
                splitter.push(chunk, &mut |piece| {
                    found.push(match piece {
                        Piece::Record(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                        Piece::TooLarge => "(too large)".to_owned(),
                        Piece::Garbage => "(garbage)".to_owned(),
                    });
                });
            }
            (found, splitter.finish())
        };
        let whole = cut(usize::MAX);
        for size in [1, 2, 3, 7, 64] {
            assert_eq!(cut(size), whole, "in chunks of {size}");
        }
        whole
    }

    #[test]
    fn records_are_found_in_every_form_that_they_come_in() {
        let texts = [
            r#"{"Records":[{"a":1},{"b":[1,{"c":"}"}]}]}"#,
            "{ \"Records\" : [ \n {\"a\":1} , {\"b\":2}\n ] }\n",
            r#"{"Records":[]}"#,
            r#"{"version":"1","Records":[{"a":1}],"more":{"x":[1]}}"#,
            "{\"a\":1}\n{\"b\":2}\n",
            "{\"a\":1}{\"b\":2}",
            r#"[{"a":1},{"b":2}]"#,
            r#"{"Records":[{"a":"\"Records\":[{"}]}{"Records":[{"b":"\\"}]}"#,
            r#"{"x":{"Records":[{"a":1}]}}"#,
            r#"{"x":"Records","y":[1]}"#,
            r#"{"Records":7}"#,
            r#"{"Records":[1,"x",[{"a":1}],null,{"b":2}]}"#,
            "garbage\n{\"a\":1}\nmore } garbage\n{\"b\":2}",
            "{\"a\":\"cut off\n{\"b\":2}\n",
            "{\"a\":[[[[\n{\"b\":2}\n",
            "{\n  \"a\": [\n    {\n      \"b\": 2\n    }\n  ]\n}\n",
            r#"{"Records":[{"a":1},{"b":"#,
            r#"{"Records":[{"a":1}"#,
            r#"{"a":1}}}]]{"b":2}"#,
            "",
            "\u{feff}{\"a\":1}",
        ];
        let told = texts.map(|text| {
            let (found, whole) = pieces(text.as_bytes());
            format!("{text:?}\n    {found:?}{}", if whole { "" } else { " and ends within one" })
        });
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn a_record_that_is_too_large_or_too_deep_is_passed_over_and_the_next_is_read() {
        let filler = "x".repeat(RECORD_BYTES);
        let large = format!(r#"{{"Records":[{{"a":"{filler}"}},{{"b":2}}]}}"#);
        assert_eq!(pieces(large.as_bytes()).0, ["(too large)", r#"{"b":2}"#]);
        let (open, close) = ("[".repeat(2 * RECORD_BYTES), "]".repeat(2 * RECORD_BYTES));
        let deep = format!(r#"{{"Records":[{{"a":{open}{close}}},{{"b":2}}]}}"#);
        assert_eq!(pieces(deep.as_bytes()).0, ["(too large)", r#"{"b":2}"#]);
        let just = format!(r#"{{"a":"{}"}}"#, "x".repeat(RECORD_BYTES - 8));
        assert_eq!(pieces(just.as_bytes()).0, [just.as_str()]);
        let mut splitter = Splitter::default();
        splitter.push(large.as_bytes(), &mut |_| {});
        assert!(splitter.record.capacity() <= 2 * RECORD_BYTES, "{}", splitter.record.capacity());
    }
}
