//! What a sidecar's metrics say, before and after.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Result, fail};
use crate::http_text;
use crate::mesh::ADMIN;
use crate::namespaces::Namespace;

const REQUESTS: &str = "meshwork_requests_total";

/// Counters may be a moment behind what a client saw; those of requests that were cut off are behind longer.
const SETTLE_WAIT: Duration = Duration::from_secs(3);

/// Counters that stay the same for so long have settled.
const SETTLED: Duration = Duration::from_millis(60);

pub(crate) struct Counts(Vec<(String, i64)>);

pub(crate) fn scrape(namespace: &Namespace) -> Result<Counts> {
    let (status, text) =
        namespace.inside(|| http_text::get(SocketAddr::from(ADMIN), "/metrics", "localhost"))?;
    if status != 200 {
        return fail(format!("/metrics answered {status}: {text}"));
    }
    Ok(Counts::parse(&text))
}

/// Waits until no request is counted any more.
pub(crate) fn settled(namespace: &Namespace) -> Result<Counts> {
    let deadline = Instant::now() + SETTLE_WAIT;
    let mut last = scrape(namespace)?;
    loop {
        thread::sleep(SETTLED);
        let next = scrape(namespace)?;
        if next.of(REQUESTS, &[]) == last.of(REQUESTS, &[]) || Instant::now() >= deadline {
            return Ok(next);
        }
        last = next;
    }
}

impl Counts {
    /// Series as `name{labels}` with their values.
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse::<f64>().ok()? as i64))
        });
        Self(series.collect())
    }

    /// The sum over all series of this name that have these labels.
    pub(crate) fn of(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let fits = |series: &str| {
            let Some(rest) = series.strip_prefix(name) else { return false };
            let own = rest.is_empty() || rest.starts_with('{');
            own && labels.iter().all(|(label, value)| {
                let wanted = format!("{label}=\"{value}\"");
                rest.contains(&format!("{{{wanted}")) || rest.contains(&format!(",{wanted}"))
            })
        };
        self.0.iter().filter(|(series, _)| fits(series)).map(|(_, value)| value).sum()
    }
}

/// Fails unless a sidecar counted what the client saw: each request once, as 200 of the application. `cut_off_max`: a
/// client that leaves in the middle does not know how many of its last requests were still served.
pub(crate) fn check(
    side: &str,
    before: &Counts,
    after: &Counts,
    answered: u64,
    cut_off_max: u64,
) -> Result<()> {
    let grown = |labels: &[(&str, &str)]| after.of(REQUESTS, labels) - before.of(REQUESTS, labels);
    let all = grown(&[("direction", side)]);
    let well = grown(&[("direction", side), ("status", "200"), ("cause", "")]);
    let most = i64::try_from(answered + cut_off_max).unwrap_or(i64::MAX);
    let least = i64::try_from(answered).unwrap_or(i64::MAX);
    if (least..=most).contains(&all) && well >= least {
        return Ok(());
    }
    fail(format!(
        "the {side} sidecar counted {all} requests, {well} of them with 200; the client saw {answered} (and cut off at most {cut_off_max})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE meshwork_requests counter\n\
        meshwork_requests_total{direction=\"outbound\",source=\"a\",status=\"200\",cause=\"\"} 40\n\
        meshwork_requests_total{direction=\"outbound\",source=\"b\",status=\"503\",cause=\"x\"} 2\n\
        meshwork_requests_total{direction=\"inbound\",source=\"a\",status=\"200\",cause=\"\"} 7\n\
        meshwork_ready 1\n";

    #[test]
    fn series_are_summed_by_their_labels() {
        let counts = Counts::parse(TEXT);
        assert_eq!(counts.of(REQUESTS, &[("direction", "outbound")]), 42);
        assert_eq!(counts.of(REQUESTS, &[("status", "200"), ("direction", "outbound")]), 40);
        assert_eq!(counts.of("meshwork_ready", &[]), 1);
        assert_eq!(counts.of("meshwork_requests", &[]), 0);
    }

    #[test]
    fn only_what_the_client_saw_may_be_counted() {
        let none = Counts::parse("");
        let counts = Counts::parse(TEXT);
        assert!(check("inbound", &none, &counts, 7, 0).is_ok());
        assert!(check("inbound", &none, &counts, 6, 0).is_err());
        assert!(check("inbound", &none, &counts, 6, 1).is_ok());
        assert!(check("inbound", &none, &counts, 8, 32).is_err());
        // Of 42 requests 40 had 200: two too few for a client that saw 42.
        assert!(check("outbound", &none, &counts, 42, 0).is_err());
    }
}
