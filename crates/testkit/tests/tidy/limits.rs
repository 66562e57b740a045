//! `docs/limits.md` lists every named limit and time of the code with its value and its reason.
//!
//! The tables are made from the constants themselves: `_MAX` and `_MIN`, everything that is a `Duration`, and the
//! fields of the engine's `Limits`. The reason is the constant's own comment, so a limit without one fails here.

use std::fmt::Write as _;

use crate::tree::{File, files, find, root};

const DOCUMENT: &str = "docs/limits.md";

/// What stands above it in the document is written by hand.
const MARK: &str = "<!-- Below: made from the code by crates/testkit/tests/tidy/limits.rs. -->";

const UPDATE: &str = "MESHWORK_UPDATE_DOCS";

/// Durations that are units, not limits.
const UNITS: [&str; 1] = ["DAY"];

struct Limit {
    file: String,
    name: String,
    value: String,
    reason: String,
}

#[test]
fn the_document_lists_every_limit_with_its_reason() {
    let files = files();
    let limits = collect(&files);
    let silent = limits.iter().filter(|limit| limit.reason.is_empty());
    let silent = silent.map(|limit| format!("{}::{}", limit.file, limit.name));
    crate::assert_none(silent.collect(), "limits without a reason; say it in a `///` comment");

    let document = &find(&files, DOCUMENT).text;
    let (by_hand, tables) =
        document.split_once(MARK).unwrap_or_else(|| panic!("{DOCUMENT} has no line {MARK}"));
    let expected = format!("\n{}", write(&limits));
    if tables == expected {
        return;
    }
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(root().join(DOCUMENT), format!("{by_hand}{MARK}{expected}")).unwrap();
        return;
    }
    let (shown, expected): (Vec<&str>, Vec<&str>) = (tables.lines().collect(), expected.lines().collect());
    let differs = |lines: &[&str], others: &[&str]| -> Vec<String> {
        lines.iter().filter(|line| !others.contains(line)).map(ToString::to_string).collect()
    };
    panic!(
        "{DOCUMENT} is not what the code says; run `{UPDATE}=1 cargo test -p meshwork-testkit --test tidy`\nnew: {:#?}\nold: {:#?}",
        differs(&expected, &shown),
        differs(&shown, &expected)
    );
}

fn collect(files: &[File]) -> Vec<Limit> {
    let mut limits = Vec::new();
    for file in files.iter().filter(|file| is_product(file)) {
        let constants = constants(&file.text);
        limits.extend(constants.into_iter().filter(Constant::is_limit).map(|constant| Limit {
            file: file.path.trim_start_matches("crates/").to_owned(),
            value: shown(&constant.name, &constant.value, files),
            reason: if constant.comment.is_empty() { general_reason(&file.text) } else { constant.comment },
            name: constant.name,
        }));
        if ["h1/limits.rs", "h2/limits.rs"].iter().any(|end| file.path.ends_with(end)) {
            limits.extend(engine(file, files));
        }
    }
    limits
}

fn is_product(file: &File) -> bool {
    let path = &file.path;
    let tests = path.ends_with("/tests.rs") || path.contains("/tests/");
    file.has_extension("rs")
        && path.starts_with("crates/")
        && path.contains("/src/")
        && !tests
        && !path.contains("/demo/")
        && !path.starts_with("crates/fuzz/") // never shipped
}

fn write(limits: &[Limit]) -> String {
    let mut out = String::new();
    let mut last = "";
    for limit in limits {
        let crate_name = limit.file.split('/').next().unwrap_or_default();
        if crate_name != last {
            let _ = write!(out, "\n### `crates/{crate_name}`\n\n| limit | value | reason |\n|---|---|---|\n");
            last = crate_name;
        }
        let Limit { file, name, value, reason } = limit;
        let _ = writeln!(out, "| `{file}::{name}` | {value} | {} |", reason.replace('|', "\\|"));
    }
    out
}

/// A constant at the outermost level of a file.
struct Constant {
    name: String,
    type_name: String,
    value: String,
    comment: String,
}

impl Constant {
    fn is_limit(&self) -> bool {
        let bound = ["_MAX", "_MIN"].iter().any(|end| self.name.ends_with(end));
        let time = self.type_name.contains("Duration") && !UNITS.contains(&&*self.name);
        bound || time
    }
}

/// Neighbours without a comment of their own share the one above them.
fn constants(text: &str) -> Vec<Constant> {
    let mut constants = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut shared = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(said) = line.strip_prefix("///") {
            comment.push(said.trim());
            continue;
        }
        let declaration = line.strip_prefix("const ").or_else(|| {
            line.strip_prefix("pub").and_then(|rest| rest.split_once(" const ").map(|(_, rest)| rest))
        });
        let Some(declaration) = declaration.filter(|declaration| !declaration.starts_with("fn ")) else {
            if !line.starts_with("#[") {
                comment.clear();
                shared.clear();
            }
            continue;
        };
        let mut whole = declaration.to_owned();
        while !whole.contains(';') || whole.matches('[').count() > whole.matches(']').count() {
            let Some(next) = lines.next() else { break };
            whole.push_str(next.trim());
        }
        let (Some((name, rest)), own) = (whole.split_once(':'), comment.join(" ")) else { continue };
        let Some((type_name, value)) = rest.split_once(" = ") else { continue };
        let (value, beside) = value.rsplit_once(';').unwrap_or((value, ""));
        let beside = beside.trim().trim_start_matches("//").trim();
        if !own.is_empty() {
            shared = own;
        } else if !beside.is_empty() {
            shared = beside.to_owned();
        }
        comment.clear();
        constants.push(Constant {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            value: value.to_owned(),
            comment: shared.replace(['[', ']'], ""),
        });
    }
    constants
}

