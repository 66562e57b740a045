//! A document's flaws are shown where they stand.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Shop {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<Port>,
    mode: Option<Mode>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Port {
    port: u16,
    target_port: Option<u16>,
}

#[derive(Debug, PartialEq, Deserialize)]
enum Mode {
    Open,
    Closed,
}

fn shops(text: &str) -> Result<Vec<Shop>, Flaw> {
    parse(text)?.iter().map(Shop::deserialize).collect()
}

/// What is wrong with `text`, as `line:column message`.
#[track_caller]
fn check(text: &str, expect: &str) {
    let flaw = shops(text).expect_err("a flaw");
    let place = flaw.place.expect("a place");
    let told = format!("{}:{} {}", place.line, place.column, flaw.message);
    assert!(told.starts_with(expect), "told {told:?}\nwant {expect:?}");
}

#[test]
fn good_documents_are_read_in_their_order() {
    let text = "name: cart\nports:\n- port: 80\n  targetPort: 8080\n---\n# nothing\n---\n{\"name\": \"web\", \"mode\": \"Open\"}\n";
    let read = shops(text).unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!(read[0].ports, [Port { port: 80, target_port: Some(8080) }]);
    assert_eq!((read[1].name.as_str(), &read[1].mode), ("web", &Some(Mode::Open)));
}

#[test]
fn json_with_tabs_and_escapes_is_read() {
    let text = "{\n\t\"name\": \"a\\/b\\u00e9\\ud83d\\ude00\",\n\t\"labels\": {\"a.b/c\":\t\"x\"}\n}\n";
    let read = shops(text).unwrap();
    assert_eq!(read[0].name, "a/b\u{e9}\u{1f600}");
    assert_eq!(read[0].labels["a.b/c"], "x");
}

#[test]
fn a_field_that_is_not_known_is_named_where_it_stands() {
    check(
        "name: cart\nports:\n- port: 80\n  targetport: 1\n",
        "4:3 unknown field `targetport`; known here: port, targetPort",
    );
    check("name: a\n---\nname: b\nlable: x\n", "4:1 unknown field `lable`; known here: name");
    check("{\"name\": \"a\",\n \"x\": 1}", "2:2 unknown field `x`");
}

#[test]
fn a_value_of_the_wrong_kind_is_shown_where_it_stands() {
    check("name: cart\nports:\n- port: eighty\n", "3:9 expected u16, found string \"eighty\"");
    check("name: cart\nports:\n- port: 99999\n", "3:9 expected u16, found integer `99999`");
    check("name: cart\nlabels:\n  version: 1\n", "3:12 expected a text, found 1; write it in quotes: \"1\"");
    check("name: cart\nmode: ajar\n", "2:7 unknown value \"ajar\"; it may be Open, Closed");
    check("name:\n", "1:1 expected a string, found unit");
    check("name: cart\nports: 80\n", "2:8 expected a sequence");
}

#[test]
fn a_field_that_is_missing_is_told_where_it_should_be() {
    check("mode: Open\n", "1:1 field `name` is missing");
    check("name: cart\nports:\n- targetPort: 1\n", "3:3 field `port` is missing");
}

#[test]
fn text_that_is_no_yaml_is_shown_where_it_ends_to_be() {
    check("name: cart\n  ports: [\n", "2:");
    check("name: a\nname: b\n", "2:1 ");
    assert!(parse(&"[".repeat(1_000)).is_err());
    assert!(parse(&format!("{}{}", "[".repeat(100), "]".repeat(100))).is_err());
}

#[test]
fn depth_is_refused_long_before_a_stack_is_full() {
    // Half of what a worker has.
    let is_read = |text: String| {
        let reader = std::thread::Builder::new().stack_size(1 << 20);
        reader.spawn(move || parse(&text).is_ok()).unwrap().join().unwrap()
    };
    let nested =
        |depth: usize| (0..depth).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<String>();
    assert!(is_read(nested(20)));
    for text in [nested(30), nested(2_000), "- ".repeat(2_000), "{a: ".repeat(2_000), "? ".repeat(2_000)] {
        assert!(!is_read(text));
    }
}

#[test]
fn aliases_cannot_make_much_out_of_little() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..9u8 {
        let (this, last) = ((b'a' + n) as char, (b'a' + n - 1) as char);
        let alias = format!("*{last}");
        text += &format!("{this}: &{this} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    assert!(parse(&text).is_err());
}

#[test]
fn a_path_leads_to_its_place() {
    let text =
        "kind: X\nspec:\n  rules:\n  - name: a\n    refs:\n    - port: 80\n  - {}\nmeta:\n  \"a.b/c\": 1\n";
    let node = &parse(text).unwrap()[0];
    let at = |path: &str| {
        let place = node.place_of(path);
        (place.line, place.column)
    };
    assert_eq!(at("spec.rules[0].refs[0].port"), (6, 13));
    assert_eq!(at("spec.rules[0].refs"), (5, 5));
    assert_eq!(at("spec.rules[1].name"), (7, 5), "missing: the last place on the way");
    assert_eq!(at("meta[\"a.b/c\"]"), (9, 12));
    assert_eq!(at(""), (1, 1));
}

#[test]
fn a_snippet_points_at_the_column() {
    let source = Source { file: "x.yaml", text: "a: 1\n\tb: 2\n" };
    let snippet = source.snippet(Place { line: 2, column: 5 }).unwrap();
    assert_eq!(snippet, "  |\n2 | \tb: 2\n  | \t   ^");
    assert_eq!(source.snippet(Place { line: 9, column: 1 }), None);
    let long = "x".repeat(10_000);
    let source = Source { file: "x.json", text: &long };
    let snippet = source.snippet(Place { line: 1, column: 5_000 }).unwrap();
    let lines: Vec<&str> = snippet.lines().collect();
    assert!(lines[1].len() <= 124 && lines[2].len() <= lines[1].len(), "{snippet}");
}

/// How long it takes to refuse a text, and why it is. The least of several times: the machine may be busy with something else.
fn refused(parse: impl Fn(&str) -> Result<Vec<Node>, Flaw>, text: &str) -> (std::time::Duration, String) {
    let took = |_| {
        let begun = std::time::Instant::now();
        let flaw = parse(text).expect_err("too many");
        (begun.elapsed(), flaw.message)
    };
    (0..5).map(took).min().unwrap()
}

/// What is too much costs no more than the first part of it that is.
#[test]
fn millions_of_values_are_refused_after_thousands() {
    let list = |count: usize| format!("[{}1]", "1,".repeat(count));
    let ((few, _), (many, told)) = (refused(parse, &list(12_000)), refused(parse, &list(3_000_000)));
    assert_eq!(told, "more than 10000 elements in one list or map; split it");
    assert!(many < few * 20, "{many:?} for 250 times as much as took {few:?}");
    let map: String = (0..12_000).map(|number| format!("k{number}: 1\n")).collect();
    assert_eq!(parse(&map).unwrap_err().message, told);

    // In many small lists it is the sum that counts.
    let within = |text: &str| yaml::parse_up_to(20_000, text);
    let lists = |count: usize| format!("- [{}1]\n", "1,".repeat(99)).repeat(count);
    assert!(within(&lists(190)).is_ok());
    let ((few, _), (many, told)) = (refused(within, &lists(210)), refused(within, &lists(10_000)));
    assert_eq!(told, "more than 20000 values in one text; split it");
    assert!(many < few * 20, "{many:?} for 50 times as much as took {few:?}");
}
