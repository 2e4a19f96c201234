//! Lines of a file or pipe, bounded: one that never ends is cut where it is too large already.

use std::io::{self, BufRead as _, BufReader, Read};

use bytes::Bytes;

/// One line that isn't empty, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1, empty ones too.
    pub(super) number: u64,
    /// At most one byte more than a message may have: that one byte shows that it is too large.
    pub(super) bytes: Bytes,
}

pub(super) struct Lines<R> {
    input: BufReader<R>,
    number: u64,
    bytes_max: usize,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R, bytes_max: usize) -> Self {
        Self {
            input: BufReader::new(input),
            number: 0,
            bytes_max,
        }
    }

    fn read(&mut self) -> io::Result<Option<Bytes>> {
        let mut line = Vec::new();
        // Room for the line's end and for the byte that is too many.
        let most = u64::try_from(self.bytes_max)
            .unwrap_or(u64::MAX)
            .saturating_add(2);
        if (&mut self.input).take(most).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            line.pop_if(|byte| *byte == b'\r');
        } else {
            self.input.skip_until(b'\n')?;
        }
        line.truncate(self.bytes_max + 1);
        Ok(Some(line.into()))
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            match self.read().transpose()? {
                Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => {}
                Ok(bytes) => {
                    return Some(Ok(Line {
                        number: self.number,
                        bytes,
                    }));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, bytes_max: usize) -> Vec<(u64, String)> {
        Lines::new(text.as_bytes(), bytes_max)
            .map(|line| line.unwrap())
            .map(|line| (line.number, String::from_utf8(line.bytes.to_vec()).unwrap()))
            .collect()
    }

    #[test]
    fn empty_lines_are_counted_and_left_out() {
        assert_eq!(
            lines("a\r\n\n  \nb", 10),
            [(1, "a".into()), (4, "b".into())]
        );
    }

    #[test]
    fn a_line_that_is_too_large_is_cut_behind_the_limit_and_the_next_is_whole() {
        assert_eq!(
            lines("aaaaaaaa\nbbbb\n", 4),
            [(1, "aaaaa".into()), (2, "bbbb".into())]
        );
    }
}
