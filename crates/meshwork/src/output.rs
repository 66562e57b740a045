//! Prints what a command found: as a table for people, as JSON or YAML for scripts.

use std::fmt;
use std::io::{self, Write as _};

use clap::{Args, ValueEnum};
use serde_json::Value;

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// How the answer is written
    #[arg(short, long, env = "MESHWORK_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

/// A number and what is counted, in the singular for one.
pub(crate) fn counted<N: fmt::Display + From<u8> + PartialEq>(number: N, one: &str, many: &str) -> String {
    let words = if number == N::from(1) { one } else { many };
    format!("{number} {words}")
}

/// A table: columns are as wide as their widest cell, the last one runs free.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<S: AsRef<str>>(head: &[S]) -> Self {
        Self { rows: vec![head.iter().map(|cell| cell.as_ref().to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = Rows::default();
        self.rows.iter().for_each(|row| rows.widen(row));
        self.rows.iter().try_for_each(|row| f.write_str(&rows.line(row)))
    }
}

/// Rows that come one by one: each column is as wide as its widest cell so far.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    widths: Vec<usize>,
}

impl Rows {
    pub(crate) fn widen(&mut self, row: &[String]) {
        self.widths.resize(self.widths.len().max(row.len()), 0);
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }

    pub(crate) fn line(&self, row: &[String]) -> String {
        let cells = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("   ").trim_end())
    }
}

/// Prints `value` in a script's form, or what `table` makes of it.
pub(crate) fn print(format: Format, value: &Value, table: impl FnOnce(&Value) -> String) -> io::Result<()> {
    let text = match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value)?,
        Format::Yaml => serde_saphyr::to_string(value).map_err(io::Error::other)?,
    };
    print_text(&text)
}

/// Prints text with exactly one newline at its end. A reader that has seen enough (`| head`) is no error.
pub(crate) fn print_text(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{}", text.trim_end_matches('\n')) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// A value as a table's cell: text bare, lists by comma, maps as `k=v`, nothing as a dash.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(fields) if fields.is_empty() => "-".to_owned(),
        Value::Object(fields) => {
            let pairs = fields.iter().map(|(key, value)| format!("{key}={}", cell(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "PORTS"]);
        table.row(vec!["cart".to_owned(), "80".to_owned()]);
        table.row(vec!["payments".to_owned(), "80,81".to_owned()]);
        assert_eq!(table.to_string(), "NAME       PORTS\ncart       80\npayments   80,81\n");
    }

    #[track_caller]
    fn check(value: Value, expect: &str) {
        assert_eq!(cell(&value), expect);
    }

    #[test]
    fn a_cell_is_for_people() {
        check(json!(null), "-");
        check(json!(""), "-");
        check(json!("cart"), "cart");
        check(json!([80, "x"]), "80,x");
        check(json!({"app": "cart", "version": "v1"}), "app=cart,version=v1");
        check(json!(true), "true");
    }
}
