//! `docs/metrics.md` names every metric that a sidecar or a control plane prints, with every word of its label `kind`, and no
//! other.

use std::collections::{BTreeMap, BTreeSet};

use meshwork_proxy::telemetry::Registry;

use crate::markdown::{cells, code_spans, prose};
use crate::tree::{files, find};

#[test]
fn the_document_names_the_metrics_that_are_printed() {
    let printed = printed();
    let of_control = printed.keys().filter(|name| name.starts_with("meshwork_control_")).count();
    assert!(of_control > 10 && printed.len() > of_control + 10, "{printed:?}");
    let files = files();
    let document = documented(&find(&files, "docs/metrics.md").text);
    let (printed_names, named): (BTreeSet<_>, BTreeSet<_>) =
        (printed.keys().collect(), document.keys().collect());
    assert_eq!(printed_names, named, "left: printed; right: docs/metrics.md");
    for (name, words) in printed {
        let missing: Vec<_> = words.iter().filter(|word| !document[&name].contains(*word)).collect();
        assert!(missing.is_empty(), "docs/metrics.md: {name} also has {missing:?}");
    }
}

/// Names as Prometheus shows them, and the values of `kind`.
fn printed() -> BTreeMap<String, BTreeSet<String>> {
    let sidecar = Registry::new("default/cart".to_owned()).render();
    let text = sidecar + &meshwork_control::no_metrics();
    let mut names = BTreeMap::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            names.insert(format!("{name}{suffix}"), BTreeSet::new());
        } else if let Some((name, rest)) = line.split_once("{kind=\"") {
            let word = rest.split('"').next().unwrap();
            names.get_mut(name).unwrap().insert(word.to_owned());
        }
    }
    names
}

/// Each row that begins with a metric's name, and what stands in code in it.
fn documented(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows = prose(text).into_iter().filter_map(|(_, line)| Some((line, cells(line)?)));
    let metrics = rows.filter_map(|(line, cells)| {
        let name = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
        let is_metric = ["meshwork_", "http_"].iter().any(|prefix| name.starts_with(prefix));
        is_metric.then(|| (name.to_owned(), code_spans(line).map(str::to_owned).collect()))
    });
    metrics.collect()
}
