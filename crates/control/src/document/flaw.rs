//! What is wrong with a document, and where.

use std::fmt;

use super::Place;

/// One thing that is wrong. Without a place it is about the whole text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Flaw {
    pub(crate) message: String,
    pub(crate) place: Option<Place>,
}

/// The text that a document was read from, to show the line in question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'t> {
    /// As the operator calls it: a path, or `-`.
    pub(crate) file: &'t str,
    pub(crate) text: &'t str,
}

/// Longer lines are cut around the caret: a minified JSON file is one line.
const SNIPPET_COLUMNS_MAX: usize = 120;

impl Flaw {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None }
    }

    pub(crate) fn at(message: impl Into<String>, place: Place) -> Self {
        Self { message: message.into(), place: Some(place) }
    }

    /// Where it is, unless something closer to it has said so already.
    pub(super) fn or_at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Flaw {}

impl Source<'_> {
    /// The line of `place` with a caret under its column, as a compiler shows it.
    pub(crate) fn snippet(&self, place: Place) -> Option<String> {
        let line = self.text.lines().nth(place.line.checked_sub(1)?)?;
        let column = place.column.max(1) - 1;
        let start = column.saturating_sub(SNIPPET_COLUMNS_MAX / 2);
        let start = if line.chars().count() <= SNIPPET_COLUMNS_MAX { 0 } else { start };
        let shown: String = line.chars().skip(start).take(SNIPPET_COLUMNS_MAX).collect();
        // Tabs stay tabs under tabs, so that the caret stands where it should.
        let indent: String = shown
            .chars()
            .chain(std::iter::repeat(' '))
            .take(column - start)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        Some(format!("{gutter} |\n{number} | {shown}\n{gutter} | {indent}^"))
    }
}
