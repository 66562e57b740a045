//! `resolv.conf`: the resolvers of a host.

/// Resolvers that are asked: as many as the C libraries read.
pub const SERVERS_MAX: usize = 3;

/// The addresses after `nameserver`, as they are written: one of link-local scope has its interface behind a `%`. Without
/// any it is the host itself (resolv.conf(5)).
pub fn servers(text: &str) -> Vec<String> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then_some(words.next()?.to_owned())
    });
    let servers: Vec<String> = servers.take(SERVERS_MAX).collect();
    if servers.is_empty() { vec!["127.0.0.1".to_owned()] } else { servers }
}

/// As what a name is asked for, one after the other, until one of them has addresses: it may be short for one of the
/// host's own domains.
pub fn candidates(text: &str, name: &str) -> Vec<String> {
    let (mut domains, mut dots) = (Vec::new(), DOTS_DEFAULT);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().take_while(|word| !word.starts_with(['#', ';']));
        match words.next() {
            // Of several such lines the last counts.
            Some("search" | "domain") => domains = words.take(DOMAINS_MAX).collect(),
            Some("options") => {
                let told = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                dots = told.last().unwrap_or(dots);
            }
            _ => {}
        }
    }
    if let Some(whole) = name.strip_suffix('.') {
        return vec![whole.to_owned()];
    }
    let mut names: Vec<String> =
        domains.iter().map(|domain| format!("{name}.{}", domain.trim_matches('.'))).collect();
    let at = if name.matches('.').count() >= dots { 0 } else { names.len() };
    names.insert(at, name.to_owned());
    names
}

/// A name with so many dots is first asked for as it is (resolv.conf(5)).
const DOTS_DEFAULT: usize = 1;

/// Domains that are tried: more than anybody has, as each costs a question.
const DOMAINS_MAX: usize = 32;

/// What a captured command is told in its host's place: names of its own namespace come first, so that no domain of the host
/// with an answer for everything takes them; all else stays as it was. Every question is led to the sidecar, whomever it
/// is for: loopback is an address to which there is always a way.
pub fn captured(host: &str, namespace: &str) -> String {
    let mut domains = vec![format!("{namespace}.mesh")];
    let mut options = String::new();
    for line in host.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            // Of several such lines the last counts (resolv.conf(5)).
            Some("search" | "domain") => {
                domains.truncate(1);
                domains.extend(words.take_while(|word| !word.starts_with(['#', ';'])).map(str::to_owned));
            }
            Some("options") => options.push_str(&format!("{}\n", line.trim())),
            _ => {}
        }
    }
    format!(
        "# made by meshwork for a captured command\nsearch {}\n{options}nameserver 127.0.0.1\n",
        domains.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_libraries_read_them() {
        let text = "# made by hand\nsearch example.com\nnameserver 10.0.0.2\n  nameserver\tfe80::1%eth0 # why not\n\
                    ;nameserver 10.0.0.3\nnameserver\nnameserver ::1\nnameserver 10.0.0.4\n";
        assert_eq!(servers(text), ["10.0.0.2", "fe80::1%eth0", "::1"]);
    }

    #[test]
    fn without_any_it_is_the_host_itself() {
        assert_eq!(servers(""), ["127.0.0.1"]);
        assert_eq!(servers("search example.com\n"), ["127.0.0.1"]);
    }

    #[test]
    fn a_short_name_is_tried_in_the_hosts_domains() {
        let check = |text: &str, name: &str, expect: &[&str]| {
            assert_eq!(candidates(text, name), expect, "{text} {name}");
        };
        check("", "control", &["control"]);
        let two = "search old\nsearch a.example b.example. # c\nnameserver 10.0.0.2\n";
        check(two, "control", &["control.a.example", "control.b.example", "control"]);
        check(two, "control.x", &["control.x", "control.x.a.example", "control.x.b.example"]);
        check(two, "control.", &["control"]);
        let five = "options edns0 ndots:5\ndomain a.example\n";
        check(five, "control.x", &["control.x.a.example", "control.x"]);
    }

    #[test]
    fn a_captured_command_looks_in_its_own_namespace_first() {
        let check = |host: &str, expect: &str| {
            let text = captured(host, "shop");
            assert_eq!(text.split_once('\n').unwrap().1, expect);
            assert_eq!(servers(&text), ["127.0.0.1"]);
        };
        check("", "search shop.mesh\nnameserver 127.0.0.1\n");
        check(
            "domain old.example\nnameserver 10.0.0.2\nsearch a.example b.example # c\noptions ndots:3 edns0\n",
            "search shop.mesh a.example b.example\noptions ndots:3 edns0\nnameserver 127.0.0.1\n",
        );
    }
}
