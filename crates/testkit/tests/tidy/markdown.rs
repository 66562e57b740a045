//! A document's parts, as far as the checks need them: code, links, headings, tables. Pure.

/// A fenced block.
pub(crate) struct Block {
    /// `yaml`, `text`; empty: none was named.
    pub(crate) language: String,
    pub(crate) lines: Vec<String>,
}

/// The lines outside of fenced blocks, with their numbers from 1.
pub(crate) fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut prose = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push((index + 1, line));
        }
    }
    prose
}

pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { language: language.trim().to_owned(), lines: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    blocks
}

/// What stands between single backticks.
pub(crate) fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The targets of `[text](target)`; code is no link.
pub(crate) fn links(line: &str) -> Vec<&str> {
    let mut links = Vec::new();
    for piece in line.split('`').step_by(2) {
        // A code span may stand inside a link's text: then its end begins a piece.
        links.extend(
            piece.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target),
        );
    }
    links
}

/// What a heading is called in a link: GitHub's rule.
pub(crate) fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).into_iter().filter_map(|(_, line)| {
        let heading = line.trim_start_matches('#');
        (heading.len() < line.len()).then(|| heading.trim())
    });
    let kept = |letter: &char| letter.is_alphanumeric() || " -_".contains(*letter);
    headings
        .map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

/// The cells of a table's row; `None`: the line is none.
pub(crate) fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split(" | ").map(str::trim).collect())
}

#[test]
fn links_and_code_are_told_apart() {
    assert_eq!(links("see [a](b.md#c), [`d`](e) and `[f](g)`"), ["b.md#c", "e"]);
    assert_eq!(code_spans("a `b` and `c::d`").collect::<Vec<_>>(), ["b", "c::d"]);
    assert_eq!(
        anchors("# A request's path\n```\n# no heading\n```\n## `meshwork run`"),
        ["a-requests-path", "meshwork-run"]
    );
}
