//! The documents of `meshwork apply`: files, directories and standard input, as one text.
//!
//! One text, because all documents are accepted or none, whatever files they come from. A place in that text is
//! told as a place in the file it came from.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::client::Refusal;

/// What a directory is searched for.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// How deep directories may nest; met only by a link that leads into itself.
const DEPTH_MAX: usize = 16;

const SEPARATOR: &str = "---\n";

#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentsError {
    #[error("cannot read {path}: {source}; check -f")]
    Read { path: PathBuf, source: io::Error },
    #[error("no .yaml, .yml or .json file in {0}; check -f")]
    Empty(PathBuf),
    #[error("directories nest deeper than {DEPTH_MAX} at {0}: does a link lead into itself?")]
    TooDeep(PathBuf),
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Documents {
    text: String,
    /// Files, and the line at which each begins, counted from 0.
    files: Vec<(String, usize)>,
}

/// Reads what `-f` named, in that order; a directory's files in order of name.
pub(crate) fn read(given: &[PathBuf]) -> Result<Documents, DocumentsError> {
    let mut documents = Documents::default();
    for path in given {
        if path == Path::new("-") {
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text);
            read.map_err(|source| DocumentsError::Read { path: path.clone(), source })?;
            documents.add("-".to_owned(), &text);
        } else if path.is_dir() {
            let before = documents.files.len();
            read_dir(path, &mut documents, 0)?;
            if documents.files.len() == before {
                return Err(DocumentsError::Empty(path.clone()));
            }
        } else {
            read_file(path, &mut documents)?;
        }
    }
    Ok(documents)
}

fn read_dir(dir: &Path, documents: &mut Documents, depth: usize) -> Result<(), DocumentsError> {
    if depth > DEPTH_MAX {
        return Err(DocumentsError::TooDeep(dir.to_owned()));
    }
    let unreadable = |source| DocumentsError::Read { path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(unreadable)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    paths.sort();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if path.is_dir() {
            read_dir(&path, documents, depth + 1)?;
        } else if EXTENSIONS.contains(&extension) {
            read_file(&path, documents)?;
        }
    }
    Ok(())
}

fn read_file(path: &Path, documents: &mut Documents) -> Result<(), DocumentsError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| DocumentsError::Read { path: path.to_owned(), source })?;
    documents.add(path.display().to_string(), &text);
    Ok(())
}

impl Documents {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What to call the whole: the file, if there is one.
    pub(crate) fn name(&self) -> &str {
        match &self.files[..] {
            [(name, _)] => name,
            _ => "documents",
        }
    }

    /// The refusal with its place told in the file that it came from.
    pub(crate) fn locate(&self, mut refusal: Refusal) -> Refusal {
        let [_, _, ..] = &self.files[..] else { return refusal };
        refusal.more =
            std::mem::take(&mut refusal.more).into_iter().map(|problem| self.locate(problem)).collect();
        let Some(line) = refusal.line else { return refusal };
        let file = self.files.iter().rev().find(|(_, start)| *start < line);
        if let Some((name, start)) = file {
            refusal.file = Some(name.clone());
            refusal.line = Some(line - start);
            refusal.snippet = self.snippet(line, line - start, refusal.column);
        }
        refusal
    }

    fn add(&mut self, name: String, text: &str) {
        if !self.files.is_empty() {
            self.text.push_str(SEPARATOR);
        }
        self.files.push((name, self.text.lines().count()));
        self.text.push_str(text);
        if !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    /// The line, under the number that it has in its file, and a caret: as the control plane shows it.
    fn snippet(&self, line: usize, line_in_file: usize, column: Option<usize>) -> Option<String> {
        let shown = self.text.lines().nth(line.checked_sub(1)?)?;
        let number = line_in_file.to_string();
        let gutter = " ".repeat(number.len());
        let caret = column.map(|column| format!("\n{gutter} | {}^", " ".repeat(column.saturating_sub(1))));
        Some(format!("{gutter} |\n{number} | {shown}{}", caret.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: usize, column: usize) -> Refusal {
        Refusal {
            message: "no such field".to_owned(),
            file: Some("documents".to_owned()),
            line: Some(line),
            column: Some(column),
            snippet: Some("as the control plane saw it".to_owned()),
            ..Refusal::default()
        }
    }

    #[test]
    fn a_directorys_files_are_read_in_order_of_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for (name, text) in
            [("b.yaml", "b: 1"), ("a.yml", "a: 1\n"), ("sub/c.json", "{}"), ("notes.txt", "no")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let documents = read(&[dir.path().to_owned()]).unwrap();
        assert_eq!(documents.text(), "a: 1\n---\nb: 1\n---\n{}\n");
    }

    #[test]
    fn a_place_is_told_in_its_own_file() {
        let mut documents = Documents::default();
        documents.add("a.yaml".to_owned(), "a: 1\nb: 2");
        documents.add("b.yaml".to_owned(), "c: 3\nd: 4\n");
        // a: 1 | b: 2 | --- | c: 3 | d: 4
        let located = documents.locate(refusal(5, 4));
        assert_eq!(located.to_string(), "b.yaml:2:4: no such field\n  |\n2 | d: 4\n  |    ^");
        let located = documents.locate(refusal(2, 1));
        assert_eq!(located.to_string(), "a.yaml:2:1: no such field\n  |\n2 | b: 2\n  | ^");
    }

    #[test]
    fn a_single_file_is_left_as_the_control_plane_told_it() {
        let mut documents = Documents::default();
        documents.add("a.yaml".to_owned(), "a: 1\n");
        assert_eq!(documents.name(), "a.yaml");
        assert_eq!(documents.locate(refusal(1, 1)).snippet.as_deref(), Some("as the control plane saw it"));
    }

    #[test]
    fn a_directory_without_documents_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(&[dir.path().to_owned()]), Err(DocumentsError::Empty(_))));
        assert!(matches!(read(&[dir.path().join("x.yaml")]), Err(DocumentsError::Read { .. })));
    }
}
