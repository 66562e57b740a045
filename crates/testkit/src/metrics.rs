//! What a sidecar counts, read from the text that it shows on its admin port.

use std::collections::BTreeMap;

/// One look at all metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// OpenMetrics text.
    ///
    /// # Panics
    /// If it is none.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { samples: lines.map(sample).collect() }
    }

    /// The sum of all samples of that name which have these labels.
    pub fn total(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |sample: &&Sample| {
            let has = |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|held| held == value);
            sample.name == name && labels.iter().all(has)
        };
        self.samples.iter().filter(matches).map(|sample| sample.value).sum()
    }

    /// Finished requests with these labels.
    pub fn requests(&self, labels: &[(&str, &str)]) -> usize {
        self.total("meshwork_requests_total", labels) as usize
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => {
            (name, labels(rest.strip_suffix('}').unwrap_or_else(|| panic!("no end: {line}"))))
        }
        None => (series, BTreeMap::new()),
    };
    let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    Sample { name: name.to_owned(), labels, value }
}

/// `a="1",b="2"`; our values hold neither quotes nor commas.
fn labels(text: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or_else(|| panic!("no label: {pair}"));
        (key.to_owned(), value.trim_matches('"').to_owned())
    };
    text.split(',').filter(|pair| !pair.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_added_up_by_their_labels() {
        let metrics = Metrics::parse(
            "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"\"} 4\nb 5\n# EOF\n",
        );
        assert_eq!(metrics.total("a_total", &[("x", "1")]), 7.0);
        assert_eq!(metrics.total("a_total", &[("y", "")]), 4.0);
        assert_eq!(metrics.total("b", &[]), 5.0);
        assert_eq!(metrics.total("b", &[("x", "1")]), 0.0);
    }
}
