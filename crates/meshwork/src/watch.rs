//! `meshwork get --watch`: the resources that there are, and then each that changes, as it happens.
//!
//! A table's rows come one by one, so that a column is as wide as what was shown so far needs; what there is at the
//! beginning is shown at once, and where that is nothing, columns get some room, so that what comes stands below its
//! heading. In JSON each is a line, in YAML a document, with what became of it.

use std::io::{self, Write as _};
use std::ops::ControlFlow;

use serde_json::Value;

use crate::BoxError;
use crate::client::Client;
use crate::output::{Format, Rows};
use crate::show::{self, Column};

/// What may become of a resource, as the column CHANGE has it.
const CHANGES: [&str; 3] = ["added", "modified", "deleted"];

/// How wide columns are of which nothing is known at the beginning: most names fit, and the table fits into a terminal.
const ROOM: usize = 14;

/// Of whom nobody can say that it is over: it ends with the reader, the control plane, or a signal.
pub(crate) async fn watch(
    client: &Client,
    path: &str,
    name: Option<&str>,
    columns: &[Column],
    format: Format,
) -> Result<(), BoxError> {
    let mut view = View { columns, format, name, first: Some(Vec::new()), rows: Rows::default() };
    let shown = |event: Value| view.take(event).and_then(|text| print(&text));
    client.follow(path, shown).await
}

/// What is shown, and how.
struct View<'a> {
    columns: &'a [Column],
    format: Format,
    /// Only this one.
    name: Option<&'a str>,
    /// What there is, until all of it has come.
    first: Option<Vec<Vec<String>>>,
    rows: Rows,
}

impl View<'_> {
    /// What an event adds to the output.
    fn take(&mut self, event: Value) -> io::Result<String> {
        let object = &event["object"];
        if event["type"] == "BOOKMARK" {
            return Ok(self.begin());
        }
        if self.name.is_some_and(|name| object["metadata"]["name"] != name) {
            return Ok(String::new());
        }
        match self.format {
            Format::Json => Ok(format!("{event}\n")),
            Format::Yaml => {
                Ok(format!("---\n{}", serde_saphyr::to_string(&event).map_err(io::Error::other)?))
            }
            Format::Table => Ok(self.row(&event)),
        }
    }

    fn row(&mut self, event: &Value) -> String {
        let change = event["type"].as_str().unwrap_or_default().to_ascii_lowercase();
        let mut row = show::row(self.columns, &event["object"]);
        row.insert(0, change);
        match &mut self.first {
            Some(first) => {
                first.push(row);
                String::new()
            }
            None => {
                self.rows.widen(&row);
                self.rows.line(&row)
            }
        }
    }

    /// All that there is has come; later bookmarks say nothing to a reader.
    fn begin(&mut self) -> String {
        let Some(first) = self.first.take() else { return String::new() };
        if self.format != Format::Table {
            return String::new();
        }
        let head = ["CHANGE".to_owned()].into_iter().chain(show::head(self.columns)).collect::<Vec<_>>();
        self.rows.widen(&head);
        CHANGES.iter().for_each(|change| self.rows.widen(&[(*change).to_owned()]));
        if first.is_empty() {
            let room = head.iter().skip(1).map(|_| " ".repeat(ROOM));
            self.rows.widen(&std::iter::once(String::new()).chain(room).collect::<Vec<_>>());
        }
        first.iter().for_each(|row| self.rows.widen(row));
        std::iter::once(&head).chain(&first).map(|row| self.rows.line(row)).collect()
    }
}

/// A reader that has seen enough (`| head`) ends it.
fn print(text: &str) -> io::Result<ControlFlow<()>> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        printed => printed.map(ControlFlow::Continue),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(format: Format, name: Option<&str>) -> View<'_> {
        View {
            columns: &[("PORTS", "/spec/ports/*/port")],
            format,
            name,
            first: Some(Vec::new()),
            rows: Rows::default(),
        }
    }

    fn event(change: &str, name: &str, port: u16) -> Value {
        json!({"type": change, "object": {"metadata": {"namespace": "default", "name": name},
               "spec": {"ports": [{"port": port}]}}})
    }

    fn shown(view: &mut View<'_>, events: Vec<Value>) -> String {
        events.into_iter().map(|event| view.take(event).unwrap()).collect()
    }

    #[test]
    fn what_there_is_comes_at_once_and_then_a_row_for_each_change() {
        let bookmark = || json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}});
        let mut view = view(Format::Table, None);
        assert_eq!(shown(&mut view, vec![event("ADDED", "cart", 80)]), "", "until all have come");
        let first = "CHANGE     NAMESPACE   NAME   PORTS\nadded      default     cart   80\n";
        assert_eq!(shown(&mut view, vec![bookmark()]), first);
        let later = vec![event("MODIFIED", "cart", 81), bookmark(), event("DELETED", "payments", 1)];
        let expect = "modified   default     cart   81\ndeleted    default     payments   1\n";
        assert_eq!(shown(&mut view, later), expect);
    }

    #[test]
    fn what_comes_where_nothing_was_stands_below_its_heading() {
        let mut view = view(Format::Table, None);
        let bookmark = json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}});
        let events = vec![bookmark, event("ADDED", "payments", 80), event("MODIFIED", "payments", 81)];
        let expect = "\
CHANGE     NAMESPACE        NAME             PORTS
added      default          payments         80
modified   default          payments         81
";
        assert_eq!(shown(&mut view, events), expect);
    }

    #[test]
    fn scripts_get_a_line_or_a_document_each_and_only_what_they_asked_for() {
        let events = || vec![event("ADDED", "cart", 80), event("ADDED", "web", 80)];
        let text = shown(&mut view(Format::Json, Some("web")), events());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), events()[1]);
        assert_eq!(text.lines().count(), 1);
        let text = shown(&mut view(Format::Yaml, None), events());
        assert_eq!(text.matches("---\n").count(), 2, "{text}");
    }
}