/// Where a file says once why its limits are what they are.
fn general_reason(text: &str) -> String {
    let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let header = header.join(" ");
    header
        .split_inclusive(". ")
        .find(|sentence| sentence.to_lowercase().contains("limit"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The fields of `Limits` with their comments, and the values of its default.
fn engine(file: &File, files: &[File]) -> Vec<Limit> {
    let (declared, default) = file.text.split_once("impl Default for Limits").expect("Limits has a default");
    let mut limits = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in declared.lines().map(str::trim) {
        if let Some(said) = line.strip_prefix("///") {
            comment.push(said.trim());
        } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|field| field.split_once(": ")) {
            let set = format!("{name}: ");
            let value = default.lines().find_map(|line| line.trim().strip_prefix(&set)?.strip_suffix(','));
            limits.push(Limit {
                file: file.path.trim_start_matches("crates/").to_owned(),
                name: format!("Limits::{name}"),
                value: shown(name, value.expect("every field has a default"), files),
                reason: comment.join(" ").replace(['[', ']'], ""),
            });
            comment.clear();
        } else {
            comment.clear();
        }
    }
    limits
}

/// An expression as people write its value.
fn shown(name: &str, expression: &str, files: &[File]) -> String {
    let expression = expression.trim();
    if let Some(pair) = expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')'))
        && let Some((least, most)) = pair.split_once("), ")
    {
        return format!("{} to {}", shown(name, &format!("{least})"), files), shown(name, most, files));
    }
    if let Some(rate) = expression.strip_prefix("Rate { burst: ").and_then(|rest| rest.strip_suffix(" }"))
        && let Some((burst, per_second)) = rate.split_once(", per_second: ")
    {
        let (burst, per_second) = (shown(name, burst, files), shown(name, per_second, files));
        return format!("{burst} at once, {per_second} each second");
    }
    if let Some(list) = expression.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        let items = list.replace("),", ")\n").replace("ZERO,", "ZERO\n");
        return items.lines().map(|item| shown(name, item, files)).collect::<Vec<_>>().join(", ");
    }
    let inner = |call: &str| expression.strip_prefix(call).and_then(|rest| rest.strip_suffix(')'));
    let evaluated = |text: &str| {
        evaluate(text, files)
            .unwrap_or_else(|| panic!("{name}: this test can't read {expression:?}; teach it"))
    };
    if expression == "Duration::ZERO" {
        "0 s".to_owned()
    } else if let Some(seconds) = inner("Duration::from_secs(") {
        seconds_shown(evaluated(seconds))
    } else if let Some(millis) = inner("Duration::from_millis(") {
        format!("{} ms", evaluated(millis))
    } else if let Some(micros) = inner("Duration::from_micros(") {
        format!("{} µs", evaluated(micros))
    } else {
        let number = evaluated(expression);
        match name.to_uppercase() {
            name if name.contains("SECONDS") => seconds_shown(number),
            name if name.contains("BYTES") => bytes_shown(number),
            _ => grouped(number),
        }
    }
}

/// Products and shifts of numbers and of other constants.
fn evaluate(expression: &str, files: &[File]) -> Option<u64> {
    let expression = expression.trim();
    if let Some((left, right)) = expression.split_once(" << ") {
        return Some(evaluate(left, files)? << evaluate(right, files)?);
    }
    if let Some((left, right)) = expression.rsplit_once(" * ") {
        return Some(evaluate(left, files)? * evaluate(right, files)?);
    }
    if let Ok(number) = expression.replace('_', "").parse() {
        return Some(number);
    }
    let mut all = files.iter().filter(|file| is_product(file)).flat_map(|file| constants(&file.text));
    let constant = all.find(|constant| constant.name == expression)?;
    evaluate(&constant.value, files)
}

fn seconds_shown(seconds: u64) -> String {
    match seconds {
        0 => "0 s".to_owned(),
        days if days % 86_400 == 0 && days > 86_400 => format!("{} days", grouped(days / 86_400)),
        hours if hours % 3_600 == 0 => format!("{} h", hours / 3_600),
        minutes if minutes % 60 == 0 && minutes > 60 => format!("{} min", minutes / 60),
        seconds => format!("{seconds} s"),
    }
}

fn bytes_shown(bytes: u64) -> String {
    match bytes {
        mebibytes if mebibytes % (1 << 20) == 0 => format!("{} MiB", mebibytes >> 20),
        kibibytes if kibibytes % 1_024 == 0 => format!("{} KiB", kibibytes >> 10),
        bytes => format!("{} bytes", grouped(bytes)),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<String> =
        digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.join(",")
}

#[test]
fn values_are_shown_as_people_write_them() {
    let check = |name: &str, expression: &str, expect: &str| assert_eq!(shown(name, expression, &[]), expect);
    check("KEYS_MAX", "200_000", "200,000");
    check("BODY_BYTES_MAX", "16 << 20", "16 MiB");
    check("PATH_BYTES_MAX", "1_500", "1,500 bytes");
    check("ROOT_TTL", "Duration::from_secs(10 * 365 * 24 * 3600)", "3,650 days");
    check("PAUSE", "(Duration::from_millis(100), Duration::from_secs(2))", "100 ms to 2 s");
    check(
        "AFTER",
        "[Duration::ZERO,Duration::from_millis(100),Duration::from_secs(120),]",
        "0 s, 100 ms, 2 min",
    );
}
